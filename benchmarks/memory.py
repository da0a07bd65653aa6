"""S8: what a row takes in memory, and what comes back when everything is evicted."""

from __future__ import annotations

import os

import pyarrow as pa

from benchmarks.bench import Bench, filled
from benchmarks.report import at_least, at_most
from benchmarks.rows import SPEC, stream_rows
from benchmarks.timing import Run
from proxist.hot.writer import HotSet

ROWS_PER_KEY = 1_000
KEY_BYTES = 4
"""A key counts as the code that a dictionary-encoded column would hold."""
TIMES_WIDTH = 1.25


def measure(bench: Bench) -> None:
    rows = bench.size.rows
    keys = max(4, rows // ROWS_PER_KEY)
    bench.report.section(f"memory: {rows:,} rows, {ROWS_PER_KEY:,} per key")
    with filled(stream_rows(rows, keys), rows, keys) as hot:
        begun = resident_bytes(hot)
        width = (
            sum(field.type.bit_width // 8 for field in SPEC.schema if not pa.types.is_string(field.type)) + KEY_BYTES
        )
        budget = at_most(TIMES_WIDTH * width)
        detail = {"width": width, "used_bytes": hot.used_bytes}
        what = f"resident bytes per row; its columns are {width} bytes wide"
        runs = [Run(begun / rows, floor=float(width))]
        bench.report.add("s8.bytes_per_row", what, runs, unit="B/row", floor_name="width", budget=budget, detail=detail)
        end = hot.appended_end
        hot.set_persisted(end)
        hot.evict(end)
        returned = (begun - resident_bytes(hot)) / begun
        what = "memory given back after evicting everything"
        bench.report.add("s8.returned_after_eviction", what, [Run(returned)], unit="share", budget=at_least(0.9))


def resident_bytes(hot: HotSet) -> int:
    """Pages of the shared memory that exist."""
    descriptor = hot.readonly_fd()
    try:
        return os.fstat(descriptor).st_blocks * 512
    finally:
        os.close(descriptor)
