"""Which rows stay in memory: the floor's way up, by age and for room, never above persisted."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from proxist.errors import BatchTooLarge, Overloaded
from proxist.hot.writer import HotSet
from proxist.model.ids import Offset, ShardId
from proxist.model.table import Table

ROOM_ROWS = 131_072
"""Room is made by so many rows at a time: a few ms of the writer's time, and the next batches find some left."""
RETRY_AFTER_S = 0.5
"""A few of the persister's batches: by then persisted has moved, or the sink is down and the hint is as good as any."""


class Residency:
    """Moves the floor of one hot set. Used by the shard's writer alone."""

    def __init__(self, table: Table, shard: ShardId, hot: HotSet) -> None:
        self._table = table
        self._shard = shard
        self._hot = hot

    def room(self, rows: pa.RecordBatch) -> bool:
        """True: `rows` can be appended now. Evicts what is persisted, oldest first, as far as that needs it."""
        while not self._hot.has_room(rows):
            marks = self._hot.marks()
            step = max(rows.num_rows, ROOM_ROWS)
            reached = self._hot.evict(Offset(min(marks.persisted, marks.floor + step)))
            if reached <= marks.floor:  # everything above is not persisted, or a reader holds it
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
        return Overloaded(
            f"The memory of table {self._table.name!r} (shard {self._shard}) is full: `hot_bytes` is "
            f"{self._table.spec.hot_bytes}, and only rows that are persisted may leave it; {marks.end - marks.persisted} "
            "are not. Nothing of this batch was taken. Send it again; if it stays so, look at the persister.",
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
