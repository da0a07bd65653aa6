"""Batches that a client has taken and the cluster has not acked yet, in files: a ring of segments. Format: docs/formats/spool.md."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import xxhash

from proxist.client.spool_segment import SEGMENT_HEAD_BYTES, Segment, damaged, pack, sync_directory
from proxist.errors import DirectoryLocked, InvalidArgument, SpoolFull, Unavailable
from proxist.model.table import Table, table_from_json

FORMAT_VERSION = 1
SEGMENT_BYTES_MAX = 64 << 20
SEGMENTS_MIN = 8
"""A ring has at least so many segments, so that acked ones make room soon."""
log = logging.getLogger("proxist.client.spool")
_ACKED = struct.Struct("<QQ")


class Spool:
    """An open spool directory; one process at a time. Safe for several threads; `read` is for one.

    `durability` says when a batch counts as taken: "os", it survives a crash of this process; "disk", a loss of power.
    """

    def __init__(self, path: Path, lock_fd: int, table: Table, producer: str, bytes_max: int, durability: str) -> None:
        """Use `open_spool`."""
        self.path = path
        self.table = table
        self.producer = producer
        self._schema = table.spec.schema
        self._lock_fd = lock_fd
        self._bytes_max = bytes_max
        self._segment_bytes = max(min(bytes_max // SEGMENTS_MIN, SEGMENT_BYTES_MAX), 1)
        self._syncs = durability == "disk"
        self._moved = threading.Condition()  # guards every field below
        self._segments: list[Segment] = []
        self._failure: str | None = None
        self._closed = False
        self._acked_fd = os.open(path / "acked", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.acked = _read_acked(self._acked_fd)
        """Every batch up to this number is acked."""
        self._acked_writes = 0
        self._unnoted = False
        """Whether the disk refused to note an ack."""

    @property
    def next_number(self) -> int:
        """The number that the next batch will have."""
        return self._segments[-1].next

    @property
    def bytes(self) -> int:
        """What the segments take on the disk."""
        return sum(segment.end for segment in self._segments)

    def append(self, rows: pa.RecordBatch, taken: Callable[[int], None]) -> int:
        """Take a batch; returns its number. `taken(number)` is called before anybody can read it.

        Raises SpoolFull, with nothing taken, where the ring or the disk has no room, and Unavailable once a write or a
        flush has failed.
        """
        body = rows.serialize()
        with self._moved:
            if self._closed:
                raise Unavailable(f"Spool {self.path} is closed.")
            if self._failure is not None:
                raise self._broken()
            number = self.next_number
            parts = pack(number, rows.num_rows, body)
            size = sum(len(part) for part in parts)
            self._make_room(size)
            try:
                self._segments[-1].write(parts, size, sync=self._syncs)
            except OSError as error:
                self._undo(error)
            self._segments[-1].took(size)
            taken(number)
            self._moved.notify_all()
            return number

    def _make_room(self, size: int) -> None:
        newest = self._segments[-1]
        rolls = newest.end + size > self._segment_bytes and newest.next > newest.first
        kept = [one.end for one in self._segments if one.next - 1 > self.acked or (one is newest and not rolls)]
        if sum(kept) + (SEGMENT_HEAD_BYTES if rolls else 0) + size > self._bytes_max:
            unacked = self.next_number - 1 - self.acked
            raise SpoolFull(
                f"Spool {self.path} of table {self.table.spec.name!r} is full: {unacked} batches wait for their ack, and "
                f"`spool_bytes` is {self._bytes_max}. Nothing of this batch was taken. Send it again once the cluster "
                "has caught up, or open the writer with more `spool_bytes`.",
                retry_after_s=1.0,
                bytes=self.bytes,
                bytes_max=self._bytes_max,
            )
        if rolls:
            self._roll()

    def _roll(self) -> None:
        try:
            self._segments.append(Segment.create(self.path, self.next_number, sync=self._syncs))
        except OSError as error:
            raise self._no_room(error) from None
        self._drop_acked()

    def _undo(self, error: OSError) -> None:
        """Nothing of a batch that could not be written is left; raises what its sender is told."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        try:
            self._segments[-1].truncate()
        except OSError as again:
            error, full = again, False
        if not full:
            self._failure = str(error.strerror or error)
            raise self._broken() from None
        raise self._no_room(error) from None

    def _no_room(self, error: OSError) -> SpoolFull:
        return SpoolFull(
            f"The disk of spool {self.path} has no room: {error.strerror}. Nothing of this batch was taken. Free space "
            "there, then send it again.",
            retry_after_s=1.0,
            bytes=self.bytes,
            bytes_max=self._bytes_max,
        )

    def _broken(self) -> Unavailable:
        return Unavailable(
            f"Spool {self.path} cannot be written: {self._failure}. Nothing more is taken; what was taken before is still "
            "sent. Look at the disk, then open the writer again."
        )

    def read(self, number: int, timeout_s: float) -> pa.RecordBatch | None:
        """The batch of that number; None where it was not taken within `timeout_s`, or the spool was closed."""
        with self._moved:
            self._moved.wait_for(lambda: self._closed or number < self.next_number, timeout_s)
            if self._closed or number >= self.next_number:
                return None
            segment = next(one for one in reversed(self._segments) if one.first <= number)
        record = segment.read(number)
        return pa.ipc.read_record_batch(record.body, self._schema)

    def ack(self, number: int) -> None:
        """Every batch up to `number` is acked: they are not given out at the next start, and their room is free.

        Where the disk fails that is logged, and they may be given out again: their owners know them by number.
        """
        with self._moved:
            if number <= self.acked or self._closed:
                return
            self.acked = number
            # The two copies in turn: a write that a crash tears leaves the other. Losing both only sends batches again.
            at = _ACKED.size * (self._acked_writes % 2)
            self._acked_writes += 1
            self._note_on_disk(lambda: os.pwrite(self._acked_fd, _acked_bytes(number), at))
            self._drop_acked()

    def _drop_acked(self) -> None:
        # Oldest first, and none before an older one is gone: what is left has no hole.
        while len(self._segments) > 1 and self._segments[1].first <= self.acked + 1:
            if not self._note_on_disk(self._segments[0].remove):
                return  # with the next ack again
            self._segments.pop(0)

    def _note_on_disk(self, note: Callable[[], object]) -> bool:
        """Do what only spares sending batches again; False where the disk fails, which is logged once."""
        try:
            note()
        except OSError as error:
            if not self._unnoted:
                log.warning(
                    "acks of spool %s are not all noted (%s); some acked batches are sent again at its next opening, and "
                    "are stored once. Look at its disk.",
                    self.path,
                    error,
                )
            self._unnoted = True
            return False
        return True

    def close(self) -> None:
        """Let the directory go; what is not acked stays there. Repeating it does nothing."""
        with self._moved:
            closed, self._closed = self._closed, True
            segments, self._segments = self._segments, []
            self._moved.notify_all()
        if not closed:
            for segment in segments:
                segment.close()
            os.close(self._acked_fd)
            os.close(self._lock_fd)

    def load(self) -> None:
        """Read what is there, check it, and cut a tail that a crash tore. Raises LogCorrupt."""
        paths = sorted(self.path.glob("*.seg"))
        for at, path in enumerate(paths):
            segment = Segment.load(path, newest=at == len(paths) - 1)
            if segment is None:
                continue  # a newest one that was being begun
            if self._segments and segment.first != self._segments[-1].next:
                raise damaged(path, self._segments[-1].next, "the batches before it are not there")
            self._segments.append(segment)
        if self._segments and self.acked >= self.next_number:
            # A loss of power took the newest batches but not the mark: their numbers are used up.
            while self._segments:
                self._segments[-1].remove()
                self._segments.pop()
        if self._segments:
            self.acked = max(self.acked, self._segments[0].first - 1)

    def begin(self, first: int) -> None:
        """Of a spool without any segment: the first number."""
        if not self._segments:
            self.acked = max(self.acked, first - 1)
            self._segments.append(Segment.create(self.path, self.acked + 1, sync=self._syncs))


