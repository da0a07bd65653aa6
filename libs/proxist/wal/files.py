"""The file operations of the log, in one replaceable object; and what the kernel's fsync is worth on a path."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from proxist.errors import ConfigError

_VOLATILE_TYPES = ("tmpfs", "ramfs")
_BUFFERS_MAX = 1000
"""Below Linux' IOV_MAX of 1024."""
_OCTAL = re.compile(r"\\([0-7]{3})")


class Files(Protocol):
    """Everything that changes a data directory goes through here; reading does not. Every method raises OSError and
    means what the call of its name means in POSIX, so nothing is on disk before its `datasync` or `sync_directory`
    returned. Tests inject one that fails and forgets (`proxist.testing.faulty_files`)."""

    def create(self, path: Path, size_bytes: int) -> int:
        """Create a file that must not exist, with `size_bytes` of space set aside that reads as zeros."""

    def open(self, path: Path) -> int:
        """Open a file that exists, for writing in place."""

    def write(self, fd: int, buffers: Sequence[pa.Buffer | bytes | memoryview], position: int) -> int:
        """pwritev: write at `position`, maybe fewer bytes than given; how many were written."""

    def datasync(self, fd: int) -> None:
        """fdatasync."""

    def sync_directory(self, path: Path) -> None:
        """fsync of a directory: its entries are on disk on return."""

    def rename(self, old: Path, new: Path) -> None:
        """rename of a file or a directory."""

    def remove(self, path: Path) -> None:
        """unlink of a file, rmdir of an empty directory."""

    def make_directory(self, path: Path) -> None:
        """mkdir of a directory that must not exist."""

    def free_bytes(self, path: Path) -> int:
        """How much may be written to the file system of `path` before it is full."""

    def close(self, fd: int) -> None: ...


class OsFiles:
    """The real ones."""

    def create(self, path: Path, size_bytes: int) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if size_bytes:
                os.posix_fallocate(fd, 0, size_bytes)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        return fd

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def write(self, fd: int, buffers: Sequence[pa.Buffer | bytes | memoryview], position: int) -> int:
        return os.pwritev(fd, buffers, position)

    def datasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def remove(self, path: Path) -> None:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()

    def make_directory(self, path: Path) -> None:
        path.mkdir()

    def free_bytes(self, path: Path) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def close(self, fd: int) -> None:
        os.close(fd)


def write_all(files: Files, fd: int, parts: Sequence[pa.Buffer | bytes], position: int) -> None:
    """Write every byte of `parts` at `position`, in as many calls as that takes. Raises OSError."""
    for at in range(0, len(parts), _BUFFERS_MAX):
        buffers: list[pa.Buffer | bytes | memoryview] = list(parts[at : at + _BUFFERS_MAX])
        while buffers:
            written = files.write(fd, buffers, position)
            if written <= 0:
                raise OSError(errno.EIO, "the file took no bytes")
            position += written
            buffers = _rest(buffers, written)


def _rest(buffers: list[pa.Buffer | bytes | memoryview], written: int) -> list[pa.Buffer | bytes | memoryview]:
    """What is left of `buffers` after a write of `written` bytes (os.pwritev may write fewer than it was given)."""
    for at, buffer in enumerate(buffers):
        if written < len(buffer):
            return [memoryview(buffer)[written:], *buffers[at + 1 :]]
        written -= len(buffer)
    return []


def make_directories(path: Path, files: Files) -> None:
    """mkdir -p: the directory, and every entry that leads to it, is on disk on return."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    # Who made the one that is there may have ended before its flush; the ones above it were flushed before it was made.
    with contextlib.suppress(PermissionError):  # above the data directory: not ours, and made by somebody else
        files.sync_directory(path.parent)
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another shard's writer made it meanwhile
            files.make_directory(directory)
        files.sync_directory(directory.parent)


def write_durably(files: Files, path: Path, content: bytes) -> None:
    """Make `path` a file of `content`, whole or not at all: on disk on return, an older one of that name replaced."""
    unfinished = path.with_name(path.name + ".new")
    if unfinished.exists():
        files.remove(unfinished)
    fd = files.create(unfinished, 0)
    try:
        write_all(files, fd, [content] if content else [], 0)
        files.datasync(fd)
    finally:
        files.close(fd)
    files.rename(unfinished, path)
    files.sync_directory(path.parent)


def remove_tree(files: Files, path: Path) -> None:
    """Remove a directory and what is in it; does nothing where it is not there. Nothing is flushed."""
    if not path.is_dir():
        return
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(files, entry)
        else:
            files.remove(entry)
    files.remove(path)


def fsync_is_meaningful(path: Path | str) -> bool:
    """False where fsync keeps nothing over a power loss: tmpfs, ramfs, and overlay mounted `volatile`; only those."""
    return _why_void(Path(path), Path("/proc/self/mountinfo")) is None


def require_fsync(path: Path | str, subject: str) -> None:
    """Raises ConfigError that names `subject` (say, `table 'trades'`) where durability `disk` would be a lie."""
    if why := _why_void(Path(path), Path("/proc/self/mountinfo")):
        raise ConfigError(
            f"Durability 'disk' of {subject} is not possible in {path}: {why}, where fsync keeps nothing. "
            "Use a data directory on a disk, or durability 'os' or 'mem'."
        )


def _why_void(path: Path, mountinfo: Path) -> str | None:
    try:
        lines = mountinfo.read_text().splitlines()
    except OSError:
        return None  # not Linux, or no /proc: nothing is known against the file system
    real = path.resolve()
    best, why = -1, None
    for line in lines:
        left, _, right = line.partition(" - ")
        point = Path(_OCTAL.sub(lambda m: chr(int(m[1], 8)), left.split()[4]))
        fs_type, _, options = right.split(" ", 2)
        # The last of equal mount points is the one on top.
        if real.is_relative_to(point) and len(point.parts) >= best:
            best = len(point.parts)
            if fs_type in _VOLATILE_TYPES:
                why = f"{point} is {fs_type}"
            elif fs_type == "overlay" and "volatile" in options.split(","):
                why = f"{point} is an overlay mounted volatile"
            else:
                why = None
    return why
