"""What every test may rely on: seeds that are printed, nothing left behind, real data where it is, a cluster to share."""

from __future__ import annotations

import proxist.rpc.env  # noqa: F401  # before pyarrow and grpc are loaded

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog

from proxist.rpc import ports
from proxist.testing.cluster import LocalCluster, live_clusters

ROOT = Path(__file__).resolve().parent.parent
DATASET = "binance-btc-eth-20240808"
LEAK_GRACE_S = 10.0
SEED = int(os.environ.get("PROXIST_TEST_SEED", "20240808"))
PROFILE = os.environ.get("PROXIST_TEST_HYPOTHESIS", "ci")

# ci: the same examples every time. explore: new ones, and the line that repeats a failure.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1_000, print_blob=True)
hypothesis.settings.load_profile(PROFILE)
# Log lines belong to the test that caused them: the stream is looked up when a line is written.
structlog.configure(
    processors=[*structlog.get_config()["processors"][:-1], structlog.dev.ConsoleRenderer(colors=False)],
    logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
)


def pytest_report_header() -> list[str]:
    data = _find_data()
    return [
        f"seed: PROXIST_TEST_SEED={SEED}, hypothesis: PROXIST_TEST_HYPOTHESIS={PROFILE}",
        f"real data: {'there' if data else 'absent, its tests are skipped (PROXIST_TEST_DATA names a directory)'}",
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """A failed test shows the logs of the clusters that run."""
    report = yield
    if report.failed:
        report.sections += [(f"logs of {cluster.data_dir.name}", cluster.logs()) for cluster in live_clusters()]
    return report


@pytest.fixture
def seed() -> int:
    """For numpy's and other generators; printed in the header, set with PROXIST_TEST_SEED."""
    return SEED


@pytest.fixture
def rng() -> random.Random:
    return random.Random(SEED)


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """`free_ports(n)`: n ports on which nothing listens."""
    return ports.free_ports


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real captures, at PROXIST_TEST_DATA or beside the repository; a test that asks for them is skipped without."""
    found = _find_data()
    if found is None:
        pytest.skip(f"the dataset {DATASET} is not here; PROXIST_TEST_DATA names its directory")
    return found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One running cluster for all tests that only add tables of their own."""
    with LocalCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """A module's tests end the threads and processes that they start; the ones that end late have LEAK_GRACE_S."""
    threads_before, children_before = set(threading.enumerate()), set(_children())
    yield
    deadline = time.monotonic() + LEAK_GRACE_S
    while (left := _left(threads_before, children_before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left, f"left behind: {', '.join(left)}"


def _find_data() -> Path | None:
    named = os.environ.get("PROXIST_TEST_DATA")
    bases = [Path(named)] if named else [ROOT.parent / "shared" / "data"]
    places = [place for base in bases for place in (base / DATASET, base)]
    return next((place for place in places if any(place.glob("*.gz"))), None)


def _left(threads_before: set[threading.Thread], children_before: set[int]) -> list[str]:
    clusters = {cluster.supervisor_pid for cluster in live_clusters()}
    children = [pid for pid in _children() if pid not in children_before | clusters]
    # A dummy stands for a thread of gRPC's that once ran Python; it is never taken off the list, and nobody's to join.
    threads = [
        thread
        for thread in threading.enumerate()
        if thread not in threads_before and not isinstance(thread, threading._DummyThread)
    ]
    return [f"thread {thread.name}" for thread in threads] + [f"process {pid} ({_name(pid)})" for pid in children]


def _children() -> list[int]:
    """The running children of this process; /proc/<pid>/task/*/children is not in every kernel."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.append(int(stat.parent.name))
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    except OSError:
        return "gone"
