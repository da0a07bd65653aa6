"""What tests do to processes, each true on return and not some time later."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

FREEZE_S_MAX = 10.0


def freeze(pid: int) -> None:
    """SIGSTOP, and wait until every thread stands still: the signal alone returns while some of them still answer."""
    os.kill(pid, signal.SIGSTOP)
    wait_stopped(pid, FREEZE_S_MAX)


def thaw(pid: int) -> None:
    """SIGCONT: it goes on where it stood."""
    os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process stands still inside the block; one that was killed meanwhile is no error."""
    freeze(pid)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            thaw(pid)


def kill(pid: int) -> None:
    """kill -9, and wait until the process is gone or a zombie of its parent."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + FREEZE_S_MAX
    while _state(pid) not in ("Z", ""):
        if time.monotonic() > deadline:
            raise AssertionError(f"process {pid} did not end within {FREEZE_S_MAX:g} s of SIGKILL")
        time.sleep(0.001)


def wait_stopped(pid: int, timeout_s: float) -> None:
    """Wait until the process stands still by itself, as at a failpoint with `stop`. Raises AssertionError."""
    deadline = time.monotonic() + timeout_s
    while not _stands_still(pid):
        if time.monotonic() > deadline:
            raise AssertionError(f"process {pid} did not stop within {timeout_s:g} s")
        time.sleep(0.001)


def _state(pid: int) -> str:
    """R, S, D, T, Z …; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _stands_still(pid: int) -> bool:
    """Whether every thread's state, the field behind the name in parentheses, is T (proc_pid_stat(5))."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(") ")[2].startswith("T") for stat in stats)
