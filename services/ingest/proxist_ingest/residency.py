"""Which rows stay in memory: the floor's way up, by age below persisted, and for room up to what is on disk in the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from proxist.errors import BatchTooLarge, Overloaded
from proxist.hot.writer import HotSet
from proxist.model.ids import Offset, ShardId, TimeNs
from proxist.model.table import Table
from proxist_ingest.logtail import LogTail

RESIDENCY_PERIOD_NS = 100_000_000
"""How often the hot window is looked at: short against any sensible window, long against an eviction step."""
STEP_PAUSE_NS = 5_000_000
"""Between two steps of an eviction: each makes the reads that are under way begin again."""
ROOM_ROWS = 131_072
"""Room is made by so many rows at a time: a few ms of the writer's time, and the next batches find some left."""
RETRY_AFTER_S = 0.1
"""A flush or a read, which are milliseconds."""
BEHIND_RETRY_AFTER_S = 0.5
"""A few of the persister's batches: by then persisted has moved, or the sink is down and the hint is as good as any."""


@dataclass(frozen=True, slots=True)
class EvictTo:
    """Where an operator wants the floor: below a time, at persisted, or so that the newest rows stay."""

    before_ns: TimeNs | None = None
    rows: int | None = None

    def floor(self, hot: HotSet) -> Offset:
        """That floor, at most persisted."""
        if self.before_ns is not None:
            return hot.floor_before_time(self.before_ns)
        return hot.marks().persisted if self.rows is None else hot.floor_keeping(self.rows)


class Residency:
    """Moves the floor of one hot set. Used by the shard's writer alone."""

    def __init__(self, table: Table, shard: ShardId, hot: HotSet, tail: LogTail) -> None:
        self._table = table
        self._shard = shard
        self._hot = hot
        self._tail = tail

    def room(self, rows: pa.RecordBatch) -> bool:
        """True: `rows` can be appended now. Evicts as far as that needs it, oldest first: what is persisted, and then what
        only the log has, within the log's bound."""
        while not self._hot.has_room(rows):
            marks = self._hot.marks()
            step = Offset(marks.floor + max(rows.num_rows, ROOM_ROWS))
            logged = self._tail.reach(marks.persisted) if marks.floor >= marks.persisted else Offset(0)
            if (
                self._hot.evict(step, logged) <= marks.floor
            ):  # the log is full or not flushed, or a reader holds the rows
                return False
        return True

    def refusal(self, rows: pa.RecordBatch) -> Overloaded | BatchTooLarge:
        """Why `rows` found no room, for the sender."""
        marks = self._hot.marks()
        if marks.floor == marks.end:
            return BatchTooLarge(
                f"A batch of {rows.num_rows} rows does not fit into the memory of table {self._table.name!r} even when "
                f"that is empty: `hot_bytes` is {self._table.spec.hot_bytes}. Split the batch, or raise `hot_bytes`."
            )
        subject = f"table {self._table.name!r} (shard {self._shard})"
        if marks.floor >= marks.persisted and self._tail.reach(marks.persisted) <= marks.floor:
            return Overloaded(
                f"ClickHouse is behind {subject}: {marks.end - marks.persisted} rows wait for it, in memory "
                f"(`hot_bytes` {self._table.spec.hot_bytes}) and in {self._tail.bytes_from(marks.persisted)} bytes of "
                f"log, of which `wal_gib_max` allows {self._tail.bytes_max}. Nothing of this batch was taken. Send it "
                "again; if it stays so, look at ClickHouse and the persister.",
                retry_after_s=BEHIND_RETRY_AFTER_S,
                shard=self._shard,
            )
        return Overloaded(
            f"The memory of {subject} is full: `hot_bytes` is {self._table.spec.hot_bytes}, and rows that are being "
            "flushed or read cannot leave it now. Nothing of this batch was taken. Send it again.",
            retry_after_s=RETRY_AFTER_S,
            shard=self._shard,
        )

    def age_out(self, now_ns: int) -> bool:
        """Evict rows that arrived longer than `hot_window` before `now_ns` (wall clock), a step of them; True: call
        again, there are more."""
        return self.step_to(self._hot.floor_due(now_ns))

    def step_to(self, floor: Offset) -> bool:
        """Move the floor one short step towards `floor`; True: call again, it is not there and can go on."""
        before = self._hot.marks().floor
        target = min(floor, self._hot.marks().persisted)
        return before < self._hot.evict_step(Offset(target)) < target if target > before else False


def concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of all rows, in order."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
