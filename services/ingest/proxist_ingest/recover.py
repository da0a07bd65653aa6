"""From the files of a shard on this disk to an open shard's state: rows in memory, producers, bounds, a new log.

Nothing here accepts rows. The order of an opening is the one of `proxist.etcd.shards`: recover, create the local log of
the epoch that will be taken, take it in etcd, then accept. So a log that etcd names always exists on the disk, and one
that is missing is loss.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from proxist.errors import LogCorrupt, Overloaded
from proxist.etcd.records import LogRecord, ShardRecord
from proxist.hot.snapshots import BadSnapshot, snapshot_directory
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import Table
from proxist.wal import (
    SEGMENT_BYTES,
    LogBegin,
    LogMark,
    LogWriter,
    RecordKind,
    RecoveredLog,
    Volume,
    list_logs,
    recover_log,
    segments,
    shard_directory,
)
from proxist.wal.chain import UNFINISHED_SUFFIX
from proxist_ingest.base import Base, bases, usable_logs
from proxist_ingest.bounds import Bounds
from proxist_ingest.carried import Carried
from proxist_ingest.replay import Meter, Progress, Replay
from proxist_ingest.snapshotting import Behind

log = structlog.get_logger("proxist.ingest.recover")


@dataclass(frozen=True, slots=True)
class SealedLog:
    """A log of the chain that followers may read: all of it is on disk."""

    path: Path
    mark: LogMark


@dataclass(frozen=True)
class RecoveredShard:
    """What recovery made of a shard's logs; its rows are in `hot`, published. The caller owns `hot`."""

    hot: HotSet
    carried: Carried
    sealed: dict[Epoch, SealedLog]
    newest: Epoch | None
    end: Offset
    """Where the newest log is to be sealed and the next one begins."""
    behind: Behind


def recover_shard(
    data_dir: Path, table: Table, record: ShardRecord, epoch: Epoch, persisted: Offset, progress: Progress
) -> RecoveredShard:
    """The newest good snapshot of the shard, and what its logs say since, as a hot set for `epoch`.

    `persisted` is etcd's mark, a lower bound. Each log is read once. Changes nothing on disk but that it removes logs that
    were never opened. Raises LogCorrupt where promised rows are missing, a log included, where a hole in the logs would give
    up sound rows that ClickHouse lacks, and where no good snapshot is left for logs that were shortened.
    """
    _remove_unopened(shard_directory(data_dir, record.shard), record)
    for base in bases(data_dir, table, record, persisted):
        hot_bytes = table.spec.hot_bytes // len(table.shard_ids)
        while True:
            try:
                return _recover_from(base, data_dir, table, record, epoch, persisted, hot_bytes, progress)
            except _Hole as hole:
                base = replace(base, hole=(hole.log_dir, hole.end))
            except BadSnapshot as bad:
                persisted = max(persisted, base.persisted)  # what it says of ClickHouse stands
                log.warning("a snapshot is passed over", shard=record.shard, snapshot=str(bad.path), cause=bad.cause)
                break
            except Overloaded:
                # The rows were accepted, so they must fit: other marks at the time had packed them more tightly.
                hot_bytes *= 2
                log.warning(
                    "more memory than `hot_bytes` is needed for the replay", shard=record.shard, bytes=hot_bytes
                )
    raise AssertionError("the last base uses no snapshot")


def _recover_from(
    base: Base,
    data_dir: Path,
    table: Table,
    record: ShardRecord,
    epoch: Epoch,
    persisted: Offset,
    hot_bytes: int,
    progress: Progress,
) -> RecoveredShard:
    here = dict(list_logs(shard_directory(data_dir, record.shard)))
    wanted = _wanted(base, record, here, max(persisted, base.persisted))
    carried = base.carried(table)
    hot = base.hot_set(table, epoch, hot_bytes)
    try:
        total_bytes = sum(one.bytes for _, path, _ in wanted for one in segments(path))
        meter = Meter(f"shard {record.shard} of {table.name}", total_bytes, progress)
        logs = []
        with Replay(table, base, hot, carried, max(persisted, carried.persisted), meter) as replay:
            for entry, path, begin in wanted:
                found = _replay_log(replay, entry, path, begin, persisted, record)
                logs.append(found)
                _check_hole(found, entry, hot)
        meter.done()
        end = logs[-1].seal_at if logs else usable_logs(record)[0]
        base.check(logs, end, replay.persisted)
        if base.hole is not None:
            replay.persisted = max(replay.persisted, base.begin)
        hot.set_persisted(Offset(min(replay.persisted, hot.marks().end)))
        _settle(carried.bounds, replay.persisted, wanted)
    except BaseException:
        hot.close()
        raise
    sealed = {one.epoch: SealedLog(one.log_dir, one.mark) for one in logs}
    newest = logs[-1].epoch if logs else None
    carried = replace(carried, persisted=replay.persisted)
    return RecoveredShard(hot, carried, sealed, newest, end, Behind(base.snapshot, total_bytes))


