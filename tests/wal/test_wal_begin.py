"""A log whose beginning was given up: what it may lack, and segments that have an earlier life behind them."""

from __future__ import annotations

from pathlib import Path

import pytest
from wal_support import EPOCH, SCHEMA, SHARD, TABLE, append_rows, extents, flip, rows_of

from proxist.errors import LogCorrupt, Unavailable
from proxist.model.ids import Epoch, Offset
from proxist.wal import (
    LogBegin,
    LogReader,
    LogWriter,
    Volume,
    list_logs,
    list_segments,
    recover_log,
    remove_log,
    remove_segments,
    rows_record,
)
from proxist.wal._format import FLAG_PRODUCER
from proxist.wal.writer import segment_path

SEGMENT = 4096


def volume_of(data: Path, **settings: int) -> Volume:
    return Volume(data, segment_bytes=SEGMENT, ballast_bytes=0, **settings)


def log_in(data: Path, volume: Volume, *, epoch: int = EPOCH, start: int = 100) -> LogWriter:
    return LogWriter.create(
        data / "wal" / str(SHARD), SHARD, Epoch(epoch), Offset(start), TABLE, SCHEMA, 1, {"persisted": 0},
        segment_bytes=SEGMENT, volume=volume, now_ns=lambda: 1000,
    )  # fmt: skip


def fill(log: LogWriter, segments: int, rows: int = 10) -> None:
    """Append synced batches until the log stands in segment `segments`."""
    while log.mark.segment < segments:
        append_rows(log, rows, number=log.mark.records)
        log.sync()


def first_of(log_dir: Path, segment: int) -> int:
    return next(e[3].first for e in extents(log_dir) if e[0] == segment_path(log_dir, segment))


def test_a_log_begins_where_its_first_segments_were_given_up(tmp_path: Path) -> None:
    volume = volume_of(tmp_path)
    log = log_in(tmp_path, volume)
    fill(log, 5)
    firsts = {number: first_of(log.log_dir, number) for number, _ in list_segments(log.log_dir)}
    assert remove_segments(log.log_dir, 3, volume) == 3
    assert remove_segments(log.log_dir, 3, volume) == 0, "repeating it does nothing"
    append_rows(log, 5)
    end = log.seal()
    log.close()
    recovered = recover_log(log.log_dir, begin=LogBegin(Offset(firsts[3]), None))
    assert (recovered.start, recovered.end, recovered.sealed) == (firsts[3], end, True)
    assert rows_of(list(recovered.records())) == list(range(firsts[3], end))
    later = recover_log(log.log_dir, begin=LogBegin(Offset(firsts[4] + 3), None))
    assert later.start == firsts[4], "no more is read than is needed"
    for wanted in (firsts[3] - 1, 100):
        with pytest.raises(LogCorrupt, match="segments below 3 are not there") as caught:
            recover_log(log.log_dir, begin=LogBegin(Offset(wanted), None))
        assert (caught.value.details["lost_first"], caught.value.details["lost_end"]) == (wanted, firsts[3])
        with pytest.raises(LogCorrupt):
            LogReader(log.log_dir, Offset(wanted))
    with pytest.raises(LogCorrupt, match="segments below 3"):
        recover_log(log.log_dir)


def test_records_that_are_needed_hold_a_segment_that_no_row_needs(tmp_path: Path) -> None:
    volume = volume_of(tmp_path)
    log = log_in(tmp_path, volume)
    while log.mark.segment < 3:
        log.append([rows_record(b"", 0, 0, producer="feed", batch_number=log.mark.records)])
    log.close()
    number = next(e[3].record_number for e in extents(log.log_dir) if e[0].name == "00000002.wal")
    remove_segments(log.log_dir, 2, volume)
    assert recover_log(log.log_dir, begin=LogBegin(Offset(100), number)).mark == log.mark
    with pytest.raises(LogCorrupt) as caught:
        recover_log(log.log_dir, begin=LogBegin(Offset(100), number - 1))
    assert (caught.value.details["lost_first"], caught.value.details["lost_end"]) == (100, 100)


def test_damage_below_what_is_needed_stops_nothing(tmp_path: Path) -> None:
    log = log_in(tmp_path, volume_of(tmp_path))
    fill(log, 4)
    log.close()
    second = Offset(first_of(log.log_dir, 2))
    flip(segment_path(log.log_dir, 1), 300)
    needed = LogBegin(Offset(second + 1), None)
    assert recover_log(log.log_dir, begin=needed).end == log.end
    with pytest.raises(LogCorrupt):
        recover_log(log.log_dir)
    segment_path(log.log_dir, 1).unlink()
    assert recover_log(log.log_dir, begin=needed).end == log.end


def test_the_newest_segment_is_never_given_up(tmp_path: Path) -> None:
    volume = volume_of(tmp_path)
    log = log_in(tmp_path, volume)
    fill(log, 2)
    remove_segments(log.log_dir, 99, volume)
    assert [number for number, _ in list_segments(log.log_dir)] == [2]
    append_rows(log, 3)
    log.close()


