"""What a recovery needs of each log of a shard, and how an operator decides to go on without what is not there: one rule
for the node and for `pxctl`."""

from __future__ import annotations

from pathlib import Path

from proxist.errors import LogCorrupt
from proxist.hot.snapshots import Manifest
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.wal.decision import read_decision
from proxist.wal.mark import LogBegin


def needed(
    floor: Offset, persisted: Offset, at: tuple[Epoch, int], epoch: Epoch, log_end: Offset | None
) -> LogBegin | None:
    """What is needed of the log of `epoch`, whose rows end at `log_end` (None: open), by a recovery whose memory begins
    at `floor`: rows from there on, or from `persisted` where that is lower (rows between the two are in log files only),
    and records from number `at[1]` of log `at[0]` on. None: nothing."""
    offset = min(floor, persisted)
    if epoch >= at[0]:
        return LogBegin(offset, at[1] if epoch == at[0] else 0)
    return LogBegin(offset, None) if log_end is None or log_end > offset else None


def needed_of(manifest: Manifest, epoch: Epoch, log_end: Offset | None) -> LogBegin | None:
    """The same, by a recovery that goes on from a snapshot and knows of no newer mark."""
    position = manifest.position
    return needed(manifest.floor, manifest.persisted, (position.epoch, position.records), epoch, log_end)


def accepted_without(directory: Path, first: Offset) -> Path:
    """The file that says: an operator goes on without the snapshots of `directory`, with logs that begin at `first`."""
    return directory / f"accept-loss-{first}"


def gives_up(log_dir: Path, persisted: Offset, end: Offset) -> LogCorrupt | None:
    """The error of a shard that lost rows of a sealed log, while a later log goes on at `end`: neither memory nor
    followers can have a hole, so that all rows [persisted, end) would be given up, those that can be read too. None
    where an operator's decision covers them all, and where there are none."""
    decision = read_decision(log_dir)
    accepted = () if decision is None else decision.lost
    if persisted >= end or any(first <= persisted and until >= end for first, until in accepted):
        return None
    return _refused(
        log_dir,
        f"Log {log_dir} lost rows, and a later log goes on at offset {end}. To go on gives up all rows from offset "
        f"{persisted} up to {end} (exclusive), those that can still be read too: they were acknowledged, and are not in "
        "ClickHouse as far as is known.",
        "rows before a hole are not persisted",
        (persisted, end),
    )


def ends_before(log_dir: Path, manifest: Manifest, records: int, end: Offset) -> LogCorrupt:
    """The error of a shard whose log, of `records` records, is shorter than a snapshot that was taken of records on disk;
    `end`: of the shard."""
    position = manifest.position
    return _refused(
        log_dir,
        f"A snapshot is of {position.records} records of log {log_dir} and rows up to {promised_of(manifest)}, which were "
        f"on disk; the log has {records} records, and the shard ends at {end}.",
        "the log ends before a snapshot of it",
        (end, max(end, promised_of(manifest))),
    )


def promised_of(manifest: Manifest) -> Offset:
    """Rows below it were on disk when the snapshot was taken."""
    return max(manifest.floor, manifest.position.end)


def is_overtaken(log_dir: Path, manifest: Manifest) -> bool:
    """Whether an operator accepted that the log the snapshot was taken in (`log_dir`) ends before it: the snapshot knows
    of rows that are given up, so none goes on from it."""
    decision = read_decision(log_dir)
    return decision is not None and (
        decision.records < manifest.position.records or decision.end < manifest.position.end
    )


def _refused(log_dir: Path, what: str, cause: str, lost: tuple[Offset, Offset]) -> LogCorrupt:
    shard, epoch = ShardId(int(log_dir.parent.name)), Epoch(int(log_dir.name))
    command = f"pxctl wal repair {log_dir.parents[2]} --shard {shard} --epoch {epoch} --accept-loss"
    return LogCorrupt(
        f"{what} Nothing was changed; restore the files of the log from a copy, or go on without: `{command}`.",
        cause=cause,
        shard=shard,
        epoch=epoch,
        path=str(log_dir),
        lost_first=int(lost[0]),
        lost_end=int(lost[1]),
        command=command,
    )
