"""Pages ahead of the writer: a thread makes the system give them before the first row of a block needs one.

The first touch of a page costs the writer a few microseconds (a fault, a page, its zeroing), as much as placing dozens of
rows. Populating never changes what memory holds, so it may run beside the writer and every reader.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Sequence
from typing import Final

from proxist.hot.layout import PAGE

AHEAD_BYTES_MAX: Final = 32 * 2**20
"""What is touched and not used yet, at most."""
AHEAD_PART: Final = 64
"""And at most this part of what is used: the reserve stays, so it must be little beside the rows."""
STEP_BLOCKS: Final = 32
"""Touched at a time, column by column: the system holds a lock of the process meanwhile, some 0.1 ms per column."""
_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14
_libc = ctypes.CDLL(None, use_errno=True)  # calls without the GIL
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Ahead:
    """Touches the blocks [used, used + reserve) of one hot set. Its thread starts when there is something to touch.

    `arrays`: address and bytes per block of each array that has cells of every block; they stay mapped until `close`.
    """

    def __init__(self, name: str, arrays: Sequence[tuple[int, int]], blocks: int) -> None:
        self._name, self._arrays, self._blocks = name, arrays, blocks
        self._block_bytes = sum(width for _, width in arrays)
        self._used = 0  # written by the writer alone
        self._wanted = threading.Condition()  # guards the fields below
        self._touched = 0
        self._over = False
        self._thread: threading.Thread | None = None

    @property
    def touched(self) -> int:
        """Blocks below this one are touched, or will be in a moment."""
        return self._touched

    def used(self, blocks: int) -> None:
        """The writer has used the blocks below `blocks`, which never goes back."""
        self._used = blocks
        if self._behind():
            with self._wanted:
                if self._thread is None and not self._over:
                    self._thread = threading.Thread(target=self._run, name=f"touch-{self._name}", daemon=True)
                    self._thread.start()
                self._wanted.notify()

    def close(self) -> None:
        """End the thread: nothing is touched after that."""
        with self._wanted:
            self._over = True
            self._wanted.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _reserve(self) -> int:
        return min(self._used // AHEAD_PART, AHEAD_BYTES_MAX // self._block_bytes, self._blocks - self._used)

    def _behind(self) -> bool:
        """Whether a step is worth a wake-up."""
        return self._used + self._reserve() - max(self._touched, self._used) >= STEP_BLOCKS

    def _run(self) -> None:
        able = True
        while able:
            with self._wanted:
                self._wanted.wait_for(lambda: self._over or self._behind())
                if self._over:
                    return
                first = max(self._touched, self._used)
                self._touched = self._used + self._reserve()
                stop = self._touched
            for step in range(first, stop, STEP_BLOCKS):
                able = able and not self._over and self._touch(step, min(step + STEP_BLOCKS, stop))

    def _touch(self, first: int, stop: int) -> bool:
        """False: this system cannot, or has no memory left; the writer's own faults do."""
        for address, width in self._arrays:
            start, end = address + first * width, address + stop * width
            start -= start % PAGE
            if _libc.madvise(start, end - start, _MADV_POPULATE_WRITE) and ctypes.get_errno() != errno.EINTR:
                return False
        return True
