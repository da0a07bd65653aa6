"""Under which tokens a batch is sent again while ClickHouse confirms it and does not have it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from proxist.clickhouse.content import compared, compared_schema
from proxist.errors import Unavailable
from proxist.model.ids import Epoch, Offset, ShardId, TableId, log_id
from proxist.model.table import Table, parse_spec
from proxist_persister.batches import SAME_TOKEN_TRIES, Insert, read_batch
from proxist_persister.delivery import Delivery

SPEC = parse_spec(
    {
        "name": "trades",
        "time": "ts",
        "key": "symbol",
        "columns": [{"name": "ts", "type": "timestamp[ns, tz=UTC]"}, {"name": "symbol", "type": "string"}],
    }
)
TABLE = Table(TableId(1), "default", SPEC, (ShardId(1),))


class Liar:
    """A sink that confirms what it does not store; with `unanswered`, its first answer does not come."""

    def __init__(self, unanswered: bool) -> None:
        self.unanswered = unanswered
        self.tokens: list[str] = []

    def insert(self, table: Table, insert: Insert) -> None:
        self.tokens.append(insert.token)
        if self.unanswered and len(self.tokens) == 1:
            raise Unavailable("ClickHouse did not answer in time", outcome="unknown")

    def read_batch(self, *_: Any) -> pa.Table:
        return compared_schema(SPEC).empty_table()

    def mismatched(self, kind: str) -> None:
        pass


def tokens_of(sink: Liar) -> list[str]:
    rows = pa.record_batch(
        {
            "ts": pa.array([0], pa.timestamp("ns", "UTC")),
            "symbol": ["A"],
            "_log": pa.array([log_id(ShardId(1), Epoch(1))], pa.uint64()),
            "_offset": pa.array([0], pa.uint64()),
        }
    )
    assert compared(pa.table(rows)).num_rows == 1
    batch = read_batch(ShardId(1), Offset(0), Offset(1), [rows])
    delivery = Delivery(sink, TABLE, ShardId(1), batch)  # type: ignore[arg-type]
    for _ in range(SAME_TOKEN_TRIES + 3):
        stored = delivery.read_back()
        delivery.lost(stored)
        try:
            delivery.insert_missing(stored, lambda: None, lambda _: None)
        except Unavailable:
            continue
    return sink.tokens


def test_a_token_whose_rows_are_never_kept_is_given_up_after_some_tries() -> None:
    tokens = tokens_of(Liar(unanswered=False))
    assert len(set(tokens[: SAME_TOKEN_TRIES + 1])) <= 2
    assert tokens[-1] != tokens[0]


def test_rows_of_an_insert_that_may_still_come_keep_its_token() -> None:
    tokens = tokens_of(Liar(unanswered=True))
    assert len(tokens) > SAME_TOKEN_TRIES + 1
    assert set(tokens) == {tokens[0]}, "under another token the late one would store the rows twice"
