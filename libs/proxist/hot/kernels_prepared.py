"""The kernels of prepared reads: the whole of an optimistic read in one call, cut, search, copy and checks.

`told` gets what the answer was made of: T_END, T_FLOOR (the seam), T_PERSISTED, T_LEASE and T_UNDECIDED, how many rows
RAM alone cannot decide. The caller still compares the clock with T_LEASE.
"""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import fence, i32r, i32w, i64, i64r, i64w, kernel, part, u8r, u8w, u16r, u16w
from proxist.hot.kernels_gather import F_BASE, F_OUT, F_WIDTH, F_WORDS
from proxist.hot.kernels_read import asof_probes, last_of, newest_rows
from proxist.hot.words import (
    H_CLOSED,
    H_COMPLETE,
    H_END,
    H_EPOCH,
    H_FLOOR,
    H_LEASE_UNTIL,
    H_PERSISTED,
    INT64_MAX,
    L_BOUNDARY,
    L_KEYS,
    L_SLOTS,
    TORN,
)  # fmt: skip

Array = Any
T_END, T_FLOOR, T_PERSISTED, T_LEASE, T_UNDECIDED, T_WORDS = range(6)
DONE, AGAIN, CLOSED, SUPERSEDED = range(4)
_WIDE = 8
_MEMORY = (u8r, u16r, i32r, i64r)
_OUTPUT = (u8w, u16w, i32w, i64w)


@part
def _copy(
    mem8: Array, mem16: Array, mem32: Array, mem: Array, plan: Array, slots: Array,
    out8: Array, out16: Array, out32: Array, out64: Array,
) -> None:  # fmt: skip
    """The rows' cells, column by column; zero where the slot is -1."""
    for c in range(plan.size // F_WORDS):
        width, base = plan[c * F_WORDS + F_WIDTH], plan[c * F_WORDS + F_BASE]
        at = plan[c * F_WORDS + F_OUT] // width
        for i in range(slots.size):
            slot = slots[i]
            if width == _WIDE:
                out64[at + i] = mem[base + slot] if slot >= 0 else 0
            elif width == 4:
                out32[at + i] = mem32[base + slot] if slot >= 0 else 0
            elif width == 2:
                out16[at + i] = mem16[base + slot] if slot >= 0 else 0
            else:
                out8[at + i] = mem8[base + slot] if slot >= 0 else 0


@part
def _checked(mem: Array, L: Array, page: Array, slots: Array, versions: Array, seam: int, told: Array) -> int:
    """The last checks of the protocol."""
    fence()
    for i in range(slots.size):
        if versions[i] > 0 and mem[L[L_BOUNDARY] + ((slots[i] - L[L_SLOTS]) >> 1)] != versions[i]:
            return AGAIN
    if mem[H_FLOOR] > seam:
        return AGAIN
    if mem[H_CLOSED] != 0:
        return CLOSED
    told[T_LEASE] = mem[H_LEASE_UNTIL]
    return DONE if page[1] == mem[H_EPOCH] else SUPERSEDED


@part
def _cut(mem: Array, told: Array) -> None:
    told[T_END] = mem[H_END]  # first: whatever rows below it depend on is then there
    fence()
    told[T_FLOOR], told[T_PERSISTED], told[T_UNDECIDED] = mem[H_FLOOR], mem[H_PERSISTED], 0


@kernel(i64(*_MEMORY, i64r, i64r, i64r, i64r, *_OUTPUT, i64w, i64w, i64w))
def last_now(
    mem8: Array, mem16: Array, mem32: Array, mem: Array, L: Array, codes: Array, page: Array, plan: Array,
    out8: Array, out16: Array, out32: Array, out64: Array, slots: Array, versions: Array, told: Array,
) -> int:  # fmt: skip
    """Each key's last row (slot -1: it has none), copied."""
    _cut(mem, told)
    seam, end, complete = told[T_FLOOR], told[T_END], mem[H_COMPLETE]
    if complete == 0 or newest_rows(mem, L, codes, seam, end, slots, versions) == 0:
        for i in range(codes.size):
            slots[i], versions[i] = -1, 0
            decided = complete
            if codes[i] >= 0 and codes[i] < L[L_KEYS]:
                slot, version, decided, _ = last_of(mem, L, codes[i], INT64_MAX, seam, end, complete)
                if slot == TORN:
                    return AGAIN
                slots[i], versions[i] = slot, version
            told[T_UNDECIDED] += 1 - decided
    _copy(mem8, mem16, mem32, mem, plan, slots, out8, out16, out32, out64)
    return _checked(mem, L, page, slots, versions, seam, told)


@kernel(i64(*_MEMORY, i64r, i64r, i64r, i64r, *_OUTPUT, i64w, i64w, i64w, i64r, i64, i64, i64, i64w, i64w, i64w))
def asof_now(
    mem8: Array, mem16: Array, mem32: Array, mem: Array, L: Array, codes: Array, page: Array, plan: Array,
    out8: Array, out16: Array, out32: Array, out64: Array, slots: Array, versions: Array, told: Array,
    times: Array, direction: int, exact: int, tolerance: int, cold: Array, stats: Array, places: Array,
) -> int:  # fmt: skip
    """Each probe's row (slot -1: unmatched), copied."""
    _cut(mem, told)
    seam = told[T_FLOOR]
    matched = asof_probes(
        mem, L, codes, times, direction, exact, tolerance, seam, told[T_END], mem[H_COMPLETE],
        slots, versions, cold, stats, places,
    )  # fmt: skip
    if matched == TORN:
        return AGAIN
    told[T_UNDECIDED] = stats[0]
    _copy(mem8, mem16, mem32, mem, plan, slots, out8, out16, out32, out64)
    return _checked(mem, L, page, slots, versions, seam, told)
