"""Snapshots on disk: what a shard's log above a floor does not say, in checked files (docs/formats/snapshot.md).

A snapshot is a directory that is made under another name, flushed, renamed, and read back before it counts. A bad one is
passed over by whoever looks for a good one, and never changes anything else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import pyarrow as pa

from proxist.failpoints import reach
from proxist.hot.boundaries import HotCarried
from proxist.model.ids import Epoch, Offset, ShardId, TableId, TimeNs
from proxist.wal.files import Files, make_directories, remove_tree, write_all

FORMAT_VERSION = 1
KEPT = 3
"""Good snapshots that are kept, and without which no log is shortened."""
MANIFEST = "manifest.json"
BOUNDARY = "boundary.arrow"
_UNFINISHED = ".new"
_READ_BYTES = 2**20

Part = tuple[pa.Schema, Iterable[pa.RecordBatch]]


class BadSnapshot(Exception):
    """A snapshot that must not be used; the message says which and why."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(f"Snapshot {path} is not used: {cause}.")
        self.path, self.cause = path, cause


class Position(NamedTuple):
    """The point in a shard's logs that a state is of: every record before it is in the state, none after it."""

    epoch: Epoch
    records: int
    segment: int
    end: Offset


class Cuts(NamedTuple):
    """The cut batches that the owner knew: their ends with the epochs of their rows, and where the first one begins."""

    start: Offset
    ends: tuple[Offset, ...] = ()
    epochs: tuple[Epoch, ...] = ()

    def above(self, offset: Offset) -> Cuts:
        """Those of rows at or above `offset`, where a log begins."""
        kept = [at for at, end in enumerate(self.ends) if end > offset]
        start = max(offset, self.start)
        return Cuts(start, tuple(self.ends[at] for at in kept), tuple(self.epochs[at] for at in kept))


class FileSum(NamedTuple):
    bytes: int
    crc32c: int


