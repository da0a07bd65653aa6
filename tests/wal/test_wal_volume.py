"""A full disk: what is refused, what still goes through, and how rows come back."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from wal_support import SCHEMA, SHARD, TABLE, append_rows, rows_of

from proxist.errors import Overloaded, Unavailable
from proxist.model.ids import Epoch, Offset
from proxist.testing.faulty_files import FaultyFiles
from proxist.wal import LogWriter, Volume, list_segments, persisted_record, recover_log, remove_segments, write_durably

SEGMENT, BALLAST = 8192, 64 * 1024
DEADLINE_S = 10.0


@pytest.fixture
def files(tmp_path: Path) -> FaultyFiles:
    return FaultyFiles(tmp_path)


@pytest.fixture
def volume(tmp_path: Path, files: FaultyFiles) -> Volume:
    made = Volume(tmp_path, files=files, ballast_bytes=BALLAST, segment_bytes=SEGMENT)
    assert made.restore_ballast()
    return made


def create(data: Path, volume: Volume, epoch: int = 1, start: int = 0) -> LogWriter:
    return LogWriter.create(
        data / "wal" / str(SHARD), SHARD, Epoch(epoch), Offset(start), TABLE, SCHEMA, 1, {"persisted": 0},
        segment_bytes=SEGMENT, volume=volume,
    )  # fmt: skip


def flood(log: LogWriter) -> None:
    for number in range(1000):
        append_rows(log, 20, number=number)


def fill_up(log: LogWriter, files: FaultyFiles) -> None:
    """Append rows until the disk has no room for another segment."""
    files.room_bytes = 2 * SEGMENT
    with pytest.raises(Overloaded) as refused:
        flood(log)
    assert refused.value.retry_after_s is not None
    assert log.failure is None


def mark_until_pressed(log: LogWriter, volume: Volume) -> int:
    """Append marks until one needed the ballast; how many."""
    for count in range(1, 1000):
        log.append([persisted_record(Offset(1))])
        if volume.pressed:
            return count
    raise AssertionError("the ballast was never needed")


def test_marks_and_the_seal_go_through_when_the_disk_is_full(
    tmp_path: Path, files: FaultyFiles, volume: Volume
) -> None:
    log = create(tmp_path, volume)
    fill_up(log, files)
    rows = log.end
    marks = mark_until_pressed(log, volume)
    assert not (tmp_path / "BALLAST").exists()
    for _ in range(200):
        log.append([persisted_record(Offset(1))])
    log.seal()
    recovered = recover_log(log.log_dir)
    assert recovered.sealed
    assert recovered.end == rows
    assert recovered.mark.records > marks + 200
    log.close()


def test_rows_wait_until_there_is_room_for_the_ballast_again(
    tmp_path: Path, files: FaultyFiles, volume: Volume
) -> None:
    log = create(tmp_path, volume)
    fill_up(log, files)
    mark_until_pressed(log, volume)
    end = log.end
    with pytest.raises(Overloaded, match="kept for marks and snapshots"):
        append_rows(log, 1)  # the segment that the ballast paid for has room: not for rows
    assert not volume.restore_ballast()
    log.sync()
    remove_segments(log.log_dir, log.mark.segment, volume)
    assert not list((tmp_path / "wal").glob("spare/*")), "spares would hold the room that rows wait for"
    files.room_bytes = (files.room_bytes or 0) + BALLAST + 2 * SEGMENT
    assert volume.restore_ballast()
    assert (tmp_path / "BALLAST").stat().st_size == BALLAST
    append_rows(log, 5)
    assert log.end == end + 5
    log.close()


def test_a_start_on_a_full_disk_finds_room_for_its_log_and_takes_no_rows(
    tmp_path: Path, files: FaultyFiles, volume: Volume
) -> None:
    log = create(tmp_path, volume)
    fill_up(log, files)
    log.close()
    files.room_bytes = 0
    after = create(tmp_path, volume, epoch=2, start=log.end)
    assert volume.pressed
    with pytest.raises(Overloaded):
        append_rows(after, 1)
    after.seal()
    after.close()
    assert rows_of(list(recover_log(log.log_dir).records())) == list(range(log.end))


def test_spares_go_before_the_ballast(tmp_path: Path, files: FaultyFiles, volume: Volume) -> None:
    log = create(tmp_path, volume)
    while log.mark.segment < 4:
        append_rows(log, 20)
    log.sync()
    remove_segments(log.log_dir, 3, volume)
    assert len(list((tmp_path / "wal" / "spare").iterdir())) == 3
    assert volume.make_room()
    assert not list((tmp_path / "wal" / "spare").iterdir())
    assert not volume.pressed
    assert volume.make_room()
    assert volume.pressed
    assert not volume.make_room()
    log.close()


def test_rows_use_spares_on_a_full_disk(tmp_path: Path, files: FaultyFiles, volume: Volume) -> None:
    log = create(tmp_path, volume)
    while log.mark.segment < 4:
        append_rows(log, 20)
    log.sync()
    remove_segments(log.log_dir, 3, volume)
    files.room_bytes = 0
    while log.mark.segment < 7:
        append_rows(log, 20)
    with pytest.raises(Overloaded):
        flood(log)
    assert (tmp_path / "BALLAST").exists(), "rows never take the ballast"
    log.close()


def test_a_log_that_begins_a_segment_does_not_wait_for_the_flush_of_another_that_is_given_up(
    tmp_path: Path, files: FaultyFiles, volume: Volume
) -> None:
    log = create(tmp_path, volume)
    while log.mark.segment < 4:
        append_rows(log, 20)
    log.sync()
    begun: list[bool] = []

    def begin() -> None:
        fd, spare = volume.open_segment(tmp_path / f"begun-{len(begun)}", SEGMENT)
        files.close(fd)
        begun.append(spare)

    def while_flushing(operation: str, path: Path | None) -> None:
        if operation == "sync_directory":
            thread = threading.Thread(target=begin, daemon=True)
            thread.start()
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), f"it waits for the flush of {path}"

    files.before = while_flushing
    assert remove_segments(log.log_dir, 1, volume) == 1
    files.before = None
    assert begun
    assert not any(begun), "what may come back under its old name is not used again"
    begin()
    assert begun[-1], "once it cannot, it is"
    log.close()


def test_insist_frees_what_is_held_back_and_tries_again(tmp_path: Path, files: FaultyFiles, volume: Volume) -> None:
    files.room_bytes = 100
    volume.insist(lambda: write_durably(files, tmp_path / "snapshot", b"x" * 20_000))
    assert (tmp_path / "snapshot").stat().st_size == 20_000
    assert volume.pressed
    files.room_bytes = 0
    with pytest.raises(OSError, match="No space"):
        volume.insist(lambda: write_durably(files, tmp_path / "other", b"x" * 20_000))
    files.fail("create", error=errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        volume.insist(lambda: write_durably(files, tmp_path / "third", b"x"))


def test_without_a_ballast_nothing_is_refused_but_by_the_disk(tmp_path: Path) -> None:
    files = FaultyFiles(tmp_path)
    volume = Volume(tmp_path, files=files, ballast_bytes=0, segment_bytes=SEGMENT)
    assert volume.restore_ballast()
    log = create(tmp_path, volume)
    fill_up(log, files)
    assert not volume.pressed
    files.heal()
    append_rows(log, 20)
    log.close()


def test_a_ballast_of_another_size_is_made_again(tmp_path: Path, volume: Volume) -> None:
    assert (tmp_path / "BALLAST").stat().st_size == BALLAST
    smaller = Volume(tmp_path, ballast_bytes=4096, segment_bytes=SEGMENT)
    assert smaller.restore_ballast()
    assert (tmp_path / "BALLAST").stat().st_size == 4096


@pytest.mark.parametrize("taken", [0, 1, 7, 119, 121, 300])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_an_error_in_the_middle_of_a_record_poisons_the_log_and_loses_no_synced_row(
    tmp_path: Path, files: FaultyFiles, volume: Volume, taken: int, error: int
) -> None:
    log = create(tmp_path, volume)
    append_rows(log, 20)
    log.sync()
    files.fail("write", error=error, take_bytes=taken or None)
    with pytest.raises(Unavailable, match="append failed"):
        append_rows(log, 20)
    files.heal()
    for again in (lambda: append_rows(log, 1), log.sync, log.seal):
        with pytest.raises(Unavailable):
            again()
    log.close(sync=False)
    recovered = recover_log(log.log_dir)
    assert rows_of(list(recovered.records())) == list(range(20))
    assert (recovered.cut is None) == (taken == 0)
    assert [number for number, _ in list_segments(log.log_dir)] == [0]
    create(tmp_path, volume, epoch=2, start=20).close()
