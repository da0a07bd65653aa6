"""Giving up the beginning of a log, and whole logs: oldest first, so that what is left is always an end without a hole.

What may go is the caller's to know: rows that are in ClickHouse, are below every floor that a recovery may begin with,
and records whose state a snapshot has.
"""

from __future__ import annotations

from pathlib import Path

from proxist.failpoints import reach
from proxist.model.ids import Epoch
from proxist.wal.chain import GONE_SUFFIX, accepted_path, list_segments, log_directory
from proxist.wal.volume import Volume


def remove_segments(log_dir: Path | str, below_segment: int, volume: Volume) -> int:
    """Give up the log's segments numbered below `below_segment`, never its newest. Returns how many.

    Each is gone on disk before the next one goes, so a crash in between leaves a log that begins later, and calling
    again goes on. Readers of such a segment are told (`LogReader.read`). Raises OSError where the disk fails.
    """
    removed = 0
    for number, path in list_segments(log_dir)[:-1]:
        if number >= below_segment:
            break
        _retire(path, volume)
        removed += 1
    return removed


def remove_log(shard_dir: Path | str, epoch: Epoch, volume: Volume) -> None:
    """Give up a whole log that is sealed, with the decision beside it. It exists wholly or not at all after a crash; what
    a crash left of its files goes with `remove_gone`. Raises OSError where the disk fails."""
    log_dir = log_directory(shard_dir, epoch)
    gone = log_dir.with_name(log_dir.name + GONE_SUFFIX)
    if log_dir.exists():
        reach("wal.remove.before")
        volume.files.rename(log_dir, gone)
        volume.files.sync_directory(gone.parent)
        reach("wal.remove.after")
    remove_gone(shard_dir, volume)


def remove_gone(shard_dir: Path | str, volume: Volume) -> None:
    """Remove the files of logs that were given up, with the decisions beside them. Raises OSError where the disk fails."""
    for left in sorted(Path(shard_dir).glob(f"*{GONE_SUFFIX}")):
        for _, path in list_segments(left):
            volume.retire(path)
        decision = accepted_path(left.with_suffix(""))
        if decision.exists():
            volume.files.remove(decision)
        volume.files.remove(left)  # last: it is what says that there is something to remove


def _retire(path: Path, volume: Volume) -> None:
    reach("wal.remove.before")
    volume.retire(path)
    reach("wal.remove.after")
