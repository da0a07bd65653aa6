"""Windows and bars over rows that are copied out already: which rows belong to which output row, and what they select.

Rows come grouped by key, each group in Order; group g is [groups[g], groups[g + 1]). A span [lo, hi) is the rows of one
output row; both bounds never fall from one span to the next, so that everything here slides: O(1) per row.
"""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import f64, f64r, f64w, i64, i64r, i64w, kernel, u8r
from proxist.hot.words import INT64_MAX, INT64_MIN

Array = Any
_INFINITY = 0x7FF << 52


@kernel(i64(i64r, i64r, i64, i64, i64, i64, i64w, i64w))
def window_spans(
    times: Array, groups: Array, from_time: int, last_time: int, range_ns: int, rows: int, lo: Array, hi: Array
) -> int:
    """Spans of the windows that end with each row with time in [from_time, last_time]; returns how many.

    `rows` 0: by `range_ns`, else the last `rows` rows. The row itself is hi - 1.
    """
    found = 0
    for g in range(groups.size - 1):
        first = groups[g]
        for row in range(groups[g], groups[g + 1]):
            time = times[row]
            if time > last_time:
                break
            if time < from_time:
                continue
            if rows > 0:
                first = max(groups[g], row + 1 - rows)
            elif time >= INT64_MIN + range_ns:
                while first < row and times[first] <= time - range_ns:
                    first += 1
            lo[found], hi[found] = first, row + 1
            found += 1
    return found


@kernel(i64(i64r, i64r, i64, i64, i64, i64w, i64w, i64w))
def bar_spans(
    times: Array, groups: Array, from_time: int, last_time: int, every: int, lo: Array, hi: Array, starts: Array
) -> int:
    """Spans of the bars over rows with time in [from_time, last_time], and when they start; returns how many."""
    found = 0
    for g in range(groups.size - 1):
        last_of_bar, opened = INT64_MIN, False
        for row in range(groups[g], groups[g + 1]):
            time = times[row]
            if time < from_time or time > last_time:
                continue
            if not opened or time > last_of_bar:
                start, opened = time - time % every, True
                last_of_bar = start + (every - 1) if start <= INT64_MAX - (every - 1) else INT64_MAX
                lo[found], starts[found] = row, start
                found += 1
            hi[found - 1] = row + 1
    return found


@kernel(i64(u8r, i64r, i64r, i64w, i64w, i64w))
def present(valid: Array, lo: Array, hi: Array, first: Array, last: Array, counts: Array) -> int:
    """Per span its first and last valid row (-1: none) and how many are; `valid` a byte per row, or empty: all."""
    if valid.size == 0:
        for i in range(lo.size):
            counts[i] = hi[i] - lo[i]
            first[i] = lo[i] if counts[i] > 0 else -1
            last[i] = hi[i] - 1 if counts[i] > 0 else -1
        return 0
    at, left, newest, right, count, entered = 0, 0, -1, 0, 0, 0
    for i in range(lo.size):
        for row in range(right, hi[i]):
            if valid[row] == 1:
                newest = row
                count += 1
        right = max(right, hi[i])
        for row in range(left, min(lo[i], right)):
            entered += valid[row]
        left = max(left, lo[i])
        at = max(at, lo[i])
        while at < hi[i] and valid[at] == 0:
            at += 1
        counts[i] = count - entered
        first[i] = at if at < hi[i] else -1
        last[i] = newest if newest >= lo[i] else -1
    return 0


@kernel(i64(i64r, i64, i64w))
def ranks_of_doubles(bits: Array, largest: int, out: Array) -> int:
    """int64 in the order of doubles (`largest` 1: in the opposite); -0.0 is 0.0, NaN comes last either way."""
    for i in range(bits.size):
        rank = bits[i]
        if (rank & INT64_MAX) > _INFINITY:
            out[i] = INT64_MAX
            continue
        if rank == INT64_MIN:
            rank = 0
        elif rank < 0:
            rank ^= INT64_MAX
        out[i] = ~rank if largest == 1 else rank
    return 0


@kernel(i64(i64r, u8r, i64r, i64r, i64w, i64w))
def smallest(ranks: Array, valid: Array, lo: Array, hi: Array, queue: Array, out: Array) -> int:
    """Per span the valid row with the smallest rank, the first of equal ones; -1: none.

    `queue` (a cell per row) holds the rows that can still become the smallest, by rank ascending.
    """
    head, tail, stop = 0, 0, 0
    for i in range(lo.size):
        for row in range(max(stop, lo[i]), hi[i]):
            if valid.size > 0 and valid[row] == 0:
                continue
            while tail > head and ranks[queue[tail - 1]] > ranks[row]:
                tail -= 1
            queue[tail] = row
            tail += 1
        stop = max(stop, hi[i])
        while head < tail and queue[head] < lo[i]:
            head += 1
        out[i] = queue[head] if head < tail else -1
    return 0


@kernel(i64(f64r, u8r, i64r, i64r, i64, f64, f64w, i64w))
def ema(
    values: Array, valid: Array, times: Array, groups: Array, from_time: int, alpha: float, out: Array, known: Array
) -> int:
    """Per row its group's e = alpha * x + (1 - alpha) * e over the valid rows from `from_time` on, the first as it is.

    `known` is 0 where there was none yet.
    """
    for g in range(groups.size - 1):
        average, seeded = 0.0, 0
        for row in range(groups[g], groups[g + 1]):
            if times[row] >= from_time and (valid.size == 0 or valid[row] == 1):
                average = alpha * values[row] + (1.0 - alpha) * average if seeded == 1 else values[row]
                seeded = 1
            out[row], known[row] = average, seeded
    return 0
