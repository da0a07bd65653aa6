"""Where a recovery may begin: with the newest good snapshot, with an older one, or with the first row there ever was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from proxist.errors import LogCorrupt
from proxist.etcd.records import LogRecord, ShardRecord
from proxist.hot.needed import accepted_without, ends_before, gives_up, is_overtaken, needed, promised_of
from proxist.hot.snapshots import BadSnapshot, Snapshot, good_snapshots, snapshot_directory
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import Table
from proxist.wal import LogBegin, RecoveredLog, list_logs, segments, shard_directory
from proxist.wal.chain import log_directory
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
    persisted: Offset
    """What ClickHouse has for certain."""
    snapshot: Snapshot | None = None
    shortened: bool = False
    """An operator accepted that there is no snapshot, and that the first log begins in its middle."""
    hole: tuple[Path, Offset] | None = None
    """A log that lost rows, and where the shard went on above them, as an operator accepted: memory begins there, with
    nothing."""

    @property
    def begin(self) -> Offset:
        """Where memory begins."""
        return self.floor if self.hole is None else self.hole[1]

    def has_to_learn(self, epoch: Epoch, record_number: int) -> bool:
        """Whether what a record says beside its rows is not in the base."""
        return epoch > self.epoch or (epoch == self.epoch and record_number >= self.records)

    def needs(self, entry: LogRecord, persisted: Offset) -> LogBegin | None:
        """What is needed of a log of the chain; None: nothing. Rows from `persisted` on are, by followers and warm reads."""
        # Without a snapshot no row below the floor is here: `check` has the last word on those that are not persisted.
        known = max(self.persisted, persisted) if self.snapshot is not None else self.floor
        begin = needed(self.floor, known, (self.epoch, self.records), entry.epoch, entry.end)
        return LogBegin(self.floor, None) if self.shortened and entry.epoch == self.epoch else begin

    def check(self, logs: Sequence[RecoveredLog], end: Offset, persisted: Offset) -> None:
        """Raises LogCorrupt where the logs that were read end before the snapshot, which was taken of records on disk, or
        rows that ClickHouse lacks lie below memory and would be given up, which no operator accepted; BadSnapshot where
        the end before the snapshot was accepted."""
        if self.snapshot is not None:
            self._check_snapshot(self.snapshot, logs, end)
        if self.hole is not None and (error := gives_up(self.hole[0], persisted, self.begin)) is not None:
            raise error
        if self.hole is None and self.snapshot is None and persisted < self.floor:
            raise LogCorrupt(
                f"Rows [{persisted}, {self.floor}) of shard {self.shard} are neither in its logs nor, as far as is "
                "known, in ClickHouse. Bring back the files of the log; nothing was changed.",
                cause="missing rows",
                shard=self.shard,
                lost_first=int(persisted),
                lost_end=int(self.floor),
            )

    def _check_snapshot(self, snapshot: Snapshot, logs: Sequence[RecoveredLog], end: Offset) -> None:
        of = next((one for one in logs if one.epoch == self.epoch), None)
        records = 0 if of is None else of.mark.records
        if records >= self.records and end >= promised_of(snapshot.manifest):
            return
        if any(one.lost for one in logs) or (of is not None and is_overtaken(of.log_dir, snapshot.manifest)):
            raise BadSnapshot(snapshot.path, "it knows of rows whose loss was accepted")
        log_dir = log_directory(shard_directory(snapshot.path.parents[2], self.shard), self.epoch)
        raise ends_before(log_dir, snapshot.manifest, records, end)

    def hot_set(self, table: Table, epoch: Epoch, hot_bytes: int) -> HotSet:
        """A hot set of `epoch` that has nothing but what the base knows. Raises BadSnapshot, Overloaded."""
        restored = None if self.snapshot is None or self.hole is not None else self.snapshot.hot()
        return HotSet.create(
            table.spec, self.shard, epoch, self.begin, tenant=table.tenant, hot_bytes=hot_bytes, restored=restored
        )

    def carried(self, table: Table) -> Carried:
        """Producers, seqs and cuts as the base knows them. Raises BadSnapshot."""
        producers, dedup = Producers(table.name), SeqDedup(table.spec) if table.spec.dedup == "seq" else None
        if self.snapshot is None:
            return Carried(producers, dedup, Bounds(self.begin), self.persisted)
        for runs in self.snapshot.batches(PRODUCERS_FILE):
            producers.load(runs)
        if dedup is not None:
            if SEQS_FILE not in self.snapshot.manifest.files:
                raise BadSnapshot(self.snapshot.path, f"it has no {SEQS_FILE}, but the table drops repeated seqs")
            for seqs in self.snapshot.batches(SEQS_FILE):
                dedup.load(seqs)
        cuts = self.snapshot.manifest.cuts
        bounds = Bounds.of(cuts if self.hole is None else cuts.above(self.begin))
        return Carried(producers, dedup, bounds, self.persisted)


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
    told = found.manifest
    return Base(record.shard, told.floor, position.epoch, position.records, told.persisted, found)


def _of_logs(data_dir: Path, record: ShardRecord, persisted: Offset) -> Base:
    """The base for which everything comes from the logs."""
    begin, logs = usable_logs(record)
    first_epoch = logs[0].epoch if logs else Epoch(0)
    whole = Base(record.shard, begin, first_epoch, 0, begin)
    epoch, segment, first = _first_here(shard_directory(data_dir, record.shard), [entry.epoch for entry in logs])
    if first is None or (first <= begin and not segment):
        return whole  # or a log is missing: whoever opens it says so
    directory = snapshot_directory(data_dir, record.shard)
    accepted = accepted_without(directory, first)
    if accepted.exists():
        log.warning("going on without older carried state, as an operator decided", shard=record.shard, first=first)
        return Base(record.shard, first, epoch, 0, Offset(0), shortened=True)
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
