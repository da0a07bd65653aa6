"""One file of a spool: a header and numbered, checksummed records. Its bytes are on docs/formats/spool.md."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import xxhash

from proxist.errors import LogCorrupt

_RECORD = struct.Struct("<4sIQQQ")
_SEGMENT_MAGIC, _RECORD_MAGIC = b"PXSPOOL1", b"PXSB"
SEGMENT_HEAD_BYTES = 24


class _Record(NamedTuple):
    number: int
    rows: int
    body: pa.Buffer
    end: int
    """Where the next record begins."""


class Segment:
    """One file of the ring."""

    def __init__(self, path: Path, fd: int, first: int, following: int, end: int) -> None:
        self.path = path
        self.first = first
        self.next = following
        """The number after its last batch."""
        self.end = end
        """Bytes in use."""
        self._fd = fd
        self._read_at = (first, SEGMENT_HEAD_BYTES)

    @classmethod
    def create(cls, directory: Path, first: int, *, sync: bool) -> Segment:
        path = directory / f"{first:020d}.seg"
        path.unlink(missing_ok=True)  # begun by a process that died before its first batch
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, _segment_head(first), 0)
            if sync:
                os.fsync(fd)
                sync_directory(directory)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        return cls(path, fd, first, first, SEGMENT_HEAD_BYTES)

    @classmethod
    def load(cls, path: Path, *, newest: bool) -> Segment | None:
        first = int(path.stem)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        raw = pa.py_buffer(path.read_bytes())
        if raw.size < SEGMENT_HEAD_BYTES or raw.slice(0, SEGMENT_HEAD_BYTES).to_pybytes() != _segment_head(first):
            os.close(fd)
            if newest and raw.size <= SEGMENT_HEAD_BYTES:
                return None
            raise damaged(path, first, "its header is not sound")
        number, end = first, SEGMENT_HEAD_BYTES
        while (record := _parse(raw, end, number)) is not None:
            number, end = number + 1, record.end
        if end < raw.size:
            if not newest or _sound_behind(raw, end, number):
                os.close(fd)
                raise damaged(path, number, f"the record at byte {end} is not sound")
            os.ftruncate(fd, end)
        return cls(path, fd, first, number, end)

    def write(self, parts: list[bytes | pa.Buffer], size: int, *, sync: bool) -> None:
        written = os.pwritev(self._fd, parts, self.end)
        if written < size:  # rare: a disk that fills up
            rest = b"".join(bytes(memoryview(part)) for part in parts)[written:]
            while rest:
                written = os.pwrite(self._fd, rest, self.end + size - len(rest))
                rest = rest[written:]
        if sync:
            os.fdatasync(self._fd)

    def took(self, size: int) -> None:
        self.end += size
        self.next += 1

    def truncate(self) -> None:
        os.ftruncate(self._fd, self.end)

    def read(self, number: int) -> _Record:
        """By the one reader, number after number. Raises LogCorrupt where the disk gives back something else."""
        at, position = self._read_at if self._read_at[0] <= number else (self.first, SEGMENT_HEAD_BYTES)
        while True:
            head = os.pread(self._fd, _RECORD.size, position)
            size = _padded(_RECORD.unpack(head)[3]) if len(head) == _RECORD.size else 0
            if at < number:
                at, position = at + 1, position + _RECORD.size + size
                continue
            raw = pa.py_buffer(head + os.pread(self._fd, size, position + _RECORD.size))
            record = _parse(raw, 0, number)
            if record is None:
                raise damaged(self.path, number, f"the record at byte {position} is not sound")
            self._read_at = (number + 1, position + record.end)
            return record

    def remove(self) -> None:
        """Raises OSError; the segment is as it was then."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        os.close(self._fd)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _padded(length: int) -> int:
    return (length + 7) & -8


def _checksum(front: bytes, body: pa.Buffer) -> int:
    hasher = xxhash.xxh3_64(front)
    hasher.update(body)
    return hasher.intdigest()


def _segment_head(first: int) -> bytes:
    front = _SEGMENT_MAGIC + first.to_bytes(8, "little")
    return front + xxhash.xxh3_64_intdigest(front).to_bytes(8, "little")


def pack(number: int, rows: int, body: pa.Buffer) -> list[bytes | pa.Buffer]:
    front = _RECORD.pack(_RECORD_MAGIC, rows, number, body.size, 0)[:-8]
    head = front + _checksum(front[4:], body).to_bytes(8, "little")
    return [head, body, bytes(_padded(body.size) - body.size)]


def _parse(raw: pa.Buffer, at: int, number: int | None) -> _Record | None:
    """The sound record at `at`, of that number if one is given; None where there is none."""
    if raw.size - at < _RECORD.size:
        return None
    head = raw.slice(at, _RECORD.size).to_pybytes()
    magic, rows, found, size, checksum = _RECORD.unpack(head)
    end = at + _RECORD.size + _padded(size)
    if magic != _RECORD_MAGIC or end > raw.size or (number is not None and found != number):
        return None
    body = raw.slice(at + _RECORD.size, size)
    return _Record(found, rows, body, end) if _checksum(head[4:-8], body) == checksum else None


def _sound_behind(raw: pa.Buffer, at: int, number: int) -> bool:
    """Whether a sound record of a later batch follows: then what lies before it was damaged, not torn."""
    text = raw.to_pybytes()
    while (at := text.find(_RECORD_MAGIC, at + 1)) >= 0:
        record = _parse(raw, at, None)
        if record is not None and record.number > number:
            return True
    return False


def damaged(path: Path, number: int, cause: str) -> LogCorrupt:
    return LogCorrupt(
        f"Spool file {path} is damaged: {cause}; batches from number {number} on cannot be sent. Restore the file, or "
        "move the directory away and send those batches again from their source with a new producer name.",
        path=str(path),
        cause=cause,
        lost_first=number,
    )
