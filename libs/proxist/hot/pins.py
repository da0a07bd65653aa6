"""Pins: how the owner's own readers keep the floor where it is, when optimism failed them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Pins:
    """Eviction and pinned reads exclude each other; neither waits for the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Guards `_pinned` and `_evicting`; held for a few instructions only."""
        self._pinned = 0
        self._idle = threading.Condition(self._lock)
        self._evicting = False

    @contextlib.contextmanager
    def evicting(self) -> Iterator[bool]:
        """Yields whether the floor may move; while inside, new pins wait (a step takes a few ms)."""
        with self._lock:
            allowed = self._evicting = self._pinned == 0
        try:
            yield allowed
        finally:
            if allowed:
                with self._lock:
                    self._evicting = False
                    self._idle.notify_all()

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """While inside, the floor does not move."""
        with self._lock:
            while self._evicting:
                self._idle.wait()
            self._pinned += 1
        try:
            yield
        finally:
            with self._lock:
                self._pinned -= 1
