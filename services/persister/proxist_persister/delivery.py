"""One batch on its way into ClickHouse: insert what is missing, read all of it back, compare it with what was sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from proxist.clickhouse.content import compared, differing_columns, same_rows
from proxist.errors import OperatorError, ProxistError, Unavailable
from proxist.failpoints import reach
from proxist.model.ids import ShardId
from proxist.model.table import Table
from proxist_persister.batches import Batch, Insert, inserts, missing_part, whole_days
from proxist_persister.coverage import Offsets, Stored
from proxist_persister.sink import Sink


@dataclass(frozen=True, slots=True)
class Difference:
    """Stored rows of a batch that are not the rows that were sent: their offsets, one per copy, ascending, and the
    columns in which they differ."""

    offsets: Offsets
    columns: list[str]


class Delivery:
    """Inserts of one batch, and the proof that they are there. For one thread."""

    def __init__(self, sink: Sink, table: Table, shard: ShardId, batch: Batch) -> None:
        self.batch = batch
        self._sink = sink
        self._table = table
        self._shard = shard
        self._parts = inserts(table.spec, batch)
        self._sent = compared(batch.rows)
        self._confirmed: set[str] = set()
        self._unkept: dict[str, int] = {}  # by token: how often ClickHouse confirmed it and a read found nothing
        self._unanswered: set[str] = set()  # tokens of inserts that may still be carried out: their rows keep them

    def insert_missing(self, known: Stored, before: Callable[[], None], confirmed: Callable[[int], None]) -> None:
        """Insert what `known` lacks. `before` each insert may raise; `confirmed` is told the rows of each after it."""
        for part in self._parts:
            rest = missing_part(part, known.missing(self.batch.log, part.offsets), self._unkept.get(part.token, 0))
            if rest is None:
                continue
            before()
            reach("persister.insert.before")
            try:
                self._sink.insert(self._table, rest)
            except ProxistError as error:
                if error.details.get("outcome") == "unknown":
                    self._unanswered.add(part.token)
                raise
            reach("persister.insert.after")
            self._confirmed.add(part.token)
            confirmed(rest.rows.num_rows)

    def read_back(self) -> Stored:
        """What ClickHouse has of the batch now. Raises OperatorError where a row of it is not what was sent."""
        reach("persister.verify.before")
        times_ns = whole_days(self.batch.rows[self._table.spec.time])
        rows = self._sink.read_batch(self._table, self._shard, self.batch.first, self.batch.end, times_ns)
        reach("persister.verify.after")
        if found := difference(self.batch, self._sent, rows):
            self._sink.mismatched("differs")
            raise _differs(self._table, self.batch, found)
        return Stored.of_rows(rows)

    def lost(self, found: Stored) -> Unavailable | None:
        """Where rows are missing that ClickHouse had confirmed: the error, which a repeat may overcome."""
        lost = [part for part in self._parts if part.token in self._confirmed and self._lacks(part, found)]
        self._confirmed.clear()
        for part in (one for one in lost if one.token not in self._unanswered):
            self._unkept[part.token] = self._unkept.get(part.token, 0) + 1
        if not lost:
            return None
        self._sink.mismatched("missing")
        return Unavailable(
            f"ClickHouse confirmed rows of offsets {self.batch.first} to {self.batch.end - 1} of table "
            f"{self._table.name!r}, shard {self._shard}, and a read does not find them. They are inserted again; if this "
            "stays, look whether reads and inserts go to the same server, and who deletes rows.",
            retry_after_s=0.1,
            outcome="failed",
        )

    def is_whole(self, found: Stored) -> bool:
        """Whether every row of the batch was found."""
        return not any(self._lacks(part, found) for part in self._parts)

    def _lacks(self, part: Insert, found: Stored) -> bool:
        return bool(found.missing(self.batch.log, part.offsets).any())


def difference(batch: Batch, sent: pa.Table, rows: pa.Table) -> Difference | None:
    """How the stored `rows` of the batch's log and range, each copy of each, differ from what was `sent`; None where
    they do not."""
    logs = rows["_log"].to_numpy()
    if not (logs == np.uint64(batch.log)).all():
        rows = rows.filter(pa.array(logs == np.uint64(batch.log)))
    offsets: Offsets = rows["_offset"].to_numpy()
    whole = len(offsets) == sent.num_rows and bool((offsets[1:] != offsets[:-1]).all())
    want = sent if whole else sent.take(pa.array(offsets - np.uint64(batch.first)))
    wrong = ~same_rows(want, rows)
    if not wrong.any():
        return None
    mask = pa.array(wrong)
    return Difference(offsets[wrong], differing_columns(want.filter(mask), rows.filter(mask)))


def _differs(table: Table, batch: Batch, found: Difference) -> OperatorError:
    first, last = int(found.offsets[0]), int(found.offsets[-1])
    return OperatorError(
        f"ClickHouse has {len(found.offsets)} rows of table {table.name!r} that are not what was sent: offsets {first} to "
        f"{last} under _log {batch.log} differ in {', '.join(found.columns)}. Find out who changed them with "
        f"`pxctl verify {table.name}`, delete them in ClickHouse, then run `pxctl persist resume {table.name}`: they are "
        "inserted again from the log.",
        cause="differs",
        log=batch.log,
        first=first,
        last=last,
        columns=found.columns,
    )
