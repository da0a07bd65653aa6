"""From what a client sent to rows of the table: every rule is checked here, before anything touches the log.

The result is canonical: the same rows give the same bytes however they were encoded, sliced or padded, because the
bytes are hashed to tell a producer's repeat from a conflict.
"""

from __future__ import annotations

import operator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proxist.errors import BatchTooLarge, InvalidBatch, SchemaMismatch
from proxist.model.ids import TIME_MAX, TIME_MIN
from proxist.model.table import Column, TableSpec
from proxist.model.types import accepts
from proxist.model.units import format_time_ns

BATCH_ROWS_MAX = 1 << 20
"""Rows per batch: one batch is one record of the log and one step of the writer, a second of it at the most."""
BATCH_BYTES_MAX = 64 * 2**20
"""Bytes per batch, as the table's schema stores it: as large as a segment of the log."""
KEY_BYTES_MAX = 1024
"""Bytes of a key: keys stay in memory for ever, in each reader's dictionary too."""
STRING_BYTES_MAX = 64 * 2**10
"""Bytes of another string: strings are dictionary-encoded, so long ones that never repeat belong into binary."""

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY_S = 86400
_LAST_SECOND = 10_413_791_999
"""2299-12-31T23:59:59Z: the last second of ClickHouse's DateTime64, and the last day of its Date32."""


