"""Aggregates of any range of one key's rows in logarithmic time: a tree of summaries over the blocks of its chain.

A block that is no longer the chain's last never changes, and its ordinal names it for good, so its summary is made once,
in the reader's own memory. Node (level, j) sums up the 64^level blocks from j * 64^level on: smallest and largest time,
and the accumulators of kernels_sums, which add up exactly. A range takes whole nodes; of blocks that it cuts (at its ends,
and where rows came late) it reads the rows.

`tree` holds everything of one series, `what` says where, and how a row becomes a term.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from proxist.hot.jit import JIT, f64w, fence, i64, i64r, i64w, kernel, part, u8r
from proxist.hot.kernels_search import header_of, lower_bound, rows_between, seq_at, upper_bound
from proxist.hot.kernels_sums import (
    A_COUNT,
    A_LIMBS,
    SPARE_LIMBS,
    add_double,
    add_integer,
    add_product,
    integer_of,
    spread_of,
    value_of,
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
ROWS, SUM, SPREAD, PRODUCT, SMALLEST, LARGEST = range(6)
"""What is summed up: rows; x; x and x * x; x * y and y; the row with the smallest or the largest x."""
OUTSIDE = -5
"""A value lies outside the range of powers of two that the accumulators were made for."""
FAN_BITS = 6
LEVELS = 4
NONE = -1
(
    S_MODE, S_KEY, S_X, S_X_INTEGER, S_X_VALID, S_X_LOW, S_X_HIGH, S_Y, S_Y_INTEGER, S_Y_VALID, S_Y_LOW, S_Y_HIGH,
    S_BLOCK, S_GEN, S_FIRST, S_MIN, S_MAX, S_SUMS, S_WIDTH, S_SECOND, S_ORDINAL, S_LEVEL, S_WORDS,
) = (*range(22), 22 + LEVELS)  # fmt: skip
"""`what`. Columns: first cell, 1 for int64 cells, first validity byte (-1: none), range of powers of two. Then where the
tree has, per block, its number, its generation and its first offset (one more: of the block after), and per node its
smallest and largest time and its accumulators (S_WIDTH cells, the second from S_SECOND on); the first block's ordinal;
and the number of the first node of each level."""
E_COUNT, E_RANK, E_SLOT, E_WORDS = range(4)
"""The accumulator of SMALLEST and LARGEST."""


@intrinsic
def _bits_of(_context: Any, _value: Any) -> Any:
    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), build


def _interpreted_bits_of(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


bits_of: Any = _bits_of if JIT else _interpreted_bits_of


@part
def _clear(what: Array, acc: Array) -> None:
    for i in range(acc.size):
        acc[i] = 0
    if what[S_MODE] >= SMALLEST:
        acc[E_RANK], acc[E_SLOT] = INT64_MAX, NONE


@part
def _rank(what: Array, bits: int) -> int:
    """int64 in the order of the values (LARGEST: in the opposite); NaN is the largest."""
    rank = bits
    if what[S_X_INTEGER] == 0:
        if (bits & INT64_MAX) > (0x7FF << 52):
            return INT64_MAX
        if bits == INT64_MIN:
            rank = 0
        elif bits < 0:
            rank = bits ^ INT64_MAX
    return rank if what[S_MODE] == SMALLEST else ~rank


@part
def _offer(mem: Array, L: Array, acc: Array, rank: int, slot: int) -> None:
    """Take the row if it is the better one; among equals the first in Order."""
    best = acc[E_SLOT]
    better = best < 0 or rank < acc[E_RANK]
    if not better and rank == acc[E_RANK]:
        a, b = mem[L[L_TIME] + slot], mem[L[L_TIME] + best]
        if a == b:
            a, b = seq_at(mem, L, slot), seq_at(mem, L, best)
        if a == b:
            a, b = mem[L[L_OFFSET] + slot], mem[L[L_OFFSET] + best]
        better = a < b
    if better:
        acc[E_RANK], acc[E_SLOT] = rank, slot


@part
def _within(bits: int, low: int, high: int) -> bool:
    """Whether a double's lowest bit is a power of two in [low, high], or it is zero or not finite."""
    e = (bits >> 52) & 0x7FF
    if e == 0x7FF or (bits & INT64_MAX) == 0:
        return True
    return max(e, 1) - 1075 >= low and max(e, 1) - 1075 <= high


