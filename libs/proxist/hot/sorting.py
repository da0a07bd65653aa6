"""Slots into the order (time, seq, offset), fast where they nearly are: which is how rows arrive."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from proxist.hot import words as w
from proxist.hot.kernels import gather as kernels

Ints = npt.NDArray[np.int64]
_DENSE_SHARE = 8
"""Rows are put in offset order by a table of all offsets where at least one in so many is wanted, else by sorting."""


def in_order(mem: Ints, L: Ints, slots: Ints, seam: int, end: int) -> Ints | None:
    """The slots of rows in [seam, end), ordered by (time, seq, offset); None where a row was of another moment."""
    if kernels.in_order(mem, L, slots):
        return slots
    by_offset = _by_offset(mem, L, slots, seam, end)
    if by_offset is None:
        return None
    # numpy's stable sort of int64 merges runs: linear where few rows came late
    times = np.empty(len(slots), np.int64)
    kernels.gather_cells(mem, int(L[w.L_TIME]), by_offset, times)
    ordered: Ints = by_offset[np.argsort(times, kind="stable")]
    if L[w.L_SEQ] >= 0:
        kernels.order_ties(mem, L, ordered, times, np.empty(len(slots), np.int64))
    return ordered


def _by_offset(mem: Ints, L: Ints, slots: Ints, seam: int, end: int) -> Ints | None:
    if _DENSE_SHARE * len(slots) >= end - seam:
        out = np.empty(len(slots), np.int64)
        torn = kernels.by_offset(mem, L, slots, seam, np.zeros(end - seam, np.int64), out)
        return None if torn else out
    offsets = np.empty(len(slots), np.int64)
    kernels.gather_cells(mem, int(L[w.L_OFFSET]), slots, offsets)
    by_offset: Ints = slots[np.argsort(offsets, kind="stable")]
    return by_offset
