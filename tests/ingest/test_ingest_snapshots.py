"""Snapshots of an open shard: taken beside its writer, what a start makes of them, and which files they make dispensable."""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from ingest_rows import rows, table
from ingest_shards import Owner
from shard_state import state_of

from proxist import failpoints
from proxist.errors import InvalidArgument, LogCorrupt, Overloaded, ProducerConflict
from proxist.etcd.records import LogRecord
from proxist.hot.ops import HotLastBy
from proxist.hot.snapshots import list_snapshots, snapshot_directory
from proxist.model.ids import Epoch, Offset
from proxist.testing.faulty_files import FaultyFiles
from proxist.wal import list_logs, segments, shard_directory
from proxist_ingest import snapshot_thread
from proxist_ingest.residency import EvictTo
from proxist_ingest.snapshotting import RETRY_NS

SEGMENT = 64 * 2**10


def owner_in(path: Path, **spec: Any) -> Owner:
    made = table(**{"durability": "os", "flush": {"rows": 1000, "age": "1h"}, "hot_bytes": "2MiB", **spec})
    return Owner(made, path, snapshot_bytes=2**40, segment_bytes=SEGMENT)


def fill(owner: Owner, first: int, batches: int, producer: str = "p") -> int:
    """Batches of 500 rows, persisted as far as they were cut but for the last two; returns the end."""
    for n in range(first // 500, first // 500 + batches):
        owner.write(rows(500, first=500 * n, keys=7), producer=producer, number=n)
    persist(owner, 1000)
    return first + 500 * batches


def persist(owner: Owner, behind: int = 0) -> None:
    """Persist everything but the last `behind` rows."""
    end = owner.shard.flush()
    owner.shard.log_writer.sync()
    shard = owner.shard
    while shard.bounds.exposed < end:
        assert shard.bounds.after(shard.bounds.exposed, 10) is not None
    wanted = [bound for bound in shard.bounds.cuts().ends if bound <= end - behind]
    if wanted:
        shard.advance_persisted(shard.epoch, wanted[-1])


def snap(owner: Owner) -> None:
    assert owner.shard.snapshots is not None
    assert owner.shard.snapshots.take() is not None


def files_of(path: Path) -> dict[str, str]:
    """Every log file with the hash of its bytes."""
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((path / "wal").rglob("*.wal"))}


def three_snapshots(owner: Owner) -> None:
    end = fill(owner, 0, 8)
    for _ in range(3):
        owner.shard.evict(EvictTo(rows=1500))
        snap(owner)
        end = fill(owner, end, 4)


def test_a_restart_begins_with_the_newest_snapshot(tmp_path: Path) -> None:
    with owner_in(tmp_path) as owner:
        end = fill(owner, 0, 20)
        owner.shard.evict(EvictTo(rows=2000))
        floor = owner.shard.marks().floor
        snap(owner)
        fill(owner, end, 4)
        before, answers = state_of(owner.shard), owner.shard.run(HotLastBy())
        owner.crash()
        owner.open()
        assert state_of(owner.shard) == before
        assert owner.shard.marks().floor == floor, "evicted rows did not come back"
        assert owner.shard.run(HotLastBy()).rows.equals(answers.rows)
        for n in range(24):
            repeat = owner.write(rows(500, first=500 * n, keys=7), producer="p", number=n)
            assert repeat.duplicate
            assert repeat.end == 500 * (n + 1)
        with pytest.raises(ProducerConflict):
            owner.write(rows(3), producer="p", number=2)
        assert owner.write(rows(1, first=end + 2000), producer="p", number=24).end == end + 2001


def test_a_clean_stop_takes_one_and_an_idle_shard_does_not(tmp_path: Path) -> None:
    with owner_in(tmp_path) as owner:
        fill(owner, 0, 10)
        owner.shard.evict(EvictTo(rows=1000))
        before = state_of(owner.shard)
        owner.reopen()
        assert len(list_snapshots(snapshot_directory(tmp_path, owner.shard.id))) == 1
        assert owner.shard.snapshots is not None
        assert owner.shard.snapshots.newest is not None
        assert state_of(owner.shard)["boundary"] == before["boundary"]
        assert state_of(owner.shard)["rows"] == before["rows"]


