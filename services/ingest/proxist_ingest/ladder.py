"""How far the records of one shard have climbed, and who waits for which rung.

Rungs are reached in this order: visible (in the hot set, at the table's level), on disk, in ClickHouse.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable

from proxist.errors import ProxistError
from proxist.model.ids import Offset
from proxist_ingest.producers import Original

Waiter = Callable[[ProxistError | None], None]
"""Called once: None when the rung is reached, else why it never will be. Must be quick and must not raise."""
_Entry = tuple[int, int, int, Waiter]


class Ladder:
    """Records are known by their ordinal (0: recovered at start, so visible and on disk). `_lock` guards all fields."""

    def __init__(self, persisted: Offset) -> None:
        self._lock = threading.Lock()
        self._visible = 0
        self._synced = 0
        self._persisted = persisted
        self._failed: ProxistError | None = None
        self._tie = itertools.count()
        self._waiting: dict[str, list[_Entry]] = {"os": [], "disk": [], "cold": []}

    def wait(self, level: str, original: Original, waiter: Waiter) -> None:
        """Call `waiter` once the record has reached `level`: at once on this thread where it has already."""
        level = "os" if level == "mem" else level
        with self._lock:
            failed = self._failed
            if failed is None and not self._reached_locked(level, original.ordinal, original.end):
                heapq.heappush(self._waiting[level], (original.ordinal, original.end, next(self._tie), waiter))
                return
        waiter(failed)

    def advance(
        self, *, visible: int | None = None, synced: int | None = None, persisted: Offset | None = None
    ) -> None:
        """The marks have grown (never shrunk): wakes on this thread whoever waited for that."""
        with self._lock:
            self._visible = max(self._visible, visible or 0)
            self._synced = max(self._synced, synced or 0)
            self._persisted = max(self._persisted, persisted or Offset(0))
            ready = [waiter for level in self._waiting for waiter in self._ready_locked(level)]
        for waiter in ready:
            waiter(None)

    def fail(self, error: ProxistError) -> None:
        """Nothing climbs any more: every waiter, and every later one, is told `error`."""
        with self._lock:
            self._failed = self._failed or error
            stuck = [entry[3] for entries in self._waiting.values() for entry in entries]
            self._waiting = {level: [] for level in self._waiting}
        for waiter in stuck:
            waiter(error)

    def waiting(self) -> int:
        """How many wait."""
        with self._lock:
            return sum(len(entries) for entries in self._waiting.values())

    def _ready_locked(self, level: str) -> list[Waiter]:
        # Both keys of the heap grow together in a log, so whoever is behind the first entry has reached less.
        entries = self._waiting[level]
        ready = []
        while entries and self._reached_locked(level, entries[0][0], entries[0][1]):
            ready.append(heapq.heappop(entries)[3])
        return ready

    def _reached_locked(self, level: str, ordinal: int, end: int) -> bool:
        if level == "os":
            return ordinal <= self._visible
        on_disk = ordinal <= min(self._visible, self._synced)
        return on_disk if level == "disk" else on_disk and end <= self._persisted
