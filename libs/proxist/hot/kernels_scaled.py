"""The fast form of kernels_sums, for values whose magnitudes are near enough: integers times one power of two.

A column is scaled once: x = m * 2^base, m of at most 94 bits, kept as high * 2^32 + low where it needs more than 62. Sums
of such integers, or of products of two, are two accumulators of 128 bits (of the low and of the high parts); value =
high * 2^32 + low is rounded once. Exact as the long accumulator is, with a few instructions per row.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from proxist.hot.jit import JIT, f64r, f64w, i64, i64r, i64w, kernel, part, u8r

Array = Any
NARROW_BITS = 62
"""Of a magnitude that one int64 takes."""
_LOW_BITS = 32
_LOW_MASK = (1 << _LOW_BITS) - 1
_FRACTION = (1 << 52) - 1


@intrinsic
def _add_wide(_context: Any, cells: Any, at: Any, _a: Any, _b: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        wide = ir.IntType(128)
        cell = builder.bitcast(builder.gep(data, [arguments[1]]), wide.as_pointer())
        product = builder.mul(builder.sext(arguments[2], wide), builder.sext(arguments[3], wide))
        builder.store(builder.add(builder.load(cell, align=8), product), cell, align=8)
        return context.get_dummy_value()

    return types.none(cells, at, types.int64, types.int64), build


def _interpreted_add_wide(cells: Array, at: int, a: int, b: int) -> None:
    total = (int(cells[at + 1]) << 64) + (int(cells[at]) & (2**64 - 1)) + int(a) * int(b)
    low, high = total & (2**64 - 1), (total >> 64) & (2**64 - 1)
    cells[at] = low - (low >> 63 << 64)
    cells[at + 1] = high - (high >> 63 << 64)


add_wide: Any = _add_wide if JIT else _interpreted_add_wide
"""add_wide(cells, at, a, b): the 128-bit integer in cells[at : at + 2], the low half first, += a * b."""


@kernel(i64(i64r, u8r, i64, i64w, i64w))
def scale(bits: Array, valid: Array, base: int, high: Array, low: Array) -> int:
    """Doubles (finite where valid) as integers times 2^base; 0 where not valid. `high` has a cell per row, or none where
    `low` takes all."""
    for i in range(bits.size):
        e, m = (bits[i] >> 52) & 0x7FF, bits[i] & _FRACTION
        if e == 0:
            e = 1
        else:
            m |= 1 << 52
        if m == 0 or (valid.size > 0 and valid[i] == 0):
            e, m = 1075 + base, 0
        shift, sign = e - 1075 - base, 1 if bits[i] >= 0 else -1
        if high.size == 0:
            low[i] = sign * (m << shift)
        elif shift < _LOW_BITS:
            low[i] = sign * ((m << shift) & _LOW_MASK)
            high[i] = sign * (m >> (_LOW_BITS - shift))
        else:
            low[i] = 0
            high[i] = sign * (m << (shift - _LOW_BITS))
    return 0


@part
def _upper(value: int) -> int:
    """The upper half of 64 bits, unsigned."""
    return (value >> _LOW_BITS) & _LOW_MASK


@part
def _rounded(acc: Array, scales: Array) -> float:
    """The double nearest to (acc[2:4] * 2^32 + acc[0:2]) * 2 * scales[0]; ties to even."""
    d0 = acc[0] & _LOW_MASK
    sum1 = _upper(acc[0]) + (acc[2] & _LOW_MASK)
    sum2 = (acc[1] & _LOW_MASK) + _upper(acc[2]) + (sum1 >> _LOW_BITS)
    sum3 = (acc[1] >> _LOW_BITS) + (acc[3] & _LOW_MASK) + (sum2 >> _LOW_BITS)
    d1, d2, d3 = sum1 & _LOW_MASK, sum2 & _LOW_MASK, sum3 & _LOW_MASK
    d4, sign = (acc[3] >> _LOW_BITS) + (sum3 >> _LOW_BITS), 1.0
    if d4 < 0:
        sign = -1.0
        sum0 = _LOW_MASK - d0 + 1
        sum1 = _LOW_MASK - d1 + (sum0 >> _LOW_BITS)
        sum2 = _LOW_MASK - d2 + (sum1 >> _LOW_BITS)
        sum3 = _LOW_MASK - d3 + (sum2 >> _LOW_BITS)
        d0, d1, d2, d3 = sum0 & _LOW_MASK, sum1 & _LOW_MASK, sum2 & _LOW_MASK, sum3 & _LOW_MASK
        d4 = -1 - d4 + (sum3 >> _LOW_BITS)
    if d4 != 0:
        a, b, c, sticky, unit = d4, d3, d2, 1 if (d1 | d0) != 0 else 0, scales[2]
    elif d3 != 0:
        a, b, c, sticky, unit = d3, d2, d1, 1 if d0 != 0 else 0, scales[1]
    else:
        a, b, c, sticky, unit = d2, d1, d0, 0, scales[0]
    upper, lower = (a << 21) | (b >> 11), ((b & 2047) << 33) | (c << 1) | sticky
    return sign * (float(upper) * 17592186044416.0 + float(lower)) * unit


@kernel(i64(i64r, i64r, i64r, i64r, i64r, f64r, i64w, f64w))
def scaled_sums(
    high: Array, low: Array, factor: Array, lo: Array, hi: Array, scales: Array, acc: Array, out: Array
) -> int:
    """Per span the sum of high * 2^32 + low, each times its `factor` where that has rows, rounded once.

    Spans as in kernels_sums. `high` may be empty. scales: 2^(base - 1) and that times 2^32, 2^64; `acc` is 4 cells.
    """
    product, wide, first, stop = factor.size > 0, high.size > 0, 0, 0
    for i in range(lo.size):
        if lo[i] >= stop:
            acc[0], acc[1], acc[2], acc[3] = 0, 0, 0, 0
            first = stop = lo[i]
        for row in range(stop, hi[i]):
            by = factor[row] if product else 1
            add_wide(acc, 0, low[row], by)
            if wide:
                add_wide(acc, 2, high[row], by)
        for row in range(first, lo[i]):
            by = -factor[row] if product else -1
            add_wide(acc, 0, low[row], by)
            if wide:
                add_wide(acc, 2, high[row], by)
        first, stop = lo[i], hi[i]
        out[i] = _rounded(acc, scales)
    return 0
