"""Records of a shard's logs on their way into memory, one after the other as they are read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from proxist.errors import LogCorrupt
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset
from proxist.model.table import Table
from proxist.wal import Record, RecordKind, RecoveredLog
from proxist_ingest.base import Base
from proxist_ingest.carried import Carried
from proxist_ingest.logtail import LogTail
from proxist_ingest.placer import Placer
from proxist_ingest.producers import Original
from proxist_ingest.residency import Residency

REPLAY_ROWS = 65_536
"""Rows per step of a replay: one kernel call for many small records."""
REPLAY_BYTES = 16 * 2**20
"""And bytes of their records, so that long rows do not take more memory than short ones."""
PROGRESS_NS = 1_000_000_000

Progress = Callable[[str], None]


class Replay:
    """Rows from the base's begin on go into `hot`, and from the base's place in the logs on every record counts for
    `carried`. Holds one group of REPLAY_ROWS rows or REPLAY_BYTES, and those that its Placer holds. To be entered first."""

    def __init__(
        self, table: Table, base: Base, hot: HotSet, carried: Carried, persisted: Offset, meter: Meter
    ) -> None:
        self.persisted = persisted
        """The highest mark that was seen."""
        self._base, self._carried = base, carried
        # Every row that is read is on disk in its log: where memory is full, any may leave it.
        residency = Residency(table, base.shard, hot, LogTail(Path(), lambda: hot.appended_end))
        self._placer = Placer(hot, residency, meter.subject)
        self._meter = meter
        self._epoch = Epoch(0)
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0
        self._arrived_ns = 0
        self._next = hot.appended_end

    def __enter__(self) -> Replay:
        self._placer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._placer.__exit__(kind, error, at)

    def begin(self, epoch: Epoch) -> None:
        """The records of this log follow."""
        self._epoch = epoch

    def record(self, record: Record, schema: pa.Schema) -> None:
        """The next record of the log. Raises LogCorrupt where rows are missing before it, Overloaded where there is no
        room for its rows."""
        if self._base.has_to_learn(self._epoch, record.record_number):
            self._learn(record)
        if record.kind is RecordKind.PERSISTED:
            self.persisted = max(self.persisted, record.bound)
        elif record.kind is RecordKind.ROWS and record.rows:
            self._learn_seqs(record, schema)
            if record.end > self._base.begin:
                self._add(record, schema)
        self._meter.read(len(record.body), record.rows)

    def end(self, one: RecoveredLog) -> None:
        """The log is read, and sound up to `one.end`."""
        self._flush()
        self._placer.settle()
        self.persisted = max(self.persisted, one.persisted)
        # A sealed log ends its last batch: batches never span logs, whose rows differ in `_log`.
        self._carried.bounds.cut(one.epoch, one.end)

    def _learn(self, record: Record) -> None:
        """What the record says beside its rows."""
        producers, bounds = self._carried.producers, self._carried.bounds
        if record.kind is RecordKind.CUT:
            bounds.cut(self._epoch, record.bound)
        elif record.kind is RecordKind.CARRY:
            producers.load_carry(record.carry.get("producers", {}))
        elif record.kind is RecordKind.ROWS and record.producer is not None:
            original = Original(self._epoch, record.first, record.end, 0)
            producers.accept(record.producer, record.batch_number, record.content_hash, original)

    def _learn_seqs(self, record: Record, schema: pa.Schema) -> None:
        if self._carried.dedup is not None and self._base.has_to_learn(self._epoch, record.record_number):
            self._carried.dedup.accept(record.batch(schema))

    def _add(self, record: Record, schema: pa.Schema) -> None:
        rows, first = record.batch(schema), record.first
        if first < self._base.begin:
            rows, first = rows.slice(self._base.begin - first), self._base.begin
        if first != self._next:
            raise LogCorrupt(
                f"Rows [{self._next}, {first}) of shard {self._base.shard} are in no log of this data directory. Bring back "
                "the files that hold them; nothing was changed.",
                cause="missing rows",
                shard=self._base.shard,
                lost_first=int(self._next),
                lost_end=int(first),
            )
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        self._waiting_bytes += len(record.body)
        self._next = Offset(first + rows.num_rows)
        self._arrived_ns = record.arrived_ns
        if self._waiting_rows >= REPLAY_ROWS or self._waiting_bytes >= REPLAY_BYTES:
            self._flush()

    def _flush(self) -> None:
        waiting, first = self._waiting, Offset(self._next - self._waiting_rows)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        if waiting:
            self._placer.place(first, waiting, self._arrived_ns, self.persisted)


class Meter:
    """Says every second how far a replay is."""

    def __init__(self, subject: str, total_bytes: int, progress: Progress) -> None:
        """`total_bytes`: of the files that are to be read, which may end with room that was never written."""
        self.subject = subject
        self._total_bytes, self._progress = total_bytes, progress
        self._bytes = self._rows = 0
        self._started_ns = time.monotonic_ns()
        self._told_ns = self._started_ns

    def read(self, byte_count: int, rows: int) -> None:
        self._bytes += byte_count
        self._rows += rows
        now_ns = time.monotonic_ns()
        if now_ns - self._told_ns >= PROGRESS_NS:
            self._told_ns = now_ns
            share = min(100, 100 * self._bytes // max(1, self._total_bytes))
            self._progress(f"{self.subject}: replaying, {share} %, {self._told(now_ns)}")

    def done(self) -> None:
        self._progress(f"{self.subject}: replayed, {self._told(time.monotonic_ns())}")

    def _told(self, now_ns: int) -> str:
        seconds = max((now_ns - self._started_ns) / 1e9, 1e-9)
        return f"{self._rows} rows in {seconds:.1f} s, {self._rows / seconds:.0f} rows/s"
