"""Reading a log's segments in order, every byte checked: shared by the reader and by recovery."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from proxist.model.ids import LogId, Offset, epoch_of_log, shard_of_log
from proxist.wal._format import (
    FLAG_IGNORABLE,
    FLAG_PRODUCER,
    FORMAT_VERSION,
    HEAD_BYTES,
    SEGMENT_HEAD,
    Damage,
    RecordHead,
    SegmentHead,
    check_record,
    padded,
    parse_head,
    parse_segment,
    segment_header_bytes,
)
from proxist.wal.chain import list_segments, log_of_path, segment_path
from proxist.wal.mark import LogBegin, LogMark
from proxist.wal.record import Record, RecordKind

CHUNK_BYTES = 2**20
"""Read unit: large enough that the call costs nothing per record, small enough to hold for each follower."""
SECTOR_BYTES = 512
"""The least that a disk fails to read."""
_ZEROS = bytes(CHUNK_BYTES)
_KINDS = {int(k): k for k in RecordKind}


class MissingSegments(Damage):
    """The log begins above what is needed of it: rows `[first, header.first)` are not there (`first` None: it is not
    known where they began; equal: records without rows alone)."""

    def __init__(self, path: str, segment: int, first: Offset | None, header: SegmentHead) -> None:
        super().__init__(path, 0, f"the segments below {segment} are not there; it begins at offset {header.first}")
        self.first = first
        self.header = header


class SegmentFile:
    """One segment, read through one chunk. pread, not mmap: an unreadable sector is an OSError, never a SIGBUS."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size
        self._chunk = pa.py_buffer(b"")
        self._base = 0

    def take(self, position: int, length: int, stop: int) -> pa.Buffer:
        """Up to `length` bytes at `position`, none at or above `stop` (bytes there may still be in writing)."""
        at = position - self._base
        if at < 0 or at + length > self._chunk.size:
            wanted = min(max(length, CHUNK_BYTES), max(stop - position, 0))
            self._chunk, self._base, at = self._read(position, wanted), position, 0
        return self._chunk.slice(at, min(length, self._chunk.size - at))

    def _read(self, position: int, length: int) -> pa.Buffer:
        return pa.py_buffer(self._pread(position, length))

    def _pread(self, position: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, position)
        except OSError as error:
            raise Damage(str(self.path), position, f"reading failed: {error.strerror}") from None

    def header(self) -> SegmentHead:
        """Raises Damage where the header is not sound, or is of another format version."""
        # Not through the chunk: what lies behind the header of an open segment may not be written yet.
        total = segment_header_bytes(self._read(0, SEGMENT_HEAD.size))
        found = parse_segment(self._read(0, total)) if isinstance(total, int) and total <= self.size else total
        if not isinstance(found, tuple):
            raise Damage(str(self.path), 0, found if isinstance(found, str) else "the file ends inside its header")
        head, version = found
        if version != FORMAT_VERSION:
            raise Damage(str(self.path), 0, _newer("segment", version), final=True)
        return head

    def record(self, position: int, stop: int) -> tuple[RecordHead, int, pa.Buffer]:
        """Head, checksum and all bytes of the record at `position`. Raises Damage where there is no sound one."""
        found = parse_head(self.take(position, HEAD_BYTES, stop), stop - position)
        if isinstance(found, str):
            raise Damage(str(self.path), position, found)
        head, crc = found
        raw = self.take(position, head.length, stop)
        if wrong := check_record(raw, head, crc):
            raise Damage(str(self.path), position, wrong)
        if head.version != FORMAT_VERSION:
            raise Damage(str(self.path), position, _newer("record", head.version), final=True)
        return head, crc, raw

    def is_in_place(self) -> bool:
        """Whether the file still has its name: a segment that was given up may hold other bytes by now."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def rest(self, position: int) -> bytes:
        """All bytes from `position` on, with zeros for sectors that cannot be read."""
        try:
            return self._pread(position, max(self.size - position, 0))
        except Damage:
            return b"".join(self._sectors(position))

    def _sectors(self, position: int) -> Iterator[bytes]:
        while position < self.size:
            length = min(SECTOR_BYTES - position % SECTOR_BYTES, self.size - position)
            try:
                yield self._pread(position, length).ljust(length, b"\0")
            except Damage:
                yield bytes(length)
            position += length

    def is_blank_from(self, position: int) -> bool:
        """Whether every byte from `position` on is zero: preallocated, never written. False where it cannot be read."""
        while position < self.size:
            try:
                raw = self._pread(position, CHUNK_BYTES)
            except Damage:
                return False
            if raw != _ZEROS[: len(raw)]:
                return False
            position += len(raw) or self.size
        return True

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class Walker:
    """A position in a log that goes forward record by record, following the chain of checksums over segments."""

    def __init__(self, log_dir: Path, begin: LogBegin | None = None, *, oldest: int = 0) -> None:
        """Stands at the first record of the newest segment with which the log may begin; without `begin` that is
        segment 0. Segments below `oldest` are taken for gone.

        Raises MissingSegments where no segment is there that begins low enough, Damage where the one that should has no
        sound header.
        """
        self.log_dir = log_dir
        segments = [one for one in list_segments(log_dir) if one[0] >= oldest]
        if not segments:
            raise Damage(str(log_dir), 0, "the log has no segment")
        number = segments[0][0] if begin is None else _segment_of(segments, begin)
        self.segment = number
        self.file = SegmentFile(segment_path(log_dir, number))
        try:
            self.header = self.file.header()
            if wrong := _misplaced(self.header, number, log_of_path(log_dir)):
                raise Damage(str(self.file.path), 0, wrong)
            _check_begin(self.header, str(log_dir), begin)
        except Damage:
            self.file.close()
            raise
        self.position = self.header.header_bytes
        self.previous = self.header.previous
        self.records = self.header.first_record
        self.offset = Offset(self.header.first)

    def next(self, until: LogMark | None = None) -> tuple[Record | None, RecordHead]:
        """The next record, None for one of an unknown kind that may be passed over. No byte at or above `until` is
        read: it may be in writing.

        Raises Damage at the first byte that is not what the chain demands, the plain end of the log included
        (its cause is "no record begins here"); the walker then stands where it stood.
        """
        while True:
            last = until is not None and self.segment >= until.segment
            try:
                return self._record(until.position if until is not None and last else self.file.size)
            except Damage as damage:
                if damage.final or last or not self._enter_next():
                    raise

    def _record(self, stop: int) -> tuple[Record | None, RecordHead]:
        head, crc, raw = self.file.record(self.position, stop)
        for name, found, wanted in (
            ("log", head.log, self.header.log),
            ("previous record's checksum", head.previous, self.previous),
            ("record number", head.record_number, self.records),
            ("first offset", head.first, self.offset),
        ):
            if found != wanted:
                cause = f"the {name} is {found}, but {wanted} belongs here"
                raise Damage(str(self.file.path), self.position, cause)
        kind = known_kind(head.kind)
        if kind is None and not head.flags & FLAG_IGNORABLE:
            raise Damage(str(self.file.path), self.position, _newer("record kind", head.kind), final=True)
        self.position += head.length
        self.previous = crc
        self.records += 1
        self.offset = Offset(self.offset + head.rows)
        return (None if kind is None else to_record(kind, head, raw)), head

    def _enter_next(self) -> bool:
        """Go to the next segment if its header goes on exactly from here. A segment that ended has no mark of its
        end: that the next one carries the checksum of the last record is the proof that nothing is missing."""
        path = segment_path(self.log_dir, self.segment + 1)
        try:
            following = SegmentFile(path)
        except FileNotFoundError:
            return False
        try:
            head = following.header()
        except Damage as damage:
            following.close()
            if damage.final:
                raise
            return False
        here = (self.header.log, self.segment + 1, self.previous, self.records, self.offset)
        if (head.log, head.segment, head.previous, head.first_record, head.first) != here:
            following.close()
            return False
        self.file.close()
        self.file, self.header, self.segment, self.position = following, head, self.segment + 1, head.header_bytes
        return True

    def has_begun(self) -> bool:
        """Whether the head of a record of this log that belongs here, or later, stands here."""
        found = parse_head(self.file.take(self.position, HEAD_BYTES, self.file.size), self.file.size - self.position)
        return not isinstance(found, str) and found[0].log == self.header.log and found[0].record_number >= self.records

    def close(self) -> None:
        self.file.close()


def known_kind(value: int) -> RecordKind | None:
    return _KINDS.get(value)


def to_record(kind: RecordKind, head: RecordHead, raw: pa.Buffer) -> Record:
    body_at = HEAD_BYTES + padded(head.producer_bytes)
    producer = None
    if head.flags & FLAG_PRODUCER:
        producer = raw.slice(HEAD_BYTES, head.producer_bytes).to_pybytes().decode()
    return Record(
        kind, head.record_number, Offset(head.first), head.rows, raw.slice(body_at, head.body_bytes), head.content_hash,
        head.arrived_ns, producer, head.batch_number, head.schema_version, Offset(head.synced),
    )  # fmt: skip


def _segment_of(segments: list[tuple[int, Path]], begin: LogBegin) -> int:
    """Number of the newest segment that holds all that is needed from `begin` on, else the oldest. Headers that cannot
    be read, or are of a file's earlier life, are passed over: the walk will meet the damage."""
    for number, path in reversed(segments[1:]):
        header = header_of(number, path)
        if header is None:
            continue
        # A record without rows at that very offset may end the segment before: without it the chain is not whole.
        low_enough = header.first < begin.offset or (header.first == begin.offset and begin.record is not None)
        if low_enough and (begin.record is None or header.first_record <= begin.record):
            return number
    return segments[0][0]


