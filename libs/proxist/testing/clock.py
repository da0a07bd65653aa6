"""A clock that a test turns, for components that take `now_ns`.

clock = Clock()
guard = Guard(…, now_ns=clock)
clock.advance(seconds=301)
"""

from __future__ import annotations

import threading

DAY_NS = 1_723_161_600_000_000_000
"""2024-08-09 00:00 UTC: where a clock stands that was not told otherwise."""


class Clock:
    """Calling it says what time it is, in ns; it stands still unless it is turned. For any thread."""

    def __init__(self, now_ns: int = DAY_NS) -> None:
        self._now_ns = now_ns
        self._moved = threading.Condition()  # guards _now_ns

    def __call__(self) -> int:
        with self._moved:
            return self._now_ns

    def advance(self, *, seconds: float = 0.0, ns: int = 0) -> int:
        """Turn it on, or, with a negative step, back, as clocks that are set by hand or by NTP do; the new time."""
        with self._moved:
            self._now_ns += round(seconds * 1e9) + ns
            self._moved.notify_all()
            return self._now_ns

    def set(self, now_ns: int) -> None:
        with self._moved:
            self._now_ns = now_ns
            self._moved.notify_all()

    def wait_until(self, at_ns: int, timeout_s: float) -> bool:
        """Wait, for a test's own thread, until the clock stands at `at_ns` or beyond; False after `timeout_s` of real
        time."""
        with self._moved:
            return self._moved.wait_for(lambda: self._now_ns >= at_ns, timeout_s)
