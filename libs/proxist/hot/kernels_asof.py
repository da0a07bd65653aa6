"""The as-of kernels: from probes, each a key with a time, to slots. What holds for the readers' kernels holds here."""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import i64, i64r, i64w, kernel, part
from proxist.hot.kernels_descend import GROUP, P_BLOCK, P_GEN, P_LATER, P_ORDINAL, P_WORDS, descend
from proxist.hot.kernels_read import first_of, last_from
from proxist.hot.words import INT64_MAX, INT64_MIN, L_KEYS, L_TIME, TORN

Array = Any
BACKWARD, FORWARD, NEAREST = 0, 1, 2


@part
def _distance(a: int, b: int) -> int:
    """a - b for a >= b, or the largest int64 where that is smaller."""
    if b < 0 and a > INT64_MAX + b:
        return INT64_MAX
    return a - b


@part
def _asof_one(
    mem: Array, L: Array, key: int, time: int, direction: int, exact: int, tolerance: int,
    seam: int, end: int, complete: int, places: Array, p: int,
) -> Any:  # fmt: skip
    """(slot or -1, version, decided, visited) of one probe, which `descend` brought to places[p:]."""
    slot, version, decided, visited = -1, 0, 1, 0
    distance = INT64_MAX
    if direction != FORWARD and (exact == 1 or time != INT64_MIN):
        at = time if exact == 1 else time - 1
        slot, version, decided, visited = last_from(
            mem,
            L,
            key,
            at,
            seam,
            end,
            complete,
            places[p + P_BLOCK],
            places[p + P_GEN],
            places[p + P_ORDINAL],
            places[p + P_LATER],
        )
        if slot >= 0:
            distance = _distance(time, mem[L[L_TIME] + slot])
            if tolerance >= 0 and distance > tolerance:
                slot, version = -1, 0
    if slot == TORN or direction == BACKWARD or (slot >= 0 and distance == 0 and decided == 1):
        return slot, version, decided, visited
    if exact == 1 or time != INT64_MAX:
        at = time if exact == 1 else time + 1
        later, _, later_decided, steps = first_of(mem, L, key, at, seam, end, complete)
        visited += steps
        if later == TORN:
            return TORN, 0, 0, visited
        decided = min(decided, later_decided)
        if later >= 0:
            apart = _distance(mem[L[L_TIME] + later], time)
            if (tolerance < 0 or apart <= tolerance) and (slot < 0 or apart < distance):
                slot, version = later, 0
    return slot, version, decided, visited


@part
def asof_probes(
    mem: Array, L: Array, codes: Array, times: Array, direction: int, exact: int, tolerance: int,
    seam: int, end: int, complete: int, slots: Array, versions: Array, cold: Array, stats: Array, places: Array,
) -> int:  # fmt: skip
    """Per probe its row's slot, -1 unmatched. Code -1: the key is unknown; -2: no key. `tolerance` -1: none.

    Returns how many matched; stats = [probes written to `cold`, blocks visited, boundary rows used];
    `places` is scratch of PLACES words.
    """
    matched, undecided, visited, boundaries = 0, 0, 0, 0
    for i in range(codes.size):
        if i & (GROUP - 1) == 0 and (direction != FORWARD or codes.size > 1):  # forward: only for what it asks for
            stop = min(i + GROUP, codes.size)
            visited += descend(mem, L, codes, times, 1 - exact, i, stop, seam, end, places)
        key = codes[i]
        slots[i], versions[i] = -1, 0
        if key < 0 or key >= L[L_KEYS]:
            if complete == 0 and key != -2:
                cold[undecided] = i
                undecided += 1
            continue
        slot, version, decided, steps = _asof_one(
            mem, L, key, times[i], direction, exact, tolerance, seam, end, complete, places, (i & (GROUP - 1)) * P_WORDS
        )
        if slot == TORN:
            return TORN
        visited += steps
        slots[i], versions[i] = slot, version
        matched += 1 if slot >= 0 else 0
        boundaries += 1 if version > 0 else 0
        if decided == 0:
            cold[undecided] = i
            undecided += 1
    stats[0], stats[1], stats[2] = undecided, visited, boundaries
    return matched


@kernel(i64(i64r, i64r, i64r, i64r, i64, i64, i64, i64, i64, i64, i64w, i64w, i64w, i64w, i64w))
def asof(
    mem: Array, L: Array, codes: Array, times: Array, direction: int, exact: int, tolerance: int,
    seam: int, end: int, complete: int, slots: Array, versions: Array, cold: Array, stats: Array, places: Array,
) -> int:  # fmt: skip
    """`asof_probes`, for those who copy for themselves."""
    return asof_probes(
        mem, L, codes, times, direction, exact, tolerance, seam, end, complete, slots, versions, cold, stats, places
    )


@kernel(i64(i64r, i64w, i64w))
def group_probes(codes: Array, starts: Array, order: Array) -> int:
    """The probes' indices grouped by code, stably; codes are -2 or more, `starts` is zeroed, with 4 cells more than
    there are codes."""
    for i in range(codes.size):
        starts[codes[i] + 3] += 1
    for c in range(1, starts.size):
        starts[c] += starts[c - 1]
    for i in range(codes.size):
        order[starts[codes[i] + 2]] = i
        starts[codes[i] + 2] += 1
    return 0
