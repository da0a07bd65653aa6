"""What an operator asks of the stored rows: counts by chunks of offsets, and a partition without its equal copies."""

from __future__ import annotations

import pyarrow as pa

from proxist.clickhouse import ddl
from proxist.clickhouse.client import ClickHouse
from proxist.clickhouse.types import stored_schema
from proxist.model.ids import Offset, ShardId
from proxist.model.table import Table

CHUNK_BITS = 20
CHUNK_ROWS = 1 << CHUNK_BITS
"""Offsets that are counted together, from a multiple of it on."""
STATEMENT_S_MAX = 6 * 3600.0
"""Of a statement that reads all of a table, or writes a partition again."""


def chunk_counts(clickhouse: ClickHouse, table: Table, shard: ShardId, first: Offset, end: Offset | None) -> pa.Table:
    """Per log and chunk of offsets what is stored of [first, end): `_log`, `chunk` (offset >> CHUNK_BITS), `rows`,
    `distinct` (offsets, exactly), `low` and `high` (offsets, both closed). One pass over two columns."""
    low, high = ddl.log_range(shard)
    until = "" if end is None else f" AND _offset < {end}"
    return clickhouse.read(
        f"SELECT _log, bitShiftRight(_offset, {CHUNK_BITS}) AS chunk, count() AS rows, groupBitmap(_offset) AS distinct, "
        f"min(_offset) AS low, max(_offset) AS high FROM {ddl.table_name(table)} "
        f"WHERE _log >= {low} AND _log <= {high} AND _offset >= {first}{until} GROUP BY _log, chunk ORDER BY chunk, _log",
        STATEMENT_S_MAX,
    )


def partition_rows(clickhouse: ClickHouse, table: Table, partition: str) -> int:
    """Rows that are stored in the partition, of all shards."""
    answer = clickhouse.read(f"SELECT count() AS n FROM {ddl.table_name(table)} WHERE _partition_id = '{partition}'")
    return int(answer["n"][0].as_py())


def remove_copies_sql(table: Table, partition: str) -> str:
    """Merges all parts of the partition into one without rows that are equal in every column, `_log` and `_offset`
    among them, to another. Readers see the old parts until the new one takes their place, at once."""
    columns = ", ".join(ddl.quote(name) for name in stored_schema(table.spec).names)
    return f"OPTIMIZE TABLE {ddl.table_name(table)} PARTITION ID '{partition}' FINAL DEDUPLICATE BY {columns}"


def remove_copies(clickhouse: ClickHouse, table: Table, partition: str) -> None:
    """On return it is done; raises where ClickHouse did not, for want of disk space, say. Repeating it is harmless."""
    settings = {"optimize_throw_if_noop": 1, "alter_sync": 2}
    clickhouse.command(remove_copies_sql(table, partition), settings, timeout_s=STATEMENT_S_MAX)