class Normaliser:
    """Turns batches of one schema into rows of one table; made once per stream, since both are fixed there.

    Raises SchemaMismatch where the schema cannot be the table's.
    """

    def __init__(self, incoming: pa.Schema, spec: TableSpec) -> None:
        self._subject = f"The batch for table {spec.name!r}"
        _check_names(incoming, spec, self._subject)
        self._schema = spec.schema
        self._same_schema = incoming.equals(spec.schema)
        self._rules = [_Rule(column, incoming, spec, self._subject) for column in spec.columns]

    def rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of `batch` under the table's schema: its column order, its types, canonical buffers.

        Raises InvalidBatch (names column and row) or BatchTooLarge. Nothing else comes out, however damaged the buffers
        are: they are validated in full before a value is read.
        """
        if batch.num_rows > BATCH_ROWS_MAX or batch.get_total_buffer_size() > BATCH_BYTES_MAX:
            _check_size(batch.num_rows, sum(_known_bytes(column) for column in batch.columns), self._subject)
        try:
            batch.validate(full=True)
        except pa.ArrowException as error:
            raise InvalidBatch(
                f"{self._subject} is not a valid Arrow batch ({_first_line(error)}). Offsets, dictionary indices and UTF-8 "
                "are checked in full; send what an Arrow library built."
            ) from None
        came = batch.columns
        arrays = [rule.apply(came) for rule in self._rules]
        as_it_is = self._same_schema and all(map(operator.is_, came, arrays))
        rows = batch if as_it_is else pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        _check_size(rows.num_rows, rows.get_total_buffer_size(), self._subject)
        return rows


def normalise(batch: pa.RecordBatch, spec: TableSpec) -> pa.RecordBatch:
    """One batch by itself: `Normaliser(batch.schema, spec).rows(batch)`."""
    return Normaliser(batch.schema, spec).rows(batch)


def _check_names(schema: pa.Schema, spec: TableSpec, subject: str) -> None:
    names = schema.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SchemaMismatch(f"{subject} has column {twice[0]!r} twice. Send each column once.", column=twice[0])
    declared = {c.name for c in spec.columns}
    if missing := [c.name for c in spec.columns if c.name not in set(names)]:
        raise SchemaMismatch(
            f"{subject} lacks column {missing[0]!r}. The table's columns are {_expected(spec)}; send each of them.",
            column=missing[0],
        )
    if extra := [name for name in names if name not in declared]:
        raise SchemaMismatch(
            f"{subject} has column {extra[0]!r}, which the table does not have. Its columns are {_expected(spec)}; drop the column.",
            column=extra[0],
        )
    for column in spec.columns:
        incoming = schema.field(column.name).type
        if not accepts(column.type, incoming):
            raise SchemaMismatch(
                f"{subject} has column {column.name!r} as {incoming}, but the table declares {column.type}. "
                "Cast it before sending.",
                column=column.name,
            )


def _expected(spec: TableSpec) -> str:
    return ", ".join(f"{c.name} {c.type}" for c in spec.columns)


def _known_bytes(column: pa.Array) -> int:
    """Bytes of the buffers as they came; unlike `nbytes` it reads no value, so corrupt offsets cannot mislead it."""
    return sum(buffer.size for buffer in column.buffers() if buffer is not None) if column.offset == 0 else 0


def _check_size(row_count: int, byte_count: int, subject: str) -> None:
    if row_count > BATCH_ROWS_MAX:
        raise BatchTooLarge(f"{subject} has {row_count} rows, but {BATCH_ROWS_MAX} is the limit. Split it.")
    if byte_count > BATCH_BYTES_MAX:
        raise BatchTooLarge(f"{subject} has {byte_count} bytes, but {BATCH_BYTES_MAX} is the limit. Split it.")


class _Rule:
    """What one column of a stream must be; what can be known of it beforehand is."""

    def __init__(self, column: Column, incoming: pa.Schema, spec: TableSpec, subject: str) -> None:
        self._column = column
        self._subject = subject
        self._place = incoming.get_field_index(column.name)
        self._as_is = incoming.field(self._place).type.equals(column.type)
        self._is_list = pa.types.is_list(column.type)
        self._bounds = _bounds(column.type)
        self._width = None if _is_varied(column.type) or pa.types.is_boolean(column.type) else column.type.byte_width
        is_string = pa.types.is_string(column.type)
        self._longest = (KEY_BYTES_MAX if column.name == spec.key else STRING_BYTES_MAX) if is_string else None

    def apply(self, came: list[pa.Array]) -> pa.Array:
        """The column, canonical; the very one that came where it is that. Raises InvalidBatch that names column and row."""
        array = came[self._place]
        if not self._as_is or not self._is_canonical(array):
            array = self._made_canonical(array)
        if not len(array):
            return array
        if self._bounds is not None:
            _check_range(array, self._column, self._bounds, self._subject)
        if self._longest is not None:
            _check_strings(array, self._column, self._longest, self._subject)
        return array

    def _is_canonical(self, array: pa.Array) -> bool:
        """A quick look at the buffers, for what nearly all columns are as they come; False may be wrong."""
        if array.offset or not len(array):
            return False
        validity, first, *rest = array.buffers()
        if validity is not None:
            return False
        if self._width is not None:
            return bool(first.size == len(array) * self._width)
        if self._longest is None or rest[0] is None or first.size != (len(array) + 1) * 4:
            return False
        ends = np.frombuffer(first, np.int32)
        return bool(ends.item(0) == 0 and ends.item(len(array)) == rest[0].size)

    def _made_canonical(self, array: pa.Array) -> pa.Array:
        column = self._column
        if not self._as_is:
            array = _cast(array, column, self._subject)
        if array.null_count and not column.nullable:
            row = pc.index(array.is_null(), True).as_py()
            raise InvalidBatch(
                f"{self._subject} has a null in column {column.name!r}, row {row}, which is not nullable. "
                "Fill it, or declare the column nullable.",
                column=column.name,
                row=row,
            )
        if self._is_list and array.flatten().null_count:
            raise InvalidBatch(
                f"{self._subject} has a null inside a list of column {column.name!r}. List elements cannot be null; "
                "leave it out.",
                column=column.name,
            )
        return canonical(array)


def _cast(array: pa.Array, column: Column, subject: str) -> pa.Array:
    try:
        return array.cast(column.type)
    except pa.ArrowException as error:
        raise InvalidBatch(
            f"{subject} has column {column.name!r} as {array.type}, which does not fit {column.type} "
            f"({_first_line(error)}). Send it as {column.type}.",
            column=column.name,
        ) from None


def _check_range(array: pa.Array, column: Column, bounds: tuple[int, int], subject: str) -> None:
    """Instants that ClickHouse cannot hold would come back as others once they are cold: they are refused here."""
    # Of a canonical array: zeroes under nulls, which are inside every bounds.
    integers = np.frombuffer(array.buffers()[1], np.int32 if pa.types.is_date32(array.type) else np.int64)[: len(array)]
    lowest, highest = int(np.minimum.reduce(integers)), int(np.maximum.reduce(integers))
    if lowest < bounds[0] or highest > bounds[1]:
        outside = lowest if lowest < bounds[0] else highest
        row = int(np.argmax(integers == outside))
        last = format_time_ns(TIME_MAX) if bounds[1] == TIME_MAX else "2299-12-31"
        raise InvalidBatch(
            f"{subject} has {_show(outside, array.type)} in column {column.name!r}, row {row}, but times from "
            f"{format_time_ns(TIME_MIN)} to {last} can be stored. Correct the unit or drop the row.",
            column=column.name,
            row=row,
        )


def _check_strings(array: pa.Array, column: Column, limit: int, subject: str) -> None:
    ends = np.frombuffer(array.buffers()[1], np.int32)[: len(array) + 1]
    longest = int(np.maximum.reduce(ends[1:] - ends[:-1]))
    if longest > limit:
        raise InvalidBatch(
            f"{subject} has a string of {longest} bytes in column {column.name!r}, but {limit} is the limit there. "
            "Shorten it; long values that never repeat belong into a binary column.",
            column=column.name,
        )


def _bounds(type_: pa.DataType) -> tuple[int, int] | None:
    if pa.types.is_timestamp(type_):
        scale = _PER_SECOND[type_.unit]
        last = TIME_MAX if type_.unit == "ns" else (_LAST_SECOND + 1) * scale - 1
        return TIME_MIN // 10**9 * scale, last
    if pa.types.is_date32(type_):
        return TIME_MIN // 10**9 // _DAY_S, _LAST_SECOND // _DAY_S
    if pa.types.is_date64(type_):
        return TIME_MIN // 10**6, _LAST_SECOND * 1000 + 999
    return None


def _show(value: int, type_: pa.DataType) -> str:
    unit = "days" if pa.types.is_date32(type_) else "ms" if pa.types.is_date64(type_) else type_.unit
    return f"{value} {unit} since 1970"


def canonical(array: pa.Array) -> pa.Array:
    """`array` with buffers that depend on its values alone: no slack, no offset, zeroes under nulls and past the end."""
    if pa.types.is_boolean(array.type):
        return _canonical_bool(array)
    if array.null_count or array.offset or not len(array):
        return array.take(pa.array(np.arange(len(array), dtype=np.int64)))
    validity, first, *rest = array.buffers()
    if not _is_varied(array.type):
        # Without a copy: only what lies behind the values goes, the rest of a longer batch that this is the start of.
        if validity is None and first.size == len(array) * array.type.byte_width:
            return array
        return pa.Array.from_buffers(array.type, len(array), [None, first.slice(0, len(array) * array.type.byte_width)])
    offsets = first.slice(0, (len(array) + 1) * 4)
    begin, end = np.frombuffer(offsets, dtype=np.int32)[[0, -1]].tolist()
    if begin:
        return array.take(pa.array(np.arange(len(array), dtype=np.int64)))
    if pa.types.is_list(array.type):
        values = canonical(array.values.slice(0, end))
        return pa.Array.from_buffers(array.type, len(array), [None, offsets], children=[values])
    if validity is None and first.size == offsets.size and rest[0] is not None and rest[0].size == end:
        return array
    values = rest[0].slice(0, end) if rest[0] is not None else pa.py_buffer(b"")
    return pa.Array.from_buffers(array.type, len(array), [None, offsets, values])


def _is_varied(type_: pa.DataType) -> bool:
    """Whether values differ in length, so that offsets say where each begins."""
    return bool(pa.types.is_list(type_) or pa.types.is_string(type_) or pa.types.is_binary(type_))


def _canonical_bool(array: pa.Array) -> pa.Array:
    if array.null_count:
        nulls = array.is_null().to_numpy(zero_copy_only=False)
        return pa.array(array.fill_null(False).to_numpy(zero_copy_only=False), mask=nulls)
    return pa.array(array.to_numpy(zero_copy_only=False))


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(". ")
