"""The readers' kernels of the copy: from slots to Arrow buffers, and putting slots in order.

A copy of cells that were freed or rewritten meanwhile is wrong but harmless: slots are in range (they come from the
search), payload references are checked, and the caller throws the copy away when its last checks fail.
"""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import i32r, i32w, i64, i64r, i64w, kernel, part, u8r, u8w, u16r, u16w
from proxist.hot.kernels_search import seq_at
from proxist.hot.words import (
    B_KEY,
    CODE_HEAP,
    D_BYTES,
    D_BYTES_MAX,
    D_ENTRIES_MAX,
    D_POSITIONS,
    H_HEAP_END,
    H_HEAP_START,
    L_HEADERS,
    L_HEAP,
    L_HEAP_BYTES,
    L_OFFSET,
    L_SHIFT,
    L_SIDE,
    L_SIDE_BYTES,
    L_SLOTS,
    L_TIME,
    SHARED_STRIDE,
    SIDE_BIT,
    TORN,
)  # fmt: skip

Array = Any
TOO_LARGE = -4
"""A column's payloads pass what 32-bit Arrow offsets can say."""
F_WIDTH, F_BASE, F_OUT, F_VALID, F_VALID_OUT, F_NULLS, F_WORDS = range(7)
"""One fixed-width column of a plan: cell width in bytes (0: bool, -1: no cells), first cell, byte of the output where
its data go, first validity byte (-1: only unmatched rows are null; -2: never null), byte of the output where validity
goes; the kernel writes the null count."""
V_KIND, V_POSITIONS, V_LENGTHS, V_CODES, V_VALID, V_WORDS = range(6)
"""One column of other lengths: kind, its cells' bases."""
KIND_KEY, KIND_STRING, KIND_HEAP = 0, 1, 2


@part
def key_of(mem: Array, L: Array, slot: int) -> int:
    """Code of the key whose row is at `slot`."""
    if slot >= L[L_SLOTS]:
        return (slot - L[L_SLOTS]) >> 1
    return mem[L[L_HEADERS] + (slot >> L[L_SHIFT]) * SHARED_STRIDE + B_KEY]


@part
def _pack_valid(mem8: Array, slots: Array, order: Array, valid: int, out: Array, at: int) -> int:
    """Arrow validity bitmap at byte `at`; returns the null count. The output is zeroed."""
    nulls = 0
    for i in range(slots.size):
        if slots[i] >= 0 and (valid < 0 or mem8[valid + slots[i]] == 1):
            row = order[i] if order.size > 0 else i
            out[at + (row >> 3)] |= 1 << (row & 7)
        else:
            nulls += 1
    return nulls


@part
def _gather_wide(mem: Array, base: int, words: int, slots: Array, order: Array, out64: Array, at: int) -> None:
    for i in range(slots.size):
        if slots[i] >= 0:
            row = order[i] if order.size > 0 else i
            for word in range(words):
                out64[at + row * words + word] = mem[base + slots[i] * words + word]


@part
def _gather(cells: Array, base: int, slots: Array, order: Array, out: Array, at: int) -> None:
    if order.size > 0:
        for i in range(slots.size):
            if slots[i] >= 0:
                out[at + order[i]] = cells[base + slots[i]]
    else:
        for i in range(slots.size):
            if slots[i] >= 0:
                out[at + i] = cells[base + slots[i]]


