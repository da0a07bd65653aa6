"""A model of what a disk may hold after a loss of power: every state that POSIX allows, not only the likely ones.

What was flushed is there. Of what was not, any sector may have arrived, in any of its versions, in any order; any new
directory entry may be missing and any removed one may be back, but a rename is whole. A file that was never flushed may
be empty, or have its size and no content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import NamedTuple

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""
_ARRIVING = (0.0, 0.5, 0.9, 1.0)
"""How much of what was not flushed arrived; drawn for each file and for the directory entries."""


class FileNode:
    """A file: what the process sees of it, what is on disk for sure, and what may be."""

    def __init__(self, size_bytes: int = 0) -> None:
        self.size_bytes = size_bytes
        self._seen: dict[int, bytes] = {}
        self._kept: dict[int, bytes] = {}
        self._kept_bytes: int | None = None
        self._pending: dict[int, list[bytes]] = {}
        self._adrift: dict[int, list[bytes]] = {}

    @classmethod
    def of(cls, path: Path) -> FileNode:
        """The file at `path`, all of it flushed."""
        node = cls()
        node.write(0, path.read_bytes())
        node.flush()
        return node

    def write(self, position: int, data: bytes) -> None:
        self.size_bytes = max(self.size_bytes, position + len(data))
        while data:
            sector, at = divmod(position, SECTOR_BYTES)
            piece, data = data[: SECTOR_BYTES - at], data[SECTOR_BYTES - at :]
            old = self._seen.get(sector, bytes(SECTOR_BYTES))
            self._seen[sector] = old[:at] + piece + old[at + len(piece) :]
            self._pending.setdefault(sector, []).append(self._seen[sector])
            position += len(piece)

    def flush(self) -> None:
        """fdatasync: what was written before is on disk."""
        for sector, versions in self._pending.items():
            self._kept[sector] = versions[-1]
            self._adrift.pop(sector, None)
        self._pending.clear()
        self._kept_bytes = self.size_bytes

    def flush_failed(self) -> None:
        """fdatasync that failed: the kernel calls the pages clean, so no later flush writes them either."""
        for sector, versions in self._pending.items():
            self._adrift.setdefault(sector, []).extend(versions)
        self._pending.clear()

    def materialise(self, path: Path, random: Random) -> None:
        """Write to `path` one of the states that the disk may be found in."""
        found = dict(self._kept)
        if self._kept_bytes is None and random.random() < 0.2:
            path.write_bytes(b"")
            return
        arriving = random.choice(_ARRIVING)
        for versions in (self._adrift, self._pending):
            for sector, contents in versions.items():
                if random.random() < arriving:
                    found[sector] = contents[-1] if random.random() < 0.7 else random.choice(contents)
        with path.open("wb") as file:
            file.truncate(self.size_bytes)
            for sector, content in found.items():
                file.seek(sector * SECTOR_BYTES)
                file.write(content[: max(self.size_bytes - sector * SECTOR_BYTES, 0)])


class DirectoryNode:
    """A directory: its entries as the process sees them, and those that are on disk for sure."""

    def __init__(self) -> None:
        self.seen: dict[str, Node] = {}
        self.kept: dict[str, Node] = {}


Node = FileNode | DirectoryNode


class Place(NamedTuple):
    """An entry of a directory."""

    directory: DirectoryNode
    name: str


class Change(NamedTuple):
    """One change of directory entries, atomic: `node` is not at `removed` any more, and is at `added`."""

    node: Node
    removed: Place | None
    added: Place | None

    def touches(self, directory: DirectoryNode) -> bool:
        return any(place is not None and place.directory is directory for place in (self.removed, self.added))


class Tree:
    """Directories and files below one root."""

    def __init__(self, root: Path) -> None:
        """What lies under `root` now is on disk."""
        self.root = _directory_of(root)
        self._changes: list[Change] = []

    def change(self, node: Node, removed: Place | None = None, added: Place | None = None) -> None:
        if removed is not None:
            del removed.directory.seen[removed.name]
        if added is not None:
            added.directory.seen[added.name] = node
        self._changes.append(Change(node, removed, added))

    def flush(self, directory: DirectoryNode) -> None:
        """fsync of a directory."""
        flushed = [change for change in self._changes if change.touches(directory)]
        self._changes = [change for change in self._changes if not change.touches(directory)]
        _apply(flushed, lambda directory: directory.kept)

    def materialise(self, root: Path, random: Random) -> None:
        """Write to `root`, which must not exist, one of the states that the disk may be found in."""
        entries: dict[DirectoryNode, dict[str, Node]] = {}
        _apply(self._arrived(random), lambda directory: entries.setdefault(directory, dict(directory.kept)))
        waiting = [(self.root, root)]
        while waiting:
            directory, path = waiting.pop()
            path.mkdir(parents=True)
            for name, node in sorted(entries.get(directory, directory.kept).items()):
                if isinstance(node, DirectoryNode):
                    waiting.append((node, path / name))
                else:
                    node.materialise(path / name, random)

    def _arrived(self, random: Random) -> list[Change]:
        if random.random() < 0.5:  # a journal keeps their order
            return self._changes[: random.randint(0, len(self._changes))]
        arriving = random.choice(_ARRIVING)
        return [change for change in self._changes if random.random() < arriving]


def _apply(changes: Iterable[Change], entries_of: Callable[[DirectoryNode], dict[str, Node]]) -> None:
    for node, removed, added in changes:
        if removed is not None and entries_of(removed.directory).get(removed.name) is node:
            del entries_of(removed.directory)[removed.name]
        if added is not None:
            entries_of(added.directory)[added.name] = node


def _directory_of(path: Path) -> DirectoryNode:
    node = DirectoryNode()
    for entry in path.iterdir():
        node.seen[entry.name] = _directory_of(entry) if entry.is_dir() else FileNode.of(entry)
    node.kept = dict(node.seen)
    return node


def node_of(path: Path) -> Node:
    """What lies at `path`, all of it on disk."""
    return _directory_of(path) if path.is_dir() else FileNode.of(path)
