"""The one writer of an open log: append (level `os`), sync (level `disk`), nothing after a failure."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa

from proxist.errors import AlreadyExists, BatchTooLarge, Overloaded, Unavailable
from proxist.failpoints import reach
from proxist.model.ids import Epoch, LogId, Offset, ShardId, TableId, log_id
from proxist.wal._format import (
    FLAG_PRODUCER,
    FORMAT_VERSION,
    RECORD_BYTES_MAX,
    RecordHead,
    SegmentHead,
    pack_record,
    pack_segment,
    record_bytes,
)
from proxist.wal.chain import UNFINISHED_SUFFIX, log_directory, segment_path
from proxist.wal.files import Files, OsFiles, make_directories, write_all
from proxist.wal.mark import LogMark
from proxist.wal.record import RecordIn, RecordKind, carry_record

SEGMENT_BYTES = 64 * 2**20
"""Small enough that deleting whole segments gives space back soon, large enough that its creation (a file, a
directory entry) is nothing beside its writing."""
UNSYNCED_SEGMENTS_MAX = 4
"""Full segments that may wait for a sync: past it, append waits for the disk instead of filling the page cache."""


class LogWriter:
    """Appends to an open log. `append` from one thread at a time is usual, from several is safe; `sync` runs beside
    it, so what queues during a flush goes out with the next (group commit).

    After a failed write or fdatasync the log is poisoned: every later call raises Unavailable, nothing is retried
    (the kernel may have dropped the dirty pages and called them clean), and the process is expected to leave service
    and recover.
    """

    def __init__(
        self,
        log_dir: Path,
        log: LogId,
        start: Offset,
        table_id: TableId,
        schemas: tuple[tuple[int, bytes], ...],
        segment_bytes: int,
        files: Files,
        now_ns: Callable[[], int],
    ) -> None:
        """Not for callers: use `create`."""
        self.log_dir = log_dir
        self.log = log
        self.start = start
        self._table_id = table_id
        self._schemas = schemas
        self._segment_bytes = segment_bytes
        self._files = files
        self._now_ns = now_ns
        # Held while bytes are appended and while marks are read or moved; guards every field below.
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        # Held for a whole sync; always taken before _lock.
        self._sync_lock = threading.Lock()
        self._fd = -1
        self._room = 0
        self._previous = 0
        self._rolled: list[int] = []
        self._directory_dirty = False
        self._mark = LogMark(start, 0, -1, 0)
        self._synced = LogMark(start, 0, -1, 0)
        self._failure: str | None = None
        self._sealed = False
        self._closed = False

    @classmethod
    def create(
        cls,
        shard_dir: Path | str,
        shard: ShardId,
        epoch: Epoch,
        start: Offset,
        table_id: TableId,
        schema: pa.Schema,
        schema_version: int,
        carry: dict[str, Any],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        files: Files | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> LogWriter:
        """Start the log of `epoch` at offset `start` with the carried state `carry` (JSON values; its `persisted`, if
        there, is a mark that recovery holds the log to).

        On return the directory, the first segment and the carried state are on disk. A failure or a crash before that
        leaves no log, so calling again is safe. Raises AlreadyExists where the epoch has a log here (a log is never
        continued), Unavailable where the disk fails.
        """
        log_dir = log_directory(shard_dir, epoch)
        if log_dir.exists():
            raise AlreadyExists(
                f"Log {log_dir} exists already. A log has one writer, once: take the next epoch for shard {shard}.",
                shard=shard,
                epoch=epoch,
            )
        files = files or OsFiles()
        schemas = ((schema_version, schema.serialize().to_pybytes()),)
        building = log_dir.with_name(log_dir.name + UNFINISHED_SUFFIX)
        writer = cls(building, log_id(shard, epoch), start, table_id, schemas, segment_bytes, files, now_ns)
        try:
            make_directories(log_dir.parent, files)
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            writer.append([carry_record(carry, now_ns())])
            writer.sync()
            # The rename is what makes the log exist: a log that exists has a sound header and its carried state.
            reach("wal.rename.before")
            building.rename(log_dir)
            reach("wal.rename.after")
            files.sync_directory(log_dir.parent)
        except BaseException as error:
            writer.close(sync=False)
            shutil.rmtree(building, ignore_errors=True)
            if isinstance(error, OSError):
                raise Unavailable(
                    f"Log {log_dir} cannot be created: {error.strerror}. Check the disk of `data_dir`.",
                    path=str(log_dir),
                    cause=str(error.strerror),
                ) from None
            raise
        writer.log_dir = log_dir
        return writer

    @property
    def end(self) -> Offset:
        """First offset not yet appended: every row below it is written to the file."""
        return self._mark.end

    @property
    def synced(self) -> Offset:
        """Every row below it is on disk."""
        return self._synced.end

    @property
    def mark(self) -> LogMark:
        """The point up to which records are written to the file."""
        return self._mark

    @property
    def synced_mark(self) -> LogMark:
        """The point up to which records, those without rows too, are on disk: the limit of a follower."""
        return self._synced

    @property
    def failure(self) -> str | None:
        """What poisoned the log, or None."""
        return self._failure

    def append(self, records: Sequence[RecordIn]) -> Offset:
        """Write records in order; rows take the offsets from `end` on. Returns the new `end`.

        True on return: all of them are written to the file (level `os`: they survive a crash of the process). Raises
        BatchTooLarge for a record above 512 MiB and Overloaded where the disk has no room for the next segment (nothing
        was written, the log goes on); Unavailable after a failure: then none, some or all may be found by recovery.
        """
        for record in records:
            if len(record.body) > RECORD_BYTES_MAX // 2:
                raise BatchTooLarge(
                    f"A record of {len(record.body)} bytes is over the log's limit of {RECORD_BYTES_MAX // 2}. Split the batch."
                )
        if len(self._rolled) >= UNSYNCED_SEGMENTS_MAX:
            self.sync()
        with self._lock:
            self._check_usable_locked()
            if self._sealed:
                raise Unavailable(f"Log {self.log_dir} is sealed.", path=str(self.log_dir), cause="sealed")
            return self._append_locked(records)

    def _append_locked(self, records: Sequence[RecordIn]) -> Offset:
        # Planned before anything is written, so that a wrong argument or a full disk leaves the log as it was.
        pieces, mark, previous = self._plan_locked(records)
        try:
            reach("wal.append.before")
            fds = self._create_segments_locked(pieces)
            for piece in pieces:
                if piece.segment is not None:
                    if self._fd >= 0:
                        self._rolled.append(self._fd)
                    self._fd, self._room, self._directory_dirty = fds.pop(0), piece.room, True
                write_all(self._files, self._fd, piece.parts, piece.position)
            reach("wal.append.after")
        except OSError as error:
            self._poison_locked("append", error)
        self._previous = previous
        self._mark = mark
        return mark.end

    def _plan_locked(self, records: Sequence[RecordIn]) -> tuple[list[_Piece], LogMark, int]:
        """What to write where, the mark after it, and the checksum of the last record."""
        end, count, segment, position = self._mark
        previous, synced, room = self._previous, self._synced, self._room
        schema_version = self._schemas[-1][0]
        parts: list[pa.Buffer | bytes] = []
        pieces = [_Piece(None, room, position, parts)]
        for kind, rows, body, content_hash, arrived_ns, producer, batch_number in records:
            name = b"" if producer is None else producer.encode()
            length = record_bytes(len(name), len(body))
            if position + length > room:
                segment += 1
                header, room = self._segment_header_locked(segment, end, count, previous, length)
                parts, position = [header], len(header)
                pieces.append(_Piece(segment, room, 0, parts))
            head = RecordHead(
                length, FORMAT_VERSION, kind, 0 if producer is None else FLAG_PRODUCER, previous, schema_version,
                self.log, count, end, rows, len(name), batch_number, self._table_id, synced.end, synced.records,
                arrived_ns, content_hash, len(body), 0,
            )  # fmt: skip
            buffers, previous = pack_record(head, name, body)
            parts += buffers
            position += length
            end = Offset(end + rows)
            count += 1
        return pieces, LogMark(end, count, segment, position), previous

    def _segment_header_locked(
        self, segment: int, first: Offset, first_record: int, previous: int, length: int
    ) -> tuple[bytes, int]:
        """Header and size of a segment that has room for a record of `length` bytes."""
        head = SegmentHead(
            self.log, segment, first, first_record, self._synced.end, self._synced.records, previous, self._table_id,
            0, self._now_ns(), self._schemas, 0,
        )  # fmt: skip
        room = max(self._segment_bytes, len(pack_segment(head)) + length)
        return pack_segment(head._replace(segment_bytes=room)), room

    def _create_segments_locked(self, pieces: Sequence[_Piece]) -> list[int]:
        """Files for the pieces that begin a segment, in order. Raises Overloaded where the disk has no room for them;
        none is left then.

        Nothing is flushed here: a segment that a power loss takes is a torn tail like any other, since no `synced`
        names a record of it before `sync` has flushed file and directory.
        """
        fds: list[int] = []
        paths: list[Path] = []
        try:
            for piece in pieces:
                if piece.segment is not None:
                    path = segment_path(self.log_dir, piece.segment)
                    reach("wal.segment.before")
                    fds.append(self._files.create(path, piece.room))
                    paths.append(path)
                    reach("wal.segment.after")
        except OSError as error:
            for fd, path in zip(fds, paths, strict=True):
                self._files.close(fd)
                path.unlink()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Overloaded(
                f"The disk has no room for the next segment of log {self.log_dir}: {error.strerror}. "
                "Nothing was written; free space on the volume of `data_dir`.",
                retry_after_s=1.0,
                path=str(self.log_dir),
                cause=str(error.strerror),
            ) from None
        return fds

    def sync(self) -> Offset:
        """fdatasync. True on return: everything that was appended before the call is on disk; returns `synced`.

        Appends go on meanwhile. Raises Unavailable after a failure, with what was acked before still true.
        """
        with self._sync_lock:
            with self._lock:
                self._check_usable_locked()
                if self._mark == self._synced:
                    return self._synced.end
                mark, fd, rolled, dirty = self._mark, self._fd, self._rolled, self._directory_dirty
                self._rolled, self._directory_dirty = [], False
            try:
                reach("wal.sync.before")
                while rolled:
                    self._files.datasync(rolled[0])
                    self._files.close(rolled.pop(0))
                self._files.datasync(fd)
                reach("wal.sync.directory")
                if dirty:
                    self._files.sync_directory(self.log_dir)
                reach("wal.sync.after")
            except OSError as error:
                with self._lock:
                    self._rolled = rolled + self._rolled
                    self._poison_locked("fdatasync", error)
            with self._lock:
                if self._failure is not None:
                    # A write failed beside this flush: what it flushed is on disk, but a poisoned log acks nothing.
                    self._check_usable_locked()
                self._synced = mark
                self._moved.notify_all()
                return mark.end

    def wait_synced(self, beyond: LogMark, timeout_s: float) -> LogMark:
        """Wait until `synced_mark` has passed `beyond`; returns it, unchanged where the time ran out or the log was
        closed. Raises Unavailable where the log is poisoned."""
        with self._moved:
            self._moved.wait_for(
                lambda: self._synced.records > beyond.records or self._closed or self._failure is not None, timeout_s
            )
            if self._failure is not None:
                self._check_usable_locked()
            return self._synced

    def seal(self) -> Offset:
        """End the log in good order: a SEAL record, synced. Appending afterwards raises Unavailable. Returns `end`."""
        with self._lock:
            self._check_usable_locked()
            if not self._sealed:
                reach("wal.seal.before")
                self._append_locked([RecordIn(RecordKind.SEAL, arrived_ns=self._now_ns())])
                self._sealed = True
        end = self.sync()
        reach("wal.seal.after")
        return end

    def close(self, *, sync: bool = True) -> None:
        """Give the files back; repeating it does nothing. With `sync`, everything appended is on disk on return,
        unless the log is poisoned (then close is silent: its caller has had the error)."""
        try:
            if sync and self._failure is None and not self._closed:
                self.sync()
        finally:
            with self._sync_lock, self._lock:
                self._closed = True
                self._moved.notify_all()
                fds = [*self._rolled, self._fd] if self._fd >= 0 else self._rolled
                self._rolled, self._fd = [], -1
                for fd in fds:
                    self._files.close(fd)

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close(sync=kind is None)

    def _check_usable_locked(self) -> None:
        if self._failure is not None:
            raise Unavailable(
                f"Log {self.log_dir} stopped: {self._failure}. Nothing is retried; restart the node, which recovers it.",
                path=str(self.log_dir),
                cause=self._failure,
            )
        if self._closed:
            raise Unavailable(f"Log {self.log_dir} is closed.", path=str(self.log_dir), cause="closed")

    def _poison_locked(self, verb: str, error: OSError) -> NoReturn:
        if self._failure is None:
            self._failure = f"{verb} failed: {error.strerror or error}"
        self._moved.notify_all()
        self._check_usable_locked()
        raise AssertionError("unreachable: a poisoned log raises")


class _Piece(NamedTuple):
    """Bytes to write into one segment: the current one, or (`segment` set) a new one of `room` bytes."""

    segment: int | None
    room: int
    position: int
    parts: list[pa.Buffer | bytes]
