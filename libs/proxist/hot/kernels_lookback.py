"""What windows need beyond a scan: where each key's slots begin, and how far back the last n rows before a time reach."""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import fence, i64, i64r, i64w, kernel, part
from proxist.hot.kernels_gather import key_of
from proxist.hot.kernels_search import header_of, rows_between, seq_at
from proxist.hot.words import (
    B_FIRST,
    B_GEN,
    B_JUMP,
    B_JUMP_FIRST,
    B_JUMP_GEN,
    B_MIN_TIME,
    B_ORDINAL,
    B_PREV,
    B_PREV_GEN,
    B_SKIP_MIN_TIME,
    INT64_MAX,
    L_BLOCKS,
    L_KEYS,
    L_SHIFT,
    L_TAIL,
    L_TIME,
)  # fmt: skip

Array = Any


@kernel(i64(i64r, i64r, i64r, i64w, i64w))
def group_slots(mem: Array, L: Array, slots: Array, groups: Array, keys: Array) -> int:
    """Cut slots that are grouped by key: `groups` gets where each group begins, and at last the end; `keys` its code.

    Returns how many groups there are, negative (-1 - groups) where one is not in (time, seq) order. `groups` has a cell
    more than slots, `keys` as many.
    """
    found, ordered, newest = 0, True, -1
    for i in range(slots.size):
        key = key_of(mem, L, slots[i])
        if found == 0 or key != newest:
            groups[found], keys[found] = i, key
            newest = key
            found += 1
        elif ordered:
            a, b = mem[L[L_TIME] + slots[i - 1]], mem[L[L_TIME] + slots[i]]
            if a == b:
                a, b = seq_at(mem, L, slots[i - 1]), seq_at(mem, L, slots[i])
            ordered = a <= b
    groups[found] = slots.size
    return found if ordered else -1 - found


@part
def _times_of(mem: Array, L: Array, block: int, head: int, time: int, seam: int, end: int, later: int, out: Array, found: int) -> int:  # fmt: skip
    lo, hi = rows_between(mem, L, block, head, seam, end, later)
    base = L[L_TIME] + (block << L[L_SHIFT])
    for i in range(lo, hi):
        if mem[base + i] < time and found < out.size:
            out[found] = mem[base + i]
            found += 1
    return found


@kernel(i64(i64r, i64r, i64, i64, i64, i64, i64, i64w))
def times_before(mem: Array, L: Array, key: int, time: int, count: int, seam: int, end: int, out: Array) -> int:
    """Times of rows of the key with time < `time` and offset in [seam, end), from the latest block back, until there are
    `count`; returns how many. `out` has room for `count` and a block."""
    found = 0
    if key < 0 or key >= L[L_KEYS] or end <= seam:
        return found
    block, generation, ordinal, later = mem[L[L_TAIL] + key] - 1, -1, -1, INT64_MAX
    for _ in range(L[L_BLOCKS]):
        head = header_of(mem, L, block, generation, key)
        if head < 0:
            break
        generation = mem[head + B_GEN]
        fence()
        first, here, before = mem[head + B_FIRST], mem[head + B_ORDINAL], found
        if first < end and mem[head + B_MIN_TIME] < time:
            found = _times_of(mem, L, block, head, time, seam, end, later, out, found)
        skip = mem[head + B_SKIP_MIN_TIME] >= time or mem[head + B_JUMP_FIRST] >= end
        jump, jump_generation = mem[head + B_JUMP], mem[head + B_JUMP_GEN]
        prev, prev_generation = mem[head + B_PREV], mem[head + B_PREV_GEN]
        fence()
        if mem[head + B_GEN] != generation or (ordinal >= 0 and here >= ordinal):
            return before  # freed meanwhile: it had no row at or above the seam
        ordinal, later = here, first
        if found >= count or first <= seam or here == 0:
            break
        if skip:
            block, generation = jump, jump_generation
        else:
            block, generation = prev, prev_generation
    return found
