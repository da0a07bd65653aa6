"""A process that ends with its parent. Run as a file, it is the wrapper: `child.py PARENT_PID PROGRAM ARG…`.

The wrapper asks the kernel for SIGKILL at the parent's death (PR_SET_PDEATHSIG, kept over exec), checks that the
parent is still there, and becomes PROGRAM. The signal follows the *thread* that spawned, so spawn from the main
thread. Only the standard library is imported here: the wrapper must start in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def command(argv: Sequence[str]) -> list[str]:
    """`argv`, wrapped so that the process is killed when this one ends, however it ends."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *argv]


def die_with_parent(parent_pid: int) -> None:
    """This process gets SIGKILL when its parent ends; ends at once where the parent is no longer `parent_pid`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(1)


def _main() -> None:
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    _main()
