"""Arrow types as ClickHouse types and back, without loss.

| Arrow | ClickHouse |
|---|---|
| bool, ints, float32, float64 | the same |
| float16 | Float32 (every half is a float) |
| date32 | Date32 |
| date64 | DateTime64(3, 'UTC') (milliseconds, as date64 counts) |
| timestamp[unit, tz] | DateTime64(0/3/6/9, tz); 'UTC' where there is no zone or ClickHouse has no name for it |
| time32[s], time32[ms], time64[us], time64[ns] | Time64(0), Time64(3), Time64(6), Time64(9) |
| duration | Int64, the count of its units (ClickHouse stores no intervals) |
| decimal128(p, s), decimal256(p, s) | Decimal(p, s) |
| string, binary | String |
| list<item> | Array(item); neither the list nor its items can be null |

A nullable column is Nullable(…). The key is LowCardinality(String). Everything is stored bit by bit, except that a
date32 outside 0000-01-01 to 9999-12-31 is refused by ClickHouse, as is one outside 1900 to 2299 by older servers.
"""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

import pyarrow as pa

from proxist.errors import InternalError
from proxist.model.table import HIDDEN_COLUMNS, Column, TableSpec

HIDDEN_TYPE = pa.uint64()
"""Arrow type of `_log` and `_offset`."""

_PLAIN = {
    pa.bool_(): "Bool",
    pa.int8(): "Int8", pa.int16(): "Int16", pa.int32(): "Int32", pa.int64(): "Int64",
    pa.uint8(): "UInt8", pa.uint16(): "UInt16", pa.uint32(): "UInt32", pa.uint64(): "UInt64",
    pa.float16(): "Float32", pa.float32(): "Float32", pa.float64(): "Float64",
    pa.date32(): "Date32", pa.date64(): "DateTime64(3, 'UTC')",
    pa.time32("s"): "Time64(0)", pa.time32("ms"): "Time64(3)", pa.time64("us"): "Time64(6)", pa.time64("ns"): "Time64(9)",
    pa.string(): "String", pa.binary(): "String",
    **{pa.duration(unit): "Int64" for unit in ("s", "ms", "us", "ns")},
}  # fmt: skip
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+\-]*(/[A-Za-z0-9_+\-]+)*")


def arrow_type_text(type_: pa.DataType) -> str:
    """The ClickHouse type of a not nullable column or list item of Arrow type `type_`.

    Raises InternalError for a type that `proxist.model.types` does not allow.
    """
    if plain := _PLAIN.get(type_):
        return plain
    if pa.types.is_timestamp(type_):
        return f"DateTime64({_DIGITS[type_.unit]}, '{_zone(type_.tz)}')"
    if pa.types.is_decimal(type_):
        return f"Decimal({type_.precision}, {type_.scale})"
    if pa.types.is_list(type_):
        return f"Array({arrow_type_text(type_.value_type)})"
    raise InternalError(f"Arrow type {type_} has no ClickHouse type.")


def column_type(column: Column, *, key: bool = False) -> str:
    """The ClickHouse type of a table's column; `key` marks the table's key column."""
    if key:
        return "LowCardinality(String)"
    text = arrow_type_text(column.type)
    return f"Nullable({text})" if column.nullable else text


def stored_schema(spec: TableSpec) -> pa.Schema:
    """The table's schema with `_log` and `_offset`, in the Arrow types that ClickHouse takes and gives back."""
    fields = [pa.field(c.name, _stored_type(c.type), c.nullable) for c in spec.columns]
    return pa.schema([*fields, *(pa.field(name, HIDDEN_TYPE, False) for name in HIDDEN_COLUMNS)])


def structure(spec: TableSpec, columns: tuple[str, ...] | None = None) -> str:
    """Names and ClickHouse types, hidden columns last: the structure of external data that stands for the table.

    `columns` restricts it (hidden names allowed) and gives the order.
    """
    types = {c.name: column_type(c, key=c.name == spec.key) for c in spec.columns}
    types |= dict.fromkeys(HIDDEN_COLUMNS, "UInt64")
    return ", ".join(f"`{name}` {types[name]}" for name in columns or types)


def to_stored(rows: pa.Table) -> pa.Table:
    """`rows` cast, column by column, to the Arrow types that ClickHouse's Arrow reader takes without loss."""
    fields = [pa.field(f.name, _stored_type(f.type), f.nullable) for f in rows.schema]
    return rows.cast(pa.schema(fields))


def cold_to_schema(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """ClickHouse's Arrow answer cast back to the fields of `schema` (a table's, or a part of it), in its order.

    Columns are matched by name; `rows` may have more. Raises InternalError where one is missing or has a type that
    its field's ClickHouse type does not answer with.
    """
    columns = []
    for want in schema:
        index = rows.schema.get_field_index(want.name)
        if index < 0:
            raise InternalError(f"ClickHouse's answer has no column {want.name!r}, only {rows.schema.names}.")
        columns.append(rows.column(index).cast(want.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _zone(tz: str | None) -> str:
    """A zone that both sides know. The zone only prints a timestamp: the stored instant is UTC either way."""
    if tz is None or not _ZONE_NAME.fullmatch(tz):
        return "UTC"
    try:
        ZoneInfo(tz)
    except (OSError, ValueError, KeyError):
        return "UTC"
    return tz


def _stored_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_float16(type_):
        return pa.float32()
    if pa.types.is_date64(type_):
        return pa.timestamp("ms", tz="UTC")
    if pa.types.is_duration(type_):
        return pa.int64()
    if pa.types.is_timestamp(type_):
        return pa.timestamp(type_.unit, tz=_zone(type_.tz))
    if pa.types.is_decimal256(type_) and type_.precision <= 38:
        return pa.decimal128(type_.precision, type_.scale)
    if pa.types.is_list(type_):
        return pa.list_(_stored_type(type_.value_type))
    return type_
