"""The ClickHouse side of a table: its name, its layout, its partitions."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from proxist.clickhouse.types import arrow_type_text, column_type
from proxist.model.ids import ShardId
from proxist.model.table import Column, Table, TableSpec

DEDUP_WINDOW_BLOCKS = 10_000
"""Tokens that ClickHouse remembers per table. It must outlast the longest insert of a persister that lost its lease:
at the 600 inserts per second where an operator is alarmed anyway this is 16 s of inserts into other batches, and a
usual feed's 50 per second make it 200 s."""


def quote(identifier: str) -> str:
    """`identifier` in back quotes; a table's names hold letters, digits and _ only."""
    return f"`{identifier}`"


def database_of(tenant: str) -> str:
    """A tenant is one database of the same name."""
    return tenant


def table_name(table: Table) -> str:
    """The table's full, quoted name in ClickHouse."""
    return f"{quote(database_of(table.tenant))}.{quote(table.name)}"


def create_database_sql(tenant: str) -> str:
    return f"CREATE DATABASE IF NOT EXISTS {quote(database_of(tenant))}"


def create_table_sql(table: Table) -> str:
    """CREATE TABLE IF NOT EXISTS: partitioned by the UTC day of time, ordered by (key, time, seq, _log, _offset)."""
    spec = table.spec
    columns = [
        *(f"{quote(c.name)} {column_type(c, key=c.name == spec.key)}{_codec(spec, c)}" for c in spec.columns),
        "`_log` UInt64 CODEC(ZSTD(1))",
        "`_offset` UInt64 CODEC(DoubleDelta, ZSTD(1))",
        "INDEX `_offset_range` `_offset` TYPE minmax GRANULARITY 1",
    ]
    order = ", ".join(quote(name) for name in sort_columns(spec))
    return (
        f"CREATE TABLE IF NOT EXISTS {table_name(table)} ({', '.join(columns)}) ENGINE = MergeTree "
        f"PARTITION BY toYYYYMMDD({quote(spec.time)}) ORDER BY ({order}) "
        f"SETTINGS non_replicated_deduplication_window = {DEDUP_WINDOW_BLOCKS} "
        f"COMMENT 'proxist table {table.id}'"
    )


def drop_table_sql(table: Table) -> str:
    """DROP … SYNC: on return the name is free and the rows are gone."""
    return f"DROP TABLE IF EXISTS {table_name(table)} SYNC"


def sort_columns(spec: TableSpec) -> tuple[str, ...]:
    """The table's order in ClickHouse: (key, time, seq, _log, _offset)."""
    return (spec.key, *spec.order, "_log", "_offset")


def partition_of(time_ns: int) -> str:
    """The partition of a row: toYYYYMMDD of its time in UTC, as ClickHouse prints it."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y%m%d")


def log_range(shard: ShardId) -> tuple[int, int]:
    """First and last value of `_log` that a shard's rows can have."""
    return shard << 24, ((shard + 1) << 24) - 1


def _codec(spec: TableSpec, column: Column) -> str:
    """Time and seq grow in steps; floats repeat their high bits; the rest is left to the general compressor."""
    if column.name in spec.order:
        return " CODEC(DoubleDelta, ZSTD(1))"
    if pa.types.is_floating(column.type):
        return " CODEC(Gorilla, ZSTD(1))"
    return " CODEC(ZSTD(1))" if "LowCardinality" not in arrow_type_text(column.type) else ""
