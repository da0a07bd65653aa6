"""Torn or flipped at every byte, of a record with rows and of one without: what is cut, what is loss."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from wal_logs import COUNT, ROWS, SEGMENT_BYTES, START, Log, build
from wal_support import append_rows, extents, flip, open_log, patch

from proxist.errors import LogCorrupt
from proxist.model.ids import Offset
from proxist.wal import cut_record, persisted_record, recover_log, rows_record


def every_byte(log: Log, number: int) -> tuple[Path, range]:
    path, position, length = log.record(number)
    return path, range(position, position + length)


def build_marks(data: Path, sync_after: int | None) -> Log:
    """As `build`, but every second record is one without rows: a number, a cut or a mark. Each names the syncs before."""
    with open_log(data, start=START, segment_bytes=SEGMENT_BYTES) as log:
        for number in range(1, COUNT + 1):
            if number % 2:
                append_rows(log, ROWS, number=number)
            else:
                end, kind = log.end, number // 2 % 3
                log.append([(rows_record(b"", 0, 0, producer="feed", batch_number=number), cut_record(end),
                             persisted_record(Offset(START)))[kind]])  # fmt: skip
            if number == sync_after:
                log.sync()
    return Log(log.log_dir, extents(log.log_dir))


def builder(kind: str) -> Callable[[Path, int | None], Log]:
    return build if kind == "rows" else build_marks


def end_before(log: Log, number: int) -> tuple[int, int]:
    """Where the log ends without record `number` and all behind it: offset, records."""
    return log.extents[number][3].first, number


def found_end(log: Log) -> tuple[int, int]:
    mark = recover_log(log.path, flush=False).mark
    return mark.end, mark.records


KINDS = pytest.mark.parametrize("kind", ["rows", "marks"])


@KINDS
@pytest.mark.parametrize("sync_after", [None, 4, 7])
def test_torn_at_every_byte_of_the_last_record(tmp_path: Path, kind: str, sync_after: int | None) -> None:
    log = builder(kind)(tmp_path, sync_after)
    whole, cut = found_end(log), end_before(log, COUNT)
    path, positions = every_byte(log, COUNT)
    raw = path.read_bytes()
    for position in positions:
        patch(path, position, bytes(positions.stop - position))  # preallocated: what was not written reads as zeros
        assert found_end(log) == (whole if path.read_bytes() == raw else cut), position
        patch(path, position, raw[position : positions.stop])
    for position in positions:
        os.truncate(path, position)
        assert found_end(log) == cut, position
        path.write_bytes(raw)


@KINDS
@pytest.mark.parametrize("sync_after", [None, 4])
def test_a_flipped_bit_in_every_byte_of_the_last_record_cuts_it(
    tmp_path: Path, kind: str, sync_after: int | None
) -> None:
    log = builder(kind)(tmp_path, sync_after)
    whole = found_end(log)
    path, positions = every_byte(log, COUNT)
    for position in positions:
        flip(path, position, position % 8)
        recovered = recover_log(log.path, flush=False)
        assert (recovered.mark.end, recovered.mark.records) == end_before(log, COUNT), position
        assert recovered.cut is not None
        flip(path, position, position % 8)
    assert found_end(log) == whole


@KINDS
def test_a_flipped_bit_in_every_byte_of_a_middle_record_not_synced_cuts_there(tmp_path: Path, kind: str) -> None:
    log = builder(kind)(tmp_path, 2)
    path, positions = every_byte(log, 4)
    for position in positions:
        flip(path, position, position % 8)
        assert found_end(log) == end_before(log, 4), position
        flip(path, position, position % 8)


@KINDS
def test_a_flipped_bit_in_every_byte_of_a_middle_record_synced_is_loss(tmp_path: Path, kind: str) -> None:
    log = builder(kind)(tmp_path, 6)
    path, positions = every_byte(log, 4)
    record = log.extents[4][3]
    for position in positions:
        flip(path, position, position % 8)
        with pytest.raises(LogCorrupt) as caught:
            recover_log(log.path)
        assert caught.value.details["lost"] == [[record.first, record.end]], position
        flip(path, position, position % 8)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(COUNT + 1))
@pytest.mark.parametrize("sync_after", [None, 1, 4, 7])
@KINDS
def test_every_bit_of_every_record(tmp_path: Path, kind: str, sync_after: int | None, number: int) -> None:
    """Loss exactly where a later record or mark names it as synced; cut there otherwise."""
    log = builder(kind)(tmp_path, sync_after)
    path, positions = every_byte(log, number)
    record = log.extents[number][3]
    # Every record names what was synced before it; record 0 is synced by the log's creation.
    named = number < (1 if sync_after is None else sync_after + 1)
    for position in positions:
        for bit in range(8):
            flip(path, position, bit)
            if named:
                with pytest.raises(LogCorrupt) as caught:
                    recover_log(log.path, flush=False)
                assert caught.value.details["lost"] == [[record.first, record.end]], (position, bit)
            else:
                assert found_end(log) == end_before(log, number), (position, bit)
            flip(path, position, bit)


def test_a_flipped_bit_in_every_byte_of_the_first_segments_header_is_loss(tmp_path: Path) -> None:
    log = build(tmp_path, 4)
    path, first, _ = log.record(0)
    for position in range(first):
        flip(path, position, position % 8)
        with pytest.raises(LogCorrupt) as caught:
            recover_log(log.path)
        assert (caught.value.details["lost_first"], caught.value.details["lost_end"]) == (100, 180), position
        flip(path, position, position % 8)
