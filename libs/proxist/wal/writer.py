"""The one writer of an open log: append (level `os`), sync (level `disk`), nothing after a failure."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import pyarrow as pa

from proxist.errors import AlreadyExists, BatchTooLarge, Overloaded, Unavailable
from proxist.failpoints import reach
from proxist.model.ids import Epoch, Offset, ShardId, TableId, log_id
from proxist.wal._format import RECORD_BYTES_MAX, pack_segment
from proxist.wal._plan import Piece, Planner, Tail
from proxist.wal.chain import UNFINISHED_SUFFIX, log_directory, segment_path
from proxist.wal.files import Files, make_directories, remove_tree, write_all
from proxist.wal.mark import LogMark
from proxist.wal.record import RecordIn, RecordKind, carry_record
from proxist.wal.volume import SEGMENT_BYTES, Volume, is_full

PRESSED_SEGMENT_BYTES = 2**20
"""Size of a segment that only the ballast gave room for: thousands of marks, and a small part of it."""
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
        start: Offset,
        planner: Planner,
        segment_bytes: int,
        volume: Volume,
    ) -> None:
        """Not for callers: use `create`."""
        self.log_dir = log_dir
        self.log = planner.log
        self.start = start
        self._planner = planner
        self._segment_bytes = segment_bytes
        self._volume = volume
        self._files = volume.files
        # Held while bytes are appended and while marks are read or moved; guards every field below.
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        # Held for a whole sync; always taken before _lock.
        self._sync_lock = threading.Lock()
        self._fd = -1
        self._rolled: list[int] = []
        self._directory_dirty = False
        self._tail = Tail(LogMark(start, 0, -1, 0), 0, 0)
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
        volume: Volume | None = None,
        files: Files | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> LogWriter:
        """Start the log of `epoch` at offset `start` with the carried state `carry` (JSON values; its `persisted`, if
        there, is a mark that recovery holds the log to). Segments come from `volume`, or through `files` alone.

        On return the directory, the first segment and the carried state are on disk. A failure or a crash before that
        leaves no log, so calling again is safe. Raises AlreadyExists where the epoch has a log here (a log is never
        continued), Overloaded where the disk is full, Unavailable where it fails.
        """
        log_dir = log_directory(shard_dir, epoch)
        if log_dir.exists():
            raise AlreadyExists(
                f"Log {log_dir} exists already. A log has one writer, once: take the next epoch for shard {shard}.",
                shard=shard,
                epoch=epoch,
            )
        volume = volume or Volume(files=files)
        files = volume.files
        schemas = ((schema_version, schema.serialize().to_pybytes()),)
        building = log_dir.with_name(log_dir.name + UNFINISHED_SUFFIX)
        planner = Planner(log_id(shard, epoch), table_id, schemas, now_ns)
        writer = cls(building, start, planner, segment_bytes, volume)
        try:
            make_directories(log_dir.parent, files)
            remove_tree(files, building)
            files.make_directory(building)
            writer.append([carry_record(carry, now_ns())])
            writer.sync()
            # The rename is what makes the log exist: a log that exists has a sound header and its carried state.
            reach("wal.rename.before")
            files.rename(building, log_dir)
            reach("wal.rename.after")
            files.sync_directory(log_dir.parent)
        except BaseException as error:
            writer.close(sync=False)
            with contextlib.suppress(OSError):
                remove_tree(files, building)
            if isinstance(error, OSError):
                raise (Overloaded if is_full(error) else Unavailable)(
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
        return self._tail.mark.end

    @property
    def synced(self) -> Offset:
        """Every row below it is on disk."""
        return self._synced.end

    @property
    def mark(self) -> LogMark:
        """The point up to which records are written to the file."""
        return self._tail.mark

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
        pieces, tail, opened = self._begin_locked(records)
        try:
            reach("wal.append.before")
            for piece in pieces:
                if piece.header is None:
                    write_all(self._files, self._fd, piece.parts, piece.position)
                    continue
                if self._fd >= 0:
                    self._rolled.append(self._fd)
                (self._fd, reused), self._directory_dirty = opened.pop(0), True
                write_all(self._files, self._fd, [pack_segment(piece.header, reused=reused), *piece.parts], 0)
            reach("wal.append.after")
        except OSError as error:
            self._poison_locked("append", error)
        self._tail = tail
        return tail.mark.end

    def _begin_locked(self, records: Sequence[RecordIn]) -> tuple[list[Piece], Tail, list[tuple[int, bool]]]:
        """What to write, and the open files of the segments that begin in it (each with whether it is a spare).

        Raises Overloaded where the disk has no room for them, with nothing begun. What gets space back (marks, seals,
        the carried state) is not refused before all that the volume holds back is used up.
        """
        rows = any(record.kind is RecordKind.ROWS for record in records)
        if rows:
            self._volume.check_rows()
        pressed = self._volume.pressed
        while True:
            segment_bytes = min(self._segment_bytes, PRESSED_SEGMENT_BYTES) if pressed else self._segment_bytes
            pieces, tail = self._planner.plan(records, self._tail, self._synced, segment_bytes)
            try:
                return pieces, tail, self._open_segments_locked(pieces)
            except OSError as error:
                if not is_full(error):
                    self._poison_locked("append", error)
                if rows or not self._volume.make_room():
                    raise Overloaded(
                        f"The disk has no room for the next segment of log {self.log_dir}: {error.strerror}. "
                        "Nothing was written; free space on the volume of `data_dir`.",
                        retry_after_s=1.0,
                        path=str(self.log_dir),
                        cause=str(error.strerror),
                    ) from None
                pressed = True

    def _open_segments_locked(self, pieces: Sequence[Piece]) -> list[tuple[int, bool]]:
        """Files for the pieces that begin a segment, in order. Raises OSError; none is left then.

        Nothing is flushed here: a segment that a power loss takes is a torn tail like any other, since no `synced`
        names a record of it before `sync` has flushed file and directory.
        """
        opened: list[tuple[int, bool]] = []
        paths: list[Path] = []
        try:
            for header, room, _, _ in pieces:
                if header is not None:
                    path = segment_path(self.log_dir, header.segment)
                    reach("wal.segment.before")
                    opened.append(self._volume.open_segment(path, room))
                    paths.append(path)
                    reach("wal.segment.after")
        except OSError:
            for (fd, _), path in zip(opened, paths, strict=True):
                self._files.close(fd)
                self._files.remove(path)
            raise
        return opened

    def sync(self) -> Offset:
        """fdatasync. True on return: everything that was appended before the call is on disk; returns `synced`.

        Appends go on meanwhile. Raises Unavailable after a failure, with what was acked before still true.
        """
        with self._sync_lock:
            with self._lock:
                self._check_usable_locked()
                if self._tail.mark == self._synced:
                    return self._synced.end
                mark, fd, rolled, dirty = self._tail.mark, self._fd, self._rolled, self._directory_dirty
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
                self._append_locked([RecordIn(RecordKind.SEAL, arrived_ns=self._planner.now_ns())])
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
