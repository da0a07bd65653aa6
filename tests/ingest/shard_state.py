"""What a shard is, for comparing one recovery with another: rows, boundary rows, producers, seqs, cuts and marks."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from proxist.hot.ops import HotScan
from proxist_ingest.recover import RecoveredShard
from proxist_ingest.shard import Shard


def state_of(of: Shard | RecoveredShard, *, cuts: bool = True) -> dict[str, str]:
    """Hashes by part; equal exactly where the shards answer everything alike."""
    producers, bounds = (
        (of.producers, of.bounds) if isinstance(of, Shard) else (of.carried.producers, of.carried.bounds)
    )
    carried = of.hot.carried()
    boundary = [row for batch in carried.boundary for row in batch.to_pylist()]
    runs = [row for batch in producers.export(producers.instant()) for row in batch.to_pylist()]
    marks = of.hot.marks()
    of.hot.set_lease_until(2**62)
    rows = of.hot.reader().run(HotScan()).rows.sort_by("_offset").to_pylist()
    known = bounds.cuts()
    open_cuts = [end for end in known.ends if end > marks.persisted]
    parts: dict[str, Any] = {
        "rows": rows,
        "boundary": sorted(boundary, key=lambda row: str(row["symbol"])),
        "producers": [_plain_run(run) for run in sorted(runs, key=lambda run: str(run["producer"]))],
        "marks": (marks.start, marks.floor, marks.persisted, marks.end, marks.evicted_time_max, carried.complete),
        "cuts": open_cuts if cuts else [],
    }
    return {name: hashlib.sha256(json.dumps(part, default=str).encode()).hexdigest() for name, part in parts.items()}


def _plain_run(run: dict[str, Any]) -> dict[str, Any]:
    return {**run, "hashes": run["hashes"].hex()}
