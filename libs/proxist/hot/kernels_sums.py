"""Exact sums over spans of rows: the same to the bit whatever the order, the grouping, or the tier that the rows lie in.

A double is mantissa * 2^e, so a sum of doubles (or of their products) is an integer times the smallest of those powers.
It is kept as limbs of 30 bits in int64 cells whose carries wait (Kulisch's long accumulator, cut to the range that the
rows need): adding and taking away are a few integer additions, lose nothing, and 2^33 rows fit. Rounding happens once,
when the value is read. NaN and infinities are counted beside it, so that they leave with their rows.

A span is [lo[i], hi[i]) of rows; both bounds must not fall from one span to the next.
"""

from __future__ import annotations

import math
from typing import Any

from proxist.hot.jit import f64w, i64, i64r, i64w, kernel, part, u8r

Array = Any
LIMB_BITS = 30
LIMB_MASK = (1 << LIMB_BITS) - 1
A_COUNT, A_NAN, A_PLUS, A_MINUS, A_LIMBS = range(5)
"""An accumulator: rows in it, NaN, +inf and -inf among them, then limbs, the lowest first."""
SPARE_LIMBS = 4
"""Limbs that a deposit may touch above the highest bit of a sum."""
_FRACTION = (1 << 52) - 1
_HIDDEN = 1 << 52
_HALF_BITS = 27
_HALF_MASK = (1 << _HALF_BITS) - 1


@part
def _clear(acc: Array) -> None:
    for i in range(acc.size):
        acc[i] = 0


@part
def _deposit(acc: Array, at: int, mantissa: int, sign: int) -> None:
    """acc += sign * mantissa * 2^at, for 0 <= mantissa < 2^56 and at >= 0."""
    limb, shift = A_LIMBS + at // LIMB_BITS, at % LIMB_BITS
    rest = mantissa >> (LIMB_BITS - shift)
    acc[limb] += sign * ((mantissa & (LIMB_MASK >> shift)) << shift)
    acc[limb + 1] += sign * (rest & LIMB_MASK)
    acc[limb + 2] += sign * (rest >> LIMB_BITS)


@part
def _special(acc: Array, x: int, y: int, product: bool, sign: int) -> None:
    """Count a term that is no number: NaN, an infinity, or infinity * 0."""
    xe, ye = (x >> 52) & 0x7FF, (y >> 52) & 0x7FF
    xm, ym = x & _FRACTION, y & _FRACTION
    nan = (xe == 0x7FF and xm != 0) or (ye == 0x7FF and ym != 0)
    zero = product and ((xe == 0 and xm == 0) or (ye == 0 and ym == 0))
    if nan or zero:
        acc[A_NAN] += sign
    elif (x ^ y) >= 0:
        acc[A_PLUS] += sign
    else:
        acc[A_MINUS] += sign


@part
def add_double(acc: Array, x: int, base: int, sign: int) -> None:
    """Add (`sign` 1) or take away (-1) the double with bits `x`; limb 0 counts 2^base."""
    acc[A_COUNT] += sign
    e, m = (x >> 52) & 0x7FF, x & _FRACTION
    if e == 0x7FF:
        _special(acc, x, 0, False, sign)
        return
    if e == 0:
        e = 1
    else:
        m |= _HIDDEN
    if m != 0:
        _deposit(acc, e - 1075 - base, m, sign if x >= 0 else -sign)


@part
def add_product(acc: Array, x: int, y: int, base: int, sign: int) -> None:
    """As `add_double`, the exact product of two doubles."""
    acc[A_COUNT] += sign
    xe, xm, ye, ym = (x >> 52) & 0x7FF, x & _FRACTION, (y >> 52) & 0x7FF, y & _FRACTION
    if xe == 0x7FF or ye == 0x7FF:
        _special(acc, x, y, True, sign)
        return
    if xe == 0:
        xe = 1
    else:
        xm |= _HIDDEN
    if ye == 0:
        ye = 1
    else:
        ym |= _HIDDEN
    if xm == 0 or ym == 0:
        return
    x0, x1, y0, y1 = xm & _HALF_MASK, xm >> _HALF_BITS, ym & _HALF_MASK, ym >> _HALF_BITS
    middle = x1 * y0 + x0 * y1
    low = x0 * y0 + ((middle & _HALF_MASK) << _HALF_BITS)
    high = x1 * y1 + (middle >> _HALF_BITS) + (low >> (2 * _HALF_BITS))
    at, signed = xe + ye - 2150 - base, sign if (x ^ y) >= 0 else -sign
    _deposit(acc, at, low & ((1 << (2 * _HALF_BITS)) - 1), signed)
    _deposit(acc, at + 2 * _HALF_BITS, high, signed)


