"""The open calls of a door: how many there may be, and which of them somebody waits for."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from proxist.errors import Overloaded


@dataclass
class OpenCalls:
    """Thread-safe; `_lock` guards everything."""

    limit: int
    _open: dict[int, tuple[str, float]] = field(default_factory=dict)
    _idle: set[int] = field(default_factory=set)
    _ids: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, name: str) -> int:
        with self._lock:
            if len(self._open) >= self.limit:
                raise Overloaded(
                    f"{len(self._open)} calls are open here, which is the limit. Close streams that are idle, or retry.",
                    retry_after_s=0.5,
                )
            call_id = next(self._ids)
            self._open[call_id] = (name, time.monotonic())
            return call_id

    def leave(self, call_id: int) -> None:
        with self._lock:
            self._open.pop(call_id, None)
            self._idle.discard(call_id)

    def idle(self, call_id: int, idle: bool) -> None:
        """Whether nothing is asked of an open call now."""
        with self._lock:
            (self._idle.add if idle else self._idle.discard)(call_id)

    def at_work(self) -> bool:
        """Whether a call is open that somebody waits for."""
        with self._lock:
            return len(self._idle) < len(self._open)

    def names(self) -> list[str]:
        now = time.monotonic()
        with self._lock:
            return [f"{name} for {now - since:.1f} s" for name, since in self._open.values()]
