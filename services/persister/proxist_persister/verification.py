"""Comparing what ClickHouse holds of one shard with what it must hold: counts first, then content, then copies.

One pass counts the offsets by chunks; only chunks whose counts are not exact are looked into. Where the owner's log
still has the rows, they are compared to the bit. Nothing is changed, and persisting goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from proxist.clickhouse import ClickHouse, partition_of
from proxist.clickhouse.audit import STATEMENT_S_MAX, chunk_counts
from proxist.clickhouse.content import compared, differing_columns, same_rows
from proxist.errors import ProxistError
from proxist.etcd import LogRecord
from proxist.model.ids import Epoch, LogId, Offset, ShardId
from proxist.model.table import Table
from proxist_persister import audit
from proxist_persister.audit import Finding
from proxist_persister.batches import Batch, runs
from proxist_persister.coverage import Stored
from proxist_persister.delivery import difference
from proxist_persister.owner import Owner, OwnerMarks

COMPARE_ROWS = 100_000
"""Rows whose content is compared by one statement, and that are in memory for it."""
END_MAX = Offset(2**63)


@dataclass(frozen=True, slots=True)
class Progress:
    """`of`: 0 where it is not known."""

    stage: str
    rows: int
    of: int = 0


@dataclass(frozen=True, slots=True)
class Checked:
    """The end of a round: every offset in [first, end) must be there; `rows` are stored, `compared` had their content
    compared; `held` are the runs that the log still has. `note`: what could not be looked at, and why."""

    first: Offset
    end: Offset
    rows: int
    compared: int
    held: tuple[tuple[Offset, Offset], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Subject:
    """One shard, as etcd and its owner know it. `owner` is None where nobody owns it now; `persisted` is then etcd's."""

    table: Table
    shard: ShardId
    logs: tuple[LogRecord, ...]
    persisted: Offset
    owner: Owner | None


