"""What a log holds after its writer is gone: the end, the torn tail that is cut, or the loss that stops the start.

The rule. Read forward as far as every byte is sound. Whatever stands behind the first unsound byte was
promised to nobody if it lies at or above the highest `synced` that any sound record names: a crash tore it, and it is
cut, even where sound records follow (the disk wrote pages in its own order). Below it, or where the log would end
below a mark that was persisted or sealed, it is loss: that takes an operator's decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from proxist.model.ids import Epoch, LogId, Offset, ShardId, TableId, epoch_of_log, shard_of_log
from proxist.wal._durable import make_durable
from proxist.wal._format import Damage, SegmentHead
from proxist.wal._loss import Promises, Range, corrupt, loss_error, lost_ranges
from proxist.wal._salvage import Place, sound_after
from proxist.wal._walk import MissingSegments, Walker
from proxist.wal.chain import list_segments, log_of_path
from proxist.wal.decision import read_decision
from proxist.wal.files import Files, OsFiles
from proxist.wal.mark import LogBegin, LogMark
from proxist.wal.reader import LogReader
from proxist.wal.record import Record

START = Offset(0)

Visit = Callable[[Record, pa.Schema], None]


@dataclass(frozen=True, slots=True)
class TornTail:
    """What recovery cut: everything of the log from byte `position` of `path` on. The bytes stay in the file."""

    path: str
    position: int
    cause: str


@dataclass(frozen=True)
class RecoveredLog:
    """A log that was read to its end. It is sealed: nothing is ever appended to it again."""

    log_dir: Path
    log: LogId
    start: Offset
    """First offset that was read: the log's first, or one at or below what was said to be needed. Above that only where
    an accepted loss took the beginning, and all that was lost is persisted."""
    end: Offset
    """First offset that the log does not hold."""
    persisted: Offset
    """The highest mark that what was read names (the carried state and PERSISTED records), or that the caller gave."""
    carry: dict[str, Any]
    """Empty where the log's first record was not read."""
    schema: pa.Schema
    schema_version: int
    table_id: TableId
    sealed: bool
    """Whether its owner ended it in good order (a SEAL record)."""
    mark: LogMark
    """The log's end as the limit of a `LogReader`."""
    cut: TornTail | None
    lost: tuple[Range, ...] = ()
    """Ranges `[first, end)` of offsets that cannot be read; only where the loss was accepted."""
    first_segment: int = 0
    """Number of the segment that begins at `start`."""
    promised: Offset = START
    """Every row below it was promised. `[seal_at, promised)` is what an accepted loss gives up, readable or not."""

    @property
    def shard(self) -> ShardId:
        return shard_of_log(self.log)

    @property
    def epoch(self) -> Epoch:
        return epoch_of_log(self.log)

    @property
    def seal_at(self) -> Offset:
        """Where to seal the log, which is where the next one begins: max(end, persisted)."""
        return max(self.end, self.persisted)

    def records(self, from_offset: Offset | None = None) -> Iterator[Record]:
        """All records up to `end` in order (from the one that holds `from_offset` on), each checked again while it is
        read. Records of a kind this version may pass over are left out."""
        if not self.mark.records:
            return  # an accepted loss took all of it
        from_offset = self.start if from_offset is None else from_offset
        with LogReader(self.log_dir, from_offset, oldest=self.first_segment) as reader:
            yield from reader.read(self.mark)