def test_seqs_that_were_dropped_stay_dropped(tmp_path: Path) -> None:
    with owner_in(tmp_path, dedup="seq") as owner:
        end = fill(owner, 0, 10)
        owner.shard.evict(EvictTo())
        snap(owner)
        owner.crash()
        owner.open()
        assert owner.write(rows(500, first=0, keys=7)).rows == 0
        assert owner.write(rows(10, first=end, keys=7)).rows == 10


def test_the_log_is_shortened_to_the_oldest_of_three(tmp_path: Path) -> None:
    with owner_in(tmp_path) as owner:
        end = fill(owner, 0, 40)
        directory = shard_directory(tmp_path, owner.shard.id)
        whole = len(files_of(tmp_path))
        owner.shard.evict(EvictTo(rows=3000))
        floor = owner.shard.marks().floor
        for taken in range(3):
            assert len(files_of(tmp_path)) >= whole, f"{taken} snapshots are not enough"
            snap(owner)
            end = fill(owner, end, 2)
        [log] = list_logs(directory)
        first = segments(log.path)[0].first
        following = segments(log.path)[1].first
        assert first is not None
        assert following is not None
        assert 0 < first <= floor < following, "no segment more and none less than the oldest floor allows"
        assert owner.shard.snapshots is not None
        assert owner.shard.snapshots.counts.segments_given_up > 10
        with pytest.raises(InvalidArgument, match="persisted long ago"):
            owner.shard.bounds.after(Offset(0), 0.0)
        before = state_of(owner.shard)
        owner.crash()
        owner.open()
        assert state_of(owner.shard) == before


def test_whole_logs_go_and_the_chain_still_opens(tmp_path: Path) -> None:
    with owner_in(tmp_path) as owner:
        end = 0
        for _ in range(6):
            end = fill(owner, end, 8)
            persist(owner)
            owner.shard.evict(EvictTo())
            owner.reopen()
        directory = shard_directory(tmp_path, owner.shard.id)
        assert len(owner.record.logs) == 7
        assert list_logs(directory)[0].epoch >= 4
        assert len(list_snapshots(snapshot_directory(tmp_path, owner.shard.id))) == 3
        assert owner.shard.marks().floor == owner.shard.marks().end == end
        assert owner.shard.run(HotLastBy()).rows.num_rows == 7
        assert owner.write(rows(500, first=0, keys=7), producer="p", number=0).duplicate


def test_rows_that_are_not_persisted_keep_their_segments(tmp_path: Path) -> None:
    with owner_in(tmp_path) as owner:
        end = fill(owner, 0, 20)
        persisted = owner.shard.marks().persisted
        for n in range(3):
            for batch in range(20):
                owner.write(rows(500, first=end, keys=7), producer="p", number=20 + 20 * n + batch)
                end += 500
            snap(owner)
        assert owner.shard.marks().floor > persisted, "memory is full, and the floor passed persisted"
        first = segments(list_logs(shard_directory(tmp_path, owner.shard.id))[0].path)[0].first
        assert first is not None
        assert first <= persisted
        before = state_of(owner.shard)
        owner.crash()
        owner.open()
        assert state_of(owner.shard) == before
        persist(owner)


def test_a_failing_snapshot_harms_no_ack_and_is_tried_again(tmp_path: Path) -> None:
    owner = owner_in(tmp_path)
    files = FaultyFiles(tmp_path)
    owner.files = files
    with owner:
        end = fill(owner, 0, 10)
        snapshots = owner.shard.snapshots
        assert snapshots is not None
        files.fail("make_directory", error=errno.EIO)
        assert snapshots.take() is None
        assert snapshots.counts.failures == 1
        assert snapshots.counts.failing is not None
        assert not snapshots.due(0)
        assert fill(owner, end, 1) == end + 500
        files.heal()
        snap(owner)
        assert snapshots.counts.failing is None
        assert not owner.failed.is_set()


