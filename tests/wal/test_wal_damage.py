"""What survives which damage: the WAL's promise, case by case."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from wal_logs import COUNT, ROWS, START, Log, build
from wal_support import EPOCH, SHARD, append_rows, extents, flip, head_at, open_log, patch, rows_of

from proxist.errors import LogCorrupt
from proxist.model.ids import Offset
from proxist.wal import LogWriter, cut_record, recover_log, rows_record
from proxist.wal._format import HEAD, PREFIX, RECORD_MAGIC, RecordHead, pack_record


def survivors(log_dir: Path) -> list[int]:
    return rows_of(list(recover_log(log_dir).records()))


def zero(log: Log, number: int) -> None:
    path, position, length = log.record(number)
    patch(path, position, bytes(length))


def flip_body(log: Log, number: int) -> None:
    path, position, length = log.record(number)
    flip(path, position + length - 20)


def cut_file(log: Log, number: int) -> None:
    path, position, length = log.record(number)
    with path.open("r+b") as file:
        file.truncate(position + length // 2)


def swap(log: Log, number: int) -> None:
    """Two records of equal length in each other's place: sound bytes, wrong chain."""
    path, position, length = log.record(number)
    _, other, other_length = log.record(number + 1)
    assert length == other_length
    raw = path.read_bytes()
    patch(path, position, raw[other : other + length])
    patch(path, other, raw[position : position + length])


