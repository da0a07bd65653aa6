"""Putting one shard's rows in ClickHouse right: the steps, and taking them. What conflicts is never touched.

Equal copies go by a merge of their partition that drops them: readers see each row twice until it is done, and once
from then on, never not at all. Gaps are filled from the owner's log, as a batch is persisted: verified afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from proxist.clickhouse.audit import partition_rows, remove_copies, remove_copies_sql
from proxist.model.ids import Offset
from proxist_persister import audit
from proxist_persister.audit import Finding
from proxist_persister.batches import SAME_TOKEN_TRIES, Batch, runs
from proxist_persister.delivery import Delivery
from proxist_persister.owner import Owner
from proxist_persister.policy import retry_delay_s
from proxist_persister.sink import Sink
from proxist_persister.verification import Subject, restorable

REMOVE = "remove copies"
INSERT = "insert from the log"
BATCH_ROWS = 50_000
TRIES_MAX = 2 * SAME_TOKEN_TRIES


@dataclass(frozen=True, slots=True)
class Step:
    """`rows`: that go or come. `rewritten`: that ClickHouse reads and writes for it. `done`: taken."""

    action: str
    rows: int
    partition: str = ""
    first: int = 0
    last: int = 0
    statement: str = ""
    rewritten: int = 0
    done: bool = False


class Repair:
    """Of one shard, after a Verification of it. `check` raises where this persister may not write the shard."""

    def __init__(self, sink: Sink, subject: Subject, check: Callable[[], None]) -> None:
        self._sink = sink
        self._subject = subject
        self._check = check

    def plan(self, found: list[Finding], held: tuple[tuple[Offset, Offset], ...]) -> list[Step]:
        """What would be done, in its order; empty where nothing can be."""
        return [*self._merges(found), *self._fillings(found, held)]

    def take(self, step: Step) -> Step:
        """Do it; done on return. Raises what stopped it: what was done until then stays, and a repair goes on there."""
        self._check()
        if step.action == REMOVE:
            remove_copies(self._sink.clickhouse, self._subject.table, step.partition)
        elif self._subject.owner is not None:
            self._fill(self._subject.owner, Offset(step.first), Offset(step.last + 1))
        return replace(step, done=True)

    def _merges(self, found: list[Finding]) -> Iterator[Step]:
        copies: dict[str, int] = {}
        for one in found:
            for partition, rows in one.partitions.items():
                copies[partition] = copies.get(partition, 0) + rows
        table, clickhouse = self._subject.table, self._sink.clickhouse
        for partition, rows in sorted(copies.items()):
            rewritten = partition_rows(clickhouse, table, partition)
            statement = remove_copies_sql(table, partition)
            yield Step(REMOVE, rows, partition, statement=statement, rewritten=rewritten)

    def _fillings(self, found: list[Finding], held: tuple[tuple[Offset, Offset], ...]) -> Iterator[Step]:
        for one in found:
            if one.kind == audit.GAP and (rows := restorable(one, held)):
                yield Step(INSERT, rows, first=one.first, last=one.last)

    def _fill(self, owner: Owner, first: Offset, end: Offset) -> None:
        for batch in runs(owner.log_rows(first, end), BATCH_ROWS):
            self._deliver(batch)

    def _deliver(self, batch: Batch) -> None:
        delivery = Delivery(self._sink, self._subject.table, self._subject.shard, batch)
        attempt = 0
        while not delivery.is_whole(stored := delivery.read_back()):
            if lost := delivery.lost(stored):
                attempt += 1
                if attempt > TRIES_MAX:
                    raise lost
                time.sleep(retry_delay_s(attempt, 0.0))
            delivery.insert_missing(stored, self._check, lambda _: None)
