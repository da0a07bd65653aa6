"""What a shard is after its process was killed, its log was damaged, or etcd is not what it was."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from crash_writer import PRODUCERS, ROWS, batch_of
from ingest_rows import rows, table
from ingest_shards import Owner

from proxist.errors import LogCorrupt
from proxist.etcd.records import LogRecord
from proxist.model.ids import Epoch, Offset
from proxist.wal import LogMark, list_logs, shard_directory
from proxist.wal.chain import list_segments
from proxist_ingest.residency import EvictTo

WRITER = Path(__file__).with_name("crash_writer.py")
Acked = dict[tuple[int, int], tuple[int, int]]
"""(producer, number) -> (epoch, end) of the first ack."""


def run_and_kill(owner: Owner, acked: Acked, ack_count: int) -> None:
    """Let a process write until it has acked `ack_count` batches, then kill -9; the acks that got out are checked."""
    record = json.dumps(owner.record.to_json())
    command = [sys.executable, str(WRITER), str(owner.data_dir), record, owner.table.spec.durability]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        owner.record = owner.record.opened(owner.shard.log_writer.end)
        for _ in range(ack_count):
            note(writer.stdout.readline(), acked)
        writer.kill()
        for line in writer.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                note(line, acked)
        writer.wait()


def note(line: str, acked: Acked) -> None:
    word, *numbers = line.split()
    assert word == "ack", line
    producer, number, epoch, end = map(int, numbers)
    # The first batch after a restart repeats the last known one: the ack must be the original's.
    assert acked.setdefault((producer, number), (epoch, end)) == (epoch, end)


@pytest.mark.parametrize("durability", ["disk", "os"])
def test_acked_rows_survive_kill_9_exactly_once(tmp_path: Path, durability: str) -> None:
    acked: Acked = {}
    owner = Owner(table(durability=durability, flush={"rows": 20}), tmp_path)
    owner.open()
    owner.close()
    for round_ in range(2):
        run_and_kill(owner, acked, 60)
        owner.open()
        ids = owner.ids()
        assert len(ids) == len(set(ids))
        for (producer, number), (epoch, end) in acked.items():
            first = batch_of(producer, number)
            assert ids[end - ROWS : end] == list(range(first, first + ROWS)), "an acked batch is where its ack said"
            repeat = owner.write(rows(ROWS, first=first), producer=f"p{producer}", number=number)
            assert (repeat.duplicate, repeat.epoch, repeat.end) == (True, epoch, end)
        assert owner.ids() == ids
        assert len(acked) >= 50 * (round_ + 1)
        owner.close()
    assert {producer for producer, _ in acked} == set(range(PRODUCERS))


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    with Owner(table(flush={"rows": 20, "age": "1h"}), tmp_path) as opened:
        yield opened


def segment_of(owner: Owner, epoch: int) -> Path:
    return list_segments(shard_directory(owner.data_dir, owner.record.shard) / str(epoch))[-1][1]


def overwrite(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def test_a_torn_tail_is_cut_and_the_shard_goes_on(owner: Owner) -> None:
    owner.write(rows(10), producer="p", number=1)
    mark: LogMark = owner.shard.log_writer.mark
    owner.crash()
    overwrite(segment_of(owner, 1), mark.position, b"PXRC" + b"\x07" * 50)
    owner.open()
    assert owner.ids() == list(range(10))
    assert owner.write(rows(1, first=10), producer="p", number=2).end == 11


def test_a_damaged_middle_stops_the_start_with_the_lost_range(owner: Owner) -> None:
    marks = []
    for n in range(6):
        owner.write(rows(10, first=10 * n))
        marks.append(owner.shard.log_writer.mark.position)
    owner.close()
    overwrite(segment_of(owner, 1), marks[2] + 100, b"\xff" * 8)
    with pytest.raises(LogCorrupt) as raised:
        owner.open()
    assert (raised.value.details["lost_first"], raised.value.details["lost_end"]) == (30, 40)
    overwrite(segment_of(owner, 1), marks[2] + 100, b"\xff" * 8)  # refused again, and unchanged
    with pytest.raises(LogCorrupt):
        owner.open()
    shutil.rmtree(owner.data_dir / "wal")
    owner.record = replace(owner.record, epoch=Epoch(0), logs=())
    owner.open()


def test_a_missing_log_stops_the_start(owner: Owner) -> None:
    owner.write(rows(10))
    owner.reopen()
    owner.write(rows(10, first=10))
    owner.close()
    directory = shard_directory(owner.data_dir, owner.record.shard)
    (directory / "1").rename(directory / "hidden")
    with pytest.raises(LogCorrupt, match="is not in this data directory") as raised:
        owner.open()
    assert (raised.value.details["lost_first"], raised.value.details["lost_end"]) == (0, 10)
    (directory / "hidden").rename(directory / "1")
    owner.open()
    assert owner.ids() == list(range(20))


def test_a_log_that_was_never_opened_in_etcd_is_removed(owner: Owner) -> None:
    owner.write(rows(10))
    before = owner.record
    owner.reopen()
    owner.close()
    owner.record = before  # as if the transaction of epoch 2 had not been applied
    owner.open()
    assert owner.ids() == list(range(10))
    assert owner.record.epoch == 2
    assert [log.epoch for log in list_logs(shard_directory(owner.data_dir, owner.record.shard))] == [1, 2]


def test_a_log_with_rows_that_etcd_does_not_know_stops_the_start(owner: Owner) -> None:
    before = owner.record
    owner.reopen()
    owner.write(rows(10))
    owner.close()
    owner.record = before
    with pytest.raises(LogCorrupt, match="etcd was set back"):
        owner.open()
    owner.record = before.opened(Offset(0))
    owner.open()
    assert owner.ids() == list(range(10))


def test_etcds_mark_above_the_log_is_loss(owner: Owner) -> None:
    owner.write(rows(10))
    owner.close()
    with pytest.raises(LogCorrupt):
        owner.open(persisted=11)
    owner.open(persisted=0)


def test_a_shard_that_outgrew_its_memory_is_replayed_with_the_floor_moved(tmp_path: Path) -> None:
    with Owner(table(hot_bytes="1MiB", durability="os", flush={"rows": 1000, "age": "1h"}), tmp_path) as owner:
        count = 0
        for size in (10, *[1000] * 60):
            owner.write(rows(size, first=count))
            count += size
            end = owner.shard.flush()
            while owner.shard.bounds.exposed < end:
                assert owner.shard.bounds.after(owner.shard.bounds.exposed, 10) is not None
            owner.shard.advance_persisted(owner.shard.epoch, end)
        assert owner.shard.marks().floor > 0
        owner.reopen()
        marks = owner.shard.marks()
        assert 0 < marks.floor <= marks.persisted == count == marks.end
        assert owner.ids() == list(range(marks.floor, count))
        owner.shard.evict(EvictTo())
        owner.write(rows(10, first=count))
        assert owner.ids() == list(range(count, count + 10))


def test_an_abandoned_log_is_not_needed(owner: Owner) -> None:
    lost = replace(owner.record, epoch=Epoch(1), logs=(LogRecord(Epoch(1), Offset(0), Offset(40), "abandoned"),))
    owner.close()
    shutil.rmtree(owner.data_dir / "wal")
    owner.record = lost
    owner.open()
    assert owner.write(rows(1)).end == 41