def test_a_whole_log_goes_at_once_and_a_crash_leaves_nothing_of_it(tmp_path: Path) -> None:
    volume = volume_of(tmp_path)
    for epoch, start in ((1, 0), (2, 50)):
        log_in(tmp_path, volume, epoch=epoch, start=start).close()
    shard_dir = tmp_path / "wal" / str(SHARD)
    (shard_dir / "1").rename(shard_dir / "1.gone")
    assert [found.epoch for found in list_logs(shard_dir)] == [2]
    remove_log(shard_dir, Epoch(2), volume)
    assert not list(shard_dir.iterdir())


def test_spares_are_used_again_and_are_few(tmp_path: Path) -> None:
    volume = volume_of(tmp_path, spares_max=2)
    log = log_in(tmp_path, volume)
    fill(log, 5)
    remove_segments(log.log_dir, 5, volume)
    spare = tmp_path / "wal" / "spare"
    inodes = {path.stat().st_ino for path in spare.iterdir()}
    assert len(inodes) == 2
    fill(log, 7)
    assert {segment_path(log.log_dir, n).stat().st_ino for n in (6, 7)} == inodes
    assert not list(spare.iterdir())
    log.close()


@pytest.mark.parametrize("same_log", [True, False])
def test_old_bytes_of_a_spare_are_never_records_nor_a_torn_tail(tmp_path: Path, same_log: bool) -> None:
    """At every possible length of the new life: what follows its last record is an old record, or a part of one."""
    volume = volume_of(tmp_path)
    old = log_in(tmp_path, volume)
    fill(old, 2, rows=2)
    if same_log:
        log, start = old, 2
    else:
        old.close()
        log, start = log_in(tmp_path, volume, epoch=EPOCH + 1, start=old.end), -1
    remove_segments(old.log_dir, 2, volume)
    begin = log.mark
    fill(log, start + 1 if same_log else 1, rows=2)
    needed = LogBegin(begin.end, None)
    length = 0
    while log.mark.segment < (start + 3 if same_log else 2):
        recovered = recover_log(log.log_dir, begin=needed)
        assert (recovered.mark, recovered.cut) == (log.mark, None)
        length += 1
        log.append([rows_record(b"x" * (8 * (length % 5)), 0, 0, producer="p" * (length % 9), batch_number=length)])
        if length % 3 == 0:
            log.sync()
    assert length > 20
    assert recovered.end == log.end
    log.close()


def test_a_torn_record_in_a_spare_is_a_torn_tail(tmp_path: Path) -> None:
    volume = volume_of(tmp_path)
    log = log_in(tmp_path, volume)
    fill(log, 2)
    remove_segments(log.log_dir, 2, volume)
    fill(log, 3)
    before = log.mark
    append_rows(log, 5)
    log.close(sync=False)
    flip(segment_path(log.log_dir, 3), log.mark.position - 9)
    recovered = recover_log(log.log_dir, begin=LogBegin(before.end, None))
    assert recovered.mark == before
    assert recovered.cut is not None
    flip(segment_path(log.log_dir, 3), log.mark.position - 9)  # sound again: it names what was synced before it
    flip(segment_path(log.log_dir, 3), before.position - 9)
    with pytest.raises(LogCorrupt, match="checksum"):
        recover_log(log.log_dir, begin=LogBegin(Offset(before.end - 10), None))


def test_a_spare_that_was_taken_and_not_written_is_no_segment(tmp_path: Path) -> None:
    """A crash between the rename of a spare and the write of its header: its old header names another place."""
    volume = volume_of(tmp_path)
    log = log_in(tmp_path, volume)
    fill(log, 3)
    remove_segments(log.log_dir, 2, volume)
    fd, reused = volume.open_segment(segment_path(log.log_dir, 4), SEGMENT)
    volume.files.close(fd)
    assert reused
    log.close()
    recovered = recover_log(log.log_dir, begin=LogBegin(log.end, None))
    assert recovered.mark == log.mark
    with LogReader(log.log_dir, Offset(log.end - 1)) as reader:
        assert rows_of(list(reader.read(log.mark)))[-1] == log.end - 1


def test_a_reader_of_a_segment_that_was_given_up_is_told(tmp_path: Path) -> None:
    volume = volume_of(tmp_path)
    log = log_in(tmp_path, volume)
    append_rows(log, 2)
    log.sync()
    reader = LogReader(log.log_dir, Offset(100))
    assert rows_of(list(reader.read(log.synced_mark))) == [100, 101]
    fill(log, 2, rows=2)
    remove_segments(log.log_dir, 2, volume)
    fill(log, 4, rows=3)
    with pytest.raises(Unavailable, match="truncated"):
        list(reader.read(log.synced_mark))
    reader.close()
    log.close()


def test_the_flag_of_a_spare_is_all_that_tells_it(tmp_path: Path) -> None:
    """What is written into a spare is byte for byte what is written into a new file, but for one flag in the header."""
    volume = volume_of(tmp_path)
    log = log_in(tmp_path, volume)
    fill(log, 1)
    raw = segment_path(log.log_dir, 1).read_bytes()
    assert raw[10:12] == b"\0\0"
    remove_segments(log.log_dir, 1, volume)
    fill(log, 2)
    raw = segment_path(log.log_dir, 2).read_bytes()
    assert raw[10:12] == b"\x01\0"
    assert FLAG_PRODUCER == 1
    log.close()
