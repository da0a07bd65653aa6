"""How long a thread may keep the interpreter while another waits for it: shorter where two share one piece of work."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

BRISK_S = 0.0002
"""A kernel's thread needs the interpreter between two kernels of a few ms; with Python's 5 ms it would mostly wait."""


class Brisk:
    """While anybody is inside, the interpreter changes hands after BRISK_S; for any thread, any number at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the fields below
        self._inside = 0
        self._usual_s = 0.0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._usual_s = sys.getswitchinterval()
                sys.setswitchinterval(BRISK_S)
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                sys.setswitchinterval(self._usual_s)


BRISK = Brisk()
"""The process has one interpreter."""
