"""Format version 1 is fixed: the golden log is read for ever, and written byte for byte while it is current."""

from __future__ import annotations

from pathlib import Path

from wal_support import EPOCH, SCHEMA, SHARD, batch_of

from proxist.model.ids import Epoch, Offset, TableId
from proxist.wal import (
    LogBegin,
    LogWriter,
    RecordKind,
    Volume,
    cut_record,
    encode_body,
    list_segments,
    persisted_record,
    recover_log,
    remove_segments,
    rows_record,
)
from proxist.wal._format import HEAD_BYTES, SEGMENT_HEAD

GOLDEN = Path(__file__).parent / "golden" / "v1"
CARRY = {"persisted": 40, "predecessor": {"epoch": 2, "end": 42}, "producers": {"feed": 7}}


def write_fixed_log(data: Path) -> LogWriter:
    """The golden log: every kind of record, two segments, a sync in the middle."""
    with LogWriter.create(
        data / str(SHARD), SHARD, Epoch(EPOCH), Offset(42), TableId(5), SCHEMA, 1, CARRY,
        segment_bytes=2304, now_ns=lambda: 1_723_161_600_000_000_000,
    ) as log:  # fmt: skip
        log.append([rows_record(encode_body(batch_of(42, 8)), 8, 11, producer="feed", batch_number=8)])
        log.append([rows_record(b"", 0, 12, producer="feed", batch_number=9), cut_record(Offset(50), 13)])
        log.sync()
        log.append([persisted_record(Offset(50), 14), rows_record(encode_body(batch_of(50, 16)), 16, 15)])
        log.append([rows_record(encode_body(batch_of(66, 1)), 1, 16, producer="näme", batch_number=2**64 - 1)])
        log.seal()
    return log


def test_the_golden_log_stays_readable() -> None:
    recovered = recover_log(GOLDEN)
    assert (recovered.shard, recovered.epoch, recovered.table_id, recovered.schema_version) == (SHARD, EPOCH, 5, 1)
    assert (recovered.start, recovered.end, recovered.persisted) == (42, 67, 50)
    assert recovered.sealed
    assert recovered.cut is None
    assert recovered.carry == CARRY
    assert recovered.schema.equals(SCHEMA)
    records = list(recovered.records())
    kinds = [RecordKind.CARRY, RecordKind.ROWS, RecordKind.ROWS, RecordKind.CUT, RecordKind.PERSISTED, RecordKind.ROWS,
             RecordKind.ROWS, RecordKind.SEAL]  # fmt: skip
    assert [r.kind for r in records] == kinds
    assert [r.synced for r in records] == [42, 42, 42, 42, 50, 50, 50, 50]
    assert [r.arrived_ns for r in records[1:7]] == [11, 12, 13, 14, 15, 16]
    assert [(r.producer, r.batch_number) for r in records if r.producer] == [
        ("feed", 8), ("feed", 9), ("näme", 2**64 - 1),
    ]  # fmt: skip
    for record, (first, rows) in zip([records[1], records[5], records[6]], [(42, 8), (50, 16), (66, 1)], strict=True):
        assert (record.first, record.rows) == (first, rows)
        assert record.batch(SCHEMA).equals(batch_of(first, rows))


def test_the_writer_writes_the_golden_bytes(tmp_path: Path) -> None:
    log = write_fixed_log(tmp_path)
    written = {path.name: path.read_bytes() for _, path in list_segments(log.log_dir)}
    assert written == {path.name: path.read_bytes() for _, path in list_segments(GOLDEN)}
    assert len(written) == 2


def test_the_documented_sizes_hold() -> None:
    assert (HEAD_BYTES, SEGMENT_HEAD.size) == (120, 96)


TRUNCATED = GOLDEN.parent / "v1-truncated"


def write_truncated_log(data: Path) -> LogWriter:
    """The golden log without its beginning: segment 1 was given up, and its file is segment 3 now."""
    volume = Volume(data, ballast_bytes=0, segment_bytes=2304)
    with LogWriter.create(
        data / "wal" / str(SHARD), SHARD, Epoch(EPOCH), Offset(42), TableId(5), SCHEMA, 1, CARRY,
        segment_bytes=2304, volume=volume, now_ns=lambda: 1_723_161_600_000_000_000,
    ) as log:  # fmt: skip
        for number in range(6):
            log.append([rows_record(encode_body(batch_of(log.end, 12)), 12, 11, producer="feed", batch_number=number)])
            log.sync()
        assert log.mark.segment == 2
        remove_segments(log.log_dir, 1, Volume(segment_bytes=2304))
        remove_segments(log.log_dir, 2, volume)
        log.append([rows_record(encode_body(batch_of(log.end, 16)), 16, 12, producer="feed", batch_number=6)])
        log.append([persisted_record(Offset(66), 14), rows_record(encode_body(batch_of(log.end, 2)), 2, 15)])
    return log


def test_the_golden_log_without_its_beginning_stays_readable() -> None:
    recovered = recover_log(TRUNCATED, begin=LogBegin(Offset(100), None))
    assert (recovered.start, recovered.end, recovered.persisted, recovered.carry) == (90, 132, 66, {})
    assert recovered.cut is None, "what follows the last record is of the file's earlier life"
    records = list(recovered.records())
    assert [(r.kind, r.rows) for r in records] == [
        (RecordKind.ROWS, 12), (RecordKind.ROWS, 12), (RecordKind.ROWS, 16), (RecordKind.PERSISTED, 0), (RecordKind.ROWS, 2),
    ]  # fmt: skip
    for record in records:
        assert not record.rows or record.batch(SCHEMA).equals(batch_of(record.first, record.rows))


def test_the_writer_writes_the_golden_bytes_of_a_log_without_its_beginning(tmp_path: Path) -> None:
    log = write_truncated_log(tmp_path)
    written = {path.name: path.read_bytes() for _, path in list_segments(log.log_dir)}
    assert written == {path.name: path.read_bytes() for _, path in list_segments(TRUNCATED)}
    assert sorted(written) == ["00000002.wal", "00000003.wal"]
    assert written["00000003.wal"][10:12] == b"\1\0"
