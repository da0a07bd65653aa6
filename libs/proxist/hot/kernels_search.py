"""Searching one key's chain of blocks: exact whatever the order of arrival, logarithmic where it is nearly by time.

A chain is walked from its tail. Block i knows, fixed when it was linked: its predecessor, a jump (Myers 1983, "An
applicative random-access stack"), min and max (time, seq) of the blocks strictly between the two (the skip), and the max
(time, seq) of all rows before i. All are O(1) to link, and any ancestor is O(log n) steps away.

Everything read here may be from another moment. A block counts only if it names the key and the generation by which it
was referred to, before and after its rows were looked at. Where it does not, it was freed: then all its rows and all
before them lie below the floor, which the reader's last check (floor <= seam) turns into proof that they did not matter.

Order inside a chain is offset order, so "later in Order" among equal (time, seq) is "later in the chain".
"""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import fence, part
from proxist.hot.words import (
    B_BEFORE_SEQ,
    B_BEFORE_TIME,
    B_COUNT,
    B_FIRST,
    B_GEN,
    B_JUMP,
    B_JUMP_BEFORE_TIME,
    B_JUMP_FIRST,
    B_JUMP_GEN,
    B_JUMP_ORDINAL,
    B_KEY,
    B_MAX_TIME,
    B_MIN_TIME,
    B_ORDINAL,
    B_PREV,
    B_PREV_GEN,
    B_SKIP_MAX_SEQ,
    B_SKIP_MAX_TIME,
    B_SKIP_MIN_SEQ,
    B_SKIP_MIN_TIME,
    B_SORTED,
    INT64_MAX,
    INT64_MIN,
    L_BLOCKS,
    L_HEADERS,
    L_OFFSET,
    L_SEQ,
    L_SHIFT,
    L_TAIL,
    L_TIME,
    SHARED_STRIDE,
)  # fmt: skip

Array = Any


@part
def seq_at(mem: Array, L: Array, slot: int) -> int:
    """The row's seq with its sign bit flipped: unsigned order as signed order; 0 in a table without seq."""
    if L[L_SEQ] < 0:
        return 0
    return mem[L[L_SEQ] + slot] ^ INT64_MIN


@part
def lower_bound(mem: Array, base: int, lo: int, hi: int, value: int) -> int:
    """First index in [lo, hi) of ascending cells whose value is >= `value`; hi if none."""
    while lo < hi:
        middle = (lo + hi) >> 1
        if mem[base + middle] < value:
            lo = middle + 1
        else:
            hi = middle
    return lo


@part
def upper_bound(mem: Array, base: int, lo: int, hi: int, value: int) -> int:
    """First index in [lo, hi) of ascending cells whose value is > `value`; hi if none."""
    while lo < hi:
        middle = (lo + hi) >> 1
        if mem[base + middle] <= value:
            lo = middle + 1
        else:
            hi = middle
    return lo


@part
def rows_between(mem: Array, L: Array, block: int, head: int, seam: int, end: int, later: int) -> Any:
    """Index range in `block` of the rows with offset in [seam, end).

    `later` is the first offset of a later block of the chain, or INT64_MAX: it and the header's own first offset tell
    mostly without a look at the offsets.
    """
    rows = 1 << L[L_SHIFT]
    count = min(max(mem[head + B_COUNT], 0), rows)
    if count == 0:
        return 0, 0
    base = L[L_OFFSET] + (block << L[L_SHIFT])
    hi = count if later <= end or mem[base + count - 1] < end else lower_bound(mem, base, 0, count, end)
    lo = 0 if mem[head + B_FIRST] >= seam else lower_bound(mem, base, 0, hi, seam)
    return lo, hi


@part
def near_time(mem: Array, base: int, head: int, lo: int, hi: int, time: int) -> Any:
    """Narrow [lo, hi) of a sorted block around `time`: rows cut off on the left are earlier, on the right later.

    Ticks come evenly enough that a straight line through the block's ends lands within a cache line or two.
    """
    low, high = float(mem[head + B_MIN_TIME]), float(mem[head + B_MAX_TIME])
    if hi - lo < 16 or high <= low or time <= low or time >= high:
        return lo, hi
    guess = min(max(lo + int((float(time) - low) / (high - low) * (hi - lo)), lo), hi - 1)
    step = 4
    if mem[base + guess] < time:
        lo = guess + 1
        while guess + step < hi:
            if mem[base + guess + step] > time:
                return lo, guess + step
            step *= 2
    elif mem[base + guess] > time:
        hi = guess
        while guess - step >= lo:
            if mem[base + guess - step] < time:
                return guess - step + 1, hi
            step *= 2
    return lo, hi