def test_one_is_due_after_so_many_bytes_of_log(tmp_path: Path) -> None:
    owner = owner_in(tmp_path)
    owner.snapshot_bytes, owner.segment_bytes = 100_000, 2**26
    with owner:
        snapshots = owner.shard.snapshots
        assert snapshots is not None
        assert not snapshots.due(1)
        fill(owner, 0, 8)
        assert snapshots.due(1)
        snap(owner)
        assert not snapshots.due(1)
        fill(owner, 4000, 8)
        assert snapshots.due(1)


def fill_the_disk(owner: Owner, files: FaultyFiles, end: int) -> int:
    """Rows of which none is persisted, until one finds no room."""
    files.room_bytes = 4 * SEGMENT
    while end < 100_000:
        try:
            owner.write(rows(500, first=end, keys=7))
        except Overloaded:
            return end
        end += 500
    raise AssertionError("the disk took everything")


@pytest.mark.parametrize("pressed", [False, True])
def test_a_full_disk_frees_itself_once_rows_are_in_clickhouse(tmp_path: Path, pressed: bool) -> None:
    owner = owner_in(tmp_path)
    owner.files = files = FaultyFiles(tmp_path)
    owner.ballast_bytes = 8 * SEGMENT
    with owner:
        snapshots = owner.shard.snapshots
        assert snapshots is not None
        assert owner.volume.restore_ballast()
        end = fill_the_disk(owner, files, fill(owner, 0, 8))
        if pressed:
            assert owner.volume.make_room(), "a mark needed the ballast"
        persist(owner)
        assert not snapshots.due(time.monotonic_ns()), "no row has left memory: a snapshot would free nothing"
        owner.shard.evict(EvictTo(rows=500))
        for taken in range(3):
            assert snapshots.due(time.monotonic_ns() + RETRY_NS), f"{taken} snapshots are not enough"
            snap(owner)
            assert not snapshots.due(time.monotonic_ns()), "not one after the other"
        assert not snapshots.due(time.monotonic_ns() + RETRY_NS), "there is nothing more to free"
        assert snapshots.counts.segments_given_up
        assert owner.volume.restore_ballast()
        assert owner.write(rows(500, first=end, keys=7)).end == end + 500
        assert not owner.volume.full


def test_without_any_good_snapshot_a_shortened_log_waits_for_an_operator(tmp_path: Path) -> None:
    with owner_in(tmp_path) as owner:
        three_snapshots(owner)
        owner.shard.evict(EvictTo(rows=1500))
        snap(owner)
        ids = owner.ids()
        end = owner.shard.marks().end
        owner.crash()
        directory = snapshot_directory(tmp_path, owner.record.shard)
        random = Random(1)
        for _, path in list_snapshots(directory):
            victim = random.choice(sorted(path.iterdir()))
            victim.write_bytes(victim.read_bytes()[:-1])
        before = files_of(tmp_path)
        for _ in range(2):
            with pytest.raises(LogCorrupt, match="no good snapshot") as raised:
                owner.open()
            assert files_of(tmp_path) == before
        first = raised.value.details["lost_end"]
        (directory / f"accept-loss-{first}").touch()
        owner.open()
        assert owner.ids()[-len(ids) :] == ids
        assert owner.shard.marks().start == first
        assert owner.shard.run(HotLastBy()).cold, "what was below is asked of ClickHouse"
        assert owner.write(rows(1, first=end)).end == end + 1


