"""Lives forked from a nursery are processes like any other; a clock stands still until it is turned."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxist.failpoints import EXIT_CODE
from proxist.testing.clock import DAY_NS, Clock
from proxist.testing.etcd import LocalEtcd
from proxist.testing.nursery import Life, Nursery
from proxist.testing.process import freeze, thaw


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery("proxist_ingest") as running:
        yield running


@pytest.fixture(scope="module")
def etcd() -> Iterator[LocalEtcd]:
    with LocalEtcd() as running:
        yield running


def start(nursery: Nursery, etcd: LocalEtcd, at: Path, failpoints: str = "") -> Life:
    values = {"name": "ingest-0", "data_dir": at / "data", "run_dir": at / "run", "etcd": etcd.address}
    values |= dict.fromkeys(("flight_port", "grpc_port", "http_port"), 0)
    argv = [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]
    return nursery.start(argv, at / "node.log", {"PROXIST_FAILPOINTS": failpoints} if failpoints else {})


def test_a_life_is_ready_in_its_own_process_and_ends_by_a_signal(
    nursery: Nursery, etcd: LocalEtcd, tmp_path: Path
) -> None:
    life = start(nursery, etcd, tmp_path)
    ready = life.ready()
    assert ready is not None, life.tail()
    assert int(ready["pid"]) == life.pid != os.getpid()
    life.kill()
    assert life.wait() == -signal.SIGKILL
    again = start(nursery, etcd, tmp_path)
    assert again.ready() is not None, again.tail()
    again.send(signal.SIGTERM)
    assert again.wait() == 0, again.tail()


def test_armed_failpoints_are_a_warning_in_the_log_of_that_life_alone(
    nursery: Nursery, etcd: LocalEtcd, tmp_path: Path
) -> None:
    life = start(nursery, etcd, tmp_path, "wal.sync.before=delay:1")
    assert life.ready() is not None, life.tail()
    assert '"points": ["wal.sync.before"]' in life.tail()
    assert "fails on purpose" in life.tail()
    life.kill()
    (tmp_path / "node.log").unlink()
    quiet = start(nursery, etcd, tmp_path)
    assert quiet.ready() is not None, quiet.tail()
    assert "fails on purpose" not in quiet.tail()
    quiet.kill()


def test_failpoints_that_cannot_be_read_end_the_start_with_a_sentence(
    nursery: Nursery, etcd: LocalEtcd, tmp_path: Path
) -> None:
    life = start(nursery, etcd, tmp_path, "wal.nowhere=kill")
    assert life.ready() is None
    assert life.wait() not in (0, EXIT_CODE)
    assert "'wal.nowhere' is none of the points" in life.tail()
    assert "PROXIST_FAILPOINTS" in life.tail()


def test_a_frozen_process_stands_still_and_goes_on(nursery: Nursery, etcd: LocalEtcd, tmp_path: Path) -> None:
    life = start(nursery, etcd, tmp_path)
    assert life.ready() is not None, life.tail()
    freeze(life.pid)
    life.send(signal.SIGTERM)
    with pytest.raises(TimeoutError, match="still runs"):
        life.wait(0.2)
    thaw(life.pid)
    assert life.wait() == 0, life.tail()


def test_what_a_nursery_started_ends_with_it(etcd: LocalEtcd, tmp_path: Path) -> None:
    with Nursery("proxist_ingest") as short:
        life = start(short, etcd, tmp_path)
        assert life.ready() is not None, life.tail()
    assert life.wait(1.0) == -signal.SIGKILL
    assert not Path(f"/proc/{life.pid}").exists()


def test_a_clock_stands_still_until_it_is_turned() -> None:
    clock = Clock()
    assert (clock(), clock()) == (DAY_NS, DAY_NS)
    assert clock.advance(seconds=1.5) == clock() == DAY_NS + 1_500_000_000
    assert clock.advance(seconds=-1) == DAY_NS + 500_000_000
    clock.set(7)
    assert clock() == 7


def test_a_thread_can_wait_for_a_clock() -> None:
    clock, came = Clock(0), threading.Event()
    thread = threading.Thread(target=lambda: clock.wait_until(10, 10.0) and came.set())
    thread.start()
    clock.advance(ns=9)
    assert not came.is_set()
    clock.advance(ns=1)
    thread.join(10.0)
    assert came.is_set()
    assert not clock.wait_until(11, 0.01)
