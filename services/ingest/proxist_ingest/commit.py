"""One group commit: from parts that are valid to rows that are logged, on disk, visible and acked, in that order.

Everything here runs in a turn of the shard, on one thread at a time. Any exception that leaves `Committer` means that log and memory may
differ: the shard must stop, and recovery from the log makes them equal again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Protocol

import pyarrow as pa

from proxist.errors import NotOwner, Overloaded, ProxistError
from proxist.failpoints import reach
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import Table
from proxist.telemetry.tracing import LINKS_MAX, Stages
from proxist.wal.record import RecordIn, cut_record, encode_body, persisted_record, rows_record
from proxist.wal.writer import LogWriter
from proxist_ingest.beside import Beside
from proxist_ingest.carried import Carried, Carry
from proxist_ingest.counts import Counts
from proxist_ingest.cutter import Cutter
from proxist_ingest.ladder import Ladder
from proxist_ingest.logtail import LogTail
from proxist_ingest.part import LEVELS, Part, PartAck, Receiver
from proxist_ingest.producers import Original
from proxist_ingest.residency import Residency, concat

BESIDE_ROWS = 256
"""From so many rows on they are placed in memory while the log is flushed; fewer cost less than waking a thread."""


class Lease(Protocol):
    """What fences the owner: rows may be acked only before `valid_until_ns` (CLOCK_MONOTONIC)."""

    @property
    def valid_until_ns(self) -> int: ...


class _Accepted(NamedTuple):
    part: Part
    rows: pa.RecordBatch
    original: Original
    seqs_before: dict[str, int | None]


class _Group:
    """What a group adds to the log, in order."""

    def __init__(self, end: Offset, ordinal: int, links: tuple[str, ...]) -> None:
        self.end = end
        self.ordinal = ordinal
        self.records: list[RecordIn] = []
        self.accepted: list[_Accepted] = []
        self.repeats: list[tuple[Part, Original]] = []
        self.cuts: list[tuple[Offset, tuple[str, ...]]] = []
        self.links = links
        """Traces of the rows that no cut has taken yet; with each cut go those of its rows."""

    def add(self, record: RecordIn) -> None:
        self.records.append(record)
        self.ordinal += 1
        self.end = Offset(self.end + record.rows)


class Committer:
    """The write path of one shard under one epoch."""

    def __init__(
        self,
        table: Table,
        shard: ShardId,
        epoch: Epoch,
        log: LogWriter,
        hot: HotSet,
        carried: Carried,
        ladder: Ladder,
        lease: Lease,
        after_append: Callable[[], None],
        tail: LogTail,
    ) -> None:
        """`after_append` is called when records wait for a sync that a turn does not do (levels below disk)."""
        self.counts = Counts()
        self.residency = Residency(table, shard, hot, tail)
        self.cutter = Cutter(table.spec.flush, log.end)
        self._table = table
        self._shard = shard
        self._epoch = epoch
        self._log = log
        self._hot = hot
        self._producers = carried.producers
        self._dedup = carried.dedup
        self._bounds = carried.bounds
        self._ladder = ladder
        self._lease = lease
        self._after_append = after_append
        self._syncs_inline = table.spec.durability == "disk"
        self._beside = Beside(f"shard-{shard}-place")
        self._open_links: tuple[str, ...] = ()
        if log.end > carried.persisted:  # recovered rows: how old they are is not known any more
            self.counts.arrivals.note(log.end, time.monotonic_ns())

    def commit(self, parts: list[Part]) -> None:
        """Answer every part: its rows are at its level, or it is refused and left no trace.

        Where no lease protects the ack any more it raises NotOwner; the parts not yet answered are then in doubt.
        """
        with_rows = [part.rows for part in parts if part.rows.num_rows]
        rows = concat(with_rows) if with_rows else None
        if len(parts) > 1 and rows is not None and not self.residency.room(rows):
            for part in parts:  # one by one, each finds out for itself
                self.commit([part])
            return
        self._check_lease()
        traced = [part.trace for part in parts if part.trace.recording]
        stages = Stages(traced, time.time_ns) if traced else None
        group = _Group(self._log.end, self._log.mark.records, self._open_links)
        cutter_before = self.cutter.save()
        now_ns = time.monotonic_ns()
        if self.cutter.due(now_ns):
            self._add_cut(group)
        for part in parts:
            self._take(group, part, now_ns, alone=len(parts) == 1)
        _reached(stages, "ingest.dedup")
        try:
            self._append(group)
        except Overloaded as error:  # the disk is full: nothing was written, so nothing was accepted
            self.cutter.restore(cutter_before)
            self._refuse(group, error)
            return
        _reached(stages, "wal.write")
        placed = self._make_durable(group, self._rows_of(group, rows))
        _reached(stages, "wal.flush" if self._syncs_inline else None)
        reach("commit.publish.before")
        self._publish(group, placed)
        reach("commit.publish.after")
        _reached(stages, "hot.apply")
        self._answer(group)
        reach("commit.answer.after")
        if stages is not None:
            stages.tell()

    def cut(self) -> Offset:
        """Close the open batch, if it has rows; followers see it once it is on disk. Returns the shard's end."""
        group = _Group(self._log.end, self._log.mark.records, self._open_links)
        cutter_before = self.cutter.save()
        self._add_cut(group)
        try:
            self._append(group)
        except Overloaded:  # the disk is full: the batch stays open and is cut later
            self.cutter.restore(cutter_before)
            raise
        self._make_durable(group, None)
        return group.end

    def set_persisted(self, persisted: Offset) -> None:
        """Every row below `persisted` is in ClickHouse: logged first, so that the floor never passes an unlogged mark."""
        reach("commit.persisted.before")
        self._log.append([persisted_record(persisted, time.time_ns())])
        reach("commit.persisted.logged")
        self._hot.set_persisted(persisted)
        self._bounds.forget_below(persisted)
        self.counts.arrivals.persisted(persisted)
        self.cutter.persisted(persisted)
        self._ladder.advance(persisted=persisted)
        reach("commit.persisted.after")

    def carry(self) -> Carry:
        """What is known beside the rows, now; for the shard's turn, which it holds for microseconds per producer."""
        seqs = None if self._dedup is None else self._dedup.instant()
        return Carry(self._log.mark, self._producers.instant(), seqs, self._bounds.cuts())

    def close(self) -> None:
        """End the committer's thread; nothing is committed any more."""
        self._beside.close()

    def sync(self) -> None:
        """fdatasync; then followers see what was cut before it and raised acks go out. Called on one thread at most."""
        cut_before = self._bounds.last
        started_ns = time.monotonic_ns()
        self._log.sync()
        self.counts.sync_seconds.observe((time.monotonic_ns() - started_ns) / 1e9)
        self._ladder.advance(synced=self._log.synced_mark.records)
        self._bounds.expose(cut_before)

    def _take(self, group: _Group, part: Part, now_ns: int, *, alone: bool) -> None:
        """Put `part` into the group, or answer it: a repeat, or an error."""
        try:
            if part.producer is not None:
                original = self._producers.check(part.producer, part.number, part.content_hash, follows=part.follows)
                if original is not None:
                    group.repeats.append((part, original))
                    return
            rows, body = self._deduplicated(part)
            # Before anything is written: what is refused was never accepted. (A group of several was checked as one.)
            if alone and rows.num_rows and not self.residency.room(rows):
                raise self.residency.refusal(rows)
        except ProxistError as error:
            self.counts.refusals.add(error, part.rows.num_rows)
            part.done(error)
            return
        self._accept(group, part, rows, body, now_ns)

    def _deduplicated(self, part: Part) -> tuple[pa.RecordBatch, pa.Buffer | bytes]:
        if self._dedup is None or not part.rows.num_rows:
            return part.rows, part.body
        rows = self._dedup.filter(part.rows)
        if rows is part.rows:
            return rows, part.body
        self.counts.deduplicated_rows += part.rows.num_rows - rows.num_rows
        return rows, encode_body(rows) if rows.num_rows else b""

    def _accept(self, group: _Group, part: Part, rows: pa.RecordBatch, body: pa.Buffer | bytes, now_ns: int) -> None:
        first = group.end
        if rows.num_rows or part.producer is not None:
            group.add(
                rows_record(
                    body,
                    rows.num_rows,
                    time.time_ns(),
                    producer=part.producer,
                    batch_number=part.number,
                    content_hash=part.content_hash,
                )
            )
        original = Original(self._epoch, first, group.end, group.ordinal)
        if part.producer is not None:
            self._producers.accept(part.producer, part.number, part.content_hash, original)
        seqs_before = {} if self._dedup is None else self._dedup.accept(rows)
        group.accepted.append(_Accepted(part, rows, original, seqs_before))
        if part.trace.recording and rows.num_rows and len(group.links) < LINKS_MAX:
            group.links += (part.trace.traceparent or "",)
        if rows.num_rows and self.cutter.add(group.end, len(body), now_ns):
            self._add_cut(group)

    def _add_cut(self, group: _Group) -> None:
        if self.cutter.end > self.cutter.cut_at:
            bound = self.cutter.cut()
            group.add(cut_record(bound, time.time_ns()))
            group.cuts.append((bound, group.links))
            group.links = ()

    def _append(self, group: _Group) -> None:
        """Write the group to the log; raises Overloaded, with nothing written, where the disk is full."""
        if not group.records:
            return
        end = self._log.append(group.records)
        assert end == group.end, f"the log ends at {end}, the group at {group.end}"
        self._open_links = group.links
        for bound, links in group.cuts:
            self._bounds.cut(self._epoch, bound, links)

    def _rows_of(self, group: _Group, sent: pa.RecordBatch | None) -> pa.RecordBatch | None:
        """All rows that the group adds; `sent`: those of all its parts, which they are unless some were left out."""
        with_rows = [accepted.rows for accepted in group.accepted if accepted.rows.num_rows]
        if not with_rows:
            return None
        if sent is not None and sent.num_rows == sum(rows.num_rows for rows in with_rows):
            return sent
        return concat(with_rows)

    def _make_durable(self, group: _Group, rows: pa.RecordBatch | None) -> pa.RecordBatch | None:
        """Bring the group to the table's level and its `rows` into memory, which no reader sees yet. Returns `rows`."""

        def place() -> None:
            if rows is not None:
                self._hot.append(rows, Offset(group.end - rows.num_rows), time.time_ns())

        if not self._syncs_inline:
            if group.records or group.accepted:
                self._after_append()
            place()
        elif rows is not None and rows.num_rows >= BESIDE_ROWS:
            self._beside.both(place, self.sync)
        else:
            if group.records or group.accepted:  # else it still says that everything before it is at its level
                self.sync()
            place()
        return rows

    def _refuse(self, group: _Group, error: Overloaded) -> None:
        """Take back what the group had accepted in memory, newest first, and tell its senders."""
        for part, _, _, seqs_before in reversed(group.accepted):
            if part.producer is not None:
                self._producers.retract(part.producer)
            if self._dedup is not None:
                self._dedup.restore(seqs_before)
        for accepted in group.accepted:
            self.counts.refusals.add(error, accepted.rows.num_rows)
            accepted.part.done(error)
        for part, original in group.repeats:
            if original.ordinal <= self._log.mark.records:
                self._promise(part, original, duplicate=True)
            else:  # it repeats a batch of this very group
                part.done(error)

    def _publish(self, group: _Group, rows: pa.RecordBatch | None) -> None:
        """Make the group's rows, which are placed, visible."""
        # After the flush: it may have taken longer than the lease, and whoever owns the shard then has not these rows.
        self._check_lease()
        if rows is not None:
            self._hot.publish(group.end)
            self.counts.rows += rows.num_rows
            self.counts.arrivals.note(group.end, time.monotonic_ns())
        self._ladder.advance(visible=group.ordinal)

    def _answer(self, group: _Group) -> None:
        if group.accepted:
            self.counts.group_batches.observe(len(group.accepted))
        self.counts.batches += len(group.accepted)
        self.counts.repeats += len(group.repeats)
        for part, _, original, _ in group.accepted:
            self.counts.bytes += part.byte_count
            self._promise(part, original, duplicate=False)
        for part, original in group.repeats:
            self._promise(part, original, duplicate=True)

    def _promise(self, part: Part, original: Original, *, duplicate: bool) -> None:
        """Ack `part` when its rows are at its level, and again for each follow-up that is above it."""
        ack = PartAck(self._shard, original.end - original.first, duplicate, part.level, original.epoch, original.end)
        self._ladder.wait(part.level, original, lambda error: self._reached(part, part.done, ack, error))
        for level in part.follow_ups:
            if part.climbed is not None and LEVELS.index(level) > LEVELS.index(part.level):
                self._follow_up(part, original, replace(ack, level=level))

    def _follow_up(self, part: Part, original: Original, ack: PartAck) -> None:
        climbed = part.climbed
        assert climbed is not None
        self._ladder.wait(ack.level, original, lambda error: self._reached(part, climbed, ack, error))

    def _reached(self, part: Part, receiver: Receiver, ack: PartAck, error: ProxistError | None) -> None:
        if error is None:
            self.counts.ack_seconds[ack.level].observe((time.perf_counter_ns() - part.received_ns) / 1e9)
        receiver(error or ack)

    def _check_lease(self) -> None:
        if time.monotonic_ns() >= self._lease.valid_until_ns:
            raise NotOwner(
                f"The lease of this node ended while it owned shard {self._shard} of table {self._table.name!r}. "
                "It acks nothing more; the shard's next owner answers in a moment.",
                retry_after_s=1.0,
                shard=self._shard,
            )


def _reached(stages: Stages | None, name: str | None) -> None:
    if stages is not None and name is not None:
        stages.reached(name)
