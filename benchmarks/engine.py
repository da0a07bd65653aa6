"""The hot set in this process: no wire, no log."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.floors import Floors
from benchmarks.report import Report, latency
from benchmarks.rows import SPEC, Rows
from proxist.hot.ops import HotAsof, HotLastBy, Probes, probes_from_batch
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId

APPEND_ROWS = 10_000
LEASE_NS = 3_600 * 10**9


def measure(report: Report, rows: Rows, floors: Floors) -> dict[str, float]:
    """p50 in seconds by question, to set beside other engines."""
    report.section(f"engine, in process: {rows.count:,} rows, {len(rows.keys):,} keys")
    with HotSet.create(SPEC, ShardId(1), Epoch(1), Offset(0)) as hot:
        hot.set_lease_until(time.monotonic_ns() + LEASE_NS)
        _append(report, hot, rows, floors)
        reader = hot.reader()
        try:
            return _read(report, reader, rows)
        finally:
            reader.close()


def _append(report: Report, hot: HotSet, rows: Rows, floors: Floors) -> None:
    batches = rows.table.combine_chunks().to_batches(max_chunksize=APPEND_ROWS)
    end = Offset(0)
    began = time.perf_counter()
    for batch in batches:
        end = hot.append(batch, end, time.time_ns())
        hot.publish(end)
    took_s = time.perf_counter() - began
    bytes_per_row = rows.table.nbytes / rows.count
    ceiling = floors.copy_bytes_per_s / bytes_per_row
    report.rate(
        f"append, {APPEND_ROWS:,} rows per batch", rows.count / took_s, "rows/s", ceiling, "floor: copying the bytes"
    )


def _read(report: Report, reader: Any, rows: Rows) -> dict[str, float]:
    columns = ("price", "size")
    one = (rows.keys[len(rows.keys) // 2],)
    probes = probes_from_batch(rows.probes)
    single = Probes(probes.keys.slice(0, 1), probes.times_ns[:1])
    gather = _gather(rows)
    found = {
        "last_by, one key": latency(lambda: reader.run(HotLastBy(keys=one, columns=columns))),
        "last_by, all keys": latency(lambda: reader.run(HotLastBy(columns=columns))),
        "as-of, one probe": latency(lambda: reader.run(HotAsof(columns=columns), single)),
        f"as-of, {len(probes.times_ns):,} probes": latency(lambda: reader.run(HotAsof(columns=columns), probes)),
    }
    for what, took in found.items():
        floor = gather if "all keys" in what else None
        report.timed(what, took, floor, "floor: gathering the same cells" if floor else "")
    return {what: took.p50_s for what, took in found.items()}


def _gather(rows: Rows) -> float:
    """One numpy gather of a row per key from each of five columns."""
    random = np.random.default_rng(2)
    where = random.integers(0, rows.count, len(rows.keys))
    columns = [np.asarray(rows.table["price"].combine_chunks()) for _ in range(5)]
    return latency(lambda: [column[where] for column in columns]).p50_s
