"""One process per data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from proxist.errors import DirectoryLocked

LOCK_FILE = "LOCK"


class DirectoryLock:
    """An exclusive lock on `path`, held from construction (or `acquire`) until `release` or the process's death.

    It is a flock on `path`/LOCK, so the kernel drops it with the process, kill -9 included, and a second lock by the
    same process is refused too. The file stays; it holds the owner's pid for the message. Creates `path` if missing.

    Raises DirectoryLocked (details: path, pid) where another holds it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._fd: int | None = None
        self.acquire()

    def acquire(self) -> None:
        """Take the lock; does nothing where this object holds it."""
        if self._fd is not None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise DirectoryLocked(
                f"Directory {self.path} is locked by process {pid}; one process owns a data directory. "
                "Stop that process, or set another `data_dir`.",
                path=str(self.path),
                pid=pid,
            ) from None
        except OSError:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let it go; does nothing where it is not held."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __enter__(self) -> DirectoryLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()
