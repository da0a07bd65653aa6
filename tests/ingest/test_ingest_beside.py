"""Work beside other work: both are over on return, errors come out, the thread ends."""

from __future__ import annotations

import threading

import pytest

from proxist_ingest.beside import Beside

WAIT_S = 20.0


def fail(with_what: str) -> None:
    raise ValueError(with_what)


def test_both_run_at_the_same_time_and_are_over_on_return() -> None:
    beside, there, here = Beside("pair"), threading.Event(), threading.Event()
    done: list[str] = []

    def other() -> None:
        there.set()
        assert here.wait(WAIT_S)
        done.append(threading.current_thread().name)

    def this() -> None:
        assert there.wait(WAIT_S)
        here.set()

    for _ in range(2):
        there.clear()
        here.clear()
        beside.both(other, this)
    beside.close()
    assert done == ["pair", "pair"]


def test_an_error_of_either_side_comes_out_after_both_are_over() -> None:
    beside, done = Beside("pair"), threading.Event()
    with pytest.raises(ValueError, match="there"):
        beside.both(lambda: fail("there"), lambda: None)
    with pytest.raises(ValueError, match="here"):
        beside.both(done.set, lambda: fail("here"))
    assert done.is_set()
    with pytest.raises(ValueError, match="here"):
        beside.both(lambda: fail("there"), lambda: fail("here"))
    beside.both(done.clear, lambda: None)
    assert not done.is_set()
    beside.close()


def test_the_thread_ends_with_its_owner() -> None:
    beside = Beside("one-of-its-name")
    beside.close()
    beside.both(lambda: None, lambda: None)
    assert [thread for thread in threading.enumerate() if thread.name == "one-of-its-name"]
    beside.close()
    beside.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "one-of-its-name"]
