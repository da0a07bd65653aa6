"""What is done to a process is done when the call returns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from proxist.testing.process import FREEZE_S_MAX, frozen, kill, thaw, wait_stopped

COUNTS = "while True:\n    print('x', flush=True)"
STOPS = "from proxist import failpoints as f; f.arm_from_environment(); f.reach('wal.sync.before'); print('went on')"


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(processes: ExitStack, code: str, **env: str) -> subprocess.Popen[str]:
    child = processes.enter_context(
        subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)
    )
    processes.callback(child.kill)
    return child


def read_on(fd: int) -> None:
    """Without end, as long as there is something."""
    while True:
        os.read(fd, 1 << 20)


def test_a_process_that_stops_at_a_failpoint_is_waited_for_and_goes_on(processes: ExitStack) -> None:
    child = start(processes, STOPS, PROXIST_FAILPOINTS="wal.sync.before=stop")
    wait_stopped(child.pid, 30.0)
    thaw(child.pid)
    assert child.communicate(timeout=30)[0] == "went on\n"


def test_a_frozen_process_says_nothing_until_the_block_ends(processes: ExitStack) -> None:
    child = start(processes, COUNTS)
    assert child.stdout is not None
    assert child.stdout.readline() == "x\n"
    with frozen(child.pid):
        os.set_blocking(child.stdout.fileno(), False)
        with pytest.raises(BlockingIOError):  # behind what it had said before
            read_on(child.stdout.fileno())
        os.set_blocking(child.stdout.fileno(), True)
    assert os.read(child.stdout.fileno(), 1)


def test_a_process_that_runs_is_not_taken_for_stopped(processes: ExitStack) -> None:
    child = start(processes, COUNTS)
    with pytest.raises(AssertionError, match="did not stop within 0.05 s"):
        wait_stopped(child.pid, 0.05)


def test_a_killed_process_is_dead_on_return(processes: ExitStack) -> None:
    child = start(processes, COUNTS)
    kill(child.pid)
    assert child.wait(FREEZE_S_MAX) == -9
