"""What every part of the suite gets: the size of the run, the rows, the report, and a directory that goes away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.report import Report
from benchmarks.rows import SPEC, Rows, key_names, make_rows
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import TableSpec, parse_spec

LEASE_NS = 24 * 3_600 * 10**9
APPEND_ROWS = 10_000
ROW_BYTES = 80
"""What a row needs in memory at most while it is in a hot set, its batch included."""
KEY_BYTES = 1 << 14
"""What a key needs beside its rows at most: a block of its own that is begun."""


@dataclass(frozen=True)
class Size:
    """How large and how long. `runs` x `run_s` is a line's time, and as much again for its floor."""

    rows: int
    keys: int
    runs: int
    run_s: float
    scale_rows: tuple[int, ...]
    scale_keys: tuple[int, ...]
    readers: tuple[int, ...]
    ingest_s: float
    """Seconds per rate of ingest."""
    ingest_rows: tuple[int, ...]
    """Rows per batch."""
    owners: tuple[int, ...]
    lag_s: float
    lag_rates: tuple[int, ...]
    """Beyond 100,000 rows/s, to find the highest that holds; each for a tenth of `lag_s`."""
    soak_s: float
    replay_rows: int


SMALLEST = Size(20_000, 100, 1, 0.02, (10_000, 20_000), (100,), (1, 2), 0.3, (1_000,), (1,), 1.0, (), 1.0, 20_000)
SHORT = Size(
    1_000_000, 10_000, 3, 0.12, (100_000, 1_000_000), (100, 10_000), (1, 2), 0.7, (100, 1_000, 10_000), (1,),
    8.0, (), 6.0, 1_000_000,
)  # fmt: skip
FULL = Size(
    20_000_000, 10_000, 3, 0.5, (1_000_000, 10_000_000, 100_000_000), (100, 10_000, 100_000), (1, 2, 4), 4.0,
    (1, 10, 100, 1_000, 10_000), (1, 2), 300.0, (200_000, 400_000, 800_000, 1_600_000), 600.0, 10_000_000,
)  # fmt: skip


@dataclass
class Bench:
    report: Report
    size: Size
    directory: Path
    """For this run only."""
    keep: Path
    """build/: what later runs use again."""

    @cached_property
    def rows(self) -> Rows:
        return make_rows(self.size.rows, self.size.keys)

    @cached_property
    def one(self) -> str:
        """An ordinary key in the middle."""
        return key_names(self.size.keys)[self.size.keys // 2]


def spec_with(name: str = SPEC.name, **more: Any) -> TableSpec:
    """SPEC under another name or with other settings."""
    return parse_spec({**SPEC.to_json(), "name": name, **more})


@contextmanager
def filled(pieces: Iterator[pa.Table], rows: int, keys: int) -> Iterator[HotSet]:
    """A hot set of this process with all rows of `pieces`, and room for `rows` of `keys`."""
    hot_bytes = (1 << 26) + rows * ROW_BYTES * 2 + keys * KEY_BYTES
    with HotSet.create(SPEC, ShardId(1), Epoch(1), Offset(0), hot_bytes=hot_bytes) as hot:
        hot.set_lease_until(time.monotonic_ns() + LEASE_NS)
        for piece in pieces:
            append(hot, piece)
        yield hot


def append(hot: HotSet, table: pa.Table, batch_rows: int = APPEND_ROWS) -> float:
    """Append and publish batch by batch: the seconds that it took."""
    batches = table.combine_chunks().to_batches(max_chunksize=batch_rows)
    end = hot.appended_end
    began = time.perf_counter()
    for batch in batches:
        end = hot.append(batch, end, time.time_ns())
        hot.publish(end)
    return time.perf_counter() - began
