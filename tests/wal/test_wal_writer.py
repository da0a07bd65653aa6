"""The writer: what is true on return, and what a failing disk leaves behind."""

from __future__ import annotations

import struct
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wal_support import (
    EIO,
    ENOSPC,
    EPOCH,
    SCHEMA,
    FaultyFiles,
    append_rows,
    batch_of,
    open_log,
    rows_of,
)

from proxist.errors import AlreadyExists, InvalidArgument, Overloaded, Unavailable
from proxist.model.ids import Offset
from proxist.wal import (
    RecordIn,
    RecordKind,
    cut_record,
    decode_body,
    encode_body,
    hash_content,
    list_logs,
    persisted_record,
    recover_log,
    rows_record,
)


def test_a_log_gives_back_what_was_appended(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        body = encode_body(batch_of(100, 4))
        assert log.append([rows_record(body, 4, 123, producer="fée", batch_number=9)]) == 104
        log.append([cut_record(Offset(104)), persisted_record(Offset(102), 5), rows_record(b"", 0, 6, producer="fée")])
    recovered = recover_log(log.log_dir)
    carry, rows, cut, persisted, empty = recovered.records()
    assert carry.kind is RecordKind.CARRY
    assert carry.carry == recovered.carry == {"persisted": 0}
    assert rows.batch(SCHEMA).equals(batch_of(100, 4))
    assert (rows.first, rows.end, rows.arrived_ns, rows.producer, rows.batch_number) == (100, 104, 123, "fée", 9)
    assert rows.content_hash == hash_content(body)
    assert (cut.kind, cut.bound, cut.first) == (RecordKind.CUT, 104, 104)
    assert (persisted.kind, persisted.bound, persisted.arrived_ns) == (RecordKind.PERSISTED, 102, 5)
    assert (empty.rows, empty.producer, empty.batch_number) == (0, "fée", 0)
    assert empty.batch(SCHEMA).num_rows == 0
    assert (recovered.start, recovered.end, recovered.persisted) == (100, 104, 102)
    assert recovered.schema.equals(SCHEMA)
    assert (recovered.shard, recovered.epoch, recovered.table_id, recovered.schema_version) == (7, EPOCH, 5, 1)
    assert not recovered.sealed


def test_a_sealed_log_says_so_and_takes_no_more(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        append_rows(log, 5)
        assert log.seal() == log.seal() == log.synced == 105
        with pytest.raises(Unavailable, match="sealed"):
            append_rows(log, 1)
    assert recover_log(log.log_dir).sealed


def test_a_log_is_created_once(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    with pytest.raises(AlreadyExists, match="next epoch"):
        open_log(tmp_path)
    open_log(tmp_path, epoch=11).close()
    assert [log.epoch for log in list_logs(tmp_path / "7")] == [EPOCH, 11]


def test_full_segments_roll_and_long_records_get_their_own(tmp_path: Path) -> None:
    files = FaultyFiles()
    with open_log(tmp_path, segment_bytes=4096, files=files) as log:
        for rows in (10, 1000, 10, 10):
            append_rows(log, rows)
        bodies = [encode_body(batch_of(log.end + 40 * n, 40)) for n in range(12)]
        log.append([rows_record(body, 40, 0) for body in bodies])
        assert log.synced == 100
        log.sync()
        assert log.synced_mark == log.mark
        assert len(files.open_fds) == 1
    assert not files.open_fds
    recovered = recover_log(log.log_dir)
    assert rows_of(list(recovered.records())) == list(range(100, log.end))
    sizes = [p.stat().st_size for p in sorted(log.log_dir.glob("*.wal"))]
    assert len(sizes) >= 4
    assert max(sizes) > 16 * 1024
    assert set(sizes) - {max(sizes)} == {4096}


def test_a_batch_of_thousands_of_records_is_written_whole(tmp_path: Path) -> None:
    with open_log(tmp_path, segment_bytes=1 << 20) as log:
        log.append([rows_record(b"", 0, 0, producer="p", batch_number=n) for n in range(3000)])
    assert [r.batch_number for r in recover_log(log.log_dir).records()][1:] == list(range(3000))


@pytest.mark.parametrize("taken", [1, 7, 120, 500])
def test_short_writes_are_continued(tmp_path: Path, taken: int) -> None:
    files = FaultyFiles()
    with open_log(tmp_path, files=files) as log:
        files.on_write = lambda _: taken
        append_rows(log, 20)
        append_rows(log, 3)
    assert rows_of(list(recover_log(log.log_dir).records())) == list(range(100, 123))
    assert files.writes > 2


@pytest.mark.parametrize("fault", [EIO, ENOSPC, 0])
def test_a_failed_write_poisons_the_log_for_ever(tmp_path: Path, fault: int) -> None:
    files = FaultyFiles()
    log = open_log(tmp_path, files=files)
    append_rows(log, 10)
    log.sync()
    append_rows(log, 5)
    begin = files.writes
    files.on_write = lambda n: 50 if n == begin + 1 else fault  # torn in the middle of the record
    with pytest.raises(Unavailable, match="append failed") as caught:
        append_rows(log, 7)
    assert caught.value.details["cause"] == log.failure
    files.on_write = lambda _: None
    for again in (lambda: append_rows(log, 1), log.sync, log.seal, lambda: log.wait_synced(log.mark, 0)):
        with pytest.raises(Unavailable, match="restart the node"):
            again()
    assert (log.end, log.synced) == (115, 110)
    log.close()
    assert not files.open_fds
    recovered = recover_log(log.log_dir)
    assert recovered.end == 115
    assert recovered.cut is not None


def test_a_failed_fdatasync_is_never_retried(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = open_log(tmp_path, files=files)
    append_rows(log, 10)
    files.on_datasync = lambda _: EIO
    with pytest.raises(Unavailable, match="fdatasync failed: Input/output error"):
        log.sync()
    files.on_datasync = lambda _: None
    before = files.datasyncs
    with pytest.raises(Unavailable):
        log.sync()
    with pytest.raises(Unavailable):
        append_rows(log, 1)
    assert (files.datasyncs, log.synced) == (before, 100)
    log.close()
    assert not files.open_fds


def test_a_failed_fdatasync_of_a_full_segment_poisons_too(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = open_log(tmp_path, segment_bytes=2048, files=files)
    for _ in range(3):
        append_rows(log, 40)
    assert files.creates > 1
    files.on_datasync = lambda _: EIO
    with pytest.raises(Unavailable, match="fdatasync failed"):
        log.sync()
    log.close()
    assert not files.open_fds


def test_a_disk_without_room_for_a_segment_refuses_and_goes_on_later(tmp_path: Path) -> None:
    files = FaultyFiles()
    with open_log(tmp_path, segment_bytes=2048, files=files) as log:
        append_rows(log, 10)
        files.on_create = lambda n: ENOSPC if n >= 3 else None
        body = encode_body(batch_of(110, 30))
        with pytest.raises(Overloaded, match="no room") as caught:
            log.append([rows_record(body, 30, 0), rows_record(body, 30, 0)])
        assert caught.value.retry_after_s == 1.0
        assert (log.end, log.failure) == (110, None)
        assert len(list(log.log_dir.glob("*.wal"))) == 1
        files.on_create = lambda _: None
        append_rows(log, 30)
        append_rows(log, 30)
    assert rows_of(list(recover_log(log.log_dir).records())) == list(range(100, 170))


@pytest.mark.parametrize("fault", [EIO, ENOSPC])
@pytest.mark.parametrize("where", ["create", "write", "datasync"])
def test_a_creation_that_fails_leaves_nothing_and_can_be_repeated(tmp_path: Path, where: str, fault: int) -> None:
    files = FaultyFiles()
    setattr(files, f"on_{where}", lambda _: fault)
    with pytest.raises((Unavailable, Overloaded)):
        open_log(tmp_path, files=files)
    assert not files.open_fds
    assert list_logs(tmp_path / "7") == []
    with open_log(tmp_path) as log:
        append_rows(log, 1)
    assert recover_log(log.log_dir).end == 101


def test_directory_entries_are_fsynced(tmp_path: Path) -> None:
    files = FaultyFiles()
    data = tmp_path / "a" / "wal"
    with open_log(data, segment_bytes=2048, files=files) as log:
        assert {tmp_path, tmp_path / "a", data, data / "7"} <= set(files.directory_syncs)
        files.directory_syncs.clear()
        for _ in range(3):
            append_rows(log, 40)
        assert files.directory_syncs == []
        log.sync()
        assert files.directory_syncs == [log.log_dir]


def test_appends_go_on_while_a_sync_flushes(tmp_path: Path) -> None:
    """Group commit: the sync covers what came before it, the next one all that queued meanwhile."""
    files = FaultyFiles()
    with open_log(tmp_path, files=files) as log:
        append_rows(log, 10)
        files.hold_datasync.clear()
        files.in_datasync.clear()
        ends: list[Offset] = []
        flusher = threading.Thread(target=lambda: ends.append(log.sync()))
        flusher.start()
        assert files.in_datasync.wait(10)
        append_rows(log, 5)
        append_rows(log, 5)
        assert (log.end, log.synced) == (120, 100)
        files.hold_datasync.set()
        flusher.join(10)
        assert ends == [110]
        assert log.synced == 110
        before = files.datasyncs
        assert log.sync() == 120
        assert log.sync() == 120
        assert files.datasyncs == before + 1


def test_a_write_that_fails_beside_a_sync_lets_that_sync_ack_nothing(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = open_log(tmp_path, files=files)
    append_rows(log, 10)
    files.hold_datasync.clear()
    files.in_datasync.clear()
    failed: list[Unavailable] = []

    def flush() -> None:
        try:
            log.sync()
        except Unavailable as error:
            failed.append(error)

    flusher = threading.Thread(target=flush)
    flusher.start()
    assert files.in_datasync.wait(10)
    files.on_write = lambda _: EIO
    with pytest.raises(Unavailable):
        append_rows(log, 1)
    files.hold_datasync.set()
    flusher.join(10)
    assert len(failed) == 1
    assert log.synced == 100
    log.close()


def test_wait_synced_wakes_on_sync_and_on_close(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    begin = log.synced_mark
    assert log.wait_synced(begin, 0) == begin
    append_rows(log, 2)
    waiting = threading.Thread(target=log.wait_synced, args=(begin, 30))
    waiting.start()
    log.sync()
    waiting.join(10)
    assert not waiting.is_alive()
    assert log.wait_synced(begin, 30).end == 102
    closing = threading.Thread(target=log.wait_synced, args=(log.synced_mark, 30))
    closing.start()
    log.close()
    closing.join(10)
    assert not closing.is_alive()


def test_wrong_arguments_change_nothing(tmp_path: Path) -> None:
    coded = pa.record_batch({"s": pa.array(["a", "b"]).dictionary_encode()})
    with pytest.raises(InvalidArgument, match="dictionary-encoded"):
        encode_body(coded)
    with pytest.raises(InvalidArgument, match="content hash has 3 bytes"):
        rows_record(b"", 0, 0, content_hash=b"abc")
    with open_log(tmp_path) as log:
        with pytest.raises(struct.error):
            log.append([RecordIn(RecordKind.ROWS, rows=-1)])
        append_rows(log, 2)
    assert recover_log(log.log_dir).end == 102


def test_a_body_is_decoded_without_a_copy_and_slices_are_stored_alone() -> None:
    batch = batch_of(0, 1000)
    body = encode_body(batch.slice(500, 10))
    assert body.size < encode_body(batch).size / 10
    raw = pa.py_buffer(body.to_pybytes())
    decoded = decode_body(raw, SCHEMA)
    assert decoded.equals(batch.slice(500, 10))
    inside = range(raw.address, raw.address + raw.size)
    assert all(b.address in inside for column in decoded.columns for b in column.buffers() if b is not None and b.size)


TYPES = st.sampled_from(
    [
        pa.bool_(), pa.int8(), pa.uint64(), pa.float64(), pa.float16(), pa.date32(), pa.string(), pa.binary(),
        pa.decimal128(24, 4), pa.timestamp("us", tz="UTC"), pa.duration("ns"), pa.list_(pa.float64()),
    ]
)  # fmt: skip


def column_of(type_: pa.DataType, seed: list[int | None]) -> pa.Array:
    if pa.types.is_list(type_):
        return pa.array([None if n is None else [float(n)] * (n % 4) for n in seed], type_)
    if pa.types.is_string(type_) or pa.types.is_binary(type_):
        return pa.array([None if n is None else "é" * n for n in seed], pa.string()).cast(type_)
    if pa.types.is_boolean(type_):
        return pa.array([None if n is None else n % 2 == 1 for n in seed], type_)
    numbers = pa.array(seed, pa.int64())
    return numbers.cast(type_) if not pa.types.is_date32(type_) else numbers.cast(pa.int32()).cast(type_)


@settings(max_examples=60, deadline=None)
@given(
    types=st.lists(TYPES, min_size=1, max_size=4),
    batches=st.lists(st.lists(st.none() | st.integers(0, 90), max_size=12), max_size=8),
    sync_after=st.sets(st.integers(0, 7)),
    segment_bytes=st.sampled_from([1024, 4096, 1 << 16]),
)
def test_any_batches_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    types: list[pa.DataType],
    batches: list[list[int | None]],
    sync_after: set[int],
    segment_bytes: int,
) -> None:
    schema = pa.schema([pa.field(f"c{n}", type_) for n, type_ in enumerate(types)])
    sent = [pa.record_batch([column_of(t, seed) for t in types], schema=schema) for seed in batches]
    data = tmp_path_factory.mktemp("log")
    with open_log(data, start=0, segment_bytes=segment_bytes) as log:
        for number, batch in enumerate(sent):
            log.append([rows_record(encode_body(batch), batch.num_rows, number)])
            if number in sync_after:
                log.sync()
    records = [r for r in recover_log(log.log_dir).records() if r.kind is RecordKind.ROWS]
    assert [r.arrived_ns for r in records] == list(range(len(sent)))
    for record, batch in zip(records, sent, strict=True):
        got = record.batch(schema)
        got.validate(full=True)
        assert got.equals(batch)
