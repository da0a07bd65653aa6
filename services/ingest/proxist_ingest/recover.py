"""From the logs of a shard on this disk to an open shard's state: rows in memory, producers, bounds, a new log.

Nothing here accepts rows. The order of an opening is the one of `proxist.etcd.shards`: recover, create the local log of
the epoch that will be taken, take it in etcd, then accept. So a log that etcd names always exists on the disk, and one
that is missing is loss.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import structlog

from proxist.errors import LogCorrupt, Overloaded
from proxist.etcd.records import LogRecord, ShardRecord
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import Table
from proxist.wal import Files, LogMark, LogWriter, RecordKind, RecoveredLog, list_logs, recover_log, shard_directory
from proxist_ingest.bounds import Bounds
from proxist_ingest.commit import Carried
from proxist_ingest.logtail import LogTail
from proxist_ingest.producers import Original, Producers
from proxist_ingest.residency import Residency, concat
from proxist_ingest.seqdedup import SeqDedup

REPLAY_ROWS = 65_536
"""Rows per step of a replay: one kernel call for many small records."""

log = structlog.get_logger("proxist.ingest.recover")
Progress = Callable[[str], None]


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


def recover_shard(
    data_dir: Path, table: Table, record: ShardRecord, epoch: Epoch, persisted: Offset, progress: Progress
) -> RecoveredShard:
    """Read every log of the shard that lies here, oldest first, into a hot set for `epoch`.

    `persisted` is etcd's mark, a lower bound. Raises LogCorrupt where promised rows are missing, a log included.
    """
    directory = shard_directory(data_dir, record.shard)
    _remove_unopened(directory, record)
    begin, logs = _recovered_logs(directory, record, persisted)
    end = logs[-1].seal_at if logs else begin
    persisted = Offset(max([persisted, begin, *(one.persisted for one in logs)]))
    hot_bytes = table.spec.hot_bytes // len(table.shard_ids)
    while True:
        try:
            hot, carried = _replay(table, record.shard, epoch, begin, logs, persisted, hot_bytes, progress)
            break
        except Overloaded:
            # The rows were accepted, so they must fit: other marks at the time had packed them more tightly.
            log.warning(
                "more memory than `hot_bytes` is needed for the replay", shard=record.shard, bytes=2 * hot_bytes
            )
            hot_bytes *= 2
    sealed = {one.epoch: SealedLog(one.log_dir, one.mark) for one in logs}
    return RecoveredShard(hot, carried, sealed, logs[-1].epoch if logs else None, end)


def create_log(
    data_dir: Path,
    table: Table,
    shard: ShardId,
    epoch: Epoch,
    recovered: RecoveredShard,
    *,
    files: Files | None = None,
) -> LogWriter:
    """The local log of `epoch`, begun with the carried state; on disk on return. Tests pass `files` that fail."""
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
        files=files,
    )


def delete_logs(data_dir: Path, shard: ShardId) -> None:
    """Remove every file of a shard whose table was dropped."""
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
        shutil.rmtree(path)


def _recovered_logs(directory: Path, record: ShardRecord, persisted: Offset) -> tuple[Offset, list[RecoveredLog]]:
    """Where the rows begin that lie here, and the logs from there on, oldest first.

    Rows of an abandoned log are in ClickHouse alone, so what lies here begins after the newest of those.
    """
    here = dict(list_logs(directory))
    begin = record.logs[0].start if record.logs else Offset(0)
    logs: list[RecoveredLog] = []
    for entry in record.logs:
        path = here.get(entry.epoch)
        if entry.state == "abandoned":
            begin, logs = Offset(entry.end or 0), []
        elif path is None:
            _check_dispensable(record, entry)
        else:
            newest = entry is record.logs[-1]
            found = recover_log(path, persisted=persisted if newest else 0, sealed_end=entry.end)
            if found.cut is not None:
                log.warning("a torn tail was cut", path=found.cut.path, position=found.cut.position, end=found.end)
            logs.append(found)
    return begin, logs


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


def _replay(
    table: Table,
    shard: ShardId,
    epoch: Epoch,
    start: Offset,
    logs: list[RecoveredLog],
    persisted: Offset,
    hot_bytes: int,
    progress: Progress,
) -> tuple[HotSet, Carried]:
    hot = HotSet.create(table.spec, shard, epoch, start, tenant=table.tenant, hot_bytes=hot_bytes)
    try:
        dedup = SeqDedup(table.spec) if table.spec.dedup == "seq" else None
        replay = _Replay(table, shard, hot, Producers(table.name), dedup, Bounds(start), persisted, progress)
        for one in logs:
            replay.log(one)
    except BaseException:
        hot.close()
        raise
    replay.bounds.expose(replay.bounds.last)
    replay.bounds.forget_below(persisted)
    return hot, Carried(replay.producers, dedup, replay.bounds, persisted)


class _Replay:
    """Rows of one shard on their way from its logs into its hot set, and what they say beside."""

    def __init__(
        self,
        table: Table,
        shard: ShardId,
        hot: HotSet,
        producers: Producers,
        dedup: SeqDedup | None,
        bounds: Bounds,
        persisted: Offset,
        progress: Progress,
    ) -> None:
        self.producers = producers
        self.bounds = bounds
        self._hot = hot
        self._dedup = dedup
        self._persisted = persisted
        self._residency = Residency(table, shard, hot, LogTail(Path(), lambda: hot.appended_end))
        self._progress = progress
        self._subject = f"shard {shard} of {table.name}"
        self._waiting: list[tuple[Offset, pa.RecordBatch]] = []
        self._waiting_rows = 0

    def log(self, one: RecoveredLog) -> None:
        """Every record of one log, in order."""
        self.producers.load_carry(one.carry.get("producers", {}))
        arrived_ns = 0
        for record in one.records():
            if record.kind is RecordKind.CUT:
                self.bounds.cut(one.epoch, record.bound)
            elif record.kind is RecordKind.ROWS:
                original = Original(one.epoch, record.first, record.end, 0)
                if record.producer is not None:
                    self.producers.accept(record.producer, record.batch_number, record.content_hash, original)
                if record.rows:
                    arrived_ns = record.arrived_ns
                    self._add(record.first, record.batch(one.schema), arrived_ns)
        self._flush(arrived_ns)
        # A sealed log ends its last batch: batches never span logs, whose rows differ in `_log`.
        self.bounds.cut(one.epoch, one.end)
        self._progress(f"{self._subject}: replayed log {one.epoch}, rows [{one.start}, {one.end})")

    def _add(self, first: Offset, rows: pa.RecordBatch, arrived_ns: int) -> None:
        if self._dedup is not None:
            self._dedup.accept(rows)
        self._waiting.append((first, rows))
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= REPLAY_ROWS:
            self._flush(arrived_ns)

    def _flush(self, arrived_ns: int) -> None:
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        if not waiting:
            return
        together = concat([rows for _, rows in waiting])
        if self._residency.room(together):
            self._append(waiting[0][0], together, arrived_ns)
            return
        for first, rows in waiting:  # one by one they take the room that the ones before leave
            if not self._residency.room(rows):
                raise Overloaded(f"The rows of {self._subject} do not fit into its memory.")
            self._append(first, rows, arrived_ns)

    def _append(self, first: Offset, rows: pa.RecordBatch, arrived_ns: int) -> None:
        end = self._hot.append(rows, first, arrived_ns)
        self._hot.publish(end)
        self._hot.set_persisted(Offset(min(self._persisted, end)))