@part
def last_at_or_before(mem: Array, L: Array, block: int, head: int, lo: int, hi: int, time: int) -> int:
    """Slot of the last row in Order with time <= `time` among rows [lo, hi) of the block, or -1."""
    first = block << L[L_SHIFT]
    base = L[L_TIME] + first
    if mem[head + B_SORTED] == 1:
        start, stop = near_time(mem, base, head, lo, hi, time)
        found = upper_bound(mem, base, start, stop, time)
        return first + found - 1 if found > lo else -1
    best = -1
    for i in range(lo, hi):
        at = mem[base + i]
        if at <= time and (
            best < 0
            or at > mem[base + best]
            or (at == mem[base + best] and seq_at(mem, L, first + i) >= seq_at(mem, L, first + best))
        ):
            best = i
    return first + best if best >= 0 else -1


@part
def first_at_or_after(mem: Array, L: Array, block: int, head: int, lo: int, hi: int, time: int) -> int:
    """Slot of the first row in Order with time >= `time` among rows [lo, hi) of the block, or -1."""
    first = block << L[L_SHIFT]
    base = L[L_TIME] + first
    if mem[head + B_SORTED] == 1:
        start, stop = near_time(mem, base, head, lo, hi, time)
        found = lower_bound(mem, base, start, stop, time)
        return first + found if found < hi else -1
    best = -1
    for i in range(lo, hi):
        at = mem[base + i]
        if at >= time and (
            best < 0
            or at < mem[base + best]
            or (at == mem[base + best] and seq_at(mem, L, first + i) < seq_at(mem, L, first + best))
        ):
            best = i
    return first + best if best >= 0 else -1


@part
def header_of(mem: Array, L: Array, block: int, generation: int, key: int) -> int:
    """Index of the block's header if the reference holds (generation -1: any), else -1: the chain ends here."""
    if block < 0 or block >= L[L_BLOCKS]:
        return -1
    head = L[L_HEADERS] + block * SHARED_STRIDE
    if mem[head + B_KEY] != key or (generation >= 0 and mem[head + B_GEN] != generation):
        return -1
    return head


@part
def search_back(
    mem: Array, L: Array, key: int, time: int, seam: int, end: int,
    block: int, generation: int, ordinal: int, later: int,
) -> Any:  # fmt: skip
    """(slot or -1, blocks visited): the last row in Order with time <= `time` and offset in [seam, end).

    Begins at `block`, referred to by `generation` (-1: any), `ordinal` and `later` being ordinal and first offset of the
    block before it on the way (-1, INT64_MAX: none): the tail, or where `descend` stopped.
    """
    best, best_time, best_seq, visited = -1, INT64_MIN, INT64_MIN, 0
    if end <= seam:
        return best, visited
    for _ in range(L[L_BLOCKS]):
        head = header_of(mem, L, block, generation, key)
        if head < 0:
            break
        generation = mem[head + B_GEN]
        fence()
        visited += 1
        first = mem[head + B_FIRST]
        found = -1
        if first < end and mem[head + B_MIN_TIME] <= time and (best < 0 or mem[head + B_MAX_TIME] >= best_time):
            lo, hi = rows_between(mem, L, block, head, seam, end, later)
            found = last_at_or_before(mem, L, block, head, lo, hi, time)
        found_time, found_seq = INT64_MIN, INT64_MIN
        if found >= 0:
            found_time, found_seq = mem[L[L_TIME] + found], seq_at(mem, L, found)
        before_time, before_seq = mem[head + B_BEFORE_TIME], mem[head + B_BEFORE_SEQ]
        skip_time, skip_seq = mem[head + B_SKIP_MAX_TIME], mem[head + B_SKIP_MAX_SEQ]
        skip = mem[head + B_SKIP_MIN_TIME] > time or mem[head + B_JUMP_FIRST] >= end
        jump, jump_generation = mem[head + B_JUMP], mem[head + B_JUMP_GEN]
        prev, prev_generation = mem[head + B_PREV], mem[head + B_PREV_GEN]
        here = mem[head + B_ORDINAL]
        fence()
        if mem[head + B_GEN] != generation or (ordinal >= 0 and here >= ordinal):
            break
        ordinal, later = here, first
        if found >= 0 and (
            best < 0 or found_time > best_time or (found_time == best_time and found_seq > best_seq)
        ):  # on a tie the later block, visited before, stays
            best, best_time, best_seq = found, found_time, found_seq
        if first <= seam or here == 0:
            break
        if best >= 0:
            if before_time < best_time or (before_time == best_time and before_seq <= best_seq):
                break
            if skip_time < best_time or (skip_time == best_time and skip_seq <= best_seq):
                skip = True
        if skip:
            block, generation = jump, jump_generation
        else:
            block, generation = prev, prev_generation
    return best, visited


