"""The epoch page: one small file per shard and host that holds the newest epoch started here.

It outlives owners. An owner writes it before its first ack; an attached reader that sees another epoch there than in
its hot set's header knows that its owner was superseded.

    0   8 bytes  magic "PXEPOCH1"
    8   int64    epoch, little-endian, stored with one aligned store
    4096 bytes in all; made whole before it gets its name, never shortened, replaced or deleted while a host runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from proxist.errors import Unavailable
from proxist.model.ids import Epoch

_MAGIC = b"PXEPOCH1"
_BYTES = 4096


class EpochPage:
    """A mapping of one shard's page."""

    def __init__(self, path: str | Path, *, writable: bool = False) -> None:
        """Map the page at `path`; `writable` makes it first where it is missing.

        Raises Unavailable where it is missing or is no epoch page.
        """
        self.path = Path(path)
        if writable:
            _make(self.path)
        try:
            with open(self.path, "r+b" if writable else "rb") as file:
                if os.fstat(file.fileno()).st_size != _BYTES:
                    raise ValueError("wrong size")
                access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
                self._map = mmap.mmap(file.fileno(), _BYTES, prot=access)
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"Epoch page {self.path.name} cannot be mapped ({error}). Start its owner first."
            ) from None
        self._cells = np.frombuffer(self._map, np.int64)
        if self._map[:8] != _MAGIC:
            self.close()
            raise Unavailable(f"Epoch page {self.path.name} has another format. Delete it while no owner runs.")

    @property
    def cells(self) -> npt.NDArray[np.int64]:
        """The mapping itself: cell 1 is the epoch."""
        return self._cells

    @property
    def epoch(self) -> Epoch:
        """The newest epoch started on this host; 0 before the first."""
        return Epoch(int(self._cells[1]))

    def publish(self, epoch: Epoch) -> None:
        """Record that `epoch` started here; visible to every mapping on return. Never lowers the page."""
        with open(self.path, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two owners that start at once: the higher one stays
            if epoch > self._cells[1]:
                self._cells[1] = epoch

    def close(self) -> None:
        self._cells = np.zeros(2, np.int64)
        self._map.close()


def _make(path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=".epoch-")
    try:
        os.write(handle, _MAGIC.ljust(_BYTES, b"\0"))
        with contextlib.suppress(FileExistsError):  # another owner was faster: its page is the page
            os.link(made, path)
    finally:
        os.close(handle)
        Path(made).unlink()