def _check_begin(header: SegmentHead, path: str, begin: LogBegin | None) -> None:
    first, number = (None, 0) if begin is None else begin
    too_high = header.segment > 0 if first is None else header.segment > 0 and header.first > first
    if too_high or (number is not None and header.first_record > number):
        raise MissingSegments(path, header.segment, None if first is None else min(first, Offset(header.first)), header)


def header_of(number: int, path: Path) -> SegmentHead | None:
    """The header of segment `number`, which lies at `path`; None where the file has no sound one, or one of an earlier
    life: a spare that was just taken, or was taken right before a crash. Raises OSError where it cannot be opened."""
    try:
        file = SegmentFile(path)
        try:
            header = file.header()
        finally:
            file.close()
    except Damage:
        return None
    return None if _misplaced(header, number, log_of_path(path.parent)) else header


def _misplaced(header: SegmentHead, number: int, log: LogId | None) -> str | None:
    """Why a sound header is not the one of segment `number` of `log`."""
    if log is not None and header.log != log:
        return f"the header is of shard {shard_of_log(LogId(header.log))}, epoch {epoch_of_log(LogId(header.log))}"
    return None if header.segment == number else f"the header is of segment {header.segment}"


def _newer(what: str, value: int) -> str:
    return f"{what} {value} is not known: a newer Proxist wrote it (this one knows format {FORMAT_VERSION}); upgrade"