@part
def _better_first(
    mem: Array, L: Array, block: int, head: int, time: int, seam: int, end: int, later: int, best_time: int, best: int
) -> int:
    """The first row in Order at or after `time` of `block` if it comes before `best` (-1: none) in Order, else -1."""
    if (
        mem[head + B_FIRST] >= end
        or mem[head + B_MAX_TIME] < time
        or (best >= 0 and mem[head + B_MIN_TIME] > best_time)
    ):
        return -1
    lo, hi = rows_between(mem, L, block, head, seam, end, later)
    found = first_at_or_after(mem, L, block, head, lo, hi, time)
    if found < 0 or best < 0:
        return found
    a, b = mem[L[L_TIME] + found], mem[L[L_TIME] + best]
    if a == b:
        a, b = seq_at(mem, L, found), seq_at(mem, L, best)
    if a == b:
        a, b = mem[L[L_OFFSET] + found], mem[L[L_OFFSET] + best]
    return found if a < b else -1


@part
def search_forward(mem: Array, L: Array, key: int, time: int, seam: int, end: int) -> Any:
    """(slot or -1, blocks visited): the first row in Order with time >= `time` and offset in [seam, end).

    Chains are only walked back, so a good bound must be found first: pass 0 goes to the earliest block whose prefix
    reaches `time` (right unless a row far in the future came early), pass 1 to the latest block that reaches down to
    `time` (right unless a row came very late). Pass 2 then looks at every block that could still be better: exact.
    """
    best, best_time, best_ordinal, visited = -1, INT64_MIN, -1, 0
    if end <= seam:
        return best, visited
    for search in range(3):
        block, generation, ordinal, later = mem[L[L_TAIL] + key] - 1, -1, -1, INT64_MAX
        for _ in range(L[L_BLOCKS]):
            head = header_of(mem, L, block, generation, key)
            if head < 0:
                break
            generation = mem[head + B_GEN]
            fence()
            visited += 1
            first, here = mem[head + B_FIRST], mem[head + B_ORDINAL]
            min_time, before_time = mem[head + B_MIN_TIME], mem[head + B_BEFORE_TIME]
            jump_first, jump_ordinal = mem[head + B_JUMP_FIRST], mem[head + B_JUMP_ORDINAL]
            jump_before, skip_min = mem[head + B_JUMP_BEFORE_TIME], mem[head + B_SKIP_MIN_TIME]
            skip_seq, skip_max = mem[head + B_SKIP_MIN_SEQ], mem[head + B_SKIP_MAX_TIME]
            jump, jump_generation = mem[head + B_JUMP], mem[head + B_JUMP_GEN]
            prev, prev_generation = mem[head + B_PREV], mem[head + B_PREV_GEN]
            last = first <= seam or here == 0 or before_time < time
            if search == 0:
                last = last or header_of(mem, L, prev, prev_generation, key) < 0
            elif search == 1:
                last = last or (min_time <= time and first < end)
            found = -1
            if search != 0 or last:
                found = _better_first(mem, L, block, head, time, seam, end, later, best_time, best)
            fence()
            if mem[head + B_GEN] != generation or (ordinal >= 0 and here >= ordinal):
                break
            ordinal, later = here, first
            if found >= 0:
                best, best_time, best_ordinal = found, mem[L[L_TIME] + found], here
            if last:
                break
            skip = jump_first >= end
            if search == 0:
                skip = skip or (jump_before >= time and jump_first > seam)
            elif search == 1:
                skip = skip or skip_min > time
            else:
                skip = skip or skip_max < time
                if best >= 0:
                    skip = skip or skip_min > best_time
                    if skip_min == best_time and best_ordinal <= jump_ordinal:
                        skip = skip or skip_seq >= seq_at(mem, L, best)
            if skip:
                block, generation = jump, jump_generation
            else:
                block, generation = prev, prev_generation
    return best, visited
