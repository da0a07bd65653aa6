"""Which rows stay in memory: the floor's way up, by age and for room, never above persisted."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from proxist.errors import BatchTooLarge, Overloaded
from proxist.hot.writer import HotSet
from proxist.model.ids import Offset, ShardId, TimeNs
from proxist.model.table import Table

EVICTION_STEPS = 16
"""Room is made a sixteenth of the resident rows at a time: one step stays short, and the next batches find room."""
RETRY_AFTER_S = 0.5
"""A few of the persister's batches: by then persisted has moved, or the sink is down and the hint is as good as any."""


class Residency:
    """Moves the floor of one hot set. Used by the shard's writer alone."""

    def __init__(self, table: Table, shard: ShardId, hot: HotSet) -> None:
        self._table = table
        self._shard = shard
        self._hot = hot

    def room(self, *batches: pa.RecordBatch) -> bool:
        """True: `batches` can be appended now. Evicts what is persisted, oldest first, as far as that needs it."""
        row_count = sum(batch.num_rows for batch in batches)
        while not self._hot.has_room(*batches):
            marks = self._hot.marks()
            step = max(row_count, (marks.end - marks.floor) // EVICTION_STEPS, 1)
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
        floor = self._hot.marks().floor
        due = self._hot.floor_due(now_ns)
        if due <= floor:
            return False
        return floor < self._hot.evict_step(due) < due

    def move_floor(self, floor: Offset) -> None:
        """The floor becomes `floor`, or persisted where that is lower; it never moves back."""
        marks = self._hot.marks()
        target = Offset(min(floor, marks.persisted))
        if target > marks.floor:
            self._hot.evict(target)

    def move_floor_before(self, time_ns: TimeNs) -> None:
        """To the largest floor below which every row is earlier than `time_ns`."""
        self.move_floor(self._hot.floor_before_time(time_ns))

    def keep_rows(self, row_count: int) -> None:
        """So that the newest `row_count` rows stay."""
        self.move_floor(self._hot.floor_keeping(row_count))


def concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of all rows, in order."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
