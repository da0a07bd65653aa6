"""A reader's own summaries of keys' blocks, so that a window over any range costs microseconds (kernels_summary).

A series is one key's tree for one question: its rows, a column's sums, sums and squares, products with a weight, smallest
or largest. It is made when a long window is first asked, grows by the blocks that were finished since, and is dropped when
it was not used for longest and all together pass BYTES_MAX. Nothing of it is shared or written by the owner.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.hot import words as w
from proxist.hot.arena import Views
from proxist.hot.exact_sums import ALL_VALID, Doubles
from proxist.hot.kernels import summary as kernels
from proxist.hot.kernels_summary import (
    FAN_BITS,
    LARGEST,
    LEVELS,
    OUTSIDE,
    PRODUCT,
    ROWS,
    S_BLOCK,
    S_FIRST,
    S_GEN,
    S_KEY,
    S_LEVEL,
    S_MAX,
    S_MIN,
    S_MODE,
    S_ORDINAL,
    S_SECOND,
    S_SUMS,
    S_WIDTH,
    S_WORDS,
    S_X,
    S_X_HIGH,
    S_X_INTEGER,
    S_X_LOW,
    S_X_VALID,
    S_Y,
    S_Y_HIGH,
    S_Y_LOW,
    SMALLEST,
    SPREAD,
    SUM,
)  # fmt: skip
from proxist.hot.kernels_sums import A_LIMBS, LIMB_BITS, SPARE_LIMBS
from proxist.hot.layout import Layout
from proxist.model.query import Agg
from proxist.model.table import TableSpec

Ints = npt.NDArray[np.int64]
BYTES_MAX = 64 * 2**20
_MARGIN_BITS = 40
"""Powers of two that later values may lie below or above those of the first blocks."""
_ROWS_BITS = 34
_SAMPLE_BLOCKS = 16
_MODES = {"count": SUM, "sum": SUM, "avg": SUM, "stddev": SPREAD, "vwap": PRODUCT, "min": SMALLEST, "max": LARGEST}


@dataclass(frozen=True, slots=True)
class Question:
    """What a series sums up; columns by name."""

    mode: int
    x: str | None = None
    y: str | None = None


def question_of(agg: Agg, spec: TableSpec) -> Question | None:
    """The question that answers this aggregate of a window; None where summaries do not have it."""
    if agg.fn not in _MODES:
        return None
    if agg.fn == "count" and (agg.value is None or not spec.column(agg.value).nullable):
        return Question(ROWS)
    mode = _MODES[agg.fn]
    names = (name for name in (agg.value, agg.weight) if name is not None)
    usable = all(_is_usable(spec.column(name).type, mode) for name in names)
    return Question(mode, agg.value, agg.weight) if usable else None


def _is_usable(type_: pa.DataType, mode: int) -> bool:
    """Whether the kernels read such cells: doubles and int64; for smallest and largest all of 64 bits with a sign."""
    if pa.types.is_float64(type_) or pa.types.is_int64(type_):
        return True
    return mode >= SMALLEST and bool(pa.types.is_temporal(type_)) and type_.bit_width == 64


@dataclass(slots=True, eq=False)
class Found:
    """Per window, as `kernels_summary.windows` says."""

    sums: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    cells: Ints
    counts: Ints
    too_large: int = 0

    @staticmethod
    def of(count: int) -> Found:
        """Room for so many windows."""
        return Found(np.empty(count), np.empty(count), np.empty(count, np.int64), np.empty(count, np.int64))


class Summaries:
    """All series of one reader."""

    def __init__(self, layout: Layout, views: Views, kernel_layout: Ints) -> None:
        self._layout, self._views, self._L = layout, views, kernel_layout
        self._lock = threading.Lock()
        """Guards the series and what they hold."""
        self._series: OrderedDict[tuple[int, Question], Series] = OrderedDict()
        self._bytes = 0
        self._refused: set[tuple[int, Question]] = set()

    def windows(self, question: Question, code: int, slots: Ints, range_ns: int, seam: int, end: int) -> Found | None:
        """Windows that end with the rows at `slots` of the key; None where summaries cannot tell, now or ever."""
        with self._lock:
            if (code, question) in self._refused:
                return None
            series = self._series.get((code, question))
            if series is None:
                series = self._series[code, question] = Series(self._layout, self._views, self._L, code, question)
            self._series.move_to_end((code, question))
            before = series.bytes
            found = series.windows(slots, range_ns, seam, end) if series.extend(seam) else None
            self._bytes += series.bytes - before
            if found is None:
                self._drop((code, question))
            if series.outside and int(self._views.mem[w.H_FLOOR]) <= seam:
                self._refused.add((code, question))
            while self._bytes > BYTES_MAX and len(self._series) > 1:
                self._drop(next(iter(self._series)))
            return found

    def _drop(self, name: tuple[int, Question]) -> None:
        self._bytes -= self._series.pop(name).bytes


class Series:
    """One key's tree for one question."""

    def __init__(self, layout: Layout, views: Views, L: Ints, code: int, question: Question) -> None:
        self._layout, self._views, self._L, self._question = layout, views, L, question
        self._known = self._capacity = 0
        self._last = 0, 0
        """Where the header of the last known block is, and its generation."""
        self.outside = False
        """A value was out of the accumulators' range."""
        self._what = np.zeros(S_WORDS, np.int64)
        self._what[S_MODE], self._what[S_KEY] = question.mode, code
        self._tail_at, self._tail = int(L[w.L_TAIL]) + code, 0
        self._tree = self._acc = self._digits = self._wide = np.zeros(0, np.int64)

    @property
    def bytes(self) -> int:
        return self._tree.nbytes

    def windows(self, slots: Ints, range_ns: int, seam: int, end: int, into: Found | None = None) -> Found | None:
        """Windows that end with the rows at `slots`, written to `into` where that is given; None: out of range."""
        out, v = Found.of(len(slots)) if into is None else into, self._views
        result = int(
            kernels.windows(
                v.mem8, v.mem, self._L, self._what, self._tree, self._known, slots, range_ns, seam, end,
                self._acc, self._digits, self._wide, out.sums, out.weights, out.cells, out.counts,
            )
        )  # fmt: skip
        self.outside, out.too_large = result == OUTSIDE, max(result, 0)
        return None if self.outside else out

    def extend(self, seam: int) -> bool:
        """Take in the blocks that were finished since; false where they were freed meanwhile or are out of range."""
        if self._known and not self._alive():
            self._known = 0  # all of it was evicted; the key's ordinals may have begun again
        tail = self._views.mem.item(self._tail_at)
        if self._known and tail == self._tail:
            return True  # no block was finished since
        known = int(self._what[S_ORDINAL]) + self._known - 1 if self._known else -1
        blocks = generations = np.empty(4, np.int64)
        found, mem = len(blocks) + 1, self._views.mem
        while found > len(blocks):
            size = max(found, 4)
            blocks, generations = np.empty(size, np.int64), np.empty(size, np.int64)
            found = int(kernels.finished_blocks(mem, self._L, self._what[S_KEY], known, seam, blocks, generations))
        if not found or (self._known and self._ordinal(int(blocks[found - 1])) != known + 1):
            self._known = 0  # blocks in between were freed during the walk
            return False
        if not self._known:
            self._begin(blocks[:found])
        if found < 2 and self._known:
            return True
        self._reserve(self._known + found)
        result = int(
            kernels.summarise(
                self._views.mem8, mem, self._L, self._what, self._tree, self._known, blocks[:found], generations[:found]
            )
        )
        self.outside = result == OUTSIDE
        if result == 0 and found > 1:
            self._known += found - 1
            self._last = int(self._L[w.L_HEADERS]) + int(blocks[1]) * w.SHARED_STRIDE, int(generations[1])
            self._tail = tail if int(blocks[0]) == tail - 1 else 0
        return result == 0

    def _alive(self) -> bool:
        head, generation = self._last
        return bool(self._views.mem.item(head + w.B_GEN) == generation)

    def _ordinal(self, block: int) -> int:
        return int(self._views.mem.item(int(self._L[w.L_HEADERS]) + block * w.SHARED_STRIDE + w.B_ORDINAL))

    def _begin(self, blocks: Ints) -> None:
        what, question, names = self._what, self._question, {n: r.first_cell for n, r in self._layout.regions.items()}
        self._capacity = 0
        what[S_ORDINAL] = self._ordinal(int(blocks[-1]))
        for name, at in ((question.x, S_X), (question.y, S_Y)):
            if name is None:
                continue
            integer = not pa.types.is_floating(self._layout.spec.column(name).type)
            what[at] = names["time" if name == self._layout.spec.time else f"data:{name}"]
            what[at + S_X_INTEGER - S_X] = integer
            what[at + S_X_VALID - S_X] = names.get(f"valid:{name}", -1)
            low, high = self._range(int(what[at]), blocks, integer=integer)
            what[at + S_X_LOW - S_X], what[at + S_X_HIGH - S_X] = low, high
        self._shape()

    def _range(self, base: int, blocks: Ints, *, integer: bool) -> tuple[int, int]:
        """Powers of two to expect in a column, from some of its cells."""
        rows = 1 << int(self._L[w.L_SHIFT])
        cells = [self._views.mem[base + b * rows : base + (b + 1) * rows] for b in blocks[:_SAMPLE_BLOCKS].tolist()]
        values = np.concatenate(cells)
        doubles = Doubles.of(values.astype(np.float64) if integer else values.view(np.float64), ALL_VALID)
        return doubles.low - _MARGIN_BITS, doubles.high + _MARGIN_BITS

    def _shape(self) -> None:
        """How wide accumulators are."""
        what, mode = self._what, self._question.mode
        x, y = (int(what[high] - what[low]) for low, high in ((S_X_LOW, S_X_HIGH), (S_Y_LOW, S_Y_HIGH)))
        first = 64 if mode == SUM and what[S_X_INTEGER] else x + y + 106 if mode == PRODUCT else x + 53
        second = y + 53 if mode == PRODUCT else 2 * x + 106
        digits = [(bits + _ROWS_BITS) // LIMB_BITS + 1 for bits in (first, second)]
        if mode not in (SPREAD, PRODUCT):
            digits[1] = 0
        widths = [A_LIMBS + n + SPARE_LIMBS if n else 0 for n in digits]
        if mode in (ROWS, SMALLEST, LARGEST):
            widths = [A_LIMBS, 0]
        what[S_WIDTH], what[S_SECOND] = sum(widths), widths[0]
        self._acc, self._digits = np.zeros(sum(widths), np.int64), np.zeros(sum(digits), np.int64)
        self._wide = np.zeros(max(2 * digits[0], digits[1]) + 3, np.int64)

    def _reserve(self, blocks: int) -> None:
        """Room for so many blocks, and the first offset of one more."""
        if blocks <= self._capacity:
            return
        before, old, capacity = self._what.copy(), self._tree, 1 << max(FAN_BITS, blocks.bit_length())
        what, at = self._what, 0
        levels = [-(-capacity >> (FAN_BITS * level)) for level in range(LEVELS)]
        nodes = sum(levels)
        what[S_LEVEL : S_LEVEL + LEVELS] = np.cumsum([0, *levels[:-1]])
        sizes = {S_BLOCK: capacity, S_GEN: capacity, S_FIRST: capacity + 1, S_MIN: nodes, S_MAX: nodes}
        for section, size in {**sizes, S_SUMS: nodes * int(what[S_WIDTH])}.items():
            what[section] = at
            at += size
        self._tree = np.empty(at, np.int64)
        if self._known:
            self._copy(before, old)
        self._capacity = capacity

    def _copy(self, before: Ints, old: Ints) -> None:
        """What the smaller tree had, to where it is now."""
        what, width = self._what, int(self._what[S_WIDTH])
        for section, count in ((S_BLOCK, self._known), (S_GEN, self._known), (S_FIRST, self._known + 1)):
            self._tree[what[section] : what[section] + count] = old[before[section] : before[section] + count]
        for level in range(LEVELS):
            count = -(-self._known >> (FAN_BITS * level))
            for section, cells in ((S_MIN, 1), (S_MAX, 1), (S_SUMS, width)):
                to, since = (int(t[section] + t[S_LEVEL + level] * cells) for t in (what, before))
                self._tree[to : to + count * cells] = old[since : since + count * cells]
