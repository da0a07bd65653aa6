"""Where a recovery may begin: with the newest good snapshot, with an older one, or with the first row there ever was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from proxist.errors import LogCorrupt
from proxist.etcd.records import LogRecord, ShardRecord
from proxist.hot.needed import accepted_without
from proxist.hot.snapshots import BadSnapshot, Snapshot, good_snapshots, snapshot_directory
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import Table
from proxist.wal import LogBegin, RecoveredLog, list_logs, segments, shard_directory
from proxist_ingest.bounds import Bounds
from proxist_ingest.carried import PRODUCERS_FILE, SEQS_FILE, Carried
from proxist_ingest.producers import Producers
from proxist_ingest.seqdedup import SeqDedup

log = structlog.get_logger("proxist.ingest.base")


@dataclass(frozen=True)
class Base:
    """Rows at or above `floor`, and every record from number `records` of log `epoch` on, come from the logs; what lies
    before them is in `snapshot`, or (None) there is nothing."""

    shard: ShardId
    floor: Offset
    epoch: Epoch
    records: int
    snapshot: Snapshot | None = None
    shortened: bool = False
    """An operator accepted that there is no snapshot, and that the first log begins in its middle."""
    bare: bool = False
    """Memory begins at `floor` with nothing: what lies below it is in ClickHouse, and partly nowhere else."""

    def above(self, offset: Offset) -> Base:
        """The same, with memory from `offset` on: an accepted loss left a hole below it."""
        return replace(self, floor=offset, bare=True)

    def has_to_learn(self, epoch: Epoch, record_number: int) -> bool:
        """Whether what a record says beside its rows is not in the base."""
        return epoch > self.epoch or (epoch == self.epoch and record_number >= self.records)

    def needs(self, entry: LogRecord, persisted: Offset) -> LogBegin | None:
        """What is needed of a log of the chain; None: nothing. Rows from `persisted` on are, by followers."""
        if entry.epoch >= self.epoch:
            records = self.records if entry.epoch == self.epoch else 0
            return LogBegin(self.floor, None if entry.epoch == self.epoch and self.shortened else records)
        has_rows = entry.end is None or entry.end > min(self.floor, persisted)
        return LogBegin(self.floor, None) if has_rows else None

    @property
    def persisted(self) -> Offset:
        """What ClickHouse has for certain."""
        if self.snapshot is not None:
            return self.snapshot.manifest.persisted
        return Offset(0) if self.shortened else self.floor

    def check(self, logs: Sequence[RecoveredLog], end: Offset, persisted: Offset) -> None:
        """Raises LogCorrupt where the logs that were read end before the snapshot, which was taken of records on disk, or
        begin above what ClickHouse has; BadSnapshot where an operator has accepted that loss."""
        if self.snapshot is None:
            if persisted < self.floor:
                raise LogCorrupt(
                    f"Rows [{persisted}, {self.floor}) of shard {self.shard} are neither in its logs nor, as far as is "
                    "known, in ClickHouse. Bring back the files of the log; nothing was changed.",
                    cause="missing rows",
                    shard=self.shard,
                    lost_first=int(persisted),
                    lost_end=int(self.floor),
                )
            return
        position, path = self.snapshot.manifest.position, self.snapshot.path
        records = next((one.mark.records for one in logs if one.epoch == self.epoch), 0)
        if records >= self.records and end >= max(self.floor, position.end):
            return
        if any(one.lost for one in logs):
            raise BadSnapshot(path, "it knows of rows whose loss was accepted")
        raise LogCorrupt(
            f"Snapshot {path} is of {self.records} records of log {self.epoch} and rows up to {position.end}, which were on "
            f"disk; the log has {records} records, and the shard ends at {end}. Bring back the files of the log; or, to go "
            "on without those rows, remove the snapshot. Nothing was changed.",
            cause="the log ends before a snapshot of it",
            shard=self.shard,
            path=str(path),
            lost_first=int(end),
            lost_end=int(max(self.floor, position.end)),
        )

    def hot_set(self, table: Table, epoch: Epoch, hot_bytes: int) -> HotSet:
        """A hot set of `epoch` that has nothing but what the base knows. Raises BadSnapshot, Overloaded."""
        restored = None if self.snapshot is None or self.bare else self.snapshot.hot()
        return HotSet.create(
            table.spec, self.shard, epoch, self.floor, tenant=table.tenant, hot_bytes=hot_bytes, restored=restored
        )

    def carried(self, table: Table) -> Carried:
        """Producers, seqs and cuts as the base knows them. Raises BadSnapshot."""
        producers, dedup = Producers(table.name), SeqDedup(table.spec) if table.spec.dedup == "seq" else None
        if self.snapshot is None:
            return Carried(producers, dedup, Bounds(self.floor), self.persisted)
        for runs in self.snapshot.batches(PRODUCERS_FILE):
            producers.load(runs)
        if dedup is not None:
            if SEQS_FILE not in self.snapshot.manifest.files:
                raise BadSnapshot(self.snapshot.path, f"it has no {SEQS_FILE}, but the table drops repeated seqs")
            for seqs in self.snapshot.batches(SEQS_FILE):
                dedup.load(seqs)
        return Carried(producers, dedup, Bounds.of(self.snapshot.manifest.cuts), self.persisted)


def bases(data_dir: Path, table: Table, record: ShardRecord, persisted: Offset) -> Iterator[Base]:
    """The bases of a shard, best first; a snapshot is read and checked when it is its turn.

    Raises LogCorrupt in the end where nothing good is left and the logs do not go back to the first row.
    """
    directory = snapshot_directory(data_dir, record.shard)
    for found in good_snapshots(directory, table.id, record.shard):
        try:
            yield _of_snapshot(found, record)
        except BadSnapshot as bad:
            log.warning("a snapshot is passed over", shard=record.shard, snapshot=str(bad.path), cause=bad.cause)
    yield _of_logs(data_dir, record, persisted)


def usable_logs(record: ShardRecord) -> tuple[Offset, tuple[LogRecord, ...]]:
    """Where the rows begin that may lie here, and the logs from there on. Rows of an abandoned log are in ClickHouse
    alone, so what lies here begins after the newest of those."""
    begin = record.logs[0].start if record.logs else Offset(0)
    logs = record.logs
    for at, entry in enumerate(record.logs):
        if entry.state == "abandoned":
            begin, logs = Offset(entry.end or 0), record.logs[at + 1 :]
    return begin, logs


def _of_snapshot(found: Snapshot | BadSnapshot, record: ShardRecord) -> Base:
    if isinstance(found, BadSnapshot):
        raise found
    position = found.manifest.position
    if position.epoch not in [entry.epoch for entry in usable_logs(record)[1]]:
        raise BadSnapshot(found.path, f"it is of epoch {position.epoch}, whose log is not of this chain (any more)")
    return Base(record.shard, found.manifest.floor, position.epoch, position.records, found)


def _of_logs(data_dir: Path, record: ShardRecord, persisted: Offset) -> Base:
    """The base for which everything comes from the logs."""
    begin, logs = usable_logs(record)
    first_epoch = logs[0].epoch if logs else Epoch(0)
    whole = Base(record.shard, begin, first_epoch, 0)
    epoch, segment, first = _first_here(shard_directory(data_dir, record.shard), [entry.epoch for entry in logs])
    if first is None or (first <= begin and not segment):
        return whole  # or a log is missing: whoever opens it says so
    directory = snapshot_directory(data_dir, record.shard)
    accepted = accepted_without(directory, first)
    if accepted.exists():
        log.warning("going on without older carried state, as an operator decided", shard=record.shard, first=first)
        return Base(record.shard, first, epoch, 0, shortened=True)
    if not segment and persisted < first and not directory.is_dir():
        return whole
    raise LogCorrupt(
        f"Shard {record.shard} has no good snapshot in {directory}, and its logs begin at offset {first} only: files below "
        "were removed when snapshots covered them. Rows are not lost, since those below are in ClickHouse; what is lost "
        "is the last row of each key that memory had beside them, and batch numbers of producers, so that a batch sent "
        "long ago could be taken twice. Bring back the snapshots, or go on without: "
        f"`pxctl wal repair {data_dir} --shard {record.shard} --accept-loss`. Nothing was changed.",
        cause="no good snapshot",
        shard=record.shard,
        path=str(directory),
        lost_first=int(begin),
        lost_end=int(first),
    )


def _first_here(directory: Path, epochs: list[Epoch]) -> tuple[Epoch, int, Offset | None]:
    """The oldest of these logs that lies here, its oldest segment's number, and where its rows begin (None: unknown)."""
    for epoch, path in list_logs(directory):
        if epoch in epochs:
            for segment in segments(path):
                return epoch, segment.number, segment.first
    return Epoch(0), 0, None
