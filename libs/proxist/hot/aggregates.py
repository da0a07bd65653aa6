"""The aggregates of windows and bars: which types they take and give, and their values over spans of rows.

Nulls are skipped; NaN is a value. An empty span's value is null (count: 0), stddev of one value is null, vwap of weights
that sum to 0 is null. Sums are exact and rounded once, so no value depends on the tier that its rows came from. min and
max ignore NaN unless there is nothing else, as ClickHouse's do; among equal values they give the first in Order.
avg = sum / count, vwap = sum(value * weight) / sum(weight), stddev = sqrt((n * sum(x * x) - sum(x) * sum(x)) / (n * (n - 1))),
each sum (of stddev: the whole difference) rounded to a double first; vwap, stddev and ema read integers as doubles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import InvalidArgument
from proxist.hot import exact_sums as exact
from proxist.hot import words as w
from proxist.hot.exact_sums import ALL_VALID, Bytes, Doubles, Floats, Ints
from proxist.hot.kernels import window as kernels
from proxist.model.query import Agg
from proxist.model.table import TableSpec

_AS_WINDOW = {"open": "first", "high": "max", "low": "min", "close": "last"}
_OF_NUMBERS = ("sum", "avg", "stddev", "vwap", "ema")


def input_columns(aggs: tuple[Agg, ...]) -> tuple[str, ...]:
    """The columns that these aggregates read, each once."""
    names = (name for agg in aggs for name in (agg.value, agg.weight) if name is not None)
    return tuple(dict.fromkeys(names))


def agg_field(agg: Agg, spec: TableSpec) -> pa.Field:
    """The answer's column. Raises InvalidArgument where the table has no such column, or its type cannot be aggregated so."""
    fn = _AS_WINDOW.get(agg.fn, agg.fn)
    types = [spec.column(name).type for name in (agg.value, agg.weight) if name is not None]
    if fn == "count":
        return pa.field(agg.name, pa.uint64(), nullable=False)
    for name, type_ in zip((agg.value, agg.weight), types, strict=False):
        if fn in _OF_NUMBERS and not _is_number(type_):
            raise _refused(agg, name, type_, "integers and floats")
        if fn in ("min", "max") and not _is_ranked(type_):
            raise _refused(agg, name, type_, "integers, floats, bool and times")
    if fn == "sum":
        unsigned, signed = pa.types.is_unsigned_integer(types[0]), pa.types.is_signed_integer(types[0])
        return pa.field(agg.name, pa.uint64() if unsigned else pa.int64() if signed else pa.float64())
    return pa.field(agg.name, pa.float64() if fn in _OF_NUMBERS else types[0])


def _refused(agg: Agg, name: str | None, type_: pa.DataType, rule: str) -> InvalidArgument:
    return InvalidArgument(
        f"{agg.fn} of column {name!r} is asked, which is {type_}, but it takes {rule}. Use count, first or last, "
        "or scan the rows and compute it from them."
    )


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def _is_ranked(type_: pa.DataType) -> bool:
    return _is_number(type_) or bool(pa.types.is_boolean(type_) or pa.types.is_temporal(type_))


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Which rows belong to each output row: [lo, hi), both never falling. Rows are grouped by key, each in Order.

    `groups`: where each key's rows begin, and the number of rows; `times` of the rows; ema begins at `from_time`.
    """

    lo: Ints
    hi: Ints
    groups: Ints
    times: Ints
    from_time: int


class _Values:
    """One column's cells in the forms that the kernels want, each made when first asked for."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    @cached_property
    def valid(self) -> Bytes:
        """A byte per row; empty where all are valid."""
        if self.array.null_count == 0:
            return ALL_VALID
        bits = np.frombuffer(self.array.buffers()[0], np.uint8)
        stop = self.array.offset + len(self.array)
        return np.unpackbits(bits, count=stop, bitorder="little")[self.array.offset :]

    @cached_property
    def cells(self) -> npt.NDArray[np.generic]:
        """Values as numpy has them; anything where null."""
        array = self.array.cast(pa.uint8()) if pa.types.is_boolean(self.array.type) else self.array
        plain = pa.Array.from_buffers(array.type, len(array), [None, array.buffers()[1]], 0, array.offset)
        if pa.types.is_temporal(plain.type):
            plain = plain.view(pa.int64() if plain.type.bit_width == 64 else pa.int32())
        cells: npt.NDArray[np.generic] = plain.to_numpy()
        return cells

    @cached_property
    def floats(self) -> Floats:
        return np.ascontiguousarray(self.cells, np.float64)

    @cached_property
    def doubles(self) -> Doubles:
        return Doubles.of(self.floats, self.valid)

    @cached_property
    def integers(self) -> Ints:
        """int64, or the bits of uint64."""
        wide = np.uint64 if self.cells.dtype.kind == "u" else np.int64
        return np.ascontiguousarray(self.cells, wide).view(np.int64)

    def ranks(self, *, largest: bool) -> Ints:
        """int64 in the order of the values, for the largest in the opposite; NaN comes last either way."""
        if self.cells.dtype.kind == "f":
            ranks = np.empty(len(self.cells), np.int64)
            kernels.ranks_of_doubles(self.floats.view(np.int64), int(largest), ranks)
            return ranks
        ranks = self.integers ^ w.INT64_MIN if self.cells.dtype.kind == "u" else self.integers
        return ~ranks if largest else ranks