def test_rows_that_no_tier_has_are_not_accepted_away(tmp_path: Path) -> None:
    with owner_in(tmp_path) as owner:
        for n in range(20):
            owner.write(rows(500, first=500 * n, keys=7))
        owner.crash()
        directory = shard_directory(tmp_path, owner.record.shard)
        [log] = list_logs(directory)
        oldest = sorted(log.path.iterdir())[0]
        hidden = oldest.rename(tmp_path / "hidden")
        snapshots = snapshot_directory(tmp_path, owner.record.shard)
        snapshots.mkdir(parents=True)
        with pytest.raises(LogCorrupt, match="no good snapshot") as raised:
            owner.open()
        (snapshots / f"accept-loss-{raised.value.details['lost_end']}").touch()
        with pytest.raises(LogCorrupt, match="neither in its logs nor"):
            owner.open()
        hidden.rename(oldest)
        owner.open()
        assert owner.ids()[-1] == 9999


def test_a_snapshot_from_before_an_abandoned_log_is_passed_over(tmp_path: Path) -> None:
    with owner_in(tmp_path) as owner:
        fill(owner, 0, 8)
        owner.shard.evict(EvictTo())
        snap(owner)
        owner.crash()
        lost = LogRecord(Epoch(1), Offset(0), Offset(9000), "abandoned")
        owner.record = replace(owner.record, logs=(lost,))
        owner.open(persisted=9000)
        marks = owner.shard.marks()
        assert (marks.start, marks.floor, marks.persisted, marks.end) == (9000, 9000, 9000, 9000)
        assert owner.shard.run(HotLastBy()).cold
        assert owner.write(rows(5), producer="p", number=0).end == 9005


def test_a_log_of_another_disk_is_not_needed_where_a_snapshot_covers_it(tmp_path: Path) -> None:
    with owner_in(tmp_path) as owner:
        end = fill(owner, 0, 8)
        persist(owner)
        owner.shard.evict(EvictTo())
        owner.reopen()
        fill(owner, end, 2)
        owner.reopen()
        before = state_of(owner.shard)
        owner.crash()
        [*_, older, newer] = sorted((tmp_path / "wal" / str(owner.record.shard)).iterdir())
        assert (older.name, newer.name) == ("2", "3")
        shutil.rmtree(tmp_path / "wal" / str(owner.record.shard) / "1")
        owner.open()
        assert state_of(owner.shard) == before


def test_a_log_that_cannot_be_shortened_is_shown_and_tried_again(tmp_path: Path) -> None:
    with owner_in(tmp_path) as owner:
        three_snapshots(owner)
        snapshots = owner.shard.snapshots
        assert snapshots is not None
        before = len(files_of(tmp_path))
        owner.shard.evict(EvictTo(rows=0))
        with failpoints.armed("truncate.before=error:EIO"):
            for _ in range(3):
                assert snapshots.take() is not None
        assert snapshots.counts.failing is not None
        assert snapshots.counts.failures == 3
        assert len(files_of(tmp_path)) == before
        snap(owner)
        assert snapshots.counts.failing is None
        assert len(files_of(tmp_path)) < before


def test_the_nodes_thread_takes_those_that_are_due_while_rows_come_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_thread, "PERIOD_S", 0.01)
    owner = owner_in(tmp_path)
    owner.snapshot_bytes, owner.segment_bytes = 60_000, 2**26
    with owner:
        snapshots = owner.shard.snapshots
        assert snapshots is not None
        thread = snapshot_thread.SnapshotThread(lambda: [owner.shard])
        thread.start()
        try:
            end, deadline = 0, time.monotonic() + 60
            while snapshots.counts.taken < 4 and time.monotonic() < deadline:
                end = fill(owner, end, 2)
                owner.shard.evict(EvictTo(rows=2000))
        finally:
            thread.stop()
        assert snapshots.counts.taken >= 4
        last, known, ids = owner.shard.run(HotLastBy()), state_of(owner.shard)["producers"], owner.ids()
        owner.crash()
        owner.open()
        assert owner.shard.run(HotLastBy()).rows.equals(last.rows)
        assert state_of(owner.shard)["producers"] == known
        assert owner.ids()[-len(ids) :] == ids, "a floor that was lower then leaves more rows in memory"
