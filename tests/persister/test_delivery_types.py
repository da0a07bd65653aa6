"""A batch with a column of every type and its odd values: read back as sent, and one changed value is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from proxist.clickhouse import table_name
from proxist.errors import OperatorError
from proxist.model.ids import Epoch, Offset, ShardId, log_id
from proxist.model.table import Table
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.clickhouse_store import Store, rows_of
from proxist.testing.clickhouse_types import extremes, lists_of
from proxist_persister.batches import Batch
from proxist_persister.coverage import Stored
from proxist_persister.delivery import Delivery
from proxist_persister.sink import Sink

SCALARS = extremes()
EVERY = {**SCALARS, **lists_of(SCALARS)}
COUNT = 1 + max(len(values) for values in EVERY.values())
SHARD = ShardId(7)
OTHER = {
    "bool": "false",
    "halffloat": "0.0",
    "float": "0.0",
    "double": "0.0",
    "string": "'other'",
    "binary": "'other'",
    "decimal128(9, 4)": "toDecimal128('0.0001', 4)",
    "decimal256(76, 38)": "toDecimal256('0.5', 38)",
    "timestamp[ns, tz=UTC]": "fromUnixTimestamp64Nano(12345)",
    "duration[ns]": "5",
    "list<item: double>": "[0.0, 1.5]",
}
"""A value that some row of the type does not have: for floats row 3, which is -0.0."""


@pytest.fixture
def store(clickhouse_server: LocalClickHouse) -> Iterator[Store]:
    store = Store.connect(clickhouse_server.url)
    yield store
    store.close()


def delivered(store: Store) -> tuple[Table, Delivery]:
    """Every type, and every scalar once more as nullable, with nulls behind its values."""
    specs: list[dict[str, Any]] = []
    arrays: dict[str, pa.Array] = {}
    for index, (type_, values) in enumerate(EVERY.items()):
        specs.append({"name": f"c{index}", "type": type_})
        arrays[f"c{index}"] = pa.concat_arrays([values, *[values.slice(0, 1)] * (COUNT - len(values))])
        if type_ in SCALARS:
            specs.append({"name": f"n{index}", "type": type_, "nullable": True})
            arrays[f"n{index}"] = pa.concat_arrays([values, pa.nulls(COUNT - len(values), values.type)])
    table = store.table(*specs)
    rows = rows_of(table, COUNT, **arrays)
    batch = Batch(log_id(SHARD, Epoch(1)), Offset(0), Offset(COUNT), rows)
    delivery = Delivery(Sink(store.clickhouse), table, SHARD, batch)
    delivery.insert_missing(Stored.of_rows(rows.slice(0, 0)), lambda: None, lambda _: None)
    return table, delivery


def test_every_type_is_read_back_as_it_was_sent(store: Store) -> None:
    _, delivery = delivered(store)
    assert delivery.is_whole(delivery.read_back())


def test_one_changed_value_is_found_whatever_its_type(store: Store) -> None:
    table, delivery = delivered(store)
    names = {type_: f"c{index}" for index, type_ in enumerate(EVERY)}
    changes = ", ".join(f"`{names[type_]}` = {value}" for type_, value in OTHER.items())
    store.clickhouse.command(
        f"ALTER TABLE {table_name(table)} UPDATE {changes} WHERE _offset = 3", {"mutations_sync": 2}
    )
    with pytest.raises(OperatorError) as caught:
        delivery.read_back()
    found = caught.value.details
    assert (found["first"], found["last"]) == (3, 3)
    assert set(found["columns"]) == {names[type_] for type_ in OTHER}


def test_a_null_that_became_a_value_is_found(store: Store) -> None:
    table, delivery = delivered(store)
    name = f"n{list(EVERY).index('double')}"
    store.clickhouse.command(
        f"ALTER TABLE {table_name(table)} UPDATE `{name}` = 0 WHERE `{name}` IS NULL", {"mutations_sync": 2}
    )
    with pytest.raises(OperatorError) as caught:
        delivery.read_back()
    assert caught.value.details["columns"] == [name]
