"""Waiting for a shard's marks to grow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from proxist.hot.ops import Marks
from proxist.model.ids import Offset


class Published:
    """Any number of threads wait; who changes the marks calls `notify`."""

    def __init__(self, marks: Callable[[], Marks], check_alive: Callable[[], None]) -> None:
        """`check_alive` raises what ended the shard, and every wait with it."""
        self._marks = marks
        self._check_alive = check_alive
        self._changed = threading.Condition()

    def notify(self) -> None:
        """The marks have grown, or the shard has ended."""
        with self._changed:
            self._changed.notify_all()

    def wait_end(self, end: Offset, wait_ns: int) -> bool:
        """Wait until rows below `end` are visible; False after `wait_ns`."""
        return self._wait(lambda: self._marks().end >= end, wait_ns)

    def wait_persisted(self, end: Offset, wait_ns: int) -> bool:
        """Wait until every row below `end` is in ClickHouse; False after `wait_ns`."""
        return self._wait(lambda: self._marks().persisted >= end, wait_ns)

    def _wait(self, reached: Callable[[], bool], wait_ns: int) -> bool:
        deadline_ns = time.monotonic_ns() + wait_ns
        with self._changed:
            while not reached():
                self._check_alive()
                left_ns = deadline_ns - time.monotonic_ns()
                if left_ns <= 0:
                    return False
                self._changed.wait(left_ns / 1e9)
            return True