class Verification:
    """One round over a shard; iterate it once. Findings come before the Checked that ends it."""

    def __init__(self, clickhouse: ClickHouse, subject: Subject, first: Offset | None, end: Offset | None) -> None:
        self._clickhouse = clickhouse
        self._subject = subject
        self._first = first or Offset(0)
        self._end = END_MAX if end is None else end
        self._must = Offset(max(self._first, min(self._end, subject.persisted)))
        self._found: list[Finding] = []
        self._rows = 0
        self._compared = 0
        self._held: list[tuple[Offset, Offset]] = []

    def __iter__(self) -> Iterator[Progress | Finding | Checked]:
        note = ""
        yield from self._offsets()
        if self._subject.owner is None:
            note = "The shard has no owner now, so content was not compared with its log."
        else:
            try:
                yield from self._content(self._subject.owner)
            except ProxistError as error:
                note = f"Content was not compared to the end: {error.message}"
        yield from self._copies()
        yield from audit.joined(self._found)
        yield Checked(self._first, self._must, self._rows, self._compared, tuple(self._held), note)

    def _offsets(self) -> Iterator[Progress]:
        subject = self._subject
        yield Progress("offsets", 0, int(self._must - self._first))
        end = None if self._end == END_MAX else self._end
        counts = chunk_counts(self._clickhouse, subject.table, subject.shard, self._first, end)
        self._rows = int(np.sum(counts["rows"].to_numpy()))
        spans = audit.spans(subject.shard, subject.logs, subject.persisted, self._owned())
        doubts = audit.doubtful(counts, spans, self._first, self._end)
        yield Progress("offsets", self._rows, self._rows)
        for at, (low, high) in enumerate(doubts):
            stored = Stored(self._clickhouse.offsets_present(subject.table, subject.shard, low, high))
            spans = audit.spans(subject.shard, subject.logs, subject.persisted, self._owned())
            self._found += audit.findings(stored, spans, low, high)
            yield Progress("offsets in doubt", at + 1, len(doubts))

    def _owned(self) -> tuple[Epoch, Offset] | None:
        """Asked after the rows were read: what is stored by then is below it."""
        if self._subject.owner is None:
            return None
        marks: OwnerMarks = self._subject.owner.marks()
        return marks.epoch, marks.end

    def _content(self, owner: Owner) -> Iterator[Progress]:
        copied = [(one.first, one.last) for one in self._found if one.kind == audit.COPIES]
        for batch in runs(owner.log_rows(self._first, self._must), COMPARE_ROWS):
            self._hold(batch)
            rows = self._present(batch.first, batch.end)
            found = difference(batch, compared(batch.rows), rows)
            self._compared += rows.num_rows
            if found is not None:
                wrong = np.unique(found.offsets)
                for low, high in copied:
                    wrong = wrong[(wrong < np.uint64(low)) | (wrong > np.uint64(high))]
                self._found += [
                    replace(one, columns=tuple(found.columns)) for one in audit.found(audit.ALTERED, batch.log, wrong)
                ]
            yield Progress("content", int(batch.end - self._first), int(self._must - self._first))

    def _hold(self, batch: Batch) -> None:
        if self._held and self._held[-1][1] == batch.first:
            self._held[-1] = (self._held[-1][0], batch.end)
        else:
            self._held.append((batch.first, batch.end))

    def _copies(self) -> Iterator[Progress]:
        """Which copies are equal in every column, in which partitions; the others are in conflict."""
        copies = [one for one in self._found if one.kind == audit.COPIES]
        self._found = [one for one in self._found if one.kind != audit.COPIES]
        for at, one in enumerate(copies):
            for low in range(one.first, one.last + 1, COMPARE_ROWS):
                high = min(low + COMPARE_ROWS, one.last + 1)
                self._found += self._sorted_out(one.log, self._present(Offset(low), Offset(high)))
            yield Progress("copies", at + 1, len(copies))

    def _sorted_out(self, log: LogId, rows: pa.Table) -> Iterator[Finding]:
        rows = rows.filter(pa.array(rows["_log"].to_numpy() == np.uint64(log)))
        offsets = rows["_offset"].to_numpy()
        again = np.flatnonzero(offsets[1:] == offsets[:-1])
        left, right = rows.take(pa.array(again)), rows.take(pa.array(again + 1))
        same = same_rows(left, right)
        conflicts = np.unique(offsets[again][~same])
        columns = tuple(differing_columns(left.filter(pa.array(~same)), right.filter(pa.array(~same))))
        for one in audit.found(audit.CONFLICT, log, conflicts):
            yield replace(one, columns=columns)
        equal = ~np.isin(offsets[again], conflicts)
        times = right[self._subject.table.spec.time].to_numpy().view(np.int64)
        for low, high in audit.ranges(np.unique(offsets[again][equal])):
            inside = equal & (offsets[again] >= np.uint64(low)) & (offsets[again] <= np.uint64(high))
            partitions: dict[str, int] = {}
            for day, count in zip(*np.unique(times[inside] // (86_400 * 10**9), return_counts=True), strict=True):
                partitions[partition_of(int(day) * 86_400 * 10**9)] = int(count)
            yield Finding(audit.COPIES, log, low, high, int(inside.sum()), (), partitions)

    def _present(self, first: Offset, end: Offset) -> pa.Table:
        subject = self._subject
        return self._clickhouse.rows_present(subject.table, subject.shard, first, end, timeout_s=STATEMENT_S_MAX)


def remedy(finding: Finding, table: Table, held: tuple[tuple[Offset, Offset], ...]) -> str:
    """What an operator can do about it."""
    name = f"{table.tenant}.{table.name}"
    where = f"_log = {finding.log} AND _offset BETWEEN {finding.first} AND {finding.last}"
    delete = f"`DELETE FROM {name} WHERE {where}` in ClickHouse"
    if finding.kind == audit.GAP:
        left = restorable(finding, held)
        if left == finding.rows:
            return f"`pxctl repair {table.name}` inserts them again from the log."
        some = f"`pxctl repair {table.name}` inserts the {left} that the log still holds. " if left else ""
        return f"{some}The log does not hold them any more: restore them from a backup of ClickHouse."
    if finding.kind == audit.COPIES:
        return f"`pxctl repair {table.name}` removes the copies: they are equal."
    if finding.kind == audit.CONFLICT:
        return f"Copies differ, and nobody but you can say which is right. Look: `SELECT * FROM {name} WHERE {where}`."
    if finding.kind == audit.ALTERED:
        return f"If the log is right: {delete}, then `pxctl repair {table.name}` inserts what was accepted."
    return f"No log of the shard explains them. Find out who wrote them, then {delete}."


def restorable(gap: Finding, held: tuple[tuple[Offset, Offset], ...]) -> int:
    """How many rows of the gap the log still holds."""
    return sum(max(0, min(end, gap.last + 1) - max(first, gap.first)) for first, end in held)
