"""After a turn that failed in its middle, memory knows what the log does not: nothing is made of it any more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from ingest_rows import rows
from ingest_shards import ANSWER_S, Owner
from snapshotted import BATCH, KEYS, owner_in, write

from proxist.errors import ProxistError, Unavailable
from proxist.wal import RecordKind
from proxist.wal.record import RecordIn

NEW = 9999


def fail_rows(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of rows find no memory, before any byte of them is written."""
    writer, append = owner.shard.log_writer, owner.shard.log_writer.append

    def failing(records: Sequence[RecordIn]) -> object:
        if any(record.kind is RecordKind.ROWS for record in records):
            raise MemoryError("no memory for the record")
        return append(records)

    monkeypatch.setattr(writer, "append", failing)


def send_new(owner: Owner, *, alone: bool) -> ProxistError | object:
    return owner.send(rows(BATCH, first=NEW, keys=KEYS), producer="p0", number=4, alone=alone).answer()


@pytest.mark.parametrize("alone", [True, False], ids=["on the sender's thread", "on the writer's"])
@pytest.mark.parametrize("ending", ["crash", "stop"])
def test_a_batch_that_was_not_logged_is_not_a_duplicate_after_the_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, alone: bool
) -> None:
    owner = owner_in(tmp_path)
    owner.open()
    end = write(owner, 0, 8)
    fail_rows(owner, monkeypatch)
    assert isinstance(send_new(owner, alone=alone), Unavailable)
    monkeypatch.undo()
    snapshots = owner.shard.snapshots
    assert snapshots is not None
    assert snapshots.take() is None, "the snapshot thread may come before the process is gone"
    assert isinstance(snapshots.counts.failing, str)
    if ending == "crash":
        owner.crash()
    else:
        owner.close()
    assert snapshots.counts.taken == 0
    owner.open()
    ack = owner.write(rows(BATCH, first=NEW, keys=KEYS), producer="p0", number=4)
    assert (ack.duplicate, ack.end) == (False, end + BATCH)
    assert owner.ids()[-BATCH:] == list(range(NEW, NEW + BATCH))
    owner.close()


def test_no_snapshot_comes_between_a_failed_turn_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node is told in the turn itself: whoever waits for the turn finds the shard failed."""
    owner = owner_in(tmp_path)
    shard = owner.open()
    write(owner, 0, 8)
    turns: list[bool] = []
    monkeypatch.setattr(shard, "_on_fatal", lambda _: turns.append(shard._turn.locked()))
    fail_rows(owner, monkeypatch)
    assert isinstance(send_new(owner, alone=False), Unavailable)
    shard._writer.join(ANSWER_S)
    assert turns == [True]
    owner.crash()


def test_a_group_that_waited_for_the_turn_of_a_failed_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = owner_in(tmp_path)
    shard = owner.open()
    end = write(owner, 0, 2)
    with shard._turn:
        waiting = owner.send(rows(BATCH, first=end, keys=KEYS), producer="p0", number=1)
        deadline = time.monotonic() + ANSWER_S
        while shard.inbox.waiting() != (0, 0):  # until the writer thread has taken it, and waits for the turn
            assert time.monotonic() < deadline
        shard._die(MemoryError("in the turn of a batch that came alone"))
    assert isinstance(waiting.answer(), Unavailable)
    shard._writer.join(ANSWER_S)
    assert shard.log_writer.end == end
    owner.crash()
