"""Whether rows that ClickHouse holds are the rows that were sent: compared bit by bit, per row. Pure.

Both sides are tables of `compared_schema`. A float is its bits, so one NaN is not another and -0.0 is not 0.0; a string
is its bytes, valid UTF-8 or not; what stands behind a null does not count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from proxist.clickhouse.types import stored_schema, to_stored
from proxist.model.table import TableSpec

Flags = npt.NDArray[np.bool_]


def compared_schema(spec: TableSpec) -> pa.Schema:
    """The stored schema with strings as binary."""
    return _bytes_for_text(stored_schema(spec))


def compared(rows: pa.Table) -> pa.Table:
    """`rows` of a table, with `_log` and `_offset`, as what ClickHouse gives back of them."""
    stored = to_stored(rows)
    return stored.cast(_bytes_for_text(stored.schema)).combine_chunks()


def same_rows(left: pa.Table, right: pa.Table) -> Flags:
    """Per row whether all columns are the same in both tables, which have the same columns and as many rows."""
    same = np.ones(left.num_rows, np.bool_)
    for name in left.column_names:
        same &= same_values(left[name].combine_chunks(), right[name].combine_chunks())
    return same


def differing_columns(left: pa.Table, right: pa.Table) -> list[str]:
    """The columns in which some row of the two tables differs."""
    names = left.column_names
    return [name for name in names if not same_values(left[name].combine_chunks(), right[name].combine_chunks()).all()]


def same_values(left: pa.Array, right: pa.Array) -> Flags:
    """Per value whether both arrays, of one type and length, have the same."""
    valid, other = _flags(left.is_valid()), _flags(right.is_valid())
    if pa.types.is_list(left.type):
        same = _same_lists(left, right)
    elif any(kind(left.type) for kind in (pa.types.is_binary, pa.types.is_string, pa.types.is_boolean)):
        same = _flags(pc.fill_null(pc.equal(left, right), False))
    else:
        same = _same_bits(left, right)
    result: Flags = (valid == other) & (~valid | same)
    return result


def _same_lists(left: pa.Array, right: pa.Array) -> Flags:
    lengths = [np.asarray(pc.fill_null(side.value_lengths(), 0)) for side in (left, right)]
    same: Flags = lengths[0] == lengths[1]
    rows = pa.array(same)
    items = same_values(left.filter(rows).flatten(), right.filter(rows).flatten())
    ends = np.cumsum(lengths[0][same])
    wrong = np.concatenate(([0], np.cumsum(~items)))
    same[same] = wrong[ends] == wrong[ends - lengths[0][same]]
    return same


def _same_bits(left: pa.Array, right: pa.Array) -> Flags:
    same: Flags = (_words(left) == _words(right)).all(axis=1)
    return same


def _words(array: pa.Array) -> npt.NDArray[Any]:
    """The values' bits, in one or more words each: (rows, words)."""
    width = array.type.bit_width // 8
    word = min(width, 8)
    data = array.buffers()[1]
    if data is None:
        return np.zeros((len(array), width // word), f"u{word}")
    first, words = array.offset * width // word, width // word
    return np.frombuffer(data, f"u{word}")[first : first + len(array) * words].reshape(-1, words)


def _bytes_for_text(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.with_type(pa.binary()) if pa.types.is_string(f.type) else f for f in schema])


def _flags(array: Any) -> Flags:
    return np.asarray(array.to_numpy(zero_copy_only=False), np.bool_)
