"""Few windows over long ranges: from summaries of blocks instead of from every row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.hot.aggregates import avg_answer, integer_sums_answer, plain_array, vwap_answer
from proxist.hot.arena import Views
from proxist.hot.kernels import summary as kernels
from proxist.hot.layout import Layout
from proxist.hot.ops import HotWindow
from proxist.hot.outgoing import GatherPlan
from proxist.hot.summaries import Found, Question, Summaries, question_of
from proxist.hot.window_reads import KeyRows
from proxist.hot.windows import first_time
from proxist.model.query import Agg

Ints = npt.NDArray[np.int64]
KEYS_MAX = 16
ROWS_MAX = 64
BLOCKS_MIN = 8
"""Summaries are asked for at most so many windows, if one may reach further back than so many blocks."""
_QUESTIONS_MAX = 256


@dataclass(frozen=True, slots=True, eq=False)
class LongColumn:
    """What one aggregate came to; `column`: the values of rows that were chosen."""

    found: Found
    column: pa.Array | None


class LongWindows:
    """Computes them for one reader."""

    def __init__(self, layout: Layout, views: Views, kernel_layout: Ints) -> None:
        self._layout, self._views, self._L = layout, views, kernel_layout
        self._summaries = Summaries(layout, views, kernel_layout)
        self._plans: dict[str, GatherPlan] = {}
        self._questions: dict[Agg, Question | None] = {}

    def suits(self, op: HotWindow, codes: Ints) -> bool:
        """Whether it is worth trying."""
        if op.range_ns is None or op.from_ns is None or not 0 < len(codes) <= KEYS_MAX:
            return False
        if any(self._question(agg) is None for agg in op.aggs):
            return False
        start = first_time(op)
        return any(kernels.reaches_back(self._views.mem, self._L, code, start, BLOCKS_MIN) for code in codes.tolist())

    def _question(self, agg: Agg) -> Question | None:
        if agg not in self._questions:
            if len(self._questions) >= _QUESTIONS_MAX:
                self._questions.clear()
            self._questions[agg] = question_of(agg, self._layout.spec)
        return self._questions[agg]

    def compute(self, op: HotWindow, ends: KeyRows, seam: int, end: int) -> list[LongColumn] | None:
        """Per aggregate; `ends` are the rows that windows end with. None where summaries do not tell."""
        known: dict[Question, Found] = {}
        columns = []
        for agg in op.aggs:
            question = self._question(agg)
            if question is None:
                return None
            found = known.get(question) or self._windows(op, question, ends, seam, end)
            if found is None:
                return None
            known[question] = found
            columns.append(LongColumn(found, self._chosen(agg, found)))
        return columns

    def _windows(self, op: HotWindow, question: Question, ends: KeyRows, seam: int, end: int) -> Found | None:
        parts = []
        for g, code in enumerate(ends.codes.tolist()):
            slots = ends.slots[ends.groups[g] : ends.groups[g + 1]]
            assert op.range_ns is not None
            part = self._summaries.windows(question, code, slots, op.range_ns, seam, end)
            if part is None:
                return None
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        nothing = [np.zeros(0)], [np.zeros(0, np.int64)]
        return Found(
            np.concatenate([p.sums for p in parts] or nothing[0]),
            np.concatenate([p.weights for p in parts] or nothing[0]),
            np.concatenate([p.cells for p in parts] or nothing[1]),
            np.concatenate([p.counts for p in parts] or nothing[1]),
            sum(p.too_large for p in parts),
        )

    def _chosen(self, agg: Agg, found: Found) -> pa.Array | None:
        if agg.fn not in ("min", "max") or agg.value is None:
            return None
        if agg.value not in self._plans:
            self._plans[agg.value] = GatherPlan(
                self._layout, self._views, self._L, (agg.value,), unmatched=True
            )  # fmt: skip
        rows = self._plans[agg.value].gather(found.cells)
        return None if rows is None else rows.column(0)

    def arrays(self, op: HotWindow, columns: list[LongColumn]) -> list[pa.Array]:
        """The aggregates' columns. Raises InvalidArgument where a sum of integers needs more than 64 bits."""
        return [self._array(agg, column) for agg, column in zip(op.aggs, columns, strict=True)]

    def _array(self, agg: Agg, column: LongColumn) -> pa.Array:
        found, counts = column.found, column.found.counts
        if agg.fn == "count":
            return plain_array(counts.view(np.uint64), None)
        if column.column is not None:
            return column.column
        if agg.fn == "avg":
            return avg_answer(found.sums, counts)
        if agg.fn == "vwap":
            return vwap_answer(found.sums, found.weights, counts)
        if agg.fn == "stddev":
            return plain_array(found.sums, counts < 2)
        if pa.types.is_integer(self._layout.spec.column(str(agg.value)).type):
            return integer_sums_answer(agg, found.cells, counts, found.too_large, unsigned=False)
        return plain_array(found.sums, counts == 0)