@dataclass(frozen=True)
class Manifest:
    """What a snapshot is of, and what its files must be."""

    table_id: TableId
    shard: ShardId
    schema_version: int
    start: Offset
    complete: bool
    floor: Offset
    persisted: Offset
    """Below `floor` where rows between the two are in log files only. The log's own marks may be newer."""
    t_persisted: TimeNs | None
    persisted_time_max: TimeNs | None
    """No row below `persisted` has a later time; None where there is no such row."""
    evicted_time_max: TimeNs | None
    position: Position
    cuts: Cuts
    created_ns: int
    """Wall clock, ns since 1970."""
    files: Mapping[str, FileSum] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The one text of this manifest: a file that differs from it anywhere is damaged."""
        body = {"format": FORMAT_VERSION, **asdict(self)}
        body["position"] = self.position._asdict()
        body["cuts"] = self.cuts._asdict()
        body["files"] = {name: found._asdict() for name, found in self.files.items()}
        covered = _text(body)
        return _text({"crc32c": google_crc32c.value(covered), "manifest": body}) + b"\n"


@dataclass(frozen=True)
class Snapshot:
    """A snapshot whose files were all found to be what its manifest says."""

    path: Path
    number: int
    manifest: Manifest

    @property
    def bytes(self) -> int:
        """What its files take on disk, the manifest included."""
        return sum(found.bytes for found in self.manifest.files.values()) + len(self.manifest.to_bytes())

    def batches(self, name: str) -> Iterator[pa.RecordBatch]:
        """The record batches of one of its files, none where it has no such file. Raises BadSnapshot where the file
        cannot be read."""
        if name not in self.manifest.files:
            return
        path = self.path / name
        try:
            with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
                for at in range(reader.num_record_batches):
                    yield reader.get_batch(at)
        except (OSError, pa.ArrowInvalid) as error:
            raise BadSnapshot(path, f"it cannot be read ({error})") from None

    def hot(self) -> HotCarried:
        """What `HotSet.create` goes on from. Raises BadSnapshot as `batches` does."""
        told = self.manifest
        return HotCarried(
            start=told.start,
            complete=told.complete,
            floor=told.floor,
            persisted=told.persisted,
            t_persisted=told.t_persisted,
            persisted_time_max=told.persisted_time_max,
            boundary=tuple(self.batches(BOUNDARY)),
        )


def snapshot_directory(data_dir: Path | str, shard: ShardId) -> Path:
    """Where the snapshots of a shard lie."""
    return Path(data_dir) / "snapshots" / str(shard)


def list_snapshots(directory: Path) -> list[tuple[int, Path]]:
    """(number, path) of every finished snapshot, good or not, newest first."""
    if not directory.is_dir():
        return []
    found = [(int(path.name), path) for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(found, reverse=True)


def good_snapshots(directory: Path, table_id: TableId, shard: ShardId) -> Iterator[Snapshot | BadSnapshot]:
    """The snapshots of a shard, newest first, each checked when it is its turn: good, or why it is not."""
    for _, path in list_snapshots(directory):
        try:
            found = read_snapshot(path)
            if (found.manifest.table_id, found.manifest.shard) != (table_id, shard):
                raise BadSnapshot(path, f"it is of table {found.manifest.table_id}, shard {found.manifest.shard}")
            yield found
        except BadSnapshot as bad:
            yield bad


def read_snapshot(path: Path) -> Snapshot:
    """Check every byte of a snapshot. Raises BadSnapshot."""
    manifest = _read_manifest(path)
    for name, wanted in manifest.files.items():
        found = _sum_of(path / name)
        if found != wanted:
            raise BadSnapshot(path / name, f"it has {_told(found)}, but its manifest says {_told(wanted)}")
    return Snapshot(path, int(path.name), manifest)


def write_snapshot(directory: Path, manifest: Manifest, parts: Mapping[str, Part], files: Files) -> Snapshot:
    """Write `parts` (file name → schema and record batches) and the manifest as the next snapshot of `directory`.

    True on return: it is on disk under its name and was read back. Memory: one record batch. Raises OSError, or
    BadSnapshot where what was read back is not what was written; then there is no new snapshot.
    """
    make_directories(directory, files)
    number = max((number for number, _ in list_snapshots(directory)), default=0) + 1
    finished = directory / str(number)
    building = directory / f"{number}{_UNFINISHED}"
    _remove_unfinished(directory, files)
    files.make_directory(building)
    try:
        reach("snapshot.write.before")
        sums = {name: _write_arrow(building / name, schema, rows, files) for name, (schema, rows) in parts.items()}
        _write_file(building / MANIFEST, replace(manifest, files=sums).to_bytes(), files)
        files.sync_directory(building)
        reach("snapshot.rename.before")
        files.rename(building, finished)
    except BaseException:
        _forget(building, files)
        raise
    reach("snapshot.rename.after")
    files.sync_directory(directory)
    try:
        written = read_snapshot(finished)
    except BadSnapshot:
        _forget(finished, files)
        raise
    reach("snapshot.good")
    return written


def drop_snapshots(directory: Path, below: int, files: Files) -> None:
    """Remove the snapshots with a number below `below`, and what was left unfinished. Raises OSError."""
    _remove_unfinished(directory, files)
    for number, path in list_snapshots(directory):
        if number < below:
            reach("snapshot.drop.before")
            # First its name: half of a snapshot under its name would be looked at, and called damaged.
            gone = path.with_name(f"{number}{_UNFINISHED}")
            files.rename(path, gone)
            remove_tree(files, gone)
    files.sync_directory(directory)
    reach("snapshot.drop.after")


class _Sink(io.RawIOBase):
    """Where Arrow writes a file: through `files`, counted and summed."""

    def __init__(self, files: Files, fd: int) -> None:
        self._files, self._fd = files, fd
        self.size = self.crc = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        taken = bytes(data)
        write_all(self._files, self._fd, [taken], self.size)
        self.size += len(taken)
        self.crc = google_crc32c.extend(self.crc, taken)
        return len(taken)

    def tell(self) -> int:
        return self.size


def _write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], files: Files) -> FileSum:
    fd = files.create(path, 0)
    try:
        sink = _Sink(files, fd)
        with pa.ipc.new_file(pa.PythonFile(sink, "w"), schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        files.datasync(fd)
    finally:
        files.close(fd)
    return FileSum(sink.size, sink.crc)


def _write_file(path: Path, content: bytes, files: Files) -> None:
    fd = files.create(path, 0)
    try:
        write_all(files, fd, [content], 0)
        files.datasync(fd)
    finally:
        files.close(fd)


def _sum_of(path: Path) -> FileSum:
    size = crc = 0
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_READ_BYTES):
                size += len(chunk)
                crc = google_crc32c.extend(crc, chunk)
    except OSError as error:
        raise BadSnapshot(path, f"it cannot be read ({error.strerror})") from None
    return FileSum(size, crc)


def _told(found: FileSum) -> str:
    return f"{found.bytes} bytes with checksum {found.crc32c:#010x}"


def _read_manifest(path: Path) -> Manifest:
    try:
        raw = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BadSnapshot(path, f"its manifest cannot be read ({error.strerror})") from None
    try:
        body = json.loads(raw)["manifest"]
        version = body.pop("format")
        if version != FORMAT_VERSION:
            raise BadSnapshot(path, f"its format is {version}, this Proxist reads {FORMAT_VERSION}")
        manifest = Manifest(
            **{
                **body,
                "position": Position(**body["position"]),
                "cuts": Cuts(body["cuts"]["start"], tuple(body["cuts"]["ends"]), tuple(body["cuts"]["epochs"])),
                "files": {name: FileSum(**found) for name, found in body["files"].items()},
            }
        )
        sound = manifest.to_bytes() == raw
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise BadSnapshot(path, "its manifest is damaged")
    return manifest


def _text(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _remove_unfinished(directory: Path, files: Files) -> None:
    for path in directory.glob(f"*{_UNFINISHED}"):
        remove_tree(files, path)


def _forget(path: Path, files: Files) -> None:
    """Remove what must not stay; a failure here leaves what the next snapshot removes, or finds bad."""
    try:
        remove_tree(files, path)
    except OSError:
        return
