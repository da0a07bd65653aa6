"""Small logs to damage, and a file layer that fails on demand."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.wal import LogWriter, OsFiles, Record, RecordKind, decode_body, encode_body, rows_record
from proxist.wal._format import HEAD, PREFIX, RecordHead
from proxist.wal._walk import Walker

SHARD, EPOCH, TABLE = ShardId(7), Epoch(3), TableId(5)
SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("ts", pa.timestamp("ns", tz="UTC"), nullable=False),
        pa.field("price", pa.float64()),
    ]
)


def batch_of(first: int, rows: int) -> pa.RecordBatch:
    """Rows whose values say which offsets they are."""
    numbers = range(first, first + rows)
    return pa.record_batch(
        [
            pa.array([f"K{n % 3}" for n in numbers], pa.string()),
            pa.array(list(numbers), pa.timestamp("ns", tz="UTC")),
            pa.array([None if n % 5 == 4 else n / 4 for n in numbers], pa.float64()),
        ],
        schema=SCHEMA,
    )


def open_log(
    data: Path, *, start: int = 100, epoch: int = EPOCH, segment_bytes: int = 8192, files: OsFiles | None = None
) -> LogWriter:
    """A log of shard 7 at `data`/7/`epoch`; small segments, clock at 1,000."""
    return LogWriter.create(
        data / str(SHARD), SHARD, Epoch(epoch), Offset(start), TABLE, SCHEMA, 1, {"persisted": 0},
        segment_bytes=segment_bytes, files=files, now_ns=lambda: 1000,
    )  # fmt: skip


def append_rows(log: LogWriter, rows: int, *, producer: str | None = "feed", number: int = 0) -> None:
    body = encode_body(batch_of(log.end, rows))
    log.append([rows_record(body, rows, 2000, producer=producer, batch_number=number)])


def rows_of(records: Sequence[Record]) -> list[int]:
    """The offsets that the rows of `records` say they are (see `batch_of`)."""
    found: list[int] = []
    for record in records:
        if record.kind is RecordKind.ROWS and record.rows:
            found += decode_body(record.body, SCHEMA)["ts"].cast(pa.int64()).to_pylist()
    return found


def extents(log_dir: Path) -> list[tuple[Path, int, int, Record]]:
    """(file, position, length, record) of every record of a sound log."""
    walker = Walker(log_dir)
    found = []
    try:
        while not walker.file.is_blank_from(walker.position) or (walker.segment + 1) in _segments(log_dir):
            record, head = walker.next()
            assert record is not None
            found.append((walker.file.path, walker.position - head.length, head.length, record))
    finally:
        walker.close()
    return found


def _segments(log_dir: Path) -> set[int]:
    return {int(p.stem) for p in log_dir.glob("*.wal")}


def patch(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def flip(path: Path, position: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


def head_at(path: Path, position: int) -> RecordHead:
    raw = path.read_bytes()[position:]
    return RecordHead._make(HEAD.unpack_from(raw, PREFIX.size))


class FaultyFiles(OsFiles):
    """Fails or shortens chosen calls: `on_write(n)` gives the number of bytes to take of the n-th write, or an errno
    to fail with as a negative number; `on_datasync` and `on_create` likewise (None: go on)."""

    def __init__(self) -> None:
        self.on_write: Callable[[int], int | None] = lambda _: None
        self.on_datasync: Callable[[int], int | None] = lambda _: None
        self.on_create: Callable[[int], int | None] = lambda _: None
        self.writes = self.datasyncs = self.creates = 0
        self.directory_syncs: list[Path] = []
        self.open_fds: set[int] = set()
        self.hold_datasync = threading.Event()
        self.hold_datasync.set()
        self.in_datasync = threading.Event()

    def create(self, path: Path, size_bytes: int) -> int:
        self.creates += 1
        _fail(self.on_create(self.creates))
        fd = super().create(path, size_bytes)
        self.open_fds.add(fd)
        return fd

    def write(self, fd: int, buffers: Sequence[pa.Buffer | bytes | memoryview], position: int) -> int:
        self.writes += 1
        taken = self.on_write(self.writes)
        if taken is None:
            return super().write(fd, buffers, position)
        _fail(taken)
        return os.pwrite(fd, b"".join(bytes(b) for b in buffers)[:taken], position)

    def datasync(self, fd: int) -> None:
        self.datasyncs += 1
        self.in_datasync.set()
        assert self.hold_datasync.wait(30)
        _fail(self.on_datasync(self.datasyncs))
        super().datasync(fd)

    def sync_directory(self, path: Path) -> None:
        self.directory_syncs.append(path)
        super().sync_directory(path)

    def close(self, fd: int) -> None:
        self.open_fds.discard(fd)
        super().close(fd)


def _fail(result: int | None) -> None:
    if result is not None and result < 0:
        raise OSError(-result, os.strerror(-result))


EIO, ENOSPC = -errno.EIO, -errno.ENOSPC
