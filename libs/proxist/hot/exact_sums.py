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


def double_sums(x: Doubles, y: Doubles | None, valid: Bytes, lo: Ints, hi: Ints) -> tuple[Floats, Ints]:
    """Per span (the sum of x, or of x * y, rounded once; how many valid rows). `valid`: a byte per row, or ALL_VALID."""
    out, counts = np.empty(len(lo)), np.empty(len(lo), np.int64)
    if _scaled_sums(x, y, valid, lo, hi, out):
        if not len(valid):
            return out, hi - lo
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(valid, dtype=np.int64)])
        return out, before[hi] - before[lo]
    bits, base = x.span_bits, x.low
    if y is not None:
        bits, base = bits + y.span_bits, base + y.low
    digits = _digits(bits, len(x.bits))
    kernels.sums(
        x.bits, NO_BITS if y is None else y.bits, valid, lo, hi, base, _accumulator(digits), digits, out, counts
    )
    return out, counts


def _scaled_sums(x: Doubles, y: Doubles | None, valid: Bytes, lo: Ints, hi: Ints, out: Floats) -> bool:
    """The fast form, where the values allow it."""
    if y is not None and y.span_bits > x.span_bits:
        x, y = y, x
    factor_bits, base = (0, x.low) if y is None else (y.span_bits, x.low + y.low)
    wide = x.span_bits > NARROW_BITS or x.span_bits + factor_bits + len(x.bits).bit_length() > _ACCUMULATOR_BITS
    part_bits = x.span_bits - _SPLIT_BITS if wide else x.span_bits
    fits = part_bits <= NARROW_BITS and part_bits + factor_bits + len(x.bits).bit_length() <= _ACCUMULATOR_BITS
    finite = x.finite and (y is None or y.finite)
    if not (fits and finite and factor_bits <= NARROW_BITS and _SCALES_MIN <= base <= _SCALES_MAX):
        return False
    low, high = np.empty(len(x.bits), np.int64), np.empty(len(x.bits) if wide else 0, np.int64)
    scaled.scale(x.bits, valid, x.low, high, low)
    factor = np.empty(0 if y is None else len(y.bits), np.int64)
    if y is not None:
        scaled.scale(y.bits, valid, y.low, NO_BITS, factor)
    scales = np.array([math.ldexp(1.0, base - 1 + 32 * i) for i in range(3)])
    scaled.scaled_sums(high, low, factor, lo, hi, scales, np.zeros(4, np.int64), out)
    return True


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
