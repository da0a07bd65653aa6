"""From slots to record batches: one plan per set of columns, made once, run for every answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import InvalidArgument
from proxist.hot import words as w
from proxist.hot.arena import Views
from proxist.hot.halves import in_halves
from proxist.hot.kernels import gather as kernels
from proxist.hot.kernels_gather import (
    F_BASE,
    F_NULLS,
    F_OUT,
    F_VALID,
    F_VALID_OUT,
    F_WIDTH,
    F_WORDS,
    KIND_HEAP,
    KIND_KEY,
    KIND_STRING,
    TOO_LARGE,
    V_CODES,
    V_KIND,
    V_LENGTHS,
    V_POSITIONS,
    V_VALID,
    V_WORDS,
)  # fmt: skip
from proxist.hot.layout import Layout, cell_width, item_width
from proxist.hot.ops import OFFSET_COLUMN
from proxist.model.types import is_fixed_width

Ints = npt.NDArray[np.int64]
_NEVER_NULL, _NULL_WHERE_UNMATCHED = -2, -1
_SHAPES_MAX = 256
_ALIGN = 64
_AS_THEY_COME: Ints = np.zeros(0, np.int64)
_AS_THEY_COME.flags.writeable = False


@dataclass(frozen=True, slots=True, eq=False)
class _Fixed:
    """A fixed-width output column."""

    at: int
    type: pa.DataType
    width: int
    base: int
    valid: int


@dataclass(frozen=True, slots=True, eq=False)
class _Varying:
    """An output column whose values differ in length."""

    at: int
    type: pa.DataType
    column: Ints
    dictionary: Ints
    width: int
    nullable: bool


class GatherPlan:
    """Builds the rows of these columns for any slots. `unmatched`: slots may be -1, then every column is null there."""

    def __init__(
        self, layout: Layout, views: Views, kernel_layout: Ints, names: tuple[str, ...], *, unmatched: bool
    ) -> None:
        self._views, self._L = views, kernel_layout
        spec, cells = layout.spec, {name: region.first_cell for name, region in layout.regions.items()}
        roles = {spec.time: "time", spec.seq: "seq", OFFSET_COLUMN: "offset"}
        fields: list[pa.Field] = []
        self._fixed: list[_Fixed] = []
        self._varying: list[_Varying] = []
        self.key_at = names.index(spec.key) if spec.key in names else -1
        for at, name in enumerate(names):
            type_, nullable = (pa.uint64(), False) if name == OFFSET_COLUMN else _column(layout, name)
            fields.append(pa.field(name, type_, nullable or unmatched))
            valid = cells[f"valid:{name}"] if nullable else _NULL_WHERE_UNMATCHED if unmatched else _NEVER_NULL
            if is_fixed_width(type_):
                base = cells[roles[name]] if name in roles else cells[f"data:{name}"]
                self._fixed.append(_Fixed(at, type_, cell_width(type_), base, valid))
            else:
                self._varying.append(_varying(layout, cells, at, name, type_, valid, nullable or unmatched))
        self.schema = pa.schema(fields)
        self._shapes: dict[int, tuple[Ints, int]] = {}

    def gather(
        self, slots: Ints, known_keys: pa.Array | None = None, order: Ints = _AS_THEY_COME
    ) -> pa.RecordBatch | None:
        """The rows at `slots`; None where values from another moment were met. `known_keys`: the key column, if known.

        With `order`, each number below len(slots) once, the row at slots[i] becomes row order[i]. Raises InvalidArgument where a column would pass 2 GiB.
        """
        count = len(slots)
        arrays: list[Any] = [None] * len(self.schema)
        self._gather_fixed(slots, order, count, arrays)
        if self._varying and len(order):
            placed = np.empty(count, np.int64)
            placed[order] = slots
            slots = placed
        for column in self._varying:
            if known_keys is not None and column.at == self.key_at:
                arrays[column.at] = known_keys
                continue
            array = self._gather_varying(slots, count, column)
            if array is None:
                return None
            arrays[column.at] = array
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _shape(self, count: int) -> tuple[Ints, int]:
        """(the kernel's plan, bytes of output) for so many rows."""
        if (known := self._shapes.get(count)) is not None:
            return known
        plan, at = np.zeros(len(self._fixed) * F_WORDS, np.int64), 0
        unmatched = -1  # where the bitmap lies that all columns share which are null only there
        bitmap = _aligned((count + 7) // 8)
        for i, column in enumerate(self._fixed):
            p = i * F_WORDS
            plan[p + F_WIDTH], plan[p + F_BASE], plan[p + F_OUT] = column.width, column.base, at
            at += bitmap if column.width == 0 else _aligned(count * column.width)
            plan[p + F_VALID], plan[p + F_VALID_OUT] = column.valid, at
            if column.valid == _NULL_WHERE_UNMATCHED and unmatched >= 0:
                plan[p + F_VALID], plan[p + F_VALID_OUT] = _NEVER_NULL, unmatched
            elif column.valid != _NEVER_NULL:
                unmatched = at if column.valid == _NULL_WHERE_UNMATCHED else unmatched
                at += bitmap
        if len(self._shapes) >= _SHAPES_MAX:
            self._shapes = {}
        self._shapes[count] = plan, at
        return plan, at

    def _gather_fixed(self, slots: Ints, order: Ints, count: int, arrays: list[Any]) -> None:
        template, size = self._shape(count)
        plan, v = template.copy(), self._views
        out64 = np.zeros((size >> 3) + 1, np.int64)
        out8 = out64.view(np.uint8)

        def copy(columns: slice) -> None:
            kernels.gather_fixed(
                v.mem8, v.mem16, v.mem32, v.mem, slots, order, plan[columns.start * F_WORDS : columns.stop * F_WORDS],
                out8, out64.view(np.uint16), out64.view(np.int32), out64,
            )  # fmt: skip

        in_halves(copy, len(self._fixed), count)
        buffer, words, unmatched = pa.py_buffer(out64), plan.tolist(), 0
        for i, column in enumerate(self._fixed):
            p = i * F_WORDS
            size = (count + 7) // 8 if column.width == 0 else count * column.width
            data, valid, nulls = buffer.slice(words[p + F_OUT], size), None, words[p + F_NULLS]
            if column.valid == _NULL_WHERE_UNMATCHED:
                nulls = unmatched = nulls or unmatched
            if nulls:
                valid = buffer.slice(words[p + F_VALID_OUT], (count + 7) // 8)
            arrays[column.at] = pa.Array.from_buffers(column.type, count, [valid, data], nulls)

    def _gather_varying(self, slots: Ints, count: int, column: _Varying) -> pa.Array | None:
        v = self._views
        starts, offsets = np.empty(count, np.int64), np.empty(count + 1, np.int32)
        bits = np.zeros((count + 7) // 8, np.uint8)
        result = kernels.measure(
                v.mem8,
                v.mem32,
                v.mem,
                self._L,
                column.dictionary,
                column.column,
                slots,
                column.width,
                starts,
                offsets,
                bits,
            )  # fmt: skip
        nulls = int(result)
        if nulls == w.TORN:
            return None
        if nulls == TOO_LARGE:
            raise InvalidArgument(
                f"The values of column {self.schema.names[column.at]!r} in the answer pass 2 GiB. Ask for a shorter "
                "range, fewer keys, or set a limit."
            )
        items = int(offsets[count])
        data = np.empty(items * column.width, np.uint8)
        kernels.copy_values(v.mem8, starts, offsets, column.width, data)
        valid = pa.py_buffer(bits) if nulls else None
        if pa.types.is_list(column.type):
            child = _items(column.type.value_type, items, data)
            return pa.Array.from_buffers(column.type, count, [valid, pa.py_buffer(offsets)], nulls, children=[child])
        return pa.Array.from_buffers(column.type, count, [valid, pa.py_buffer(offsets), pa.py_buffer(data)], nulls)


def _items(type_: pa.DataType, count: int, data: npt.NDArray[np.uint8]) -> pa.Array:
    if pa.types.is_boolean(type_):
        bits = np.zeros((count + 7) // 8, np.uint8)
        kernels.pack_bits(data, 0, count, bits)
        data = bits
    return pa.Array.from_buffers(type_, count, [None, pa.py_buffer(data)], 0)


def _column(layout: Layout, name: str) -> tuple[pa.DataType, bool]:
    column = layout.spec.column(name)
    return column.type, column.nullable


def _varying(
    layout: Layout, cells: dict[str, int], at: int, name: str, type_: pa.DataType, valid: int, nullable: bool
) -> _Varying:
    column = np.full(V_WORDS, -1, np.int64)
    column[V_VALID] = valid
    dictionary = layout.dictionary_layout("")
    if name == layout.spec.key:
        column[V_KIND] = KIND_KEY
    else:
        column[V_POSITIONS], column[V_LENGTHS] = cells[f"payload:{name}"], cells[f"length:{name}"]
        column[V_KIND] = KIND_HEAP
        if pa.types.is_string(type_):
            column[V_KIND], column[V_CODES] = KIND_STRING, cells[f"codes:{name}"]
            dictionary = layout.dictionary_layout(name)
    column.flags.writeable = False
    return _Varying(at, type_, column, dictionary, item_width(type_), nullable)


def _aligned(size: int) -> int:
    return (size + _ALIGN - 1) // _ALIGN * _ALIGN


def output_names(layout: Layout, asked: tuple[str, ...] | None, *, with_key: bool) -> tuple[str, ...]:
    """Key (where `with_key`), time, seq, then the asked columns (None: all), `_offset`; each once.

    Raises InvalidArgument for a column that the table does not have.
    """
    spec = layout.spec
    wanted = asked if asked is not None else tuple(c.name for c in spec.columns if with_key or c.name != spec.key)
    for name in wanted:
        if name != OFFSET_COLUMN:
            spec.column(name)
    names = ((spec.key,) if with_key else ()) + spec.order + tuple(n for n in wanted if n != OFFSET_COLUMN)
    return (*dict.fromkeys(names), OFFSET_COLUMN)
