"""What the kill runs look for, they find: each kind of damage in rows that are otherwise right."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from kills import KEYS, Batch, Oracle, check_shard

from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.token import Mark, Token

SHARD = ShardId(1)
EVERY_KEY = {f"S{k}" for k in range(KEYS)}


def sent() -> Oracle:
    """Two batches that are acked, and one that is not."""
    oracle = Oracle(random.Random(1))
    for number, (first, end) in enumerate([(0, 10), (10, 15), (15, 20)]):
        token = str(Token({SHARD: Mark(Epoch(1), Offset(end))})) if end < 20 else None
        oracle.batches.append(Batch("p", number, first, end, token))
    return oracle


def held(ids: list[int], offsets: list[int] | None = None) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "trade_id": pa.array(ids, pa.uint64()),
            "symbol": pa.array([f"S{i % KEYS}" for i in ids]),
            "price": pa.array([i * 0.5 for i in ids]),
            "_offset": pa.array(list(range(len(ids))) if offsets is None else offsets, pa.uint64()),
        }
    )


def changed(rows: pa.RecordBatch) -> pa.RecordBatch:
    return rows.set_column(2, "price", pa.array([1.25, *rows["price"].to_pylist()[1:]]))


@pytest.mark.parametrize("ids", [range(15), range(20)], ids=["absent", "whole"])
def test_what_is_right_passes_whether_the_unacked_batch_is_there_or_not(ids: range) -> None:
    check_shard(0, held(list(ids)), SHARD, EVERY_KEY, sent())


DAMAGE: dict[str, tuple[pa.RecordBatch, str]] = {
    "an acked row is lost": (held([*range(14)]), "4 of 5 rows"),
    "an acked batch is lost": (held([*range(10)]), "acked and is lost"),
    "a row is there twice": (held([*range(15), 3]), "twice"),
    "an unacked part is torn": (held([*range(18)]), "3 of 5 rows"),
    "rows of a batch are out of order": (held([1, 0, *range(2, 15)]), "out of order"),
    "batches are out of order": (held([*range(10, 15), *range(10)]), "not at its ack"),
    "a hole in the offsets": (held([*range(15)], [*range(14), 15]), "a hole"),
    "a row that nobody sent": (held([*range(15), 99]), "nobody sent"),
    "a value changed": (changed(held([*range(15)])), "changed"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(name: str) -> None:
    rows, message = DAMAGE[name]
    with pytest.raises(AssertionError, match=message):
        check_shard(0, rows, SHARD, EVERY_KEY, sent())
