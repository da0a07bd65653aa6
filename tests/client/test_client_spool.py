"""The spool's files: what was taken is there after any crash, in order, or its loss is named."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from client_fakes import SPEC, rows
from hypothesis import given, settings

from proxist.client.spool import Spool, create_spool, open_spool
from proxist.errors import DirectoryLocked, InvalidArgument, LogCorrupt, SpoolFull, Unavailable
from proxist.model.ids import ShardId, TableId
from proxist.model.table import Table, parse_spec

TABLE = Table(TableId(1), "default", parse_spec(SPEC), (ShardId(1),))
ROOM = 1 << 20


def batch(number: int, count: int = 3) -> pa.RecordBatch:
    """Each number has rows of its own."""
    return rows(count, first=number * 100).cast(TABLE.spec.schema).combine_chunks().to_batches()[0]


def create(path: Path, *, first: int = 1, room: int = ROOM, durability: str = "os") -> Spool:
    return create_spool(path, TABLE, "feed", first, room, durability)


def reopen(path: Path, room: int = ROOM) -> Spool:
    spool = open_spool(path, "feed", room, "os")
    assert spool is not None
    return spool


def take(spool: Spool, *numbers: int) -> None:
    for number in numbers:
        assert spool.append(batch(number), lambda _: None) == number


def content(spool: Spool) -> list[int]:
    """The numbers above the mark, each with its own rows."""
    found = []
    for number in range(spool.acked + 1, spool.next_number):
        read = spool.read(number, 0.0)
        assert read is not None
        assert read.equals(batch(number))
        found.append(number)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def filled(path: Path) -> Path:
    """Batches 1 to 4 in one segment, closed."""
    spool = create(path)
    take(spool, 1, 2, 3, 4)
    spool.close()
    return path


def segment(path: Path) -> Path:
    (found,) = path.glob("*.seg")
    return found


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_what_was_taken_is_there_at_the_next_opening(path: Path, durability: str) -> None:
    spool = create(path, first=7, durability=durability)
    take(spool, 7, 8, 9)
    spool.ack(7)
    spool.close()
    again = reopen(path)
    assert (again.acked, content(again), again.next_number) == (7, [8, 9], 10)
    again.close()


def test_numbers_go_on_where_they_were_though_everything_is_acked(path: Path) -> None:
    spool = create(path, room=40_000)
    for number in range(1, 200):  # many times around the ring
        take(spool, number)
        spool.ack(number)
        assert spool.bytes <= 40_000
    spool.close()
    again = reopen(path)
    assert (again.acked, again.next_number) == (199, 200)
    again.close()


def test_a_tail_torn_at_any_byte_is_cut_and_nothing_before_it(filled: Path, tmp_path: Path) -> None:
    whole = segment(filled).read_bytes()
    last = whole.rindex(b"PXSB")
    for size in range(last, len(whole)):
        copy = tmp_path / "copy"
        shutil.copytree(filled, copy)
        segment(copy).write_bytes(whole[:size])
        spool = reopen(copy)
        assert content(spool) == [1, 2, 3]
        take(spool, 4)
        assert spool.read(4, 0.0) is not None
        spool.close()
        shutil.rmtree(copy)


def test_a_flipped_bit_in_any_byte_of_a_middle_record_is_named_and_never_sent(filled: Path, tmp_path: Path) -> None:
    whole = bytearray(segment(filled).read_bytes())
    starts = [at for at in range(len(whole)) if whole[at : at + 4] == b"PXSB"]
    padding = len(whole[starts[1] : starts[2]]) - (32 + batch(2).serialize().size)
    for at in range(starts[1], starts[2] - padding):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        segment(filled).write_bytes(damaged)
        with pytest.raises(LogCorrupt, match="batches from number 2 on cannot be sent"):
            reopen(filled)
        assert segment(filled).read_bytes() == damaged, "nothing was changed"


def test_a_damaged_header_and_a_missing_segment_are_named(path: Path) -> None:
    spool = create(path, room=20_000)
    take(spool, *range(1, 15))
    spool.close()
    first, second, *_ = sorted(path.glob("*.seg"))
    second.rename(path / "elsewhere")
    with pytest.raises(LogCorrupt, match="the batches before it are not there"):
        reopen(path, 20_000)
    (path / "elsewhere").rename(second)
    raw = bytearray(first.read_bytes())
    raw[9] ^= 1
    first.write_bytes(raw)
    with pytest.raises(LogCorrupt, match="its header is not sound"):
        reopen(path, 20_000)


def test_a_segment_that_was_just_being_begun_is_begun_again(filled: Path) -> None:
    (filled / f"{5:020d}.seg").write_bytes(b"PXSPO")
    spool = reopen(filled)
    assert content(spool) == [1, 2, 3, 4]
    take(spool, 5)
    spool.close()
    again = reopen(filled)
    assert content(again) == [1, 2, 3, 4, 5]
    again.close()


def test_a_full_ring_takes_nothing_more_and_goes_on_behind_an_ack(path: Path) -> None:
    spool = create(path, room=8_000)
    number = 1
    with pytest.raises(SpoolFull, match="Nothing of this batch was taken") as full:  # noqa: PT012
        while True:
            take(spool, number)
            number += 1
    assert full.value.details["bytes_max"] == 8_000 >= full.value.details["bytes"]
    assert content(spool) == list(range(1, number))
    spool.ack(number - 1)
    take(spool, number)
    spool.close()


def test_a_full_disk_takes_nothing_and_a_broken_one_ends_the_taking(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = create(path)
    take(spool, 1)
    real = os.pwritev

    def tearing(code: int) -> None:
        def fail(fd: int, parts: list[bytes], position: int) -> int:
            real(fd, [b"".join(bytes(memoryview(p)) for p in parts)[:20]], position)
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "pwritev", fail)

    tearing(errno.ENOSPC)
    with pytest.raises(SpoolFull, match="No space left"):
        spool.append(batch(2), lambda _: None)
    monkeypatch.setattr(os, "pwritev", real)
    take(spool, 2)
    tearing(errno.EIO)
    with pytest.raises(Unavailable, match="cannot be written"):
        spool.append(batch(3), lambda _: None)
    monkeypatch.setattr(os, "pwritev", real)
    with pytest.raises(Unavailable, match="open the writer again"):
        spool.append(batch(3), lambda _: None)
    assert content(spool) == [1, 2]
    spool.close()
    again = reopen(path)
    assert content(again) == [1, 2]
    again.close()


def test_an_ack_that_cannot_be_noted_is_logged_and_its_batches_are_given_out_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool = create(path)
    take(spool, 1, 2, 3, 4)
    spool.ack(1)
    real = os.pwrite

    def failing(fd: int, raw: bytes, position: int) -> int:
        if fd == spool._acked_fd:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, raw, position)

    monkeypatch.setattr(os, "pwrite", failing)
    spool.ack(2)
    spool.ack(3)
    (told,) = caplog.messages
    assert str(path) in told
    assert "Input/output error" in told
    assert (spool.acked, content(spool)) == (3, [4])
    take(spool, 5)
    spool.close()
    again = reopen(path)
    assert content(again) == [2, 3, 4, 5]
    again.close()


def test_a_segment_that_cannot_be_removed_leaves_no_hole_behind_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = create(path, room=8_000)
    taken = 0
    while len(spool._segments) < 4:
        taken += 1
        take(spool, taken)
    first, real = spool._segments[0].path, Path.unlink

    def failing(self: Path, missing_ok: bool = False) -> None:
        if self == first:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", failing)
    spool.ack(taken - 1)
    spool.close()
    again = reopen(path, 8_000)
    assert content(again) == [taken]
    monkeypatch.undo()
    again.ack(taken)
    assert not first.exists()
    again.close()


def test_one_directory_has_one_writer_one_producer_and_one_format(filled: Path) -> None:
    spool = reopen(filled)
    with pytest.raises(DirectoryLocked):
        reopen(filled)
    spool.close()
    with pytest.raises(InvalidArgument, match="belongs to producer 'feed'"):
        open_spool(filled, "other", ROOM, "os")
    told = filled / "spool.json"
    told.write_text(told.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(InvalidArgument, match="Upgrade"):
        reopen(filled)


def test_a_torn_mark_only_gives_batches_out_again(filled: Path) -> None:
    spool = reopen(filled)
    spool.ack(1)
    spool.ack(3)
    spool.close()
    for damaged, expected in (((0,), 3), ((1,), 1), ((0, 1), 0)):
        raw = bytearray((filled / "acked").read_bytes())
        kept = bytes(raw)
        for copy in damaged:
            raw[16 * copy] ^= 1
        (filled / "acked").write_bytes(raw)
        spool = reopen(filled)
        assert (spool.acked, content(spool)) == (expected, list(range(expected + 1, 5)))
        spool.close()
        (filled / "acked").write_bytes(kept)


def test_numbers_that_were_acked_are_never_given_again_though_their_batches_are_gone(filled: Path) -> None:
    spool = reopen(filled)
    spool.ack(4)
    spool.close()
    whole = segment(filled).read_bytes()
    segment(filled).write_bytes(whole[: whole.index(b"PXSB")])
    again = reopen(filled)
    assert (again.acked, again.next_number) == (4, 5)
    again.close()


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["take", "take", "take", "ack", "reopen"]), max_size=60), st.integers(4_000, 40_000))
def test_any_order_of_calls_keeps_what_a_list_would_keep(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], room: int
) -> None:
    path = tmp_path_factory.mktemp("model") / "spool"
    spool = create(path, room=room)
    following, acked = 1, 0
    for step in steps:
        if step == "take":
            try:
                take(spool, following)
                following += 1
            except SpoolFull:
                assert acked < following - 1 or room < 8 * 1_000, "a ring whose batches are all acked has room"
        elif step == "ack":
            acked = acked + (following - 1 - acked + 1) // 2
            spool.ack(acked)
        else:
            spool.close()
            spool = reopen(path, room)
        assert (spool.acked, spool.next_number) == (acked, following)
        assert content(spool) == list(range(acked + 1, following))
    spool.close()
