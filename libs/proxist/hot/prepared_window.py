"""A prepared window: one aggregate of the window that ends with a key's last row, again and again, in microseconds."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import InvalidArgument
from proxist.hot import words as w
from proxist.hot.arena import Views
from proxist.hot.kernels import prepared as kernels
from proxist.hot.kernels import read as reading
from proxist.hot.kernels_last import named_between, slot_named
from proxist.hot.keys import KeyIndex
from proxist.hot.layout import Layout
from proxist.hot.summaries import Found, Series, question_of
from proxist.model.ids import Offset
from proxist.model.query import Agg

Ints = npt.NDArray[np.int64]
Value = float | int | None
NO_KEY = -1


class PreparedWindow:
    """For one thread at a time. After `HotReader.read`: `value` (None: null, or the key has no row), `end`, `undecided`.

    A count, and sums, smallest and largest of int64 and times, are integers, all others floats.
    """

    def __init__(
        self, layout: Layout, views: Views, L: Ints, keys: KeyIndex, page: Ints, key: str, agg: Agg, range_ns: int
    ) -> None:
        """Use `HotReader.prepare_window`. Raises InvalidArgument where summaries do not have the aggregate."""
        question = question_of(agg, layout.spec)
        if question is None:
            raise InvalidArgument(
                f"{agg.fn} of {agg.value!r} cannot be prepared: that takes count, sum, avg, stddev, vwap of double and int64 "
                "columns, min and max also of times. Use the window verb."
            )
        self._layout, self._views, self._L, self._keys, self._page = layout, views, L, keys, page
        self._key, self._agg, self._range, self._question = (key,), agg, range_ns, question
        self._doubles = agg.value is not None and bool(pa.types.is_floating(layout.spec.column(agg.value).type))
        self._integers = agg.fn == "sum" and not self._doubles
        """A sum of integers, which may not fit."""
        self._cells = next(
            (r.first_cell for n, r in layout.regions.items() if n == f"data:{agg.value}"), int(L[w.L_TIME])
        )
        self._word = views.mem.item
        """One word of the memory as an int, faster than by an index."""
        self._times, self._slots = int(L[w.L_TIME]), int(L[w.L_SLOTS])
        self._codes: Ints = np.zeros(0, np.int64)
        self._last_at = 0
        self._series: Series | None = None
        self._slot, self._version, self._cold = (np.zeros(1, np.int64) for _ in range(3))
        self._stats, self._found = np.zeros(2, np.int64), Found.of(1)
        self.told = np.zeros(kernels.T_WORDS, np.int64)
        self.value: Value = None

    @property
    def end(self) -> Offset:
        """What the last read saw: the rows below it."""
        return Offset(int(self.told[kernels.T_END]))

    @property
    def undecided(self) -> int:
        """1 where RAM could not tell at the last read (mostly: the window reaches back to evicted rows): `value` is None,
        and the window verb has the answer."""
        return int(self.told[kernels.T_UNDECIDED])

    def attempt(self, *_: object) -> int:
        """One try; what `kernels_prepared` returns."""
        word, told = self._word, self.told
        told[kernels.T_END] = end = word(w.H_END)  # first, as in every read
        told[kernels.T_FLOOR] = seam = word(w.H_FLOOR)
        told[kernels.T_PERSISTED], told[kernels.T_UNDECIDED] = word(w.H_PERSISTED), 0
        self.value, found = None, None
        if self._series is None and not self._find_key():
            told[kernels.T_UNDECIDED] = 0 if word(w.H_COMPLETE) else 1
        elif self._last_row(seam, end):
            found = self._window(seam, end)
        if found is not None:
            self.value = self._value(found)  # it may read a cell, which the look at the floor below vouches for
        if word(w.H_FLOOR) > seam:
            self.value = None
            return kernels.AGAIN
        if found is not None and found.too_large and self._integers:
            raise InvalidArgument(f"The sum of column {self._agg.value!r} does not fit int64. Use avg.")
        if word(w.H_CLOSED):
            return kernels.CLOSED
        told[kernels.T_LEASE] = word(w.H_LEASE_UNTIL)
        return kernels.DONE if self._page.item(1) == word(w.H_EPOCH) else kernels.SUPERSEDED

    def _find_key(self) -> bool:
        self._codes = self._keys.codes(self._key)
        if not len(self._codes):
            return False
        self._last_at = int(self._L[w.L_LAST]) + int(self._codes[0])
        self._series = Series(self._layout, self._views, self._L, int(self._codes[0]), self._question)
        return True

    def _last_row(self, seam: int, end: int) -> bool:
        """Whether the key has a last row in RAM, whose slot is noted; where RAM cannot tell that is noted too."""
        word, complete = self._word, self._word(w.H_COMPLETE)
        last = word(self._last_at)
        slot = slot_named(last)
        if complete and 0 <= slot < self._slots and named_between(last, seam, end):
            self._slot[0] = slot
            return True
        found = reading.last_by(
            self._views.mem, self._L, self._codes, w.INT64_MAX, seam, end, complete, self._slot, self._version,
            self._cold, self._stats,
        )  # fmt: skip
        evicted = found > 0 and self._slot[0] >= self._slots
        if evicted or self._stats[0]:
            self.told[kernels.T_UNDECIDED] = 1
        return bool(found > 0 and not evicted and not self._stats[0])

    def _window(self, seam: int, end: int) -> Found | None:
        """None where RAM cannot tell."""
        assert self._series is not None
        time = self._word(self._times + self._slot.item(0))
        if not self._needs_evicted(time) and self._series.extend(seam):
            found = self._series.windows(self._slot, self._range, seam, end, self._found)
            if found is not None:
                return found
        self.told[kernels.T_UNDECIDED] = 1
        if self._series.outside:
            self._series = None  # begun anew, from the values of that moment
        return None

    def _needs_evicted(self, time: int) -> bool:
        low = max(time - self._range + 1, w.INT64_MIN)
        if self._word(w.H_EVICTED_TIME_MAX) < low:
            return False
        return reading.cold_for_range(self._views.mem, self._L, self._codes, low, self._cold) != 0

    def _value(self, found: Found) -> Value:
        fn = self._agg.fn
        count = found.counts.item(0)
        if fn == "count":
            return count
        if count < (2 if fn == "stddev" else 1):
            return None
        if fn in ("min", "max"):
            cells = self._views.mem[self._cells + found.cells[0] : self._cells + found.cells[0] + 1]
            return float(cells.view(np.float64)[0]) if self._doubles else int(cells[0])
        if self._integers:
            return None if found.too_large else found.cells.item(0)
        total = found.sums.item(0)
        if fn == "avg":
            return total / count
        if fn == "vwap":
            weight = found.weights.item(0)
            if weight == 0:
                return None
            return math.nan if math.isinf(total) and math.isinf(weight) else total / weight
        return total
