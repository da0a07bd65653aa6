"""What a log holds after its writer is gone: the end, the torn tail that is cut, or the loss that stops the start.

The rule. Read forward as far as every byte is sound. Whatever stands behind the first unsound byte was
promised to nobody if it lies at or above the highest `synced` that any sound record names: a crash tore it, and it is
cut, even where sound records follow (the disk wrote pages in its own order). Below it, or where the log would end
below a mark that was persisted or sealed, it is loss.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from proxist.errors import LogCorrupt
from proxist.model.ids import Epoch, LogId, Offset, ShardId, TableId, epoch_of_log, shard_of_log
from proxist.wal._format import Damage, RecordHead, SegmentHead
from proxist.wal._salvage import Place, sound_after
from proxist.wal._walk import Walker
from proxist.wal.chain import list_segments
from proxist.wal.files import OsFiles
from proxist.wal.mark import LogMark
from proxist.wal.reader import LogReader, corrupt
from proxist.wal.record import Record, RecordKind


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
    end: Offset
    """First offset that the log does not hold."""
    persisted: Offset
    """The highest mark that the log itself names (its carried state and PERSISTED records), or that the caller gave."""
    carry: dict[str, Any]
    schema: pa.Schema
    schema_version: int
    table_id: TableId
    sealed: bool
    """Whether its owner ended it in good order (a SEAL record)."""
    mark: LogMark
    """The log's end as the limit of a `LogReader`."""
    cut: TornTail | None
    lost: tuple[tuple[Offset, Offset], ...] = ()
    """Ranges `[first, end)` of offsets that are gone; only with `accept_loss`."""

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
        with LogReader(self.log_dir, self.start if from_offset is None else from_offset) as reader:
            yield from reader.read(self.mark)


@dataclass
class _Promises:
    """The highest marks that any sound byte of the log names."""

    records: int = 0
    synced: int = 0
    persisted: int = 0
    carry: dict[str, Any] = field(default_factory=dict)
    sealed: bool = False

    def see_head(self, head: RecordHead | SegmentHead) -> None:
        self.records = max(self.records, head.synced_records)
        self.synced = max(self.synced, head.synced)

    def see_promise(self, record: Record) -> None:
        if record.kind is RecordKind.PERSISTED:
            self.persisted = max(self.persisted, record.bound)

    def see_record(self, record: Record) -> None:
        self.see_promise(record)
        if record.kind is RecordKind.SEAL:
            self.sealed = True
        elif record.kind is RecordKind.CARRY:
            self.carry = record.carry
            self.persisted = max(self.persisted, int(self.carry.get("persisted") or 0))


def recover_log(
    log_dir: Path | str, *, persisted: int = 0, sealed_end: Offset | None = None, accept_loss: bool = False
) -> RecoveredLog:
    """Read a log whose writer is gone, find its end, make it durable there.

    `persisted` is a mark known from elsewhere (etcd's); `sealed_end` is where an earlier recovery sealed the log (the
    start of its successor): rows at or above it are left out, rows below it must be there. On return every row below `end` is on disk (so a
    successor may build on it) and the files are unchanged: a torn tail is cut by being left out, now and every
    later time.

    Raises LogCorrupt (details: path, position, cause, lost_first, lost_end, and lost, all unreadable ranges) where
    rows are missing that were promised; `lost_first == lost_end` says that only records without rows are gone. With
    `accept_loss`, which only an operator's explicit command sets, it returns the sound beginning and says what is
    lost; rows behind the damage are not part of it, since offsets have no holes.
    """
    log_dir = Path(log_dir)
    try:
        walker = Walker(log_dir)
    except Damage as damage:
        raise _unopened(log_dir, damage, sealed_end) from None
    try:
        return _recover(walker, persisted, sealed_end, accept_loss)
    finally:
        walker.close()


def _unopened(log_dir: Path, damage: Damage, sealed_end: Offset | None) -> LogCorrupt:
    """A log exists only with a sound first header (`LogWriter.create`), so this is never a torn tail."""
    found = [record for _, record in sound_after(log_dir, Place(None, 0, 0, 0, 0)) if record is not None]
    ends = [record.end for record in found] + ([] if sealed_end is None else [sealed_end])
    return corrupt(damage, min((r.first for r in found), default=None), max(ends, default=None))


