"""Rows as users hold them (Arrow, polars, pandas, dicts) to Arrow batches of a table, and their parts per slot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proxist.errors import InvalidArgument, InvalidBatch, SchemaMismatch
from proxist.model.slots import slots_of
from proxist.model.table import Column, TableSpec
from proxist.model.types import accepts


def to_table(rows: Any, schema: pa.Schema | None = None) -> pa.Table:
    """An Arrow table of an Arrow table, batch or reader, a polars or pandas frame, any object with the Arrow C stream
    (duckdb, cudf, …), a dict of columns, or a list of dicts.

    Python's own values are read as the types of `schema`: left to itself, Arrow takes microseconds for times. Raises
    InvalidArgument for anything else, SchemaMismatch for a value that its column cannot hold.
    """
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, pa.RecordBatchReader):
        return rows.read_all()
    if isinstance(rows, dict):
        return pa.table({name: _python_column(name, values, schema) for name, values in rows.items()})
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return to_table({name: [row.get(name) for row in rows] for name in _names_of(rows, schema)}, schema)
    if hasattr(rows, "__arrow_c_stream__"):
        return _without_index(pa.table(rows), rows)
    raise InvalidArgument(
        f"Rows are a {type(rows).__name__}, but must be an Arrow table, batch or reader, a polars or pandas frame, "
        "a dict of columns or a list of dicts."
    )


def _names_of(rows: list[dict[str, Any]], schema: pa.Schema | None) -> list[str]:
    if not rows and schema is not None:
        return list(schema.names)
    return list(dict.fromkeys(name for row in rows for name in row))


def _python_column(name: str, values: Any, schema: pa.Schema | None) -> Any:
    """Plain lists become the declared type; numpy, Arrow, polars and pandas columns have a type of their own."""
    at = -1 if schema is None else schema.get_field_index(name)
    if not isinstance(values, list | tuple) or schema is None or at < 0:
        return values
    try:
        return pa.array(values, schema.field(at).type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise SchemaMismatch(
            f"Column {name!r} is {schema.field(at).type}, and a value of the rows does not fit it ({error})."
        ) from None


def _without_index(table: pa.Table, frame: Any) -> pa.Table:
    """pandas exports a non-trivial index as columns; an unnamed one is no column of the user's."""
    hidden = [name for name in table.column_names if name.startswith("__index_level_")]
    return table.drop_columns(hidden) if hidden and hasattr(frame, "index") else table


def is_frame(rows: Any) -> bool:
    """Whether rows came from a library whose types are not the user's exact choice (pandas, polars, Python values)."""
    return not isinstance(rows, pa.Table | pa.RecordBatch | pa.RecordBatchReader)


def conform(table: pa.Table, spec: TableSpec, *, cast: bool) -> pa.Table:
    """The rows with the table's columns in the table's order, types and string encoding.

    With `cast`, values are cast where no value changes (int64 ids to uint64, microseconds to nanoseconds, a time
    without zone read as UTC); pandas' NaN, which arrives as null, becomes NaN again where nulls are refused. What the
    owner would refuse by name is refused here, before anything is sent: SchemaMismatch for a missing, extra or mistyped
    column, InvalidBatch for a null where none may stand.
    """
    _check_names(table, spec)
    columns = [_conform_column(table.column(c.name), c, spec.name, cast) for c in spec.columns]
    return pa.table(columns, schema=spec.schema)


def _check_names(table: pa.Table, spec: TableSpec) -> None:
    known = [c.name for c in spec.columns]
    for name in known:
        if (found := table.column_names.count(name)) != 1:
            raise SchemaMismatch(
                f"Column {name!r} of table {spec.name!r} is {'twice in' if found else 'missing in'} the rows. "
                f"Send each of {', '.join(known)} once."
            )
    if extra := [name for name in table.column_names if name not in known]:
        raise SchemaMismatch(
            f"Column {extra[0]!r} of the rows is not in table {spec.name!r}. Its columns are {', '.join(known)}; drop it."
        )


