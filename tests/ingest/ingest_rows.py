"""Tables and rows for the tests of ingest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from proxist.model.ids import ShardId, TableId
from proxist.model.table import Table, parse_spec

DAY_NS = 1_723_161_600_000_000_000

TRADES = {
    "name": "trades",
    "time": "ts",
    "key": "symbol",
    "seq": "trade_id",
    "columns": [
        {"name": "symbol", "type": "string"},
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "trade_id", "type": "uint64"},
        {"name": "price", "type": "double"},
        {"name": "size", "type": "double", "nullable": True},
    ],
    "hot_bytes": "64MiB",
}


def table(shards: int = 1, first_shard: int = 1, **spec: Any) -> Table:
    """The trades table with `shards` shards, and fields of the spec replaced."""
    ids = tuple(ShardId(first_shard + slot) for slot in range(shards))
    return Table(TableId(1), "default", parse_spec({**TRADES, "shards": shards, **spec}), ids)


def rows(count: int, first: int = 0, keys: int = 3, **replaced: Any) -> pa.RecordBatch:
    """`count` trades; row i has trade_id `first + i`, from which all its values follow."""
    ids = np.arange(first, first + count)
    columns: dict[str, Any] = {
        "symbol": pa.array([f"S{i % keys}" for i in ids], pa.string()),
        "ts": pa.array(DAY_NS + ids * 1000, pa.timestamp("ns", "UTC")),
        "trade_id": pa.array(ids, pa.uint64()),
        "price": pa.array(ids * 0.5),
        "size": pa.array(ids * 1.0),
    }
    columns.update(replaced)
    return pa.record_batch({name: column for name, column in columns.items() if column is not None})
