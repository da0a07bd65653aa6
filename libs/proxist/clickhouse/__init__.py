"""Cold history: tables, inserts, read-back and queries of a ClickHouse server, and the embedded one of local mode.

In come a table's spec, rows sorted and cut by partition, and SQL; out go Arrow tables. A row is durable in here when
`ClickHouse.insert` has returned. `types` maps Arrow types, `ddl` lays tables out, `client` speaks HTTP (its only code
path), `failures` types what goes wrong, `embedded` is the local server: chdb's engine behind ClickHouse's own wire.
"""

from proxist.clickhouse.client import INSERT_ROWS_MAX, ClickHouse
from proxist.clickhouse.ddl import database_of, partition_of, sort_columns, table_name
from proxist.clickhouse.types import cold_to_schema, column_type, stored_schema, structure, to_stored

__all__ = [
    "INSERT_ROWS_MAX",
    "ClickHouse",
    "cold_to_schema",
    "column_type",
    "database_of",
    "partition_of",
    "sort_columns",
    "stored_schema",
    "structure",
    "table_name",
    "to_stored",
]
