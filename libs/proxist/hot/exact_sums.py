"""Sums and spreads over spans of rows, exact and rounded once (kernels_sums says how, kernels_scaled how faster)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from proxist.hot.kernels import scaled
from proxist.hot.kernels import sums as kernels
from proxist.hot.kernels_scaled import NARROW_BITS
from proxist.hot.kernels_sums import A_LIMBS, LIMB_BITS, SPARE_LIMBS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
ALL_VALID: Bytes = np.zeros(0, np.uint8)
NO_BITS: Ints = np.zeros(0, np.int64)
_MANTISSA_BITS = 53
_SPLIT_BITS = 32
_ACCUMULATOR_BITS = 126
_SCALES_MIN, _SCALES_MAX = -900, 700
"""Powers of two between which every sum of the fast form is a normal double."""


@dataclass(frozen=True, slots=True, eq=False)
class Doubles:
    """Bits of doubles; of the valid ones the range [low, high] of the powers of two that are their lowest bits."""

    bits: Ints
    low: int
    high: int
    finite: bool

    @staticmethod
    def of(values: Floats, valid: Bytes) -> Doubles:
        bits, found = np.ascontiguousarray(values).view(np.int64), np.zeros(3, np.int64)
        if not kernels.exponents(bits, valid, found):
            return Doubles(bits, 0, 0, not found[2])
        return Doubles(bits, int(found[0]), int(found[1]), not found[2])

    @property
    def span_bits(self) -> int:
        return self.high - self.low + _MANTISSA_BITS


def _digits(bits: int, rows: int) -> Ints:
    """Room for `rows` terms of so many bits, and a sign."""
    return np.zeros((bits + rows.bit_length() + 1) // LIMB_BITS + 1, np.int64)


def _accumulator(digits: Ints) -> Ints:
    return np.zeros(A_LIMBS + len(digits) + SPARE_LIMBS, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Scaled:
    """A column as integers: high * 2^32 + low, or low alone (then `high` is empty), each times 2^x.low."""

    high: Ints
    low: Ints

    @staticmethod
    def of(x: Doubles, valid: Bytes, factor_bits: int) -> _Scaled | None:
        """None where the values are too far apart, or their sums times a factor would not fit the accumulators."""
        rest = factor_bits + len(x.bits).bit_length()
        wide = x.span_bits > NARROW_BITS or x.span_bits + rest > _ACCUMULATOR_BITS
        part_bits = x.span_bits - _SPLIT_BITS if wide else x.span_bits
        if not x.finite or part_bits > NARROW_BITS or part_bits + rest > _ACCUMULATOR_BITS:
            return None
        low, high = np.empty(len(x.bits), np.int64), np.empty(len(x.bits) if wide else 0, np.int64)
        scaled.scale(x.bits, valid, x.low, high, low)
        return _Scaled(high, low)


def _scales(base: int) -> Floats | None:
    """What the fast form multiplies rounded integers with; None where a sum might be no normal double."""
    if not _SCALES_MIN <= base <= _SCALES_MAX:
        return None
    return np.array([math.ldexp(1.0, base - 1 + 32 * i) for i in range(3)])


def double_sums(x: Doubles, valid: Bytes, lo: Ints, hi: Ints) -> tuple[Floats, Ints]:
    """Per span (the sum, rounded once; how many valid rows). `valid`: a byte per row, or ALL_VALID."""
    out = np.empty(len(lo))
    fast, scales = _Scaled.of(x, valid, 0), _scales(x.low)
    if fast is not None and scales is not None:
        scaled.scaled_sums(fast.high, fast.low, lo, hi, scales, np.zeros(4, np.int64), out)
        if not len(valid):
            return out, hi - lo
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(valid, dtype=np.int64)])
        return out, before[hi] - before[lo]
    return _long_sums(x, None, valid, lo, hi)


def ratios(x: Doubles, weight: Doubles, valid: Bytes, lo: Ints, hi: Ints) -> tuple[Floats, Floats]:
    """Per span (sum of x * weight over sum of weight, NaN where that is 0; sum of weight): sums rounded once, then divided."""
    fast = _scaled_ratios(x, weight, valid, lo, hi)
    if fast is not None:
        return fast
    products, _ = _long_sums(x, weight, valid, lo, hi)
    weights, _ = double_sums(weight, valid, lo, hi)
    with np.errstate(all="ignore"):
        return products / weights, weights


def _scaled_ratios(x: Doubles, weight: Doubles, valid: Bytes, lo: Ints, hi: Ints) -> tuple[Floats, Floats] | None:
    """The fast form, where the values allow it: one of both fits an int64, the other is split where it must be."""
    split, factor = (x, weight) if x.span_bits >= weight.span_bits else (weight, x)
    scales, divisor_scales = _scales(x.low + weight.low), _scales(weight.low)
    if factor.span_bits > NARROW_BITS or not factor.finite or scales is None or divisor_scales is None:
        return None
    of_split = _Scaled.of(split, valid, factor.span_bits)
    if of_split is None:
        return None
    cells = np.empty(len(factor.bits), np.int64)
    scaled.scale(factor.bits, valid, factor.low, NO_BITS, cells)
    out, weights = np.empty(len(lo)), np.empty(len(lo))
    scaled.scaled_ratios(
        of_split.high, of_split.low, cells, int(factor is weight), lo, hi, scales, divisor_scales,
        np.zeros(4, np.int64), np.zeros(4, np.int64), out, weights,
    )  # fmt: skip
    return out, weights


def _long_sums(x: Doubles, y: Doubles | None, valid: Bytes, lo: Ints, hi: Ints) -> tuple[Floats, Ints]:
    """Sums of x, or of x * y, and how many valid rows, whatever the values are."""
    out, counts = np.empty(len(lo)), np.empty(len(lo), np.int64)
    bits, base = x.span_bits, x.low
    if y is not None:
        bits, base = bits + y.span_bits, base + y.low
    digits = _digits(bits, len(x.bits))
    kernels.sums(
        x.bits, NO_BITS if y is None else y.bits, valid, lo, hi, base, _accumulator(digits), digits, out, counts
    )
    return out, counts


def integer_sums(values: Ints, valid: Bytes, lo: Ints, hi: Ints, *, unsigned: bool) -> tuple[Ints, Floats, Ints, int]:
    """Per span (64 bits of the sum; the sum rounded to a double; how many valid rows); and how many need more bits."""
    digits = _digits(64, len(values))
    out, doubles, counts = np.empty(len(lo), np.int64), np.empty(len(lo)), np.empty(len(lo), np.int64)
    too_large = kernels.integer_sums(
        values, int(unsigned), valid, lo, hi, _accumulator(digits), digits, out, doubles, counts
    )
    return out, doubles, counts, int(too_large)


def spreads(x: Doubles, valid: Bytes, lo: Ints, hi: Ints) -> tuple[Floats, Ints]:
    """Per span (the sample standard deviation, NaN for fewer than two valid rows; how many valid rows)."""
    digits, squares = _digits(x.span_bits, len(x.bits)), _digits(2 * x.span_bits, len(x.bits))
    wide = np.zeros(max(len(squares), 2 * len(digits)) + 3, np.int64)
    out, counts = np.empty(len(lo)), np.empty(len(lo), np.int64)
    kernels.spreads(
        x.bits, valid, lo, hi, x.low, _accumulator(digits), _accumulator(squares), digits, squares, wide, out, counts
    )
    return out, counts
