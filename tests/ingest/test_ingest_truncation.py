"""What is given up of a shard's logs, seen from the files alone: never a segment that holds a row above the limit."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest

from proxist import failpoints
from proxist.hot.snapshots import Cuts, Manifest, Position
from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.wal import (
    LogBegin,
    LogWriter,
    RecordIn,
    Volume,
    encode_body,
    list_logs,
    list_segments,
    recover_log,
    remove_segments,
    rows_record,
    segments,
    shard_directory,
)
from proxist.wal.chain import accepted_path
from proxist_ingest.snapshotting import truncate

SEGMENT, ROWS = 2**14, 500
DEADLINE_S = 20.0
SCHEMA = pa.schema([pa.field("x", pa.int64())])
RECORD = rows_record(encode_body(pa.record_batch([pa.array(range(ROWS), pa.int64())], schema=SCHEMA)), ROWS, 0)
FEW = rows_record(RECORD.body, 1, 0)
"""As many bytes, and one row: the segments of a log of these begin at low offsets."""


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path, ballast_bytes=0, segment_bytes=SEGMENT)


def create(data: Path, volume: Volume, shard: int, epoch: int = 1, start: int = 0) -> LogWriter:
    directory = shard_directory(data, ShardId(shard))
    return LogWriter.create(
        directory, ShardId(shard), Epoch(epoch), Offset(start), TableId(1), SCHEMA, 1, {},
        segment_bytes=SEGMENT, volume=volume,
    )  # fmt: skip


def fill_to(log: LogWriter, segment: int, record: RecordIn = RECORD) -> None:
    """Append until the log has begun that segment."""
    while log.mark.segment < segment:
        log.append([record])
        log.sync()


def snapshot_of(floor: int, epoch: int, segment: int, persisted: int | None = None) -> Manifest:
    return Manifest(
        table_id=TableId(1), shard=ShardId(2), schema_version=1, start=Offset(0), complete=True, floor=Offset(floor),
        persisted=Offset(floor if persisted is None else persisted), t_persisted=None, persisted_time_max=None,
        evicted_time_max=None, position=Position(Epoch(epoch), 1, segment, Offset(10**6)), cuts=Cuts(Offset(0)),
        created_ns=0,
    )  # fmt: skip


def spare_of_another_shard(data: Path, volume: Volume, number: int) -> Path:
    """Segment `number` of shard 1, whose rows are at low offsets, as the one spare."""
    with create(data, volume, 1) as other:
        fill_to(other, number + 1, FEW)
        for _, path in list_segments(other.log_dir)[:number]:
            path.unlink()
        assert remove_segments(other.log_dir, number + 1, volume) == 1
    [spare] = (data / "wal" / "spare").iterdir()
    return spare


def test_a_segment_that_is_begun_in_a_spare_of_that_number_takes_no_other_along(tmp_path: Path, volume: Volume) -> None:
    with create(tmp_path, volume, 2) as log:
        fill_to(log, 7)
        spare_of_another_shard(tmp_path, volume, 8)
        before = [(one.number, one.first) for one in segments(log.log_dir)]
        with failpoints.armed("wal.segment.after=pause") as points:
            writer = threading.Thread(target=fill_to, args=(log, 8))
            writer.start()
            try:
                points.wait_reached("wal.segment.after", DEADLINE_S)
                assert truncate(log.log_dir.parent, [snapshot_of(ROWS, 1, 7)], volume) == 0
                assert [(one.number, one.first) for one in segments(log.log_dir)] == [*before, (8, None)]
            finally:
                points.release("wal.segment.after")
                writer.join(DEADLINE_S)
        assert segments(log.log_dir)[-1].first is not None, "its header is there now"
        assert truncate(log.log_dir.parent, [snapshot_of(ROWS, 1, 7)], volume) == 0


def test_a_spare_that_a_crash_left_without_its_new_header_takes_no_other_along(tmp_path: Path, volume: Volume) -> None:
    with create(tmp_path, volume, 2) as log:
        fill_to(log, 7)
    spare_of_another_shard(tmp_path, volume, 8).rename(log.log_dir / "00000008.wal")
    end = recover_log(log.log_dir).end
    with create(tmp_path, volume, 2, epoch=2, start=end) as after:
        after.append([RECORD])
    third = segments(log.log_dir)[3].first
    assert third is not None
    assert truncate(log.log_dir.parent, [snapshot_of(ROWS, 2, 0)], volume) == 0
    assert truncate(log.log_dir.parent, [snapshot_of(third, 2, 0)], volume) == 3, "what is covered goes all the same"
    assert recover_log(log.log_dir, begin=LogBegin(third, None)).end == end
    assert truncate(log.log_dir.parent, [snapshot_of(end, 2, 0)], volume) == 6
    assert [found.epoch for found in list_logs(log.log_dir.parent)] == [2]


def test_nothing_is_concluded_from_a_header_that_does_not_ascend(tmp_path: Path, volume: Volume) -> None:
    with create(tmp_path, volume, 2) as log:
        fill_to(log, 4)
    with create(tmp_path / "earlier", volume, 2) as same:  # the log of an earlier life of this shard's number
        fill_to(same, 4, FEW)
    (same.log_dir / "00000004.wal").rename(log.log_dir / "00000004.wal")
    firsts = [one.first for one in segments(log.log_dir)]
    assert firsts[4] is not None
    assert firsts[4] < ROWS < (firsts[1] or 0)
    assert truncate(log.log_dir.parent, [snapshot_of(ROWS, 1, 4)], volume) == 0


@pytest.mark.parametrize("at", [0, 1, 2])
def test_what_any_of_the_kept_snapshots_needs_stays(tmp_path: Path, volume: Volume, at: int) -> None:
    with create(tmp_path, volume, 2) as log:
        fill_to(log, 6)
    firsts = [one.first or Offset(0) for one in segments(log.log_dir)]
    for lowest in (
        snapshot_of(firsts[2], 1, 5),
        snapshot_of(firsts[5], 1, 5, persisted=firsts[2]),
        snapshot_of(firsts[5], 1, 2),
    ):
        kept = [snapshot_of(firsts[5], 1, 5) for _ in range(3)]
        kept[at] = lowest
        truncate(log.log_dir.parent, kept, volume)
        assert list_segments(log.log_dir)[0][0] == 2


def test_what_a_crash_left_of_a_whole_log_goes_with_the_next_truncation(tmp_path: Path, volume: Volume) -> None:
    with create(tmp_path, volume, 2) as log:
        fill_to(log, 6)
    create(tmp_path, volume, 2, epoch=2, start=log.end).close()
    shard_dir = log.log_dir.parent
    accepted_path(log.log_dir).touch()
    with failpoints.armed("wal.remove.after=error:EIO"), pytest.raises(OSError, match="Input/output"):
        truncate(shard_dir, [snapshot_of(log.end, 2, 0)], volume)
    assert sorted(path.name for path in shard_dir.iterdir()) == ["1.accepted", "1.gone", "2"]
    assert truncate(shard_dir, [snapshot_of(0, 2, 0)], volume) == 0, "nothing else is to be given up"
    assert [path.name for path in shard_dir.iterdir()] == ["2"]