@part
def _term(mem8: Array, mem: Array, L: Array, what: Array, first: Array, second: Array, slot: int) -> bool:
    """Add the row's term; false where its values are out of range."""
    mode = what[S_MODE]
    if mode == ROWS:
        first[A_COUNT] += 1
        return True
    if what[S_X_VALID] >= 0 and mem8[what[S_X_VALID] + slot] != 1:
        return True
    x = mem[what[S_X] + slot]
    if mode >= SMALLEST:
        first[E_COUNT] += 1
        _offer(mem, L, first, _rank(what, x), slot)
        return True
    if what[S_X_INTEGER] == 1:
        if mode == SUM:
            add_integer(first, x, 0, 1)
            return True
        x = bits_of(float(x))
    if not _within(x, what[S_X_LOW], what[S_X_HIGH]):
        return False
    if mode != PRODUCT:
        add_double(first, x, what[S_X_LOW], 1)
        if mode == SPREAD:
            add_product(second, x, x, 2 * what[S_X_LOW], 1)
        return True
    if what[S_Y_VALID] >= 0 and mem8[what[S_Y_VALID] + slot] != 1:
        return True
    y = mem[what[S_Y] + slot]
    if what[S_Y_INTEGER] == 1:
        y = bits_of(float(y))
    if not _within(y, what[S_Y_LOW], what[S_Y_HIGH]):
        return False
    add_product(first, x, y, what[S_X_LOW] + what[S_Y_LOW], 1)
    add_double(second, y, what[S_Y_LOW], 1)
    return True


@part
def _merge(mem: Array, L: Array, what: Array, tree: Array, node: int, acc: Array) -> None:
    """Add a node to accumulators."""
    at, width = what[S_SUMS] + node * what[S_WIDTH], what[S_WIDTH]
    if what[S_MODE] >= SMALLEST:
        acc[E_COUNT] += tree[at + E_COUNT]
        if tree[at + E_SLOT] >= 0:
            _offer(mem, L, acc, tree[at + E_RANK], tree[at + E_SLOT])
        return
    for i in range(width):
        acc[i] += tree[at + i]


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
        _clear(what, acc)
        low, high = INT64_MAX, INT64_MIN
        for i in range(child, child + (1 << FAN_BITS)):
            low, high = min(low, tree[what[S_MIN] + i]), max(high, tree[what[S_MAX] + i])
            _merge(mem, L, what, tree, i, acc)
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
        _clear(what, tree[start : start + what[S_WIDTH]])
        rows, ok = min(max(mem[head + B_COUNT], 0), 1 << shift), True
        for slot in range(block << shift, (block << shift) + rows):
            ok = ok and _term(mem8, mem, L, what, first, second, slot)
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
        if not _term(mem8, mem, L, what, first, second, start + i):
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
                _merge(mem, L, what, tree, node, acc)
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


@part
def _emit(
    what: Array, first: Array, second: Array, digits: Array, wide: Array, i: int,
    out: Array, weights: Array, cells: Array,
) -> int:  # fmt: skip
    """Read the accumulators; 1 where a sum of integers does not fit."""
    mode, low, cut = what[S_MODE], what[S_X_LOW], first.size - A_LIMBS - SPARE_LIMBS
    if mode >= SMALLEST:
        cells[i] = first[E_SLOT]
    elif mode == SUM and what[S_X_INTEGER] == 1:
        out[i] = value_of(first, digits, 0)
        cells[i], fits = integer_of(first, 0)
        return 0 if fits else 1
    elif mode == SUM:
        out[i] = value_of(first, digits, low)
    elif mode == PRODUCT:
        out[i] = value_of(first, digits[:cut], low + what[S_Y_LOW])
        weights[i] = value_of(second, digits[cut:], what[S_Y_LOW])
    elif mode == SPREAD:
        out[i] = math.nan
        if first[A_COUNT] > 1:
            out[i] = spread_of(first, second, digits[:cut], digits[cut:], wide, low)
    return 0


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
        _clear(what, acc)
        time = mem[L[L_TIME] + slots[i]]
        low = time - range_ns + 1 if time >= INT64_MIN + range_ns else INT64_MIN
        if not _late_blocks(mem8, mem, L, what, known, low, slots[i], seam, end, first, second):
            return OUTSIDE
        if not _early_blocks(mem8, mem, L, what, tree, known, low, slots[i], seam, end, acc, first, second):
            return OUTSIDE
        counts[i] = first[A_COUNT]
        too_large += _emit(what, first, second, digits, wide, i, out, weights, cells)
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
