"""A part whose sender waits for it is committed by the thread that brings it, and nothing else about it is different."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ingest_rows import rows, table
from ingest_shards import Owner
from test_ingest_shard import SLOW_CUTS, GatedFiles

from proxist.errors import NotOwner, Unavailable
from proxist.model.ids import Epoch, Offset

WAIT_S = 20.0


@pytest.fixture
def files() -> GatedFiles:
    return GatedFiles()


@pytest.fixture
def owner(tmp_path: Path, files: GatedFiles) -> Iterator[Owner]:
    with Owner(table(), tmp_path, files=files) as opened:
        yield opened


def test_it_is_acked_and_visible_when_write_returns(tmp_path: Path) -> None:
    with Owner(table(flush=SLOW_CUTS), tmp_path) as owner:  # the writer thread cuts nothing meanwhile
        for n in range(5):
            sent = owner.send(rows(3, first=3 * n), alone=True)
            assert sent.answered, "another thread answered it"
            assert sent.ack().end == 3 * n + 3
            assert owner.ids() == list(range(3 * n + 3))


def test_it_queues_behind_what_another_thread_commits(owner: Owner, files: GatedFiles) -> None:
    files.flushing.clear()
    files.gate.clear()
    first = owner.send(rows(1))
    assert files.flushing.wait(WAIT_S)
    second = owner.send(rows(1, first=1), alone=True)
    assert not second.answered
    files.gate.set()
    assert [first.ack().end, second.ack().end] == [1, 2]
    assert owner.ids() == [0, 1]


def test_the_batch_that_it_begins_is_cut_by_age(owner: Owner) -> None:
    for n in range(3):
        assert owner.send(rows(2, first=2 * n), alone=True).answered
        assert owner.shard.bounds.after(Offset(2 * n), WAIT_S) is not None, "nobody looked at its age"
        owner.shard.advance_persisted(Epoch(1), Offset(2 * n + 2))


def test_a_failed_flush_answers_it_and_ends_the_shard(owner: Owner, files: GatedFiles) -> None:
    owner.write(rows(1))
    files.error = OSError(5, "broken")
    sent = owner.send(rows(1, first=1), alone=True)
    assert isinstance(sent.answer(), Unavailable)
    assert owner.failed.wait(WAIT_S)
    files.error = None
    with pytest.raises(Unavailable):
        owner.send(rows(1, first=2), alone=True)


def test_stopping_waits_for_it_and_refuses_the_next(owner: Owner, files: GatedFiles) -> None:
    files.flushing.clear()
    files.gate.clear()
    answers = []
    sender = threading.Thread(target=lambda: answers.append(owner.send(rows(2), alone=True)))
    sender.start()
    assert files.flushing.wait(WAIT_S)
    stopper = threading.Thread(target=owner.shard.stop)
    stopper.start()
    files.gate.set()
    sender.join(WAIT_S)
    stopper.join(WAIT_S)
    assert not sender.is_alive()
    assert not stopper.is_alive()
    assert answers[0].ack().end == 2
    with pytest.raises(NotOwner):
        owner.send(rows(1, first=2), alone=True)
    owner.open()
    assert owner.ids() == [0, 1], "the log was sealed before it was finished"


def test_senders_that_think_they_are_alone_lose_and_double_nothing(owner: Owner) -> None:
    barrier = threading.Barrier(6)

    def send(n: int) -> None:
        barrier.wait()
        for k in range(20):
            more = {"producer": f"p{n}", "number": k}
            owner.send(rows(5, first=1000 * n + 5 * k), alone=n % 3 > 0, **more).ack()

    threads = [threading.Thread(target=send, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    ids = owner.ids()
    assert sorted(ids) == sorted(1000 * n + i for n in range(6) for i in range(100))
    for n in range(6):
        assert [i for i in ids if i // 1000 == n] == list(range(1000 * n, 1000 * n + 100))
