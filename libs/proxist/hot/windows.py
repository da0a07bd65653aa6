"""`window_rows` and `bars_rows`: the answers of HotWindow and HotBars from rows in hand, of whichever tier they came."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proxist.hot import words as w
from proxist.hot.aggregates import Aggregator, Spans, agg_field, input_columns
from proxist.hot.exact_sums import Ints
from proxist.hot.kernels import window as kernels
from proxist.hot.ops import OFFSET_COLUMN, HotBars, HotWindow
from proxist.model.table import TableSpec

__all__ = [
    "asked_times", "bar_spans", "bars_answer", "bars_rows", "bars_schema", "first_time", "in_order", "input_columns",
    "window_rows", "window_schema", "window_spans",
]  # fmt: skip


def first_time(op: HotWindow | HotBars) -> int:
    """The earliest time that a row of a window or a bar can have; of `rows` windows, of the rows that make output."""
    start = w.INT64_MIN if op.from_ns is None else op.from_ns
    if isinstance(op, HotWindow) and op.range_ns is not None:
        return max(start - op.range_ns + 1, w.INT64_MIN)
    return start


def window_schema(spec: TableSpec, op: HotWindow) -> pa.Schema:
    """Columns of `window_rows`. Raises InvalidArgument where an aggregate cannot be had."""
    fields = [spec.schema.field(name) for name in (spec.key, *spec.order)]
    return pa.schema([*fields, *(agg_field(agg, spec) for agg in op.aggs), _OFFSET])


def bars_schema(spec: TableSpec, op: HotBars) -> pa.Schema:
    """Columns of `bars_rows`. Raises InvalidArgument where an aggregate cannot be had."""
    fields = [spec.schema.field(name) for name in (spec.key, spec.time)]
    return pa.schema([*fields, *(agg_field(agg, spec) for agg in op.aggs)])


_OFFSET = pa.field(OFFSET_COLUMN, pa.uint64(), nullable=False)


def window_rows(rows: pa.RecordBatch, spec: TableSpec, op: HotWindow, groups: Ints | None = None) -> pa.RecordBatch:
    """The answer of `op` from `rows`: key, time, seq (if any), `input_columns(op.aggs)` and `_offset`, grouped by key and
    within it ascending by (time, seq, offset).

    They must hold all rows of these keys with time in [first_time(op), to_ns), and for `rows` windows those `rows - 1`
    before; any others do no harm. `keys` and `end` of `op` are not looked at. `groups`: where each key's rows begin, and
    their number, if known. Ascending by (time, seq, offset). Raises InvalidArgument where an aggregate cannot be had or
    an integer sum needs more than 64 bits.
    """
    schema, times = window_schema(spec, op), _times(rows, spec)
    groups = _groups(rows, spec) if groups is None else groups
    spans = window_spans(op, times, groups)
    named = _picked(rows.select([spec.key, *spec.order, OFFSET_COLUMN]), spans.hi - 1)
    aggregator = Aggregator(rows.column, spans)
    arrays = [*named.columns[:-1], *map(aggregator.compute, op.aggs), named.columns[-1]]
    answer = pa.RecordBatch.from_arrays(arrays, schema=schema)
    return answer if len(groups) < 3 else in_order(answer, spec)


def bars_rows(rows: pa.RecordBatch, spec: TableSpec, op: HotBars, groups: Ints | None = None) -> pa.RecordBatch:
    """The answer of `op` from `rows`, which are as for `window_rows` with the keys ascending (UTF-8 bytes).

    Ascending by (start, key). Raises InvalidArgument as `window_rows` does.
    """
    schema, times = bars_schema(spec, op), _times(rows, spec)
    groups = _groups(rows, spec) if groups is None else groups
    spans, starts = bar_spans(op, times, groups)
    aggregator = Aggregator(rows.column, spans)
    keys = rows.column(spec.key).take(pa.array(spans.lo))
    return bars_answer(schema, keys, starts, [aggregator.compute(agg) for agg in op.aggs], one_key=len(groups) < 3)


def window_spans(op: HotWindow, times: Ints, groups: Ints) -> Spans:
    """Which rows belong to each output row, and that is the last of them; by key, within it in Order."""
    lo, hi = np.empty(len(times), np.int64), np.empty(len(times), np.int64)
    start, last = asked_times(op)
    found = 0
    if last >= start:
        found = int(kernels.window_spans(times, groups, start, last, op.range_ns or 1, op.rows or 0, lo, hi))
    return Spans(lo[:found], hi[:found], groups, times, start)


def bar_spans(op: HotBars, times: Ints, groups: Ints) -> tuple[Spans, Ints]:
    """Which rows belong to each bar, and when it starts; by key, within it by start."""
    lo, hi, starts = (np.empty(len(times), np.int64) for _ in range(3))
    start, last = asked_times(op)
    found = 0
    if last >= start:
        found = int(kernels.bar_spans(times, groups, start, last, op.every_ns, lo, hi, starts))
    return Spans(lo[:found], hi[:found], groups, times, start), starts[:found]


def bars_answer(
    schema: pa.Schema, keys: pa.Array, starts: Ints, aggregates: list[pa.Array], *, one_key: bool
) -> pa.RecordBatch:
    """Bars, which come by key, ascending by (start, key)."""
    began = pa.array(starts).view(schema.field(1).type)
    answer = pa.RecordBatch.from_arrays([keys, began, *aggregates], schema=schema)
    return answer if one_key else answer.take(pa.array(np.argsort(starts, kind="stable")))


def asked_times(op: HotWindow | HotBars) -> tuple[int, int]:
    """(first, last) time of the rows that make output; there are none where last < first."""
    return w.INT64_MIN if op.from_ns is None else op.from_ns, w.INT64_MAX if op.to_ns is None else op.to_ns - 1


def _times(rows: pa.RecordBatch, spec: TableSpec) -> Ints:
    times: Ints = rows.column(spec.time).view(pa.int64()).to_numpy()
    return times


def _groups(rows: pa.RecordBatch, spec: TableSpec) -> Ints:
    ends = pc.run_end_encode(rows.column(spec.key), run_end_type=pa.int64()).run_ends.to_numpy()
    return np.concatenate([np.zeros(1, np.int64), ends])


def _picked(rows: pa.RecordBatch, at: Ints) -> pa.RecordBatch:
    """Rows `at` (ascending); a slice where they follow one another."""
    if len(at) and int(at[-1]) - int(at[0]) + 1 == len(at) and 2 * len(at) > rows.num_rows:
        return rows.slice(int(at[0]), len(at))
    return rows.take(pa.array(at))


def in_order(answer: pa.RecordBatch, spec: TableSpec) -> pa.RecordBatch:
    """Ascending by (time, seq, offset)."""
    by = [answer.column(name) for name in (*spec.order, OFFSET_COLUMN)]
    keys = [(a.view(pa.int64()) if pa.types.is_timestamp(a.type) else a).to_numpy() for a in by]
    return answer.take(pa.array(np.lexsort(keys[::-1])))
