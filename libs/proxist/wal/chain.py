"""Where logs lie: `<data_dir>/wal/<shard>/<epoch>/<segment>.wal`, decimal numbers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from proxist.model.ids import Epoch, LogId, ShardId

SEGMENT_SUFFIX = ".wal"
UNFINISHED_SUFFIX = ".new"
"""A log under creation is a directory `<epoch>.new`; it holds no row, and the next creation of it removes it."""
GONE_SUFFIX = ".gone"
"""A log that was given up is a directory `<epoch>.gone` until its files are."""
ACCEPTED_SUFFIX = ".accepted"
"""`<epoch>.accepted` beside a damaged log: an operator's decision to go on without what it lost."""


class LogPath(NamedTuple):
    epoch: Epoch
    path: Path


def shard_directory(data_dir: Path | str, shard: ShardId) -> Path:
    """The directory of a shard's logs."""
    return Path(data_dir) / "wal" / str(shard)


def log_directory(shard_dir: Path | str, epoch: Epoch) -> Path:
    return Path(shard_dir) / str(epoch)


def accepted_path(log_dir: Path) -> Path:
    """Where an operator's decision about the log stands, if there is one."""
    return log_dir.with_name(log_dir.name + ACCEPTED_SUFFIX)


def segment_path(log_dir: Path, segment: int) -> Path:
    return log_dir / f"{segment:08d}{SEGMENT_SUFFIX}"


def list_shards(data_dir: Path | str) -> list[ShardId]:
    """Shards that have a directory here, ascending."""
    root = Path(data_dir) / "wal"
    return sorted(ShardId(int(p.name)) for p in _numbered(root))


def list_logs(shard_dir: Path | str) -> list[LogPath]:
    """The shard's chain on this disk: its logs, oldest (lowest epoch) first. Empty where there is no directory."""
    return sorted(LogPath(Epoch(int(p.name)), p) for p in _numbered(Path(shard_dir)))


def list_segments(log_dir: Path | str) -> list[tuple[int, Path]]:
    """(segment number, path), ascending. A gap in the numbers is for the caller to judge."""
    found = Path(log_dir).glob(f"*{SEGMENT_SUFFIX}")
    return sorted((int(p.stem), p) for p in found if p.stem.isdecimal())


def _numbered(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [p for p in root.iterdir() if p.name.isdecimal() and p.is_dir()]


def log_of_path(log_dir: Path) -> LogId | None:
    """The log that `<shard>/<epoch>` names; None where the directory has other names (a copy for inspection)."""
    if log_dir.name.isdecimal() and log_dir.parent.name.isdecimal():
        return LogId(int(log_dir.parent.name) << 24 | int(log_dir.name))
    return None
