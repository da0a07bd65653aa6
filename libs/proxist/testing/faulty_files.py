"""`Files` over real files that fails on demand, fills up, and knows what a loss of power would leave of them."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import pyarrow as pa

from proxist.testing.disk import DirectoryNode, FileNode, Place, Tree, node_of
from proxist.wal.files import OsFiles


class _Fault(NamedTuple):
    first: int
    last: float
    error: int | None
    take_bytes: int | None


class FaultyFiles(OsFiles):
    """The operating system's files below `root`, with faults; for any thread.

    Nothing is flushed for real: what is on disk is what `crash_image` says, by the rules of `proxist.testing.disk`. What
    lies under `root` at the start is on disk, and so is what others put there without this object.

        files = FaultyFiles(data_dir)
        files.fail("datasync", nth=3)                       # EIO once, at the third flush from now on
        files.fail("write", error=errno.ENOSPC, take_bytes=40)   # 40 bytes of the next write, then ENOSPC
        files.room_bytes = 100_000                          # then ENOSPC
        files.crash_image(tmp_path / "after", Random(seed)) # what a start after the loss of power may find
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.room_bytes: int | None = None
        """How much space is left for new files, None: without bound."""
        self.before: Callable[[str, Path | None], None] | None = None
        """Called with (operation, path; None for an open file) before each; what it raises, the operation raises."""
        self.calls: Counter[str] = Counter()
        """How often each operation was called."""
        self._lock = threading.Lock()  # guards all that follows, and the model
        self._faults: dict[str, list[_Fault]] = {}
        self._tree = Tree(root)
        self._open: dict[int, FileNode] = {}

    def fail(
        self,
        operation: str,
        nth: int = 1,
        error: int | None = errno.EIO,
        *,
        take_bytes: int | None = None,
        times: float = 1,
    ) -> None:
        """Let the `nth` call of `operation` from now on (and the following ones, up to `times` in all) raise OSError.

        `operation` is a method of `Files`. With `take_bytes` it must be "write": that call takes so many bytes, as a
        short write, and the next one raises; with `error` None nothing raises.
        """
        first = self.calls[operation] + nth
        found = self._faults.setdefault(operation, [])
        if take_bytes is not None:
            found.append(_Fault(first, first, None, take_bytes))
            first += 1
        if error is not None:
            found.append(_Fault(first, first + times - 1, error, None))

    def heal(self) -> None:
        """Forget every fault that was asked for; the disk has room again."""
        self._faults.clear()
        self.room_bytes = None

    def crash_image(self, directory: Path, random: Random) -> None:
        """Write to `directory`, which must not exist, one of the states in which a start after a loss of power at this
        moment may find `root`. Takes no notice of what the process does meanwhile; may be called any number of times."""
        with self._lock:
            self._tree.materialise(directory, random)

    # ---- Files -----------------------------------------------------------------------------------------------------

    def create(self, path: Path, size_bytes: int) -> int:
        self._begin("create", path)
        with self._lock:
            self._take_room(size_bytes)
            place = self._place(path)
            fd = super().create(path, size_bytes)
            node = FileNode(size_bytes)
            if place is not None:
                self._tree.change(node, added=place)
            self._open[fd] = node
            return fd

    def open(self, path: Path) -> int:
        self._begin("open", path)
        with self._lock:
            place = self._place(path)
            fd = super().open(path)
            found = place.directory.seen[place.name] if place is not None else FileNode.of(path)
            assert isinstance(found, FileNode)
            self._open[fd] = found
            return fd

    def write(self, fd: int, buffers: Sequence[pa.Buffer | bytes | memoryview], position: int) -> int:
        fault = self._begin("write", None)
        data = b"".join(bytes(buffer) for buffer in buffers)
        if fault is not None and fault.take_bytes is not None:
            data = data[: fault.take_bytes]
        with self._lock:
            node = self._open[fd]
            self._take_room(max(position + len(data) - node.size_bytes, 0))
            os.pwrite(fd, data, position)
            node.write(position, data)
        return len(data)

    def datasync(self, fd: int) -> None:
        try:
            self._begin("datasync", None)
        except OSError:
            with self._lock:
                if fd in self._open:
                    self._open[fd].flush_failed()
            raise
        with self._lock:
            if fd in self._open:  # opened without this object: it was only read
                self._open[fd].flush()

    def sync_directory(self, path: Path) -> None:
        self._begin("sync_directory", path)
        with self._lock:
            node = self._directory(path)
            if node is not None:
                self._tree.flush(node)

    def rename(self, old: Path, new: Path) -> None:
        self._begin("rename", old)
        with self._lock:
            removed, added = self._place(old), self._place(new)
            super().rename(old, new)
            if removed is not None:
                self._tree.change(removed.directory.seen[removed.name], removed, added)

    def remove(self, path: Path) -> None:
        self._begin("remove", path)
        with self._lock:
            place = self._place(path)
            size = 0 if path.is_dir() else path.stat().st_size
            super().remove(path)
            if place is not None:
                self._tree.change(place.directory.seen[place.name], removed=place)
            if self.room_bytes is not None:
                self.room_bytes += size

    def make_directory(self, path: Path) -> None:
        self._begin("make_directory", path)
        with self._lock:
            place = self._place(path)
            super().make_directory(path)
            if place is not None:
                self._tree.change(DirectoryNode(), added=place)

    def free_bytes(self, path: Path) -> int:
        return super().free_bytes(path) if self.room_bytes is None else self.room_bytes

    def close(self, fd: int) -> None:
        with self._lock:
            self._open.pop(fd, None)
        super().close(fd)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _begin(self, operation: str, path: Path | None) -> _Fault | None:
        if self.before is not None:
            self.before(operation, path)
        with self._lock:
            self.calls[operation] += 1
            count = self.calls[operation]
            fault = next((f for f in self._faults.get(operation, ()) if f.first <= count <= f.last), None)
        if fault is not None and fault.error is not None:
            raise OSError(fault.error, os.strerror(fault.error))
        return fault

    def _take_room(self, size_bytes: int) -> None:
        if self.room_bytes is None:
            return
        if size_bytes > self.room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room_bytes -= size_bytes

    def _directory(self, path: Path) -> DirectoryNode | None:
        """The directory in the model; None outside of the root."""
        if not path.is_relative_to(self.root):
            return None
        node, at = self._tree.root, self.root
        for name in path.relative_to(self.root).parts:
            at /= name
            if name not in node.seen:
                _adopt(node, name, at)
            found = node.seen[name]
            assert isinstance(found, DirectoryNode), f"{at} is a file"
            node = found
        return node

    def _place(self, path: Path) -> Place | None:
        """The entry of `path`; one that others made is taken in."""
        directory = self._directory(path.parent) if path != self.root else None
        if directory is None:
            return None
        if path.name not in directory.seen and path.exists():
            _adopt(directory, path.name, path)
        elif path.name in directory.seen and not path.exists():
            del directory.seen[path.name]  # others removed it; the disk may still have it
        return Place(directory, path.name)


def _adopt(directory: DirectoryNode, name: str, path: Path) -> None:
    directory.seen[name] = directory.kept[name] = node_of(path)
