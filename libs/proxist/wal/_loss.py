"""What a damaged log had promised, what of it is gone, and how that is said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxist.errors import LogCorrupt
from proxist.model.ids import Offset, epoch_of_log, shard_of_log
from proxist.wal._format import Damage, RecordHead, SegmentHead
from proxist.wal.chain import log_of_path
from proxist.wal.record import Record, RecordKind

Range = tuple[Offset, Offset]
"""Offsets `[first, end)`."""


@dataclass
class Promises:
    """The highest marks that any sound byte of the log names, and those that the caller of a recovery knows."""

    known: int = 0
    """Rows below it were persisted or sealed, says the caller."""
    records: int = 0
    synced: int = 0
    persisted: int = 0
    carry: dict[str, Any] = field(default_factory=dict)
    sealed: bool = False

    @property
    def end(self) -> Offset:
        """Every row below it was promised to somebody."""
        return Offset(max(self.synced, self.persisted, self.known))

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


def lost_ranges(end: Offset, records: int, promises: Promises, behind: Iterable[Range]) -> tuple[Range, ...]:
    """The ranges of offsets that were promised and cannot be read in a log that is sound up to row `end` and record
    number `records`; `behind`: rows that can be read, but follow the damage. Empty where the damage is a torn tail."""
    promised = promises.end
    if records >= promises.records and end >= promised:
        return ()
    ranges: list[Range] = []
    expected = end
    for first, until in [*sorted(behind), (promised, promised)]:
        if expected < first and expected < promised:
            ranges.append((expected, first))
        expected = max(expected, until)
    return tuple(ranges) or ((end, end),)


def loss_error(log_dir: Path, damage: Damage, lost: tuple[Range, ...], promises: Promises) -> LogCorrupt:
    """The error of a recovery that found promised rows missing."""
    own = max(promises.synced, promises.persisted)
    error = corrupt(log_dir, damage, lost[0][0], lost[-1][1], expected=promises.known if promises.known > own else None)
    error.details["lost"] = [[int(first), int(end)] for first, end in lost]
    return error


def corrupt(
    log_dir: Path, damage: Damage, lost_first: int | None, lost_end: int | None, *, expected: int | None = None
) -> LogCorrupt:
    """The operator's error for damage that recovery may not cut; offsets in `[lost_first, lost_end)`, None: unknown.
    `expected`: an end that the log's own bytes do not name, so that who looks at them alone must be told."""
    details: dict[str, Any] = {
        "path": damage.path,
        "position": damage.position,
        "cause": damage.cause,
        "lost_first": None if lost_first is None else int(lost_first),
        "lost_end": None if lost_end is None else int(lost_end),
    }
    remedy = "restore the file from a copy"
    log = log_of_path(log_dir)
    if log is not None:
        details |= {"shard": shard_of_log(log), "epoch": epoch_of_log(log)}
    if log is not None and log_dir.parent.parent.name == "wal" and not damage.final:
        known = "" if expected is None else f" --expected-end {expected}"
        command = f"pxctl wal repair {log_dir.parents[2]} --shard {details['shard']} --epoch {details['epoch']}{known}"
        details["command"] = f"{command} --accept-loss"
        remedy += f", or go on without what is lost: `{details['command']}`"
    return LogCorrupt(
        f"Log file {damage.path} is damaged at byte {damage.position}: {damage.cause}. "
        f"{_extent(lost_first, lost_end)} Nothing was changed; {remedy}.",
        **details,
    )


def _extent(first: int | None, end: int | None) -> str:
    if first is None:
        return "Which offsets it held is unknown."
    if first == end:
        return f"Records without rows at offset {first} were promised and cannot be read."
    until = "on" if end is None else f"up to {end} (exclusive)"
    return f"Rows from offset {first} {until} were promised and cannot be read."
