"""The last rows of a few keys of one shard as an answer: what the executor would say of them, without the executor.

A `Form` is what the answers to one question have in common; it holds no memory of the hot set, which answers outlive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.hot.prepared import Shape, Told
from proxist.model.ids import Epoch, ShardId
from proxist.model.query import Query
from proxist.model.receipt import Cut, Receipt
from proxist.model.table import HIDDEN_COLUMNS, Table
from proxist.model.types import numpy_type
from proxist.seam.columns import columns_of
from proxist.seam.reader import shards_of

KEYS_MAX = 1_024
"""More keys are not quicker this way."""
_FEW = 64
"""So many are looked at one by one in less time than a reduction takes to begin."""


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """`names[i]`, ascending and distinct, is row i's key; `columns` come after the key."""

    table: Table
    shard: ShardId
    names: tuple[str, ...]
    columns: tuple[str, ...]
    schema: pa.Schema
    keys: pa.Array
    types: tuple[pa.DataType, ...]

    def rows(self, shape: Shape, cells: npt.NDArray[np.int64], slots: npt.NDArray[np.int64]) -> pa.RecordBatch:
        """The answer: those that have a row. `cells` become its buffers."""
        if shape.nullable or shape.has_flags or _lacks_some(slots):
            return self._some(shape, cells, slots)
        buffer, count = pa.py_buffer(cells), len(slots)
        arrays = [self.keys]
        for type_, start, (_, dtype) in zip(self.types, shape.starts, shape.columns, strict=False):
            data = buffer.slice(start, count * dtype.itemsize)
            arrays.append(pa.Array.from_buffers(type_, count, [None, data], 0))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def with_keys(self, keys: pa.Array) -> Form:
        """Of all keys of the shard: those, ascending."""
        return replace(self, keys=keys)

    def receipt(self, epoch: Epoch, told: Told, slots: npt.NDArray[np.int64]) -> Receipt:
        return receipt_of(self.table, self.shard, epoch, told, slots)

    def _some(self, shape: Shape, cells: npt.NDArray[np.int64], slots: npt.NDArray[np.int64]) -> pa.RecordBatch:
        arrays, valid = shape.views(cells)
        found = np.flatnonzero(slots >= 0)
        columns = [self.keys.take(pa.array(found))]
        for name, type_ in zip(self.columns, self.types, strict=True):
            ok = valid[name][found] if name in valid else None
            columns.append(column_of(type_, arrays[name][found], ok))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def receipt_of(table: Table, shard: ShardId, epoch: Epoch, told: Told, slots: npt.NDArray[np.int64]) -> Receipt:
    """Of an answer from the RAM of one shard, with a row for each slot that is none of -1."""
    return Receipt(
        cuts=(Cut.of(table.name, shard, epoch, told.seam, told.persisted, told.end),),
        rows_hot=int(np.count_nonzero(slots >= 0)),
        schema_version={table.name: table.schema_version},
    )


def column_of(type_: pa.DataType, values: npt.NDArray[Any], ok: npt.NDArray[np.bool_] | None) -> pa.Array:
    """A column of fixed width; null where not `ok` (None: nowhere). `values` become its buffer."""
    nulls = 0 if ok is None else len(ok) - int(np.count_nonzero(ok))
    valid = None if ok is None or not nulls else pa.py_buffer(np.packbits(ok, bitorder="little"))
    data = np.packbits(values, bitorder="little") if values.dtype == np.bool_ else values.view(np.uint8)
    return pa.Array.from_buffers(type_, len(values), [valid, pa.py_buffer(data)], nulls)


def _lacks_some(slots: npt.NDArray[np.int64]) -> bool:
    return -1 in slots.tolist() if len(slots) <= _FEW else int(slots.min(initial=0)) < 0


def form_of(table: Table, keys: tuple[str, ...] | None, asked: tuple[str, ...] | None) -> Form | None:
    """None where the executor is as quick: keys of several shards, many keys, columns of no fixed width. Where `keys` is
    None the form has none: those that there are come with `with_keys`. Raises InvalidArgument for a column that the table
    does not have."""
    columns = columns_of(table, asked, key_first=True)
    values = columns.answer[1:]
    if (keys is not None and not 0 < len(keys) <= KEYS_MAX) or set(HIDDEN_COLUMNS) & set(values):
        return None
    if any(numpy_type(table.spec.column(name).type) is None for name in values):
        return None
    shards = shards_of(table, keys)
    if len(shards) != 1:
        return None
    names = tuple(sorted(set(keys or ())))  # code point order is UTF-8 byte order
    schema = columns.answer_schema
    types = tuple(field.type for field in schema)[1:]
    return Form(table, next(iter(shards)), names, values, schema, pa.array(names, pa.string()), types)


def is_plain(query: Query) -> bool:
    """Whether nothing is asked beside the verb that only the executor can settle."""
    return query == Query(query.verb, hot_path=query.hot_path)
