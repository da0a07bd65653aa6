"""What tests do to processes, each true on return and not some time later."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

FREEZE_S_MAX = 10.0


def freeze(pid: int) -> None:
    """SIGSTOP, and wait until every thread stands still: the signal alone returns while some of them still answer."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + FREEZE_S_MAX
    while not _stands_still(pid):
        if time.monotonic() > deadline:
            raise AssertionError(f"process {pid} did not stop within {FREEZE_S_MAX:g} s")
        time.sleep(0.001)


def _stands_still(pid: int) -> bool:
    """Whether every thread's state, the field behind the name in parentheses, is T (proc_pid_stat(5))."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(") ")[2].startswith("T") for stat in stats)