@part
def normalise(acc: Array, digits: Array) -> int:
    """Carry: the sum's magnitude as digits of 30 bits; returns its sign, 1 or -1."""
    carry = 0
    for i in range(digits.size):
        cell = acc[A_LIMBS + i] + carry
        digits[i] = cell & LIMB_MASK
        carry = cell >> LIMB_BITS
    if carry >= 0:
        return 1
    carry = 1
    for i in range(digits.size):
        cell = (LIMB_MASK - digits[i]) + carry
        digits[i] = cell & LIMB_MASK
        carry = cell >> LIMB_BITS
    return -1


@part
def rounded(digits: Array, base: int) -> float:
    """The double nearest to the digits' value, ties to even.

    The highest digit starts the first 52 bits, the next 38 and a sticky bit for the rest follow: both are exact doubles,
    so that their sum is rounded once.
    """
    top = digits.size - 1
    while top >= 0 and digits[top] == 0:
        top -= 1
    if top < 0:
        return 0.0
    second = digits[top - 1] if top > 0 else 0
    third = digits[top - 2] if top > 1 else 0
    sticky = 0
    for i in range(top - 2):
        if digits[i] != 0:
            sticky = 1
            break
    high = (digits[top] << 22) | (second >> 8)
    low = ((second & 255) << 31) | (third << 1) | sticky
    return math.ldexp(float(high) * 549755813888.0 + float(low), int(base + LIMB_BITS * (top - 2) - 1))


@part
def value_of(acc: Array, digits: Array, base: int) -> float:
    """The sum as a double; NaN and infinities as IEEE addition has them."""
    if acc[A_NAN] > 0 or (acc[A_PLUS] > 0 and acc[A_MINUS] > 0):
        return math.nan
    if acc[A_PLUS] > 0:
        return math.inf
    if acc[A_MINUS] > 0:
        return -math.inf
    sign = normalise(acc, digits)
    return sign * rounded(digits, base)


@kernel(i64(i64r, u8r, i64w))
def exponents(bits: Array, valid: Array, out: Array) -> int:
    """out = smallest and largest power of two that is the lowest bit of a non-zero finite double, how many are not finite.

    Returns how many are finite and not zero; rows that are not valid do not count.
    """
    low, high, found, special = 0x7FF, 0, 0, 0
    for i in range(bits.size):
        if valid.size > 0 and valid[i] == 0:
            continue
        e, m = (bits[i] >> 52) & 0x7FF, bits[i] & _FRACTION
        if e == 0x7FF:
            special += 1
            continue
        if e == 0 and m == 0:
            continue
        found += 1
        e = max(e, 1)
        low, high = min(low, e), max(high, e)
    out[0], out[1], out[2] = low - 1075, high - 1075, special
    return found


@kernel(i64(i64r, i64r, u8r, i64r, i64r, i64, i64w, i64w, f64w, i64w))
def sums(
    x: Array, y: Array, valid: Array, lo: Array, hi: Array, base: int, acc: Array, digits: Array,
    out: Array, counts: Array,
) -> int:  # fmt: skip
    """Per span the sum of x (or, where `y` has rows, of x * y) over the valid rows, and how many those are.

    x, y: bits of doubles; `valid`: a byte per row, or empty: all. `acc` is zeroed and has the limbs of `digits` and
    SPARE_LIMBS more; limb 0 counts 2^base, which is at most the lowest bit of any term.
    """
    product = y.size > 0
    first, stop = 0, 0
    for i in range(lo.size):
        if lo[i] >= stop:
            _clear(acc)
            first = stop = lo[i]
        for row in range(stop, hi[i]):
            if valid.size == 0 or valid[row] == 1:
                if product:
                    add_product(acc, x[row], y[row], base, 1)
                else:
                    add_double(acc, x[row], base, 1)
        for row in range(first, lo[i]):
            if valid.size == 0 or valid[row] == 1:
                if product:
                    add_product(acc, x[row], y[row], base, -1)
                else:
                    add_double(acc, x[row], base, -1)
        first, stop = lo[i], hi[i]
        counts[i] = acc[A_COUNT]
        out[i] = value_of(acc, digits, base)
    return 0


@part
def add_integer(acc: Array, value: int, unsigned: int, sign: int) -> None:
    """As `add_double`, an int64 or the bits of a uint64; limb 0 counts ones."""
    acc[A_COUNT] += sign
    acc[A_LIMBS] += sign * (value & LIMB_MASK)
    acc[A_LIMBS + 1] += sign * ((value >> LIMB_BITS) & LIMB_MASK)
    top = value >> (2 * LIMB_BITS)
    acc[A_LIMBS + 2] += sign * (top & 15 if unsigned == 1 else top)


