"""The disk space of one data directory: spare segments that are used again, and a ballast for the day the disk is full."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from proxist.errors import Overloaded
from proxist.failpoints import reach
from proxist.wal.files import Files, OsFiles, make_directories

BALLAST_FILE = "BALLAST"
BALLAST_BYTES = 64 * 2**20
"""Room for hundreds of thousands of marks, every seal, and the carried state of many shards."""
SPARE_DIRECTORY = "spare"
SPARES_MAX = 4
"""Truncation gives segments back a few at a time, just before as many new ones are begun; more would only hold space
(256 MiB) that nobody uses."""
SEGMENT_BYTES = 64 * 2**20
"""Small enough that deleting whole segments gives space back soon, large enough that its creation (a file, a
directory entry) is nothing beside its writing."""

T = TypeVar("T")


def is_full(error: OSError) -> bool:
    """Whether it says that there is no space left, or no quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class Volume:
    """Where the files of a data directory get their space; for any thread.

    *Spares* are segments that truncation gave up. They are used instead of new files, which spares the file system the
    allocation and each first flush its metadata; their old bytes are still in them.

    The *ballast* is a file that only holds space. When the disk is full it is given up, so that marks, seals and
    snapshots, which are what gets space back, can still be written. Until it is made again rows are refused.
    """

    def __init__(
        self,
        data_dir: Path | str | None = None,
        *,
        files: Files | None = None,
        ballast_bytes: int = BALLAST_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        spares_max: int = SPARES_MAX,
    ) -> None:
        """Without `data_dir` there are no spares and no ballast. `ballast_bytes` 0: no ballast. Makes no file."""
        self.files = files or OsFiles()
        self._data_dir = None if data_dir is None else Path(data_dir)
        self._ballast_bytes = ballast_bytes
        self._segment_bytes = segment_bytes
        self._spares_max = spares_max
        self._lock = threading.Lock()  # guards the spares, the ballast, and what follows
        self._unflushed: set[Path] = set()
        """Spares whose old entry may still be on disk: for nobody yet."""
        self._pressed = False
        self._refused = False  # for want of room, the last new segment that was asked for

    # ---- segments --------------------------------------------------------------------------------------------------

    def open_segment(self, path: Path, size_bytes: int) -> tuple[int, bool]:
        """A file of `size_bytes` at `path`, open for writing, and whether it is a spare: then it holds old bytes, a
        sound header of its earlier life first. Nothing is flushed. Raises OSError; no file is at `path` then."""
        with self._lock:
            for spare in self._spares():
                found = spare.stat()
                # Two names: a file system that lost power in the middle of a rename left it in a log too.
                if spare not in self._unflushed and found.st_size == size_bytes and found.st_nlink == 1:
                    self.files.rename(spare, path)
                    try:
                        return self.files.open(path), True
                    except OSError:
                        self.files.remove(path)
                        raise
        try:
            fd = self.files.create(path, size_bytes)
        except OSError as error:
            self._refused = is_full(error)
            raise
        self._refused = False
        return fd, False

    def retire(self, path: Path) -> None:
        """Take a segment out of its log: it becomes a spare, or is deleted where there are enough, or rows wait for room.
        On return its entry is gone on disk. Raises OSError."""
        directory, spare = self._spare_directory(), None
        if directory is not None and not self._pressed and path.stat().st_size == self._segment_bytes:
            make_directories(directory, self.files)
            spare = directory / "-".join((*path.parts[-3:-1], path.name))
        with self._lock:
            if spare is None or len(self._spares()) >= self._spares_max:
                self.files.remove(path)
                spare = None
            else:
                self.files.rename(path, spare)
                self._unflushed.add(spare)
        # Before anybody may take the spare: a file that is written again must not come back under its old name. And
        # without the lock: every log that begins a segment meanwhile would wait for the disk.
        self.files.sync_directory(path.parent)
        if spare is not None:
            with self._lock:
                self._unflushed.discard(spare)

    # ---- a full disk -----------------------------------------------------------------------------------------------

    @property
    def pressed(self) -> bool:
        """Whether the ballast is given up: the disk was full, and rows are refused."""
        return self._pressed

    @property
    def full(self) -> bool:
        """Whether rows are refused, or the next ones that need a segment may well be: there was no room for the last."""
        return self._pressed or self._refused

    def check_rows(self) -> None:
        """Raises Overloaded while rows are refused."""
        if self._pressed:
            raise Overloaded(
                f"The disk of data directory {self._data_dir} was full, and what is left is kept for marks and snapshots. "
                "Nothing was written; rows are taken again as soon as there is room. Free space on its volume.",
                retry_after_s=1.0,
                cause="no space",
            )

    def insist(self, work: Callable[[], T]) -> T:
        """Run `work`, which needs space for what gets space back; where the disk is full, free what is held back and
        run it again. `work` leaves nothing behind when it raises. Raises what it raises in the end."""
        while True:
            try:
                return work()
            except OSError as error:
                if not is_full(error) or not self.make_room():
                    raise

    def make_room(self) -> bool:
        """Give up the spares, then the ballast; False where there is nothing (any more) to give up."""
        with self._lock:
            spares = self._spares()
            for spare in spares:
                self.files.remove(spare)
            if spares:
                return True
            ballast = self._ballast()
            if ballast is None or not ballast.exists():
                return False
            reach("volume.ballast.before")
            self._pressed = True
            self.files.remove(ballast)
            reach("volume.ballast.after")
            return True

    def restore_ballast(self) -> bool:
        """Make the ballast where it is missing and there is room for it and a segment beside; whether it is there.
        Raises OSError where the disk fails."""
        with self._lock:
            ballast = self._ballast()
            if ballast is None:
                return True
            there = ballast.exists() and ballast.stat().st_size == self._ballast_bytes
            if not there:
                there = self._make_ballast(ballast)
            self._pressed = not there
            return there

    def _make_ballast(self, ballast: Path) -> bool:
        if ballast.exists():  # of another size: the setting was changed, or a crash came between
            self.files.remove(ballast)
        # With a segment beside: else the next one would take it away again at once.
        if self.files.free_bytes(ballast.parent) < self._ballast_bytes + self._segment_bytes:
            return False
        try:
            self.files.close(self.files.create(ballast, self._ballast_bytes))
        except OSError as error:
            if not is_full(error):
                raise
            return False
        self.files.sync_directory(ballast.parent)
        return True

    def _ballast(self) -> Path | None:
        return None if self._data_dir is None or not self._ballast_bytes else self._data_dir / BALLAST_FILE

    def _spare_directory(self) -> Path | None:
        return None if self._data_dir is None else self._data_dir / "wal" / SPARE_DIRECTORY

    def _spares(self) -> list[Path]:
        directory = self._spare_directory()
        return [] if directory is None or not directory.is_dir() else sorted(directory.iterdir())