def recover_log(
    log_dir: Path | str,
    *,
    begin: LogBegin | None = None,
    persisted: int = 0,
    sealed_end: Offset | None = None,
    accept_loss: bool = False,
    flush: bool = True,
    visit: Visit | None = None,
    files: Files | None = None,
) -> RecoveredLog:
    """Read a log whose writer is gone, find its end, make it durable there.

    `begin` says what is needed of it (None: all); reading begins with the newest segment that holds that, and the
    beginning of the log may be gone. `persisted` is a mark known from elsewhere (etcd's); `sealed_end` is where an
    earlier recovery sealed the log (the start of its successor): rows at or above it are left out, rows below it must
    be there. On return every row below `end` is on disk (so a successor may build on it; not with `flush` False) and
    the files are unchanged: a torn tail is cut by being left out, now and every later time. `visit` is called with each
    record that counts and its schema, in order, while they are read; what it learns counts only if this call returns.

    Raises LogCorrupt (details: path, position, cause, lost_first, lost_end, lost: all unreadable ranges, and the
    command that accepts it) where rows are missing that were promised; `lost_first == lost_end` says that only records
    without rows are gone. Where an operator accepted that loss (`proxist.wal.decision`), or with `accept_loss`, it
    returns the sound beginning and says what is lost; rows behind the damage are not part of it, since offsets have no
    holes.
    """
    log_dir = Path(log_dir)
    promises = Promises(known=max(persisted, sealed_end or 0))
    recovery = _Recovery(log_dir, begin, promises, persisted, sealed_end, accept_loss, visit)
    try:
        walker = Walker(log_dir, begin)
    except MissingSegments as missing:
        found = recovery.without_beginning(missing)
    except Damage as damage:
        found = recovery.unopened(damage)
    else:
        found = recovery.from_walker(walker)
    if flush:
        # Where it is sealed, the recovery that sealed it did this, and what it read was on disk.
        make_durable(log_dir, found.mark, promises.records if sealed_end is None else None, files or OsFiles())
    return found