@part
def integer_of(acc: Array, unsigned: int) -> Any:
    """(64 bits of a sum of integers, whether it fits into them)."""
    middle = acc[A_LIMBS + 1] + (acc[A_LIMBS] >> LIMB_BITS)
    top = acc[A_LIMBS + 2] + (middle >> LIMB_BITS)
    fits = top >= 0 and top <= 15 if unsigned == 1 else top >= -8 and top <= 7
    return (top << (2 * LIMB_BITS)) | ((middle & LIMB_MASK) << LIMB_BITS) | (acc[A_LIMBS] & LIMB_MASK), fits


@kernel(i64(i64r, i64, u8r, i64r, i64r, i64w, i64w, i64w, f64w, i64w))
def integer_sums(
    values: Array, unsigned: int, valid: Array, lo: Array, hi: Array, acc: Array, digits: Array,
    out: Array, doubles: Array, counts: Array,
) -> int:  # fmt: skip
    """As `sums` for int64, or uint64 bits; `out` has 64 bits of each sum, `doubles` the sums rounded once.

    Returns how many sums need more than 64 bits.
    """
    first, stop, too_large = 0, 0, 0
    for i in range(lo.size):
        if lo[i] >= stop:
            _clear(acc)
            first = stop = lo[i]
        for row in range(stop, hi[i]):
            if valid.size == 0 or valid[row] == 1:
                add_integer(acc, values[row], unsigned, 1)
        for row in range(first, lo[i]):
            if valid.size == 0 or valid[row] == 1:
                add_integer(acc, values[row], unsigned, -1)
        first, stop = lo[i], hi[i]
        counts[i] = acc[A_COUNT]
        sign = normalise(acc, digits)
        doubles[i] = sign * rounded(digits, 0)
        out[i], fits = integer_of(acc, unsigned)
        too_large += 0 if fits else 1
    return too_large


@part
def spread_of(total: Array, squares: Array, digits: Array, square_digits: Array, wide: Array, base: int) -> float:
    """Sample standard deviation: n * sum(x^2) - sum(x)^2 exactly, rounded, / (n * (n - 1)), root. NaN where not finite."""
    if total[A_NAN] + total[A_PLUS] + total[A_MINUS] > 0:
        return math.nan
    count = total[A_COUNT]
    normalise(total, digits)
    normalise(squares, square_digits)
    carry = 0
    for i in range(wide.size):
        cell = carry + (count * square_digits[i] if i < square_digits.size else 0)
        wide[i] = cell & LIMB_MASK
        carry = cell >> LIMB_BITS
    size = digits.size
    while size > 0 and digits[size - 1] == 0:
        size -= 1
    for i in range(size):
        carry = 0
        for j in range(size):
            cell = wide[i + j] - digits[i] * digits[j] + carry
            wide[i + j] = cell & LIMB_MASK
            carry = cell >> LIMB_BITS
        at = i + size
        while carry != 0 and at < wide.size:
            cell = wide[at] + carry
            wide[at] = cell & LIMB_MASK
            carry = cell >> LIMB_BITS
            at += 1
    return math.sqrt(rounded(wide, 2 * base) / (float(count) * float(count - 1)))


@kernel(i64(i64r, u8r, i64r, i64r, i64, i64w, i64w, i64w, i64w, i64w, f64w, i64w))
def spreads(
    x: Array, valid: Array, lo: Array, hi: Array, base: int, total: Array, squares: Array,
    digits: Array, square_digits: Array, wide: Array, out: Array, counts: Array,
) -> int:  # fmt: skip
    """Per span the sample standard deviation of x (NaN for fewer than two rows), and how many rows it has.

    `total` and `squares` are accumulators as in `sums`, for x and for x * x; `wide` has twice the digits and 3 more.
    """
    first, stop = 0, 0
    for i in range(lo.size):
        if lo[i] >= stop:
            _clear(total)
            _clear(squares)
            first = stop = lo[i]
        for row in range(stop, hi[i]):
            if valid.size == 0 or valid[row] == 1:
                add_double(total, x[row], base, 1)
                add_product(squares, x[row], x[row], 2 * base, 1)
        for row in range(first, lo[i]):
            if valid.size == 0 or valid[row] == 1:
                add_double(total, x[row], base, -1)
                add_product(squares, x[row], x[row], 2 * base, -1)
        first, stop = lo[i], hi[i]
        counts[i] = total[A_COUNT]
        out[i] = math.nan
        if counts[i] > 1:
            out[i] = spread_of(total, squares, digits, square_digits, wide, base)
    return 0
