"""A small run of everything against the model: for kernels that are interpreted or bounds checked."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from hot_model import Oracle, batch_of, make_spec, new_hot_set, random_op, random_rows

from proxist.model.ids import Offset


def main() -> None:
    np.seterr(all="ignore")  # interpreted kernels wrap around as compiled ones do
    rng, spec = np.random.default_rng(5), make_spec()
    hot, oracle, keys = new_hot_set(spec, block_rows=16, hot_bytes=2**21), Oracle(spec), ["a", "b", "c"]
    reader = hot.reader()
    for turn, style in enumerate(["in order", "late", "ties", "wild", "far"]):
        rows = random_rows(rng, hot.appended_end, 90, keys, turn * 30, style)
        oracle.add(rows)
        hot.append(batch_of(spec, rows), hot.appended_end, 0)
        hot.publish(hot.appended_end)
        if turn % 2:
            hot.set_persisted(hot.appended_end)
            hot.evict(Offset(int(hot.appended_end * rng.random())))
        for _ in range(6):
            op, probes = random_op(rng, keys, turn * 30, hot.appended_end)
            oracle.check(reader.run(op, probes), op, probes)
    hot.close()
    print("same")


main()
