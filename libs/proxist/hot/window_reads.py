"""Which resident rows a window or bars needs, key by key: slots grouped by key and in Order, and the keys that need cold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from proxist.hot import words as w
from proxist.hot.kernels import gather, lookback
from proxist.hot.kernels import read as reading
from proxist.hot.ops import HotBars, HotWindow
from proxist.hot.windows import asked_times, first_time

Ints = npt.NDArray[np.int64]
_FIRST_ROOM = 32_768
"""Slots that are tried first; only answers of more need room for every resident row."""


@dataclass(frozen=True, slots=True, eq=False)
class KeyRows:
    """Slots of rows, grouped by key in the asked order, each group in Order; group g is [groups[g], groups[g + 1])."""

    slots: Ints
    groups: Ints
    codes: Ints
    """Of the keys that have rows."""
    cold: Ints
    """Codes of the keys whose answer needs evicted rows; they have no rows here."""


class WindowReads:
    """Finds them in one mapping."""

    def __init__(self, mem: Ints, L: Ints) -> None:
        self._mem, self._L = mem, L

    def find(self, op: HotWindow | HotBars, codes: Ints, seam: int, end: int) -> KeyRows | None:
        """None where values from another moment were met."""
        start, last = first_time(op), asked_times(op)[1]
        cold = self._evicted_since(start, codes)
        if cold is None:
            return None
        codes = codes[~np.isin(codes, cold)] if len(cold) else codes  # in their order
        if last < start or end <= seam:
            return self._grouped(np.zeros(0, np.int64), cold)
        slots = self._scan(codes, start, last, seam, end)
        if slots is None or not (isinstance(op, HotWindow) and op.rows is not None and op.from_ns is not None):
            return None if slots is None else self._grouped(slots, cold)
        return self._with_rows_before(self._grouped(slots, cold), op.rows - 1, start, last, seam, end)

    def ends(self, op: HotWindow, codes: Ints, seam: int, end: int, rows_max: int) -> KeyRows | None:
        """As `find` for a window by range, but only the rows that make output; None also where they are more."""
        start, last = asked_times(op)
        cold = self._evicted_since(first_time(op), codes)
        if cold is None or last < start or end <= seam:
            return None
        codes = codes[~np.isin(codes, cold)] if len(cold) else codes
        slots = self._scan(codes, start, last, seam, end, rows_max)
        return None if slots is None else self._grouped(slots, cold)

    def _evicted_since(self, start: int, codes: Ints) -> Ints | None:
        if int(self._mem[w.H_FLOOR]) == int(self._mem[w.H_START]) or int(self._mem[w.H_EVICTED_TIME_MAX]) < start:
            return np.zeros(0, np.int64)
        cold = np.empty(len(codes), np.int64)
        count = int(reading.cold_for_range(self._mem, self._L, codes, start, cold))
        return None if count < 0 else cold[:count]

    def _scan(
        self, codes: Ints, start: int, last: int, seam: int, end: int, rows_max: int | None = None
    ) -> Ints | None:
        backwards, stats = (
            np.ascontiguousarray(codes[::-1]),
            np.zeros(2, np.int64),
        )  # the kernel fills its room from the end
        for size in (min(end - seam, _FIRST_ROOM), end - seam) if rows_max is None else (rows_max,):
            room = np.empty(size, np.int64)
            found = int(reading.scan(self._mem, self._L, backwards, start, last, seam, end, room, stats))
            if found <= size:
                return room[size - found :]
        return None

    def _grouped(self, slots: Ints, cold: Ints) -> KeyRows:
        groups, keys = np.empty(len(slots) + 1, np.int64), np.empty(len(slots), np.int64)
        count = int(lookback.group_slots(self._mem, self._L, slots, groups, keys))
        if count < 0:
            count = -1 - count
            slots = self._sorted(slots, groups[: count + 1])
        return KeyRows(slots, groups[: count + 1].copy(), keys[:count].copy(), cold)

    def _sorted(self, slots: Ints, groups: Ints) -> Ints:
        """Each group by (time, seq, offset); they come in offset order, which stable sorting keeps."""
        mem, L = self._mem, self._L
        times = np.empty(len(slots), np.int64)
        gather.gather_cells(mem, int(L[w.L_TIME]), slots, times)
        seqs = np.zeros(len(slots), np.int64)
        if L[w.L_SEQ] >= 0:
            gather.gather_cells(mem, int(L[w.L_SEQ]), slots, seqs)
        number = np.repeat(np.arange(len(groups) - 1), np.diff(groups))
        return slots[np.lexsort((seqs ^ w.INT64_MIN, times, number))]

    def _with_rows_before(
        self, found: KeyRows, count: int, start: int, last: int, seam: int, end: int
    ) -> KeyRows | None:
        """The same keys with `count` more rows each from before `start`, where RAM has them."""
        pieces, cold = [np.zeros(0, np.int64)], found.cold.tolist()
        room = np.empty(count + (1 << int(self._L[w.L_SHIFT])), np.int64)
        for code in found.codes.tolist():
            key = np.array([code], np.int64)
            first = self._first_of(code, start, count, seam, end, room)
            evicted = self._evicted_since(first, key)
            slots = None if evicted is None else self._scan(key, first, last, seam, end)
            if slots is None or evicted is None:
                return None
            if len(evicted):
                cold.append(code)
            else:
                pieces.append(slots)
        return self._grouped(np.concatenate(pieces), np.array(cold, np.int64))

    def _first_of(self, code: int, start: int, count: int, seam: int, end: int, room: Ints) -> int:
        """A time from which on the key has at least `count` rows before `start`; the earliest if it has fewer."""
        if count == 0:
            return start
        found = int(lookback.times_before(self._mem, self._L, code, start, count, seam, end, room))
        if found < count:
            return w.INT64_MIN
        return int(np.partition(room[:found], found - count)[found - count])
