"""What a worker says about itself, for status, metrics and those who wait for a pause."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

from proxist.errors import ProxistError
from proxist.model.ids import Offset

WAITING = "WAITING"
"""For an owner, for this node's lease, or because another persister holds the shard."""
READING_BACK = "READING_BACK"
FOLLOWING = "FOLLOWING"
RETRYING = "RETRYING"
PAUSED = "PAUSED"
STOPPED = "STOPPED"
"""Until an operator acts: `last_error` says what for."""

_START = Offset(0)

AT_WORK = (READING_BACK, FOLLOWING, RETRYING)
"""An insert may be in flight."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One shard at one instant; counts are since this process started."""

    state: str = WAITING
    persisted: Offset = _START
    end: Offset = _START
    """The end of the last batch that the owner sent, or its own end when the shard was taken up."""
    inserts: int = 0
    rows: int = 0
    verified: int = 0
    """Rows that were read back and are what was sent."""
    retries: int = 0
    in_hand_rows: int = 0
    """Rows of the batch that is being inserted; 0 while the next one is waited for."""
    in_hand_since_ns: int = 0
    """When that batch came (CLOCK_MONOTONIC)."""
    last_error: str = ""
    last_code: str = ""


class Board:
    """A worker's current Progress: written by the worker, read and awaited by anybody."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards _progress
        self._progress = Progress()

    @property
    def progress(self) -> Progress:
        with self._changed:
            return self._progress

    def enter(self, state: str, error: ProxistError | None = None) -> None:
        """A new state, with the error that led to it; a state of good health forgets the last one."""
        with self._changed:
            kept = self._progress
            if error is not None:
                kept = replace(kept, last_error=error.message, last_code=error.code)
                if state == RETRYING:
                    kept = replace(kept, retries=kept.retries + 1)
            elif state in (FOLLOWING, PAUSED):
                kept = replace(kept, last_error="", last_code="")
            self._progress = replace(kept, state=state)
            self._changed.notify_all()

    def took(self, rows: int) -> None:
        """A batch of so many rows is in hand; 0: it is persisted, or was given up."""
        with self._changed:
            since_ns = time.monotonic_ns() if rows else 0
            self._progress = replace(self._progress, in_hand_rows=rows, in_hand_since_ns=since_ns)

    def inserted(self, rows: int) -> None:
        with self._changed:
            self._progress = replace(
                self._progress, inserts=self._progress.inserts + 1, rows=self._progress.rows + rows
            )

    def verified(self, rows: int) -> None:
        with self._changed:
            self._progress = replace(self._progress, verified=self._progress.verified + rows)

    def reached(self, *, persisted: Offset | None = None, end: Offset | None = None) -> None:
        with self._changed:
            now = self._progress
            self._progress = replace(
                now,
                persisted=now.persisted if persisted is None else persisted,
                end=now.end if end is None else max(end, now.end),
            )
            self._changed.notify_all()

    def wait_not_at_work(self, timeout_s: float) -> bool:
        """Wait until no insert can be in flight; False after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._progress.state not in AT_WORK, timeout_s)