def _wanted(
    base: Base, record: ShardRecord, here: dict[Epoch, Path], persisted: Offset
) -> list[tuple[LogRecord, Path, LogBegin]]:
    """The logs that must be read, oldest first, and from where on each."""
    wanted = []
    for entry in usable_logs(record)[1]:
        begin, path = base.needs(entry, persisted), here.get(entry.epoch)
        if begin is None:
            continue
        if path is None:
            _check_dispensable(record, entry)
        else:
            wanted.append((entry, path, begin))
    return wanted


def _replay_log(
    replay: Replay, entry: LogRecord, path: Path, begin: LogBegin, persisted: Offset, record: ShardRecord
) -> RecoveredLog:
    newest = entry is record.logs[-1]
    replay.begin(entry.epoch)
    found = recover_log(
        path, persisted=persisted if newest else 0, sealed_end=entry.end, begin=begin, visit=replay.record
    )
    if found.cut is not None:
        log.warning("a torn tail was cut", path=found.cut.path, position=found.cut.position, end=found.end)
    replay.end(found)
    return found


class _Hole(Exception):
    """The log in `log_dir` lost rows, as an operator accepted, and a later one goes on above them, at `end`."""

    def __init__(self, log_dir: Path, end: Offset) -> None:
        self.log_dir, self.end = log_dir, end


def _check_hole(found: RecoveredLog, entry: LogRecord, hot: HotSet) -> None:
    """Raises _Hole where an accepted loss ends below the place where the shard went on, or will."""
    goes_on = found.seal_at if entry.end is None else entry.end
    if found.lost and hot.appended_end < goes_on:
        raise _Hole(found.log_dir, goes_on)


def _settle(bounds: Bounds, persisted: Offset, wanted: list[tuple[LogRecord, Path, LogBegin]]) -> None:
    """Followers may have every batch that is not persisted, and older ones as far as their rows lie here."""
    bounds.expose(bounds.last)
    bounds.forget_below(persisted)
    if wanted:
        first = segments(wanted[0][1])[0].first
        bounds.forget_gone(Offset(first or 0))


def create_log(
    data_dir: Path,
    table: Table,
    shard: ShardId,
    epoch: Epoch,
    recovered: RecoveredShard,
    *,
    volume: Volume | None = None,
    segment_bytes: int = SEGMENT_BYTES,
) -> LogWriter:
    """The local log of `epoch`, begun with the carried state; on disk on return. Its segments come from `volume`."""
    carry = {
        "predecessor": {"epoch": recovered.newest, "end": recovered.end},
        "persisted": recovered.carried.persisted,
        "floor": recovered.hot.marks().floor,
        "producers": recovered.carried.producers.to_carry(),
    }
    directory = shard_directory(data_dir, shard)
    return LogWriter.create(
        directory,
        shard,
        epoch,
        recovered.end,
        table.id,
        table.spec.schema,
        table.schema_version,
        carry,
        segment_bytes=segment_bytes,
        volume=volume,
    )


def delete_logs(data_dir: Path, shard: ShardId) -> None:
    """Remove every file of a shard whose table was dropped."""
    shutil.rmtree(snapshot_directory(data_dir, shard), ignore_errors=True)
    shutil.rmtree(shard_directory(data_dir, shard), ignore_errors=True)


def _remove_unopened(directory: Path, record: ShardRecord) -> None:
    """Logs above etcd's epoch were created by a start that died before it took that epoch: empty, unless etcd is old."""
    for epoch, path in list_logs(directory):
        if epoch <= record.epoch:
            continue
        found = recover_log(path)
        if found.end > found.start or any(r.kind is RecordKind.ROWS for r in found.records()):
            raise LogCorrupt(
                f"Log {epoch} of shard {record.shard} holds rows [{found.start}, {found.end}), but etcd knows epochs up to "
                f"{record.epoch} only: etcd was set back to an older state. Restore etcd's newer state; nothing was changed.",
                path=str(path),
                cause="etcd is older than the log",
                lost_first=int(found.start),
                lost_end=int(found.end),
            )
        # First its name: half of a log under its name would be damage. The next creation removes what is left.
        unfinished = path.with_name(path.name + UNFINISHED_SUFFIX)
        shutil.rmtree(unfinished, ignore_errors=True)
        path.rename(unfinished)
        shutil.rmtree(unfinished)


def _check_dispensable(record: ShardRecord, entry: LogRecord) -> None:
    if entry.end == entry.start:
        return  # nothing was ever in it
    raise LogCorrupt(
        f"Log {entry.epoch} of shard {record.shard} (rows [{entry.start}, {entry.end if entry.end is not None else 'unknown'})) "
        "is not in this data directory. Bring back the directory that holds it; nothing was changed.",
        cause="missing log",
        shard=record.shard,
        lost_first=int(entry.start),
        lost_end=None if entry.end is None else int(entry.end),
    )