@kernel(i64(u8r, u16r, i32r, i64r, i64r, i64r, i64w, u8w, u16w, i32w, i64w))
def gather_fixed(
    mem8: Array, mem16: Array, mem32: Array, mem: Array, slots: Array, order: Array, plan: Array,
    out8: Array, out16: Array, out32: Array, out64: Array,
) -> int:  # fmt: skip
    """Fill the zeroed output (four views of the same bytes) column by column; slot -1 stays zero and null.

    The row at slots[i] becomes row order[i] of the output, row i where `order` is empty. `plan` has F_WORDS words per
    column; F_NULLS is written.
    """
    for c in range(plan.size // F_WORDS):
        p = c * F_WORDS
        width, base, at = plan[p + F_WIDTH], plan[p + F_BASE], plan[p + F_OUT]
        if width == 8:
            _gather(mem, base, slots, order, out64, at >> 3)
        elif width == 4:
            _gather(mem32, base, slots, order, out32, at >> 2)
        elif width == 2:
            _gather(mem16, base, slots, order, out16, at >> 1)
        elif width == 1:
            _gather(mem8, base, slots, order, out8, at)
        elif width == 0:
            for i in range(slots.size):
                if slots[i] >= 0:
                    row = order[i] if order.size > 0 else i
                    out8[at + (row >> 3)] |= (mem8[base + slots[i]] & 1) << (row & 7)
        elif width > 8:
            _gather_wide(mem, base, width >> 3, slots, order, out64, at >> 3)
        if plan[p + F_VALID] > -2:
            plan[p + F_NULLS] = _pack_valid(mem8, slots, order, plan[p + F_VALID], out8, plan[p + F_VALID_OUT])
    return 0


@part
def _entry(mem: Array, D: Array, code: int) -> Any:
    """(first byte, length) of a dictionary entry, or (0, -1) where that is torn."""
    if code < 0 or code >= D[D_ENTRIES_MAX]:
        return 0, -1
    start, stop = mem[D[D_POSITIONS] + code], mem[D[D_POSITIONS] + code + 1]
    if start < 0 or stop < start or stop > D[D_BYTES_MAX]:
        return 0, -1
    return D[D_BYTES] + start, stop - start


@part
def _payload(mem: Array, mem32: Array, L: Array, positions: int, lengths: int, slot: int) -> Any:
    """(first byte, length) of a payload, or (0, -1) where the reference is torn."""
    position, length = mem[positions + slot], int(mem32[lengths + slot])
    if length < 0 or position < 0:
        return 0, -1
    if position & SIDE_BIT:
        at = position ^ SIDE_BIT
        if at + length > L[L_SIDE_BYTES]:
            return 0, -1
        return L[L_SIDE] + at, length
    if position < mem[H_HEAP_START] or position + length > mem[H_HEAP_END]:
        return 0, -1
    at = position % L[L_HEAP_BYTES]
    if at + length > L[L_HEAP_BYTES]:
        return 0, -1
    return L[L_HEAP] + at, length


@part
def _source(mem8: Array, mem32: Array, mem: Array, L: Array, D: Array, column: Array, slot: int) -> Any:
    """(first byte, length) of the row's value; length -1: torn, -2: null."""
    if column[V_KIND] == KIND_KEY:
        return _entry(mem, D, key_of(mem, L, slot))
    if column[V_VALID] >= 0 and mem8[column[V_VALID] + slot] != 1:
        return 0, -2
    if column[V_KIND] == KIND_STRING:
        code = int(mem32[column[V_CODES] + slot])
        if code != CODE_HEAP:
            return _entry(mem, D, code)
    return _payload(mem, mem32, L, column[V_POSITIONS], column[V_LENGTHS], slot)


@kernel(i64(u8r, i32r, i64r, i64r, i64r, i64r, i64r, i64, i64w, i32w, u8w))
def measure(
    mem8: Array, mem32: Array, mem: Array, L: Array, D: Array, column: Array, slots: Array, width: int,
    starts: Array, offsets: Array, valid: Array,
) -> int:  # fmt: skip
    """Where each value lies (`starts`), Arrow `offsets` in items of `width` bytes, zeroed `valid` bitmap's bits.

    Returns the null count, TORN or TOO_LARGE; the bytes to copy are offsets[n] * width.
    """
    total, nulls = 0, 0
    offsets[0] = 0
    for i in range(slots.size):
        start, length = 0, -2
        if slots[i] >= 0:
            start, length = _source(mem8, mem32, mem, L, D, column, slots[i])
        if length == -1:
            return TORN
        if length == -2:
            nulls += 1
            length = 0
        else:
            valid[i >> 3] |= 1 << (i & 7)
        starts[i] = start
        total += length
        if total > 0x7FFFFFFF:
            return TOO_LARGE
        offsets[i + 1] = total // width
    return nulls


@kernel(i64(u8r, i64r, i32r, i64, u8w))
def copy_values(mem8: Array, starts: Array, offsets: Array, width: int, out: Array) -> int:
    """Copy what `measure` found."""
    for i in range(starts.size):
        at, length, start = int(offsets[i]) * width, int(offsets[i + 1] - offsets[i]) * width, starts[i]
        for j in range(length):
            out[at + j] = mem8[start + j]
    return 0


@kernel(i64(u8r, i64, i64, u8w))
def pack_bits(values: Array, start: int, count: int, out: Array) -> int:
    """Bytes 0/1 to a zeroed Arrow bitmap (items of lists of bool)."""
    for i in range(count):
        out[i >> 3] |= (values[start + i] & 1) << (i & 7)
    return 0


@kernel(i64(i64r, i64r, i64r))
def in_order(mem: Array, L: Array, slots: Array) -> int:
    """1 if the rows come by (time, seq, offset)."""
    for i in range(1, slots.size):
        a, b = slots[i - 1], slots[i]
        a_value, b_value = mem[L[L_TIME] + a], mem[L[L_TIME] + b]
        if a_value == b_value:
            a_value, b_value = seq_at(mem, L, a), seq_at(mem, L, b)
        if a_value == b_value:
            a_value, b_value = mem[L[L_OFFSET] + a], mem[L[L_OFFSET] + b]
        if a_value > b_value:
            return 0
    return 1


@kernel(i64(i64r, i64r, i64r, i64, i64w, i64w))
def by_offset(mem: Array, L: Array, slots: Array, seam: int, dense: Array, out: Array) -> int:
    """The slots in offset order; `dense` is zeroed, with a cell per offset from `seam` on. TORN: one lies outside."""
    for i in range(slots.size):
        offset = mem[L[L_OFFSET] + slots[i]] - seam
        if offset < 0 or offset >= dense.size:
            return TORN
        dense[offset] = slots[i] + 1
    found = 0
    for i in range(dense.size):
        if dense[i] > 0:
            if found == out.size:
                return TORN
            out[found] = dense[i] - 1
            found += 1
    return 0 if found == out.size else TORN


@kernel(i64(i64r, i64, i64r, i64w))
def gather_cells(mem: Array, base: int, slots: Array, out: Array) -> int:
    for i in range(slots.size):
        out[i] = mem[base + slots[i]]
    return 0


@part
def _merge_sort(mem: Array, L: Array, slots: Array, start: int, stop: int, values: Array, other: Array) -> None:
    """Stable bottom-up merge sort of slots[start:stop] by seq; runs of one time can be long. Two arrays of scratch."""
    count = stop - start
    ordered = True
    for i in range(start + 1, stop):
        if seq_at(mem, L, slots[i]) < seq_at(mem, L, slots[i - 1]):
            ordered = False
            break
    if ordered:
        return
    for i in range(count):
        values[i] = slots[start + i]
    width = 1
    while width < count:
        for left in range(0, count, 2 * width):
            middle, right = min(left + width, count), min(left + 2 * width, count)
            a, b = left, middle
            for i in range(left, right):
                if a < middle and (b >= right or seq_at(mem, L, values[a]) <= seq_at(mem, L, values[b])):
                    other[i] = values[a]
                    a += 1
                else:
                    other[i] = values[b]
                    b += 1
        values, other = other, values
        width *= 2
    for i in range(count):
        slots[start + i] = values[i]


@kernel(i64(i64r, i64r, i64w, i64w, i64w))
def order_ties(mem: Array, L: Array, slots: Array, values: Array, other: Array) -> int:
    """Among rows that are ordered by (time, offset), put runs of one time into (seq, offset) order, stably.

    `values` and `other` are scratch, as long as `slots`.
    """
    at = 0
    while at < slots.size:
        stop = at + 1
        while stop < slots.size and mem[L[L_TIME] + slots[stop]] == mem[L[L_TIME] + slots[at]]:
            stop += 1
        if stop - at > 1:
            _merge_sort(mem, L, slots, at, stop, values, other)
        at = stop
    return 0