def _recover(walker: Walker, persisted: int, sealed_end: Offset | None, accept_loss: bool) -> RecoveredLog:
    start = walker.offset
    promises = _Promises(persisted=persisted)
    mark, damage = _walk_to_end(walker, promises, sealed_end)
    if damage is not None and damage.final:
        raise corrupt(damage, mark.end, None)
    cut, lost = None, []
    if damage is not None and (sealed_end is None or mark.end < sealed_end):
        cut = _torn(walker, damage)
        lost = _lost(walker, promises, sealed_end or 0, look_behind=cut is not None)
        if lost and not accept_loss:
            raise _loss_error(damage, lost)
    _make_durable(walker.log_dir)
    schema_version, schema = walker.header.schemas[-1]
    return RecoveredLog(
        log_dir=walker.log_dir,
        log=LogId(walker.header.log),
        start=start,
        end=mark.end,
        persisted=Offset(promises.persisted),
        carry=promises.carry,
        schema=pa.ipc.read_schema(pa.py_buffer(schema)),
        schema_version=schema_version,
        table_id=TableId(walker.header.table_id),
        sealed=promises.sealed,
        mark=mark,
        cut=cut,
        lost=tuple(lost),
    )


def _walk_to_end(walker: Walker, promises: _Promises, sealed_end: Offset | None) -> tuple[LogMark, Damage | None]:
    """Go forward to the first byte that is not sound (the plain end of the log is one), or to the first row at or
    above `sealed_end`."""
    segment = -1
    while True:
        mark = LogMark(walker.offset, walker.records, walker.segment, walker.position)
        if walker.segment != segment:
            segment = walker.segment
            promises.see_head(walker.header)
        try:
            record, head = walker.next()
        except Damage as damage:
            return mark, damage
        if sealed_end is not None and head.rows and head.first >= sealed_end:
            return mark, None
        promises.see_head(head)
        if record is not None:
            promises.see_record(record)


def _torn(walker: Walker, damage: Damage) -> TornTail | None:
    """The tail to cut, or None where the log just ends: nothing but zeros, and no segment behind."""
    if walker.file.is_blank_from(walker.position) and list_segments(walker.log_dir)[-1][0] == walker.segment:
        return None
    return TornTail(damage.path, damage.position, damage.cause)


def _lost(walker: Walker, promises: _Promises, sealed_end: int, *, look_behind: bool) -> list[tuple[Offset, Offset]]:
    """The ranges of offsets that were promised and cannot be read, empty where the damage is a torn tail.

    Sound records behind the damage are evidence only: of what was promised, and of where the unreadable rows end.
    """
    behind: list[tuple[int, int]] = []
    if look_behind:
        place = Place(LogId(walker.header.log), walker.segment, walker.position, walker.records, walker.offset)
        for head, record in sound_after(walker.log_dir, place):
            promises.see_head(head)
            if record is not None:
                promises.see_promise(record)
                behind.append((record.first, record.end))
    promised = max(promises.synced, promises.persisted, sealed_end)
    if walker.records >= promises.records and walker.offset >= promised:
        return []
    ranges: list[tuple[Offset, Offset]] = []
    expected: int = walker.offset
    for first, end in [*sorted(behind), (promised, promised)]:
        if expected < first and expected < promised:
            ranges.append((Offset(expected), Offset(first)))
        expected = max(expected, end)
    return ranges or [(walker.offset, walker.offset)]


def _loss_error(damage: Damage, lost: list[tuple[Offset, Offset]]) -> LogCorrupt:
    error = corrupt(damage, lost[0][0], lost[-1][1])
    error.details["lost"] = [[int(first), int(end)] for first, end in lost]
    return error


def _make_durable(log_dir: Path) -> None:
    """Level `os` may have left rows in the page cache alone; a successor's offsets are about to depend on them."""
    files = OsFiles()
    for _, path in list_segments(log_dir):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            files.datasync(fd)
        finally:
            files.close(fd)
    files.sync_directory(log_dir)
