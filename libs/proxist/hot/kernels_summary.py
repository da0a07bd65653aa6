"""Aggregates of any range of one key's rows in logarithmic time: a tree of summaries over the blocks of its chain.

A block that is no longer the chain's last never changes, and its ordinal names it for good, so its summary is made once,
in the reader's own memory. Node (level, j) sums up the 64^level blocks from j * 64^level on: smallest and largest time,
and the accumulators of kernels_sums, which add up exactly. A range takes whole nodes; of blocks that it cuts (at its ends,
and where rows came late) it reads the rows.

`tree` holds everything of one series, `what` says where, and how a row becomes a term.
"""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import f64w, fence, i64, i64r, i64w, kernel, part, u8r
from proxist.hot.kernels_search import header_of, lower_bound, rows_between, seq_at, upper_bound
from proxist.hot.kernels_sums import A_COUNT
from proxist.hot.kernels_terms import (
    FAN_BITS,
    LEVELS,
    OUTSIDE,
    S_BLOCK,
    S_FIRST,
    S_GEN,
    S_KEY,
    S_LEVEL,
    S_MAX,
    S_MIN,
    S_ORDINAL,
    S_SECOND,
    S_SUMS,
    S_WIDTH,
    clear,
    emit,
    merge,
    term,
)  # fmt: skip
from proxist.hot.words import (
    B_BEFORE_TIME,
    B_COUNT,
    B_FIRST,
    B_GEN,
    B_MAX_TIME,
    B_MIN_TIME,
    B_ORDINAL,
    B_PREV,
    B_PREV_GEN,
    B_SORTED,
    INT64_MAX,
    INT64_MIN,
    L_BLOCKS,
    L_OFFSET,
    L_SHIFT,
    L_TAIL,
    L_TIME,
    TORN,
)  # fmt: skip

Array = Any


@kernel(i64(i64r, i64r, i64, i64, i64, i64w, i64w))
def finished_blocks(mem: Array, L: Array, key: int, known: int, seam: int, blocks: Array, generations: Array) -> int:
    """Blocks of the key's chain from its last back to the one after ordinal `known`, as far as they have rows
    at or above the seam.

    Returns how many; if that is more than `blocks` has cells, come again with as many. The first still grows.
    """
    found, ordinal = 0, -1
    block, generation = mem[L[L_TAIL] + key] - 1, -1
    for _ in range(L[L_BLOCKS]):
        head = header_of(mem, L, block, generation, key)
        if head < 0:
            break
        generation = mem[head + B_GEN]
        fence()
        first, here = mem[head + B_FIRST], mem[head + B_ORDINAL]
        prev, prev_generation = mem[head + B_PREV], mem[head + B_PREV_GEN]
        fence()
        if mem[head + B_GEN] != generation or (ordinal >= 0 and here >= ordinal) or here <= known:
            break
        if found < blocks.size:
            blocks[found], generations[found] = block, generation
        found += 1
        ordinal = here
        if first <= seam or here == 0:
            break
        block, generation = prev, prev_generation
    return found


@part
def _close_nodes(mem: Array, L: Array, what: Array, tree: Array, block: int) -> None:
    """Make the nodes that end with this block."""
    for level in range(1, LEVELS):
        if (block + 1) & ((1 << (FAN_BITS * level)) - 1) != 0:
            break
        node = what[S_LEVEL + level] + (block >> (FAN_BITS * level))
        child = what[S_LEVEL + level - 1] + ((block >> (FAN_BITS * level)) << FAN_BITS)
        at = what[S_SUMS] + node * what[S_WIDTH]
        acc = tree[at : at + what[S_WIDTH]]
        clear(what, acc)
        low, high = INT64_MAX, INT64_MIN
        for i in range(child, child + (1 << FAN_BITS)):
            low, high = min(low, tree[what[S_MIN] + i]), max(high, tree[what[S_MAX] + i])
            merge(mem, L, what, tree, i, acc)
        tree[what[S_MIN] + node], tree[what[S_MAX] + node] = low, high