class Aggregator:
    """Computes aggregates over one set of spans of rows; what aggregates share is computed once.

    `column_of` gives the rows' columns by name.
    """

    def __init__(self, column_of: Callable[[str], pa.Array], spans: Spans) -> None:
        self._column_of, self._spans = column_of, spans
        self._columns: dict[str, _Values] = {}
        self._found: dict[str, tuple[Ints, Ints, Ints]] = {}
        self._sums: dict[str, tuple[Floats, Ints]] = {}
        self._by_fn: dict[str, Callable[[Agg], pa.Array]] = {
            "count": self._count, "sum": self._sum, "avg": self._avg, "min": self._min, "max": self._max,
            "first": self._first, "last": self._last, "stddev": self._stddev, "vwap": self._vwap, "ema": self._ema,
        }  # fmt: skip

    def compute(self, agg: Agg) -> pa.Array:
        """A value per span, of the type that `agg_field` says. Raises InvalidArgument where a sum needs more than 64 bits."""
        return self._by_fn[_AS_WINDOW.get(agg.fn, agg.fn)](agg)

    def _values(self, name: str | None) -> _Values:
        assert name is not None
        if name not in self._columns:
            self._columns[name] = _Values(self._column_of(name))
        return self._columns[name]

    def _present(self, name: str) -> tuple[Ints, Ints, Ints]:
        """Per span (first valid row, last valid row; -1: none; valid rows) of a column."""
        if name not in self._found:
            first, last, counts = (np.empty(len(self._spans.lo), np.int64) for _ in range(3))
            kernels.present(self._values(name).valid, self._spans.lo, self._spans.hi, first, last, counts)
            self._found[name] = first, last, counts
        return self._found[name]

    def _count(self, agg: Agg) -> pa.Array:
        counts = self._spans.hi - self._spans.lo if agg.value is None else self._present(agg.value)[2]
        return plain_array(counts.view(np.uint64), None)

    def _first(self, agg: Agg) -> pa.Array:
        assert agg.value is not None
        return _taken(self._values(agg.value), self._present(agg.value)[0])

    def _last(self, agg: Agg) -> pa.Array:
        assert agg.value is not None
        return _taken(self._values(agg.value), self._present(agg.value)[1])

    def _min(self, agg: Agg) -> pa.Array:
        return self._best(agg, largest=False)

    def _max(self, agg: Agg) -> pa.Array:
        return self._best(agg, largest=True)

    def _best(self, agg: Agg, *, largest: bool) -> pa.Array:
        values, found = self._values(agg.value), np.empty(len(self._spans.lo), np.int64)
        ranks, queue = values.ranks(largest=largest), np.empty(len(self._spans.times), np.int64)
        kernels.smallest(ranks, values.valid, self._spans.lo, self._spans.hi, queue, found)
        return _taken(values, found)

    def _double_sums(self, name: str) -> tuple[Floats, Ints]:
        if name not in self._sums:
            values = self._values(name)
            self._sums[name] = exact.double_sums(values.doubles, None, values.valid, self._spans.lo, self._spans.hi)
        return self._sums[name]

    def _integer_sums(self, values: _Values) -> tuple[Ints, Floats, Ints, int]:
        unsigned = values.cells.dtype.kind == "u"
        return exact.integer_sums(values.integers, values.valid, self._spans.lo, self._spans.hi, unsigned=unsigned)

    def _sum(self, agg: Agg) -> pa.Array:
        assert agg.value is not None
        values = self._values(agg.value)
        if values.cells.dtype.kind == "f":
            sums, counts = self._double_sums(agg.value)
            return plain_array(sums, counts == 0)
        integers, _, counts, too_large = self._integer_sums(values)
        return integer_sums_answer(agg, integers, counts, too_large, unsigned=values.cells.dtype.kind == "u")

    def _avg(self, agg: Agg) -> pa.Array:
        assert agg.value is not None
        values = self._values(agg.value)
        if values.cells.dtype.kind == "f":
            sums, counts = self._double_sums(agg.value)
        else:
            _, sums, counts, _ = self._integer_sums(values)
        return avg_answer(sums, counts)

    def _stddev(self, agg: Agg) -> pa.Array:
        values = self._values(agg.value)
        out, counts = exact.spreads(values.doubles, values.valid, self._spans.lo, self._spans.hi)
        return plain_array(out, counts < 2)

    def _vwap(self, agg: Agg) -> pa.Array:
        value, weight = self._values(agg.value), self._values(agg.weight)
        valid = value.valid
        if len(weight.valid):
            valid = weight.valid & valid if len(valid) else weight.valid
        lo, hi = self._spans.lo, self._spans.hi
        products, counts = exact.double_sums(value.doubles, weight.doubles, valid, lo, hi)
        weights, _ = exact.double_sums(weight.doubles, None, valid, lo, hi)
        return vwap_answer(products, weights, counts)

    def _ema(self, agg: Agg) -> pa.Array:
        values, spans = self._values(agg.value), self._spans
        out, known = np.empty(len(spans.times)), np.empty(len(spans.times), np.int64)
        kernels.ema(values.floats, values.valid, spans.times, spans.groups, spans.from_time, agg.alpha, out, known)
        return plain_array(out[spans.hi - 1], known[spans.hi - 1] == 0)


