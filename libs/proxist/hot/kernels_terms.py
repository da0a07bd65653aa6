"""What summaries sum up (kernels_summary): from a row to its term, from terms and nodes to accumulators, and back."""

from __future__ import annotations

import math
import struct
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from proxist.hot.jit import JIT, part
from proxist.hot.kernels_search import seq_at
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
from proxist.hot.words import INT64_MAX, INT64_MIN, L_OFFSET, L_TIME

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
def clear(what: Array, acc: Array) -> None:
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
def term(mem8: Array, mem: Array, L: Array, what: Array, first: Array, second: Array, slot: int) -> bool:
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
def merge(mem: Array, L: Array, what: Array, tree: Array, node: int, acc: Array) -> None:
    """Add a node to accumulators."""
    at, width = what[S_SUMS] + node * what[S_WIDTH], what[S_WIDTH]
    if what[S_MODE] >= SMALLEST:
        acc[E_COUNT] += tree[at + E_COUNT]
        if tree[at + E_SLOT] >= 0:
            _offer(mem, L, acc, tree[at + E_RANK], tree[at + E_SLOT])
        return
    for i in range(width):
        acc[i] += tree[at + i]


@part
def emit(
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