def overwrite_with_garbage(log: Log, number: int) -> None:
    path, position, length = log.record(number)
    patch(path, position, bytes(range(1, 256)) * (length // 255 + 1))


def foreign_record(log: Log, number: int) -> None:
    """A record of another log, sound in itself."""
    path, position, length = log.record(number)
    raw = path.read_bytes()[position : position + length]
    head = RecordHead._make(HEAD.unpack_from(raw, PREFIX.size))
    forged = head._replace(log=head.log + 1)
    front = PREFIX.size + HEAD.size
    name = raw[front : front + head.producer_bytes]
    parts, _ = pack_record(forged, name, raw[length - head.body_bytes :])
    patch(path, position, b"".join(bytes(p) for p in parts))


def huge_length(log: Log, number: int) -> None:
    path, position, _ = log.record(number)
    patch(path, position + PREFIX.size, b"\xf8\xff\xff\xff")


def garbage_after_end(log: Log, _: int) -> None:
    path, position, length = log.record(COUNT)
    patch(path, position + length, b"\xff" * 100)


def nothing(log: Log, number: int) -> None:
    del log, number


DAMAGE: list[tuple[Callable[[Log, int], None], int, int | None, int | None]] = [
    # damage, at record, sync after batch, first offset that does not survive (None: all survive)
    (nothing, 1, None, None),
    (nothing, 1, 4, None),
    (garbage_after_end, 0, None, None),
    (garbage_after_end, 0, 4, None),
    (zero, 8, None, 170),
    (zero, 8, 4, 170),
    (zero, 3, None, 120),
    (zero, 5, 4, 140),
    (flip_body, 8, 4, 170),
    (flip_body, 3, None, 120),
    (flip_body, 5, 4, 140),
    (cut_file, 8, 4, 170),
    (cut_file, 1, None, 100),
    (swap, 7, 4, 160),
    (swap, 2, None, 110),
    (overwrite_with_garbage, 5, 4, 140),
    (foreign_record, 8, 4, 170),
    (foreign_record, 5, None, 140),
    (huge_length, 6, 4, 150),
]


@pytest.mark.parametrize(("damage", "at", "sync_after", "lost_from"), DAMAGE)
def test_damage_above_synced_is_cut(
    tmp_path: Path, damage: Callable[[Log, int], None], at: int, sync_after: int | None, lost_from: int | None
) -> None:
    log = build(tmp_path, sync_after)
    damage(log, at)
    recovered = recover_log(log.path)
    end = START + COUNT * ROWS if lost_from is None else lost_from
    assert recovered.end == recovered.seal_at == end
    assert rows_of(list(recovered.records())) == list(range(START, end))
    # Zeros to the end of the file are space that was never written.
    assert (recovered.cut is None) == (damage is nothing or (damage is zero and at == COUNT))
    assert recover_log(log.path) == recovered, "a second recovery finds the same"
    # The chain goes on: a new log begins where this one was sealed.
    with open_log(tmp_path, start=end, epoch=EPOCH + 1) as successor:
        append_rows(successor, 3)
    assert survivors(log.path) + survivors(successor.log_dir) == list(range(START, end + 3))
    assert recover_log(log.path, sealed_end=Offset(end)).end == end


LOSS: list[tuple[Callable[[Log, int], None], int, int, int, int]] = [
    # damage, at record, sync after batch, lost_first, lost_end
    (zero, 1, 4, 100, 110),
    (zero, 4, 4, 130, 140),
    (flip_body, 2, 4, 110, 120),
    (overwrite_with_garbage, 3, 4, 120, 140),  # long enough to reach into the next record
    (foreign_record, 4, 4, 130, 140),
    (huge_length, 1, 4, 100, 110),
    (swap, 2, 4, 110, 120),
    (flip_body, 1, 7, 100, 110),
]


@pytest.mark.parametrize(("damage", "at", "sync_after", "lost_first", "lost_end"), LOSS)
def test_damage_below_synced_stops_with_the_lost_range(
    tmp_path: Path, damage: Callable[[Log, int], None], at: int, sync_after: int, lost_first: int, lost_end: int
) -> None:
    log = build(tmp_path, sync_after)
    path, position, _ = log.record(at)
    damage(log, at)
    before = path.read_bytes()
    with pytest.raises(LogCorrupt) as caught:
        recover_log(log.path)
    details = caught.value.details
    assert (details["path"], details["position"]) == (str(path), position)
    assert details["cause"]
    assert details["lost_first"] == lost_first
    if damage is not swap:  # swapped records are both readable, so what is lost depends on which one is asked
        assert details["lost_end"] == lost_end
    assert path.read_bytes() == before, "nothing is changed"
    accepted = recover_log(log.path, accept_loss=True)
    assert accepted.end == lost_first
    assert rows_of(list(accepted.records())) == list(range(START, lost_first))
    assert accepted.lost


def test_two_holes_are_named_both(tmp_path: Path) -> None:
    log = build(tmp_path, 7)
    zero(log, 2)
    zero(log, 5)
    with pytest.raises(LogCorrupt) as caught:
        recover_log(log.path)
    assert caught.value.details["lost"] == [[110, 120], [140, 150]]
    assert (caught.value.details["lost_first"], caught.value.details["lost_end"]) == (110, 150)


def test_end_below_persisted_is_loss(tmp_path: Path) -> None:
    log = build(tmp_path, None)
    zero(log, 8)
    assert recover_log(log.path, persisted=170).end == 170
    with pytest.raises(LogCorrupt) as caught:
        recover_log(log.path, persisted=175)
    assert (caught.value.details["lost_first"], caught.value.details["lost_end"]) == (170, 175)
    accepted = recover_log(log.path, persisted=175, accept_loss=True)
    assert (accepted.end, accepted.seal_at) == (170, 175)


def test_a_persisted_record_behind_the_damage_counts(tmp_path: Path) -> None:
    log = build(tmp_path, None, persisted=140)
    zero(log, 8)
    assert recover_log(log.path).end == 170
    zero(log, 4)
    with pytest.raises(LogCorrupt) as caught:
        recover_log(log.path)
    assert caught.value.details["lost_first"] == 130


def test_end_below_the_sealed_end_is_loss(tmp_path: Path) -> None:
    log = build(tmp_path, None)
    zero(log, 5)
    assert recover_log(log.path).end == 140
    assert recover_log(log.path, sealed_end=Offset(130)).end == 130
    with pytest.raises(LogCorrupt) as caught:
        recover_log(log.path, sealed_end=Offset(150))
    assert (caught.value.details["lost_first"], caught.value.details["lost_end"]) == (140, 150)


def test_a_synced_record_without_rows_is_not_cut(tmp_path: Path) -> None:
    """An empty numbered record was acknowledged like any other: offsets alone would not notice its loss."""
    with open_log(tmp_path) as log:
        append_rows(log, ROWS)
        log.append([rows_record(b"", 0, 0, producer="feed", batch_number=2)])
        log.sync()
        log.append([cut_record(Offset(110))])
    path, position, length, record = extents(log.log_dir)[2]
    assert record.batch_number == 2
    patch(path, position, bytes(length))
    with pytest.raises(LogCorrupt) as caught:
        recover_log(log.log_dir)
    assert (caught.value.details["lost_first"], caught.value.details["lost_end"]) == (110, 110)


def build_segments(data: Path, *, sync_each: bool) -> Log:
    """The same rows, two or three batches to a segment."""
    with open_log(data, start=START, segment_bytes=2600) as log:
        for number in range(1, COUNT + 1):
            append_rows(log, ROWS, number=number)
            if sync_each:
                log.sync()
    found = Log(log.log_dir, extents(log.log_dir))
    assert len({e[0] for e in found.extents}) >= 3
    return found


@pytest.mark.parametrize("sync_each", [True, False])
def test_every_segment_header_is_held_to_the_same_rule(tmp_path: Path, sync_each: bool) -> None:
    log = build_segments(tmp_path, sync_each=sync_each)
    path = log.path / "00000001.wal"
    first = next(e[3].first for e in log.extents if e[0] == path)
    flip(path, 20)
    if sync_each:
        with pytest.raises(LogCorrupt) as caught:
            recover_log(log.path)
        assert caught.value.details["lost_first"] == first
    else:
        assert recover_log(log.path).end == first


def test_a_lost_segment_is_loss_and_later_ones_stay(tmp_path: Path) -> None:
    log = build_segments(tmp_path, sync_each=True)
    lost = [e[3] for e in log.extents if e[0].name == "00000001.wal"]
    (log.path / "00000001.wal").unlink()
    with pytest.raises(LogCorrupt) as caught:
        recover_log(log.path)
    assert caught.value.details["lost"] == [[lost[0].first, lost[-1].end]]
    assert (log.path / "00000002.wal").exists()


def test_a_segment_that_was_only_allocated_is_a_torn_tail(tmp_path: Path) -> None:
    log = build_segments(tmp_path, sync_each=True)
    last = sorted(log.path.glob("*.wal"))[-1]
    (log.path / f"{int(last.stem) + 1:08d}.wal").write_bytes(bytes(2600))
    assert recover_log(log.path).end == 180


def test_a_log_without_its_first_segment_or_any_is_refused(tmp_path: Path) -> None:
    log = build(tmp_path, 4)
    (log.path / "00000000.wal").unlink()
    with pytest.raises(LogCorrupt, match="no segment"):
        recover_log(log.path)


def test_a_log_under_another_name_is_refused(tmp_path: Path) -> None:
    log = build(tmp_path, 4)
    other = tmp_path / str(SHARD) / "9"
    shutil.copytree(log.path, other)
    with pytest.raises(LogCorrupt, match="shard 7, epoch 3"):
        recover_log(other)


def repack(log: Log, number: int, **changes: int) -> None:
    """Replace head fields of a record and sign it again."""
    path, position, length = log.record(number)
    raw = path.read_bytes()[position : position + length]
    front = PREFIX.size + HEAD.size
    head = head_at(path, position)._replace(**changes)
    parts, _ = pack_record(head, raw[front : front + head.producer_bytes], raw[length - head.body_bytes :])
    signed = b"".join(bytes(p) for p in parts)
    assert signed.startswith(RECORD_MAGIC)
    patch(path, position, signed)


@pytest.mark.parametrize(("field", "value"), [("version", 2), ("kind", 77)])
def test_a_newer_record_is_never_taken_for_a_torn_tail(tmp_path: Path, field: str, value: int) -> None:
    log = build(tmp_path, None)
    repack(log, COUNT, **{field: value})
    with pytest.raises(LogCorrupt, match="newer Proxist"):
        recover_log(log.path)


def test_an_unknown_kind_that_may_be_ignored_is_passed_over(tmp_path: Path) -> None:
    log = build(tmp_path, None)
    repack(log, COUNT, kind=200, flags=0x8001)
    recovered = recover_log(log.path)
    assert recovered.end == 180, "its rows still took their offsets"
    assert rows_of(list(recovered.records())) == list(range(100, 170))


def test_an_unfinished_creation_leaves_no_log(tmp_path: Path) -> None:
    (tmp_path / str(SHARD) / f"{EPOCH}.new").mkdir(parents=True)
    (tmp_path / str(SHARD) / f"{EPOCH}.new" / "00000000.wal").write_bytes(b"torn")
    with open_log(tmp_path) as log:
        append_rows(log, 1)
    assert isinstance(log, LogWriter)
    assert recover_log(log.log_dir).end == 101


@pytest.mark.parametrize(("at", "lost"), [(3, [[120, 130]]), (8, None)])
def test_a_sector_that_cannot_be_read_is_damage_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, lost: list[list[int]] | None
) -> None:
    log = build(tmp_path, 6)
    _, position, length = log.record(at)
    pread = os.pread

    def failing(fd: int, count: int, begin: int) -> bytes:
        """Gives what lies before the bad sectors, as the kernel does; an error for what begins in them."""
        if position <= begin < position + length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, min(count, position - begin) if begin < position else count, begin)

    monkeypatch.setattr(os, "pread", failing)
    if lost is None:
        assert recover_log(log.path).end == 170
        return
    with pytest.raises(LogCorrupt, match="reading failed: Input/output error") as caught:
        recover_log(log.path)
    assert caught.value.details["lost_first"] == lost[0][0]