def integer_sums_answer(agg: Agg, sums: Ints, counts: Ints, too_large: int, *, unsigned: bool) -> pa.Array:
    """Raises InvalidArgument where some need more than 64 bits."""
    if too_large:
        raise InvalidArgument(
            f"{too_large} sums of column {agg.value!r} do not fit {'uint64' if unsigned else 'int64'}. "
            "Use avg, which is a double, or a shorter window."
        )
    return plain_array(sums.view(np.uint64) if unsigned else sums, counts == 0)


def avg_answer(sums: Floats, counts: Ints) -> pa.Array:
    return plain_array(sums / np.maximum(counts, 1), counts == 0)


def vwap_answer(products: Floats, weights: Floats, counts: Ints) -> pa.Array:
    with np.errstate(all="ignore"):
        return plain_array(products / weights, (counts == 0) | (weights == 0))


def plain_array(values: npt.NDArray[Any], null: npt.NDArray[np.bool_] | None) -> pa.Array:
    """An array of numpy's type over these very values; much faster than pa.array where nothing is null."""
    if null is not None and null.any():
        return pa.array(values, mask=null)
    return _over(values, pa.from_numpy_dtype(values.dtype))


def _over(values: npt.NDArray[Any], type_: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(values)], 0)


def _taken(values: _Values, rows: Ints) -> pa.Array:
    missing, type_ = rows < 0, values.array.type
    if missing.any():
        return values.array.take(pa.array(rows, mask=missing))
    if _is_ranked(type_) and not pa.types.is_boolean(type_):
        return _over(values.cells[rows], type_)
    return values.array.take(pa.array(rows))
