"""Which rows of a batch go to which slot of its table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from proxist.errors import InvalidBatch
from proxist.model.table import Table


def split(rows: pa.RecordBatch, table: Table) -> dict[int, pa.RecordBatch]:
    """The rows of each slot that has some, in their order; `rows` is normalised, and so is each part."""
    slots = len(table.shard_ids)
    if slots == 1 or not rows.num_rows:
        return {0: rows} if rows.num_rows else {}
    of_row = table.slots_of(rows.column(table.spec.key))
    present = np.unique(of_row)
    if len(present) == 1:
        return {int(present[0]): rows}
    return {int(slot): rows.take(pa.array(np.flatnonzero(of_row == slot))) for slot in present}


def check_slot(rows: pa.RecordBatch, table: Table, slot: int) -> None:
    """Raises InvalidBatch unless every key of `rows` belongs to `slot`: a wrong route would split a key's history."""
    if not 0 <= slot < len(table.shard_ids):
        raise InvalidBatch(
            f"Slot {slot} of table {table.name!r} does not exist; it has slots 0 to {len(table.shard_ids) - 1}. "
            "Read the shard map again."
        )
    if not rows.num_rows or len(table.shard_ids) == 1:
        return
    wrong = np.flatnonzero(table.slots_of(rows.column(table.spec.key)) != slot)
    if len(wrong):
        key = rows.column(table.spec.key)[int(wrong[0])].as_py()
        raise InvalidBatch(
            f"The part for slot {slot} of table {table.name!r} has key {key!r}, which belongs to slot "
            f"{table.slot_of(key)}. Route by xxh3_64(key) mod {len(table.shard_ids)}, or send without `slot`."
        )