@kernel(i64(u8r, i64r, i64r, i64r, i64w, i64, i64r, i64r))
def summarise(
    mem8: Array, mem: Array, L: Array, what: Array, tree: Array, known: int, blocks: Array, generations: Array
) -> int:
    """Append these blocks (the latest first) but the first to the `known` ones of the tree. Returns 0, TORN or OUTSIDE."""
    shift = L[L_SHIFT]
    for j in range(blocks.size):
        block, at = blocks[blocks.size - 1 - j], known + j
        head = header_of(mem, L, block, generations[blocks.size - 1 - j], what[S_KEY])
        if head < 0:
            return TORN
        tree[what[S_FIRST] + at] = mem[head + B_FIRST]
        if j == blocks.size - 1:
            break
        fence()
        start = what[S_SUMS] + at * what[S_WIDTH]
        first = tree[start : start + what[S_SECOND]]
        second = tree[start + what[S_SECOND] : start + what[S_WIDTH]]
        clear(what, tree[start : start + what[S_WIDTH]])
        rows, ok = min(max(mem[head + B_COUNT], 0), 1 << shift), True
        for slot in range(block << shift, (block << shift) + rows):
            ok = ok and term(mem8, mem, L, what, first, second, slot)
        tree[what[S_BLOCK] + at], tree[what[S_GEN] + at] = block, generations[blocks.size - 1 - j]
        tree[what[S_MIN] + at], tree[what[S_MAX] + at] = mem[head + B_MIN_TIME], mem[head + B_MAX_TIME]
        fence()
        if header_of(mem, L, block, generations[blocks.size - 1 - j], what[S_KEY]) < 0:
            return TORN
        if not ok:
            return OUTSIDE
        _close_nodes(mem, L, what, tree, at)
    return 0


@part
def _cut_block(
    mem8: Array, mem: Array, L: Array, what: Array, block: int, generation: int, low: int, row: int,
    seam: int, end: int, later: int, first: Array, second: Array,
) -> bool:  # fmt: skip
    """Add the rows of one block with time >= `low` that are not after slot `row` in Order; false: out of range."""
    head = header_of(mem, L, block, generation, what[S_KEY])
    if head < 0:
        return True  # freed: the last check of the protocol decides whether that matters
    lo, hi = rows_between(mem, L, block, head, seam, end, later)
    start, time = block << L[L_SHIFT], mem[L[L_TIME] + row]
    base = L[L_TIME] + start
    if mem[head + B_SORTED] == 1:
        lo = lower_bound(mem, base, lo, hi, low)
        hi = upper_bound(mem, base, lo, hi, time)
    for i in range(lo, hi):
        a, b = mem[base + i], time
        if a < low or a > b:
            continue
        if a == b:
            a, b = seq_at(mem, L, start + i), seq_at(mem, L, row)
            if a == b:
                a, b = mem[L[L_OFFSET] + start + i], mem[L[L_OFFSET] + row]
            if a > b:
                continue
        if not term(mem8, mem, L, what, first, second, start + i):
            return False
    return True


@part
def _late_blocks(
    mem8: Array, mem: Array, L: Array, what: Array, known: int, low: int, row: int, seam: int, end: int,
    first: Array, second: Array,
) -> bool:  # fmt: skip
    """Add the rows of the blocks after the tree's, from the chain's tail back."""
    time, ordinal, later = mem[L[L_TIME] + row], -1, INT64_MAX
    block, generation = mem[L[L_TAIL] + what[S_KEY]] - 1, -1
    for _ in range(L[L_BLOCKS]):
        head = header_of(mem, L, block, generation, what[S_KEY])
        if head < 0:
            break
        generation = mem[head + B_GEN]
        fence()
        here, start = mem[head + B_ORDINAL], mem[head + B_FIRST]
        if here < what[S_ORDINAL] + known or (ordinal >= 0 and here >= ordinal):
            break
        if (
            start < end
            and mem[head + B_MIN_TIME] <= time
            and mem[head + B_MAX_TIME] >= low
            and not _cut_block(mem8, mem, L, what, block, generation, low, row, seam, end, later, first, second)
        ):
            return False
        ordinal, later = here, start
        block, generation = mem[head + B_PREV], mem[head + B_PREV_GEN]
        if start <= seam or here == 0:
            break
    return True


