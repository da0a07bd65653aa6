"""What a recovery that goes on from a snapshot needs of each log of the shard, and how an operator decides to go on
without any snapshot."""

from __future__ import annotations

from pathlib import Path

from proxist.hot.snapshots import Manifest
from proxist.model.ids import Epoch, Offset
from proxist.wal.mark import LogBegin


def needed_of(manifest: Manifest, epoch: Epoch) -> LogBegin | None:
    """None: all of that log. Rows are needed from the floor on, or from persisted where that is lower (rows between the
    two are in log files only); of the log that the snapshot was taken in, the records from its position on too."""
    position = manifest.position
    if epoch > position.epoch:
        return None
    offset = min(manifest.floor, manifest.persisted, position.end)
    return LogBegin(Offset(offset), position.records if epoch == position.epoch else None)


def accepted_without(directory: Path, first: Offset) -> Path:
    """The file that says: an operator goes on without the snapshots of `directory`, with logs that begin at `first`."""
    return directory / f"accept-loss-{first}"
