"""Rows on their way into memory while the next ones are read: placing and reading take about the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import pyarrow as pa

from proxist.errors import Overloaded
from proxist.hot.writer import HotSet
from proxist.model.ids import Offset
from proxist_ingest.residency import Residency, concat
from proxist_ingest.switching import BRISK

GROUPS_MAX = 4
"""Groups that are placed or wait for it: more than one, since reading and placing get their processors by turns."""


class Group(NamedTuple):
    """Consecutive rows from offset `first` on, and what is said of them."""

    first: Offset
    rows: pa.RecordBatch
    sizes: list[int]
    """Rows of each of its batches."""
    arrived_ns: int
    persisted: Offset
    """The mark at the time of the last one."""


class Placer:
    """Places groups into `hot` in the order in which they come, on a thread of its own. Holds GROUPS_MAX of them.

    Between `place` and `settle`, `hot` is the thread's. To be entered first; nothing runs after the exit.
    """

    def __init__(self, hot: HotSet, residency: Residency, subject: str) -> None:
        self._hot, self._residency, self._subject = hot, residency, subject
        self._thread = ThreadPoolExecutor(1, "place")
        self._under_way: deque[Future[None]] = deque()

    def __enter__(self) -> Placer:
        BRISK.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)
        BRISK.__exit__(kind, error, at)

    def place(self, first: Offset, batches: Sequence[pa.RecordBatch], arrived_ns: int, persisted: Offset) -> None:
        """Place these after those before them. Raises what `settle` raises of those."""
        group = Group(first, concat(batches), [rows.num_rows for rows in batches], arrived_ns, persisted)
        self._hot.prepare(group.rows)
        self._settle(GROUPS_MAX - 1)
        self._under_way.append(self._thread.submit(self._place, group))

    def settle(self) -> None:
        """Everything that was given is placed and published. Raises Overloaded where there was no room for it."""
        self._settle(0)

    def _settle(self, left: int) -> None:
        while len(self._under_way) > left:
            self._under_way.popleft().result()

    def _place(self, group: Group) -> None:
        if self._residency.room(group.rows):
            self._append(group, 0, group.rows)
            return
        at = 0
        for size in group.sizes:  # one by one they take the room that the ones before leave
            rows = group.rows.slice(at, size)
            if not self._residency.room(rows):
                raise Overloaded(f"The rows of {self._subject} do not fit into its memory.")
            self._append(group, at, rows)
            at += size

    def _append(self, group: Group, at: int, rows: pa.RecordBatch) -> None:
        end = self._hot.append(rows, Offset(group.first + at), group.arrived_ns)
        self._hot.publish(end)
        self._hot.set_persisted(Offset(min(group.persisted, end)))