@part
def _early_blocks(
    mem8: Array, mem: Array, L: Array, what: Array, tree: Array, known: int, low: int, row: int, seam: int, end: int,
    acc: Array, first: Array, second: Array,
) -> bool:  # fmt: skip
    """Add the rows of the tree's blocks: whole nodes where they are inside, rows where a block is cut."""
    time, block = mem[L[L_TIME] + row], 0
    while block < known:
        level = 0
        while level + 1 < LEVELS:
            size = 1 << (FAN_BITS * (level + 1))
            if (block & (size - 1)) != 0 or block + size > known:
                break
            level += 1
        while True:
            size = 1 << (FAN_BITS * level)
            node = what[S_LEVEL + level] + (block >> (FAN_BITS * level))
            start, stop = tree[what[S_FIRST] + block], tree[what[S_FIRST] + block + size]
            earliest, latest = tree[what[S_MIN] + node], tree[what[S_MAX] + node]
            if stop <= seam or start >= end or latest < low or earliest > time:
                break
            if start >= seam and stop <= end and earliest >= low and latest < time:
                merge(mem, L, what, tree, node, acc)
                break
            if level == 0:
                number, generation = tree[what[S_BLOCK] + block], tree[what[S_GEN] + block]
                if not _cut_block(
                    mem8, mem, L, what, number, generation, low, row, seam, end, stop, first, second
                ):  # fmt: skip
                    return False
                break
            level -= 1
        block += size
    return True


@kernel(i64(u8r, i64r, i64r, i64r, i64r, i64, i64r, i64, i64, i64, i64w, i64w, i64w, f64w, f64w, i64w, i64w))
def windows(
    mem8: Array, mem: Array, L: Array, what: Array, tree: Array, known: int, slots: Array, range_ns: int,
    seam: int, end: int, acc: Array, digits: Array, wide: Array, out: Array, weights: Array, cells: Array, counts: Array,
) -> int:  # fmt: skip
    """Per slot of the key the window by `range_ns` that ends with its row: `counts` of terms, and by mode: SUM `out`, of
    integers also 64 bits in `cells`; SPREAD `out`; PRODUCT `out` and `weights`; SMALLEST, LARGEST the slot in `cells`.

    `acc` has S_WIDTH cells; `digits` those of the first accumulator and then of the second; `wide` those of spread_of.
    Returns 0, OUTSIDE, or how many integer sums do not fit 64 bits.
    """
    split, too_large = what[S_SECOND], 0
    first, second = acc[:split], acc[split:]
    for i in range(slots.size):
        clear(what, acc)
        time = mem[L[L_TIME] + slots[i]]
        low = time - range_ns + 1 if time >= INT64_MIN + range_ns else INT64_MIN
        if not _late_blocks(mem8, mem, L, what, known, low, slots[i], seam, end, first, second):
            return OUTSIDE
        if not _early_blocks(mem8, mem, L, what, tree, known, low, slots[i], seam, end, acc, first, second):
            return OUTSIDE
        counts[i] = first[A_COUNT]
        too_large += emit(what, first, second, digits, wide, i, out, weights, cells)
    return too_large


@kernel(i64(i64r, i64r, i64, i64, i64))
def reaches_back(mem: Array, L: Array, key: int, low: int, blocks: int) -> int:
    """1 if the rows of the key with time >= `low` may lie in more than its last `blocks` blocks."""
    block, generation = mem[L[L_TAIL] + key] - 1, -1
    for _ in range(blocks):
        head = header_of(mem, L, block, generation, key)
        if head < 0 or mem[head + B_BEFORE_TIME] < low:
            return 0
        block, generation = mem[head + B_PREV], mem[head + B_PREV_GEN]
    return 1
