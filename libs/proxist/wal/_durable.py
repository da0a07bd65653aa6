"""Making what a recovery read durable, even where an earlier flush of it failed."""

from __future__ import annotations

import os
from pathlib import Path

from proxist.wal._walk import header_of
from proxist.wal.chain import list_segments
from proxist.wal.files import Files, write_all
from proxist.wal.mark import LogMark

_CHUNK_BYTES = 2**20


def make_durable(log_dir: Path, mark: LogMark, synced_records: int | None, files: Files) -> None:
    """On return all of the log below `mark` is on disk: a successor's offsets are about to depend on it.

    Level `os` may have left rows in the page cache alone, and a flush brings them to the disk. Not so where an earlier
    flush failed: the kernel then calls its pages clean, so that they can be read as long as they are cached, and no later
    flush writes them. So the segments that hold records from number `synced_records` on, which nobody has seen flushed,
    are written once more, with the bytes that they have; None: all is known to have been flushed. Raises OSError.
    """
    listed = list_segments(log_dir)
    first = None if synced_records is None else _segment_of(listed, synced_records)
    for number, path in listed:
        again = first is not None and first <= number <= mark.segment
        fd = files.open(path) if again else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if again:
                _write_again(files, fd, mark.position if number == mark.segment else os.fstat(fd).st_size)
            files.datasync(fd)
        finally:
            files.close(fd)
    files.sync_directory(log_dir)


def _segment_of(listed: list[tuple[int, Path]], record_number: int) -> int | None:
    """The segment in which the record is, or would be."""
    found = listed[0][0] if listed else None
    for number, path in listed:
        header = header_of(number, path)
        if header is not None and header.first_record <= record_number:
            found = number
    return found


def _write_again(files: Files, fd: int, end: int) -> None:
    for position in range(0, end, _CHUNK_BYTES):
        write_all(files, fd, [os.pread(fd, min(_CHUNK_BYTES, end - position), position)], position)