def _conform_column(values: pa.ChunkedArray, column: Column, table: str, cast: bool) -> pa.ChunkedArray:
    subject = f"Column {column.name!r} of table {table!r}"
    sent = values.type
    if not sent.equals(column.type):
        if accepts(column.type, sent):
            values = values.cast(column.type)
        elif cast:
            values = _safe_cast(values, column.type, subject)
        if not values.type.equals(column.type):
            raise SchemaMismatch(
                f"{subject} is {column.type}, but the rows have {sent}. Cast the column before writing."
            )
    if values.null_count and not column.nullable:
        if not (cast and pa.types.is_floating(values.type)):
            raise InvalidBatch(
                f"{subject} has {values.null_count} nulls and is not nullable. Remove or fill those rows."
            )
        values = pc.fill_null(values, pa.scalar(float("nan"), values.type))
    return values


def _safe_cast(values: pa.ChunkedArray, declared: pa.DataType, subject: str) -> pa.ChunkedArray:
    """Cast within a family of types only: text is never read as a number, nor a number as a time."""
    if not any(test(values.type) and test(declared) for test in _FAMILIES):
        return values
    try:
        if pa.types.is_timestamp(declared) and values.type.tz is None:
            values = pc.assume_timezone(values, "UTC")
        return values.cast(declared)
    except pa.ArrowInvalid as error:
        raise SchemaMismatch(
            f"{subject} is {declared}, and a value of the rows does not fit it ({error}). Cast the column before writing."
        ) from None


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _is_bytes(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_))


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


_FAMILIES = (
    _is_number,
    _is_text,
    _is_bytes,
    _is_list,
    pa.types.is_timestamp,
    pa.types.is_duration,
    pa.types.is_time,
    pa.types.is_date,
    pa.types.is_decimal,
)


class AsIs:
    """Finds the rows that `conform` and `to_batches` would leave as they are: most writers send such batches, and the
    two take several times as long as sending one."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._alike = schema
        """The last schema that differed in nullable flags alone."""
        self._required = [at for at, field in enumerate(schema) if not field.nullable]

    def batch(self, rows: Any, rows_max: int) -> pa.RecordBatch | None:
        """`rows`, if they are one Arrow batch of the table's columns with at most `rows_max` rows; else None."""
        if not isinstance(rows, pa.RecordBatch) or not 0 < rows.num_rows <= rows_max or not self._fits(rows.schema):
            return None
        if any(rows.column(at).null_count for at in self._required):
            return None
        same = rows.schema.equals(self._schema)
        return rows if same else pa.RecordBatch.from_arrays(rows.columns, schema=self._schema)

    def _fits(self, schema: pa.Schema) -> bool:
        if schema.equals(self._schema) or schema.equals(self._alike):
            return True
        fits = bool(schema.names == self._schema.names and schema.types == self._schema.types)
        if fits:
            self._alike = schema
        return fits


def to_batches(table: pa.Table, rows_max: int, bytes_max: int | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of `rows_max` rows (fewer where they would pass about `bytes_max`), the last one shorter.

    The chunks of `table` do not matter: the same rows give the same batches, so that a producer that sends a table again
    sends the same numbers with the same content.
    """
    step = rows_max
    if bytes_max is not None and table.num_rows:
        step = max(1, min(rows_max, bytes_max * table.num_rows // max(1, _value_bytes(table))))
    for first in range(0, table.num_rows, step):
        yield _one_batch(table.slice(first, step))


def _value_bytes(table: pa.Table) -> int:
    """Bytes of all values, from the values alone: `nbytes` also depends on chunks and on bitmaps that say nothing."""
    return sum(_column_bytes(column) for column in table.columns)


def _column_bytes(column: pa.ChunkedArray) -> int:
    if pa.types.is_list(column.type):
        items = pc.sum(pc.list_value_length(column)).as_py() or 0
        return int(items * column.type.value_type.bit_width // 8 + 4 * len(column))
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        return int((pc.sum(pc.binary_length(column)).as_py() or 0) + 4 * len(column))
    return int(len(column) * column.type.bit_width // 8)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    columns = [_one_chunk(column) for column in table.columns]
    return pa.record_batch(columns, schema=table.schema)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def split_by_slot(batch: pa.RecordBatch, key: str, slots: int) -> list[pa.RecordBatch]:
    """The rows of each slot (0 … slots-1) in their order; empty batches included, since a numbered batch goes to all.

    A null key goes to slot 0, whose owner refuses it by name.
    """
    if slots == 1:
        return [batch]
    slot_of_row = slots_of(batch.column(key), slots)
    return [batch.take(pa.array(np.flatnonzero(slot_of_row == slot))) for slot in range(slots)]
