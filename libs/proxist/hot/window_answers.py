"""HotWindow and HotBars on one mapping: resident rows found, their cells copied out, aggregates computed from the copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.hot import words as w
from proxist.hot.aggregates import Aggregator, input_columns
from proxist.hot.arena import Views
from proxist.hot.layout import Layout
from proxist.hot.long_windows import ROWS_MAX, LongWindows
from proxist.hot.ops import OFFSET_COLUMN, HotBars, HotWindow
from proxist.hot.outgoing import GatherPlan
from proxist.hot.window_reads import KeyRows, WindowReads
from proxist.hot.windows import (
    bar_spans,
    bars_answer,
    bars_schema,
    in_order,
    window_schema,
    window_spans,
)  # fmt: skip
from proxist.model.query import Agg

Ints = npt.NDArray[np.int64]
_PLANS_MAX = 256
_STRINGS_BYTES_MAX = 2**31


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What one set of aggregates needs."""

    schema: pa.Schema
    inputs: GatherPlan
    """The time column, then the aggregated ones."""
    named: GatherPlan
    """The columns of an output row that are a resident row's: of a bar, its first row's key."""


class WindowAnswers:
    """Computes them for one reader."""

    def __init__(self, layout: Layout, views: Views, kernel_layout: Ints) -> None:
        self._layout, self._views, self._mem, self._L = layout, views, views.mem, kernel_layout
        self._reads = WindowReads(views.mem, kernel_layout)
        self._long = LongWindows(layout, views, kernel_layout)
        self._plans: dict[tuple[type, tuple[Agg, ...]], _Plan] = {}

    def empty(self, op: HotWindow | HotBars) -> pa.RecordBatch:
        """Raises InvalidArgument where an aggregate cannot be had."""
        return pa.RecordBatch.from_arrays(
            [pa.array([], field.type) for field in self._plan(op).schema], schema=self._plan(op).schema
        )

    def rows(self, op: HotWindow | HotBars, codes: Ints, seam: int, end: int) -> tuple[pa.RecordBatch, Ints] | None:
        """(the answer for the keys that RAM decides, the codes of the others); None where the owner moved on.

        `codes` ascend by key. Raises InvalidArgument as `window_rows` does.
        """
        plan = self._plan(op)
        if isinstance(op, HotWindow) and self._long.suits(op, codes):
            long = self._long_windows(op, plan, codes, seam, end)
            if long is not None:
                return long
        found = self._reads.find(op, codes, seam, end)
        inputs = None if found is None else plan.inputs.gather(found.slots)
        if found is None or inputs is None or int(self._mem[w.H_FLOOR]) > seam:
            return None  # before anything is computed: an error must not come of a torn copy
        if isinstance(op, HotWindow):
            answer = self._window(op, plan, found, inputs)
        else:
            answer = self._bars(op, plan, found, inputs)
        return None if answer is None else (answer, found.cold)

    def _long_windows(
        self, op: HotWindow, plan: _Plan, codes: Ints, seam: int, end: int
    ) -> tuple[pa.RecordBatch, Ints] | None:
        """As `rows`, from summaries of blocks; None where they are of no use, or where the owner moved on."""
        found = self._reads.ends(op, codes, seam, end, ROWS_MAX)
        columns = None if found is None else self._long.compute(op, found, seam, end)
        if found is None or columns is None:
            return None
        named = self._named(op, plan, found.slots)
        if named is None or int(self._mem[w.H_FLOOR]) > seam:
            return None
        arrays = [*named.columns[:-1], *self._long.arrays(op, columns), named.columns[-1]]
        answer = pa.RecordBatch.from_arrays(arrays, schema=plan.schema)
        return answer if len(found.groups) < 3 else in_order(answer, self._layout.spec), found.cold

    def _plan(self, op: HotWindow | HotBars) -> _Plan:
        plan = self._plans.get((type(op), op.aggs))
        if plan is None:
            spec, inputs = self._layout.spec, input_columns(op.aggs)
            window = isinstance(op, HotWindow)
            schema = window_schema(spec, op) if isinstance(op, HotWindow) else bars_schema(spec, op)
            plan = _Plan(
                schema,
                self._gathering(tuple(dict.fromkeys((spec.time, *inputs)))),
                self._gathering((spec.key, *spec.order, OFFSET_COLUMN) if window else (spec.key,)),
            )
            if len(self._plans) >= _PLANS_MAX:
                self._plans.clear()
            self._plans[type(op), op.aggs] = plan
        return plan

    def _gathering(self, names: tuple[str, ...]) -> GatherPlan:
        return GatherPlan(self._layout, self._views, self._L, names, unmatched=False)

    def _named(self, op: HotWindow | HotBars, plan: _Plan, slots: Ints) -> pa.RecordBatch | None:
        known = repeated(op.keys[0], len(slots)) if op.keys is not None and len(op.keys) == 1 else None
        return plan.named.gather(slots, known)

    def _window(self, op: HotWindow, plan: _Plan, found: KeyRows, inputs: pa.RecordBatch) -> pa.RecordBatch | None:
        spans = window_spans(op, _times(inputs), found.groups)
        named = self._named(op, plan, found.slots[spans.hi - 1])
        if named is None:
            return None
        aggregator = Aggregator(inputs.column, spans)
        arrays = [*named.columns[:-1], *map(aggregator.compute, op.aggs), named.columns[-1]]
        answer = pa.RecordBatch.from_arrays(arrays, schema=plan.schema)
        return answer if len(found.groups) < 3 else in_order(answer, self._layout.spec)

    def _bars(self, op: HotBars, plan: _Plan, found: KeyRows, inputs: pa.RecordBatch) -> pa.RecordBatch | None:
        spans, starts = bar_spans(op, _times(inputs), found.groups)
        named = self._named(op, plan, found.slots[spans.lo])
        if named is None:
            return None
        aggregator = Aggregator(inputs.column, spans)
        aggregates = [aggregator.compute(agg) for agg in op.aggs]
        return bars_answer(plan.schema, named.column(0), starts, aggregates, one_key=len(found.groups) < 3)


def _times(inputs: pa.RecordBatch) -> Ints:
    times: Ints = inputs.column(0).view(pa.int64()).to_numpy()
    return times


def repeated(text: str, count: int) -> pa.Array | None:
    """A string, again and again; faster than pa.repeat. None where it would pass 2 GiB."""
    data = text.encode()
    if count * len(data) >= _STRINGS_BYTES_MAX:
        return None
    offsets = np.multiply(np.arange(count + 1, dtype=np.int32), np.int32(len(data)))
    return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data * count)], 0)
