"""What one shard counts for the metrics page: plain integers, written by its writer thread but where it says otherwise."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from proxist.errors import (
    BatchTooLarge,
    InternalError,
    InvalidArgument,
    InvalidBatch,
    Overloaded,
    ProducerConflict,
    ProxistError,
    SchemaMismatch,
    Unavailable,
    UnsupportedType,
)
from proxist.model.ids import Offset
from proxist.telemetry.figures import Histogram
from proxist.telemetry.metrics import BATCHES, LATENCY_S
from proxist_ingest.part import LEVELS

ARRIVALS_APART_NS = 50_000_000
"""Groups that close together count as one arrival: the lag is told to about this."""
_PARTS_OF_AGE = 1024
"""And the older the oldest, the coarser: so that a long outage keeps a few thousand entries."""


EXPECTED = (Overloaded, BatchTooLarge, ProducerConflict, Unavailable, InternalError)
INVALID = (InvalidArgument, InvalidBatch, SchemaMismatch, UnsupportedType)
"""Counted from 0 on: an increase of a series that was not there before is not seen by Prometheus."""


class Refusals:
    """Batches and rows that were refused, by error code (a fixed list). For any thread; `_lock` guards the table."""

    def __init__(self, expected: Iterable[type[ProxistError]] = EXPECTED) -> None:
        self._lock = threading.Lock()
        self._by_code = {kind.code: (0, 0) for kind in expected}

    def add(self, error: ProxistError, rows: int) -> None:
        with self._lock:
            batches, before = self._by_code.get(error.code, (0, 0))
            self._by_code[error.code] = batches + 1, before + rows

    def read(self) -> list[tuple[str, int, int]]:
        """(code, batches, rows)."""
        with self._lock:
            return [(code, *counts) for code, counts in sorted(self._by_code.items())]


class Arrivals:
    """When the rows that are not persisted yet were accepted. Times are CLOCK_MONOTONIC nanoseconds."""

    def __init__(self) -> None:
        self._groups: deque[tuple[Offset, int]] = deque()
        """(end, when the first of the group came), ascending."""

    def note(self, end: Offset, now_ns: int) -> None:
        """Rows up to `end` were accepted now."""
        groups = self._groups
        if groups:
            last_ns = groups[-1][1]
            if now_ns - last_ns < max(ARRIVALS_APART_NS, (now_ns - groups[0][1]) // _PARTS_OF_AGE):
                groups[-1] = (end, last_ns)
                return
        groups.append((end, now_ns))

    def persisted(self, persisted: Offset) -> None:
        """Rows below `persisted` are in ClickHouse."""
        while self._groups and self._groups[0][0] <= persisted:
            self._groups.popleft()

    def oldest_ns(self) -> int | None:
        """When the oldest row came that is not persisted; None where all are. For any thread."""
        try:
            return self._groups[0][1]
        except IndexError:
            return None


@dataclass(slots=True)
class Counts:
    """One shard under one owner."""

    rows: int = 0
    bytes: int = 0
    batches: int = 0
    repeats: int = 0
    deduplicated_rows: int = 0
    attaches: int = 0
    """Written by the attach door's thread alone."""
    refusals: Refusals = field(default_factory=Refusals)
    arrivals: Arrivals = field(default_factory=Arrivals)
    group_batches: Histogram = field(default_factory=lambda: Histogram(BATCHES))
    sync_seconds: Histogram = field(default_factory=lambda: Histogram(LATENCY_S))
    ack_seconds: dict[str, Histogram] = field(default_factory=lambda: {level: Histogram(LATENCY_S) for level in LEVELS})
    """By level; seen from a batch's arrival."""