@dataclass
class _Recovery:
    log_dir: Path
    begin: LogBegin | None
    promises: Promises
    persisted: int
    sealed_end: Offset | None
    accept_loss: bool
    visit: Visit | None

    def from_walker(self, walker: Walker, lost_before: tuple[Range, ...] = ()) -> RecoveredLog:
        """Walks to the end, and closes the walker. `lost_before`: accepted already."""
        try:
            start, first_segment = walker.offset, walker.segment
            mark, damage = self._walk_to_end(walker)
            if damage is not None and damage.final:
                raise corrupt(self.log_dir, damage, mark.end, None)
            cut, lost = None, lost_before
            if damage is not None and (self.sealed_end is None or mark.end < self.sealed_end):
                cut, behind = self._look_behind(walker, damage)
                missing = lost_ranges(mark.end, mark.records, self.promises, behind)
                if missing and not self._accepted(mark.end, mark.records):
                    raise loss_error(self.log_dir, damage, missing, self.promises)
                lost += missing
            return self._found(walker.header, start, mark, cut, lost, first_segment)
        finally:
            walker.close()

    def without_beginning(self, missing: MissingSegments) -> RecoveredLog:
        """The log begins above what is needed of it."""
        first = missing.header.first
        from_here = LogBegin(Offset(first), missing.header.first_record)
        if missing.first is None or not self._accepted(missing.first, 0):
            raise corrupt(self.log_dir, missing, missing.first, first)
        lost = ((missing.first, Offset(first)),)
        visit, self.visit = self.visit, None
        found = self.from_walker(Walker(self.log_dir, from_here), lost)
        self.visit = visit
        if found.persisted >= first:  # what is gone is in ClickHouse, so what is there follows it without a hole
            return self.from_walker(Walker(self.log_dir, from_here), lost)
        end = max(found.promised, found.end)
        return self._nothing(missing.header, missing.first, ((missing.first, end),), end)

    def unopened(self, damage: Damage) -> RecoveredLog:
        """A log exists only with a sound first header (`LogWriter.create`), so this is never a torn tail."""
        first, record = self.begin or LogBegin(START)
        place = Place(log_of_path(self.log_dir), 0, 0, record or 0, first)
        header, behind = None, []
        for head, found in sound_after(self.log_dir, place):
            self.promises.see_head(head)
            if isinstance(head, SegmentHead):
                header = header or head
            if found is not None:
                self.promises.see_promise(found)
                behind.append(found)
        end = max([r.end for r in behind] + ([] if self.promises.end == 0 else [self.promises.end]), default=None)
        lost_first = first if self.begin is not None else min((r.first for r in behind), default=None)
        if damage.final or not self._accepted(0, 0):
            raise corrupt(self.log_dir, damage, lost_first, end)
        lost = () if lost_first is None or end is None else ((lost_first, end),)
        return self._nothing(header, lost_first or START, lost, end or START)

    def _walk_to_end(self, walker: Walker) -> tuple[LogMark, Damage | None]:
        """Go forward to the first byte that is not sound (the plain end of the log is one), or to the first row at or
        above `sealed_end`."""
        segment, schema = -1, None
        while True:
            mark = LogMark(walker.offset, walker.records, walker.segment, walker.position)
            if walker.segment != segment:
                segment, schema = walker.segment, _schema_of(walker.header)
                self.promises.see_head(walker.header)
            try:
                record, head = walker.next()
            except Damage as damage:
                return mark, damage
            if self.sealed_end is not None and head.rows and head.first >= self.sealed_end:
                return mark, None
            self.promises.see_head(head)
            if record is not None:
                self.promises.see_record(record)
                if self.visit is not None:
                    self.visit(record, schema)

    def _look_behind(self, walker: Walker, damage: Damage) -> tuple[TornTail | None, list[Range]]:
        """The tail to cut, None where the log just ends: nothing but zeros, or an earlier life's bytes, and no segment
        behind. And the rows that can be read behind it, which are evidence only: of what was promised, and of where the
        unreadable rows end."""
        last = list_segments(walker.log_dir)[-1][0] == walker.segment
        if last and walker.file.is_blank_from(walker.position):
            return None, []
        place = Place(LogId(walker.header.log), walker.segment, walker.position, walker.records, walker.offset)
        behind: list[Range] = []
        any_behind = False
        for head, record in sound_after(walker.log_dir, place):
            any_behind = True
            self.promises.see_head(head)
            if record is not None:
                self.promises.see_promise(record)
                behind.append((record.first, record.end))
        if last and walker.header.reused and not any_behind and not walker.has_begun():
            return None, []
        return TornTail(damage.path, damage.position, damage.cause), behind

    def _accepted(self, end: int, records: int) -> bool:
        if self.accept_loss:
            return True
        decision = read_decision(self.log_dir)
        return decision is not None and decision.covers(end, records)

    def _found(
        self,
        header: SegmentHead,
        start: Offset,
        mark: LogMark,
        cut: TornTail | None,
        lost: tuple[Range, ...],
        first_segment: int = 0,
    ) -> RecoveredLog:
        return RecoveredLog(
            log_dir=self.log_dir,
            log=LogId(header.log),
            start=start,
            end=mark.end,
            persisted=Offset(max(self.persisted, self.promises.persisted)),
            carry=self.promises.carry,
            schema=_schema_of(header),
            schema_version=header.schemas[-1][0],
            table_id=TableId(header.table_id),
            sealed=self.promises.sealed,
            mark=mark,
            cut=cut,
            lost=lost,
            first_segment=first_segment,
            promised=self.promises.end,
        )

    def _nothing(
        self, header: SegmentHead | None, start: Offset, lost: tuple[Range, ...], promised: Offset
    ) -> RecoveredLog:
        """An accepted loss of all that was needed; `header`: one that is sound, if there is any."""
        log = LogId(header.log) if header is not None else log_of_path(self.log_dir) or LogId(0)
        schemas = ((0, pa.schema([]).serialize().to_pybytes()),) if header is None else header.schemas
        table_id = 0 if header is None else header.table_id
        head = SegmentHead(log, 0, start, 0, 0, 0, 0, table_id, 0, 0, schemas, 0)
        self.promises.known = max(self.promises.known, promised)
        return self._found(head, start, LogMark(start, 0, -1, 0), None, lost)


def _schema_of(header: SegmentHead) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(header.schemas[-1][1]))
