"""When the owner cuts a batch for the persister: a pure decision, the clock is an argument.

A batch is cut when it is full, or when it is old enough and the persister has nothing else to do: while one that was cut
is not persisted, the open one grows instead. So no small batch waits behind another, where its rows would be as late as
if they were cut later, and a sink that is slow (rows over many partitions, a long outage) gets fewer and larger inserts,
never more and smaller ones.
"""

from __future__ import annotations

from proxist.model.ids import Offset
from proxist.model.table import Flush

Saved = tuple[int | None, int, int, Offset, Offset]


class Cutter:
    """Counts the rows that were accepted since the last cut. Times are CLOCK_MONOTONIC nanoseconds."""

    def __init__(self, flush: Flush, start: Offset) -> None:
        self._flush = flush
        self._opened_ns: int | None = None
        self._rows = 0
        self._bytes = 0
        self.end = start
        """First offset after the last row that was added."""
        self.cut_at = start
        """Where the last cut was made; rows in [cut_at, end) belong to no batch yet."""
        self._persisted = start

    def add(self, end: Offset, byte_count: int, now_ns: int) -> bool:
        """Rows up to `end` were accepted. True: cut here, since the batch is full by rows or bytes."""
        if end > self.end:
            self._rows += end - self.end
            self._bytes += byte_count
            self.end = end
            if self._opened_ns is None:
                self._opened_ns = now_ns
        return self._rows >= self._flush.rows or self._bytes >= self._flush.bytes

    def due_ns(self) -> int | None:
        """When the open batch must be cut by age; None while it has no rows, or may grow."""
        if self._opened_ns is None or self._persisted < self.cut_at:
            return None
        return self._opened_ns + self._flush.age_ns

    def due(self, now_ns: int) -> bool:
        """True: cut at `end` now, since the open batch's first row is old enough."""
        due_ns = self.due_ns()
        return due_ns is not None and now_ns >= due_ns

    def cut(self) -> Offset:
        """The batch [cut_at, end) is closed; returns its end."""
        self.cut_at = self.end
        self._opened_ns = None
        self._rows = self._bytes = 0
        return self.cut_at

    def persisted(self, persisted: Offset) -> None:
        """The batches below `persisted` are in ClickHouse."""
        self._persisted = max(self._persisted, persisted)

    def save(self) -> Saved:
        """The state, for `restore`."""
        return self._opened_ns, self._rows, self._bytes, self.end, self.cut_at

    def restore(self, saved: Saved) -> None:
        """What was added and cut since `save` was not; what is persisted stays so."""
        self._opened_ns, self._rows, self._bytes, self.end, self.cut_at = saved
