"""The reader: any start, a log that grows, damage that is not passed over."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wal_support import append_rows, extents, flip, open_log, rows_of

from proxist.errors import LogCorrupt
from proxist.model.ids import Offset
from proxist.wal import LogReader, RecordKind, cut_record, recover_log, rows_record
from proxist.wal.reader import CHUNK_BYTES


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=25),
    segment_bytes=st.sampled_from([1024, 3000, 1 << 16]),
    data=st.data(),
)
def test_reading_may_start_at_any_offset(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], segment_bytes: int, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("log")
    with open_log(directory, start=50, segment_bytes=segment_bytes) as log:
        for number, rows in enumerate(sizes):
            append_rows(log, rows, number=number) if rows else log.append([rows_record(b"", 0, 0, batch_number=number)])
        mark = log.mark
    everything = list(recover_log(log.log_dir).records())
    for _ in range(3):
        start = data.draw(st.integers(50, mark.end))
        wanted = [r for r in everything if r.end > start or (r.rows == 0 and r.first >= start)]
        with LogReader(log.log_dir, Offset(start)) as reader:
            assert reader.next_offset == start
            assert list(reader.read(mark)) == wanted


def test_a_reader_follows_a_writer_of_another_thread(tmp_path: Path) -> None:
    """To the fdatasynced mark, over many segments, record by record, while the writer appends and syncs."""
    log = open_log(tmp_path, start=0, segment_bytes=8192)
    total = 600

    def write() -> None:
        for number in range(total):
            append_rows(log, number % 7, number=number) if number % 7 else log.append([cut_record(log.end)])
            if number % 3 == 0:
                log.sync()
        log.sync()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    with LogReader(log.log_dir, Offset(0)) as reader:
        mark = log.synced_mark
        while len(seen) < total + 1:
            mark = log.wait_synced(mark, 30) if seen else mark
            for record in reader.read(mark):
                assert record.end <= log.synced
                seen.append(record)
    writer.join()
    log.close()
    assert [r.record_number for r in seen] == list(range(total + 1))
    assert rows_of(seen) == list(range(log.end))


def test_a_reader_stops_at_the_mark_and_goes_on_where_it_was_left(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        append_rows(log, 5)
        log.append([cut_record(Offset(105))])
        log.sync()
        mark = log.synced_mark
        append_rows(log, 5)
        with LogReader(log.log_dir, Offset(100)) as reader:
            first = next(reader.read(mark))
            assert first.kind is RecordKind.CARRY
            assert [r.kind for r in reader.read(mark)] == [RecordKind.ROWS, RecordKind.CUT]
            assert list(reader.read(mark)) == []
            assert rows_of(list(reader.read(log.mark))) == list(range(105, 110))


def test_a_reader_never_passes_over_damage(tmp_path: Path) -> None:
    with open_log(tmp_path, segment_bytes=1 << 16) as log:
        for _ in range(6):
            append_rows(log, 10)
    path, position, length, record = extents(log.log_dir)[3]
    flip(path, position + length // 2)
    with LogReader(log.log_dir, Offset(100)) as reader, pytest.raises(LogCorrupt) as caught:
        list(reader.read(log.mark))
    details = caught.value.details
    assert (details["path"], details["position"]) == (str(path), position)
    assert (details["lost_first"], details["lost_end"]) == (record.first, 160)
    assert reader.next_offset == record.first


def test_an_offset_below_the_log_on_disk_is_refused(tmp_path: Path) -> None:
    with open_log(tmp_path, segment_bytes=2048) as log:
        for _ in range(8):
            append_rows(log, 20)
        mark = log.mark
    first, second = sorted(log.log_dir.glob("*.wal"))[:2]
    begin = next(e[3].first for e in extents(log.log_dir) if e[0] == second)
    first.unlink()
    with pytest.raises(LogCorrupt, match="are not there"):
        LogReader(log.log_dir, Offset(100))
    with LogReader(log.log_dir, Offset(begin)) as reader:
        assert rows_of(list(reader.read(mark))) == list(range(begin, 260))


def test_a_reader_holds_one_chunk(tmp_path: Path) -> None:
    with open_log(tmp_path, segment_bytes=1 << 22) as log:
        for _ in range(40):
            append_rows(log, 4000)
        with LogReader(log.log_dir, Offset(100)) as reader:
            for record in reader.read(log.mark):
                whole = record.body.parent
                while whole is not None and whole.parent is not None:
                    whole = whole.parent
                assert whole is None or whole.size <= CHUNK_BYTES