def open_spool(path: Path, producer: str, bytes_max: int, durability: str) -> Spool | None:
    """The spool that lies at `path`, checked; None where there is none yet.

    Raises DirectoryLocked, InvalidArgument where it is another producer's or of another format, LogCorrupt.
    """
    if not (path / "spool.json").exists():
        return None
    lock_fd = _lock(path)
    try:
        told = json.loads((path / "spool.json").read_text())
        if told.get("format") != FORMAT_VERSION:
            raise InvalidArgument(
                f"Spool {path} has format {told.get('format')!r}; this version knows {FORMAT_VERSION}. Upgrade proxist."
            )
        if told["producer"] != producer:
            raise InvalidArgument(
                f"Spool {path} belongs to producer {told['producer']!r}, not {producer!r}. One directory, one producer."
            )
        table = table_from_json(told["table"])
    except BaseException:
        os.close(lock_fd)
        raise
    spool = Spool(path, lock_fd, table, producer, bytes_max, durability)
    try:
        spool.load()
        spool.begin(told["first"])
    except BaseException:
        spool.close()
        raise
    return spool


def create_spool(path: Path, table: Table, producer: str, first: int, bytes_max: int, durability: str) -> Spool:
    """A new one, whose first batch has number `first`; on disk on return. Raises DirectoryLocked."""
    path.mkdir(parents=True, exist_ok=True)
    lock_fd = _lock(path)
    try:
        told = {"format": FORMAT_VERSION, "producer": producer, "first": first, "table": table.to_json()}
        building = path / "spool.json.new"
        with building.open("w") as file:
            json.dump(told, file)
            file.flush()
            os.fsync(file.fileno())
        building.rename(path / "spool.json")
        sync_directory(path)
    except BaseException:
        os.close(lock_fd)
        raise
    spool = Spool(path, lock_fd, table, producer, bytes_max, durability)
    try:
        spool.begin(first)
    except BaseException:
        spool.close()
        raise
    return spool


def _lock(path: Path) -> int:
    fd = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if not isinstance(error, BlockingIOError):
            raise
        raise DirectoryLocked(
            f"Spool {path} is in use by another writer. Give each writer a directory of its own.", path=str(path)
        ) from None
    return fd


def _acked_bytes(number: int) -> bytes:
    return _ACKED.pack(number, xxhash.xxh3_64_intdigest(number.to_bytes(8, "little")))


def _read_acked(fd: int) -> int:
    raw = os.pread(fd, 2 * _ACKED.size, 0)
    copies = [raw[at : at + _ACKED.size] for at in range(0, len(raw), _ACKED.size)]
    sound = [_ACKED.unpack(copy)[0] for copy in copies if len(copy) == _ACKED.size]
    return max((number for number, copy in zip(sound, copies, strict=False) if _acked_bytes(number) == copy), default=0)
