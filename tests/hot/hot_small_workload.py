"""A small run of everything against the models: for kernels that are interpreted or bounds checked."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import window_model
from hot_model import Oracle, batch_of, make_spec, new_hot_set, random_op, random_rows

from proxist.hot import long_windows
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


def windows(mood: str, blocks_min: int) -> None:
    long_windows.BLOCKS_MIN = blocks_min
    rng, spec, keys = np.random.default_rng(6), window_model.make_spec(seq=True), ["a", "b"]
    hot, model = new_hot_set(spec, block_rows=16, hot_bytes=2**21), window_model.Model(spec, mood)
    reader = hot.reader()
    for turn, style in enumerate(["in order", "late", "ties"]):
        rows = random_rows(rng, hot.appended_end, 60, keys, turn * 30, style)
        model.rows += rows
        hot.append(window_model.batch_of(spec, rows, mood), hot.appended_end, 0)
        hot.publish(hot.appended_end)
        for _ in range(8):
            op = window_model.random_window(rng, keys, turn * 30, hot.appended_end)
            answer = model.answer(op, hot.appended_end if op.end is None else min(op.end, hot.appended_end))
            assert window_model.same(window_model.rows_of(reader.run(op).rows), answer), op
    hot.close()


main()
for given in (("money", 8), ("money", 0), ("wild", 0)):
    windows(*given)
print("same")
