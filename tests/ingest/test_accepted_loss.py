"""An operator's decision about a damaged log gives up what he was shown and nothing else, `pxctl wal` shows what the node
refuses, and a shard that was opened by it opens again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ingest_rows import rows
from ingest_shards import Owner
from snapshotted import BATCH, KEYS, owner_in, persist, snapshot, write

from proxist.cli.wal_files import lost_snapshots, reports_of_shard
from proxist.errors import LogCorrupt
from proxist.hot.ops import HotScan
from proxist.hot.snapshots import snapshot_directory
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.wal import OsFiles, list_segments, shard_directory
from proxist.wal.chain import log_directory
from proxist.wal.verify import LogReport, accept_loss, verify_log
from proxist_ingest.warm import read_warm

SHARD = ShardId(1)


def log_of(owner: Owner, epoch: int) -> Path:
    return log_directory(shard_directory(owner.data_dir, SHARD), Epoch(epoch))


def damage(log_dir: Path, segment: int) -> None:
    """Flip bytes of a record in the middle of a segment."""
    path = list_segments(log_dir)[segment][1]
    raw = bytearray(path.read_bytes())
    raw[20_000:20_200] = bytes(byte ^ 0xFF for byte in raw[20_000:20_200])
    path.write_bytes(bytes(raw))


def refused(owner: Owner) -> dict[str, Any]:
    with pytest.raises(LogCorrupt) as caught:
        owner.open()
    return caught.value.details


def damaged(owner: Owner) -> LogReport:
    (report,) = [one for one in reports_of_shard(owner.data_dir, SHARD) if one.error is not None]
    return report


def nothing_to_do(owner: Owner) -> bool:
    sound = all(one.error is None for one in reports_of_shard(owner.data_dir, SHARD))
    return sound and lost_snapshots(owner.data_dir, SHARD) is None


def add(owner: Owner, to: int) -> None:
    """Rows up to `to`, on disk in batches that are cut."""
    while (end := int(owner.shard.marks().end)) < to:
        owner.write(rows(BATCH, first=end, keys=KEYS))
    owner.shard.flush()
    owner.shard.log_writer.sync()


def two_logs(path: Path) -> Owner:
    """ClickHouse has the rows below 2000, log 1 was sealed at 12000, log 2 has 250 rows."""
    owner = owner_in(path)
    owner.open()
    write(owner, 0, 8)
    persist(owner, 0)
    snapshot(owner)
    add(owner, 12_000)
    owner.crash()
    owner.open()
    add(owner, 12_250)
    return owner


@pytest.mark.parametrize("with_snapshots", [True, False])
def test_sound_rows_below_a_hole_are_given_up_by_a_decision_about_all_of_them_alone(
    tmp_path: Path, with_snapshots: bool
) -> None:
    owner = two_logs(tmp_path)
    owner.crash()
    if not with_snapshots:
        shutil.rmtree(snapshot_directory(tmp_path, SHARD))
    log_dir = log_of(owner, 1)
    damage(log_dir, -2)
    first = refused(owner)["lost_first"]
    assert 2000 < first < 12_000
    accept_loss(verify_log(log_dir, expected_end=Offset(12_000)), OsFiles())  # of the unreadable rows alone
    told = refused(owner)
    assert (told["lost_first"], told["lost_end"]) == (2000, 12_000)
    assert told["command"].endswith("--shard 1 --epoch 1 --accept-loss")
    report = damaged(owner)
    assert (report.error.details if report.error else None) == told
    assert report.given_up == (2000, 12_000)
    accept_loss(report, OsFiles())
    assert nothing_to_do(owner)
    for end in (12_500, 12_750):
        marks = owner.open().marks()
        assert (marks.floor, marks.persisted) == (12_000, 12_000)
        assert owner.shard.bounds.is_bound(Offset(12_000)), "followers begin there"
        add(owner, end)
        assert owner.ids() == list(range(12_000, end))
        owner.crash()
        assert nothing_to_do(owner)


def test_one_decision_covers_the_unreadable_and_the_sound_rows(tmp_path: Path) -> None:
    owner = two_logs(tmp_path)
    owner.crash()
    damage(log_of(owner, 1), -2)
    report = damaged(owner)
    assert report.given_up == (2000, 12_000)
    accept_loss(report, OsFiles())
    assert owner.open().marks().persisted == 12_000
    owner.close()


def test_a_hole_below_what_clickhouse_has_gives_up_nothing(tmp_path: Path) -> None:
    owner = two_logs(tmp_path)
    persist(owner, 0)
    owner.crash()
    log_dir = log_of(owner, 1)
    shutil.rmtree(snapshot_directory(tmp_path, SHARD))
    damage(log_dir, -2)
    report = damaged(owner)
    assert report.found is not None
    assert report.beyond is None
    accept_loss(report, OsFiles())
    marks = owner.open().marks()
    assert (marks.floor, marks.persisted, marks.end) == (12_000, 12_250, 12_250)
    owner.close()


def warm_shard(path: Path) -> Owner:
    """ClickHouse has the rows below 2000, memory those from 16000 on, a snapshot says so."""
    owner = owner_in(path)
    owner.open()
    write(owner, 0, 8)
    persist(owner, 0)
    add(owner, 17_000)
    shard = owner.shard
    shard._on_writer(lambda: shard.hot.evict(Offset(16_000), shard.log_writer.synced))
    snapshot(owner)
    assert (shard.marks().persisted, shard.marks().floor) == (2000, 16_000)
    return owner


def test_damage_of_a_warm_row_stops_the_start_and_a_decision_ends_it(tmp_path: Path) -> None:
    owner = warm_shard(tmp_path)
    owner.crash()
    damage(log_of(owner, 1), 3)
    first = refused(owner)["lost_first"]
    report = damaged(owner)
    assert report.given_up == (first, 17_000)
    accept_loss(report, OsFiles())
    assert nothing_to_do(owner)
    marks = owner.open().marks()
    assert (marks.persisted, marks.end) == (2000, first), "no sound row is lost"
    persist(owner, 0)
    assert owner.shard.marks().persisted == first
    owner.close()


def test_a_sound_warm_shard_starts_where_it_stood(tmp_path: Path) -> None:
    owner = warm_shard(tmp_path)
    owner.crash()
    marks = owner.open().marks()
    assert (marks.persisted, marks.floor, marks.end) == (2000, 16_000, 17_000)
    part = read_warm(owner.shard, HotScan(columns=("trade_id",)), None, marks.persisted, marks.floor)
    assert sorted(part.rows.column("trade_id").to_pylist()) == list(range(2000, 16_000))
    owner.close()


def above_the_damage(path: Path) -> Owner:
    """ClickHouse has the rows below 2000; a snapshot of that, and one of 10000 rows."""
    owner = owner_in(path)
    owner.open()
    write(owner, 0, 8)
    persist(owner, 0)
    snapshot(owner)
    add(owner, 10_000)
    snapshot(owner)
    return owner


def test_after_an_accepted_loss_below_a_snapshot_the_shard_opens_again_and_again(tmp_path: Path) -> None:
    owner = above_the_damage(tmp_path)
    owner.crash()
    damage(log_of(owner, 1), -2)
    end = refused(owner)["lost_first"]
    report = damaged(owner)
    assert report.given_up == (end, 10_000), "the snapshot is a promise too"
    accept_loss(report, OsFiles())
    for _ in range(3):  # killed before the next snapshot, each time
        assert nothing_to_do(owner)
        marks = owner.open().marks()
        assert (marks.persisted, marks.end) == (2000, end)
        assert owner.ids() == list(range(marks.floor, end))
        end += BATCH
        add(owner, end)
        owner.crash()


def test_a_log_that_ends_before_a_snapshot_is_told_and_accepted(tmp_path: Path) -> None:
    owner = above_the_damage(tmp_path)
    owner.crash()
    log_dir = log_of(owner, 1)
    for _, path in list_segments(log_dir)[-2:]:
        path.unlink()
    told = refused(owner)
    assert told["cause"] == "the log ends before a snapshot of it"
    end = told["lost_first"]
    report = damaged(owner)
    assert (report.error.details if report.error else None) == told
    assert report.given_up == (end, 10_000)
    accept_loss(report, OsFiles())
    assert nothing_to_do(owner)
    for _ in range(2):
        assert owner.open().marks().end == end
        owner.crash()
