"""Dictionaries in shared memory: strings to codes 0, 1, 2, … and back; one for the keys, one per string column.

Entries only grow. The hash table (open addressing, at most half full, entry = code + 1) exists at several sizes, each
in a region of its own: the writer fills the next size completely before it names it in the head. A reader that still
uses the former size misses only entries that no row below its `end` has. A code at or above the head's count may be
half written and is passed over.
"""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import fence, i32r, i32w, i64, i64r, i64w, kernel, load64, part, prefetch, u8r, u8w
from proxist.hot.words import (
    CODE_HEAP,
    CODE_NULL,
    D_BYTES,
    D_BYTES_MAX,
    D_ENTRIES_MAX,
    D_HASHES,
    D_HEAD,
    D_POSITIONS,
    D_TABLE,
    DH_BYTES_END,
    DH_COUNT,
    DH_LEVEL,
    DH_SEED,
    TABLE_BITS,
    TABLE_LEVELS,
)  # fmt: skip

Array = Any
_MULTIPLIER = 0x1E3779B97F4A7C15
_LOW32 = 0xFFFFFFFF
_GROUP = 32
"""Strings that are looked up together, so that their lines come at the same time."""


@part
def _mix(h: int, word: int) -> int:
    h = (h ^ word) * _MULTIPLIER
    return h ^ ((h >> 29) & _LOW32)


@part
def hash_bytes(data: Array, start: int, stop: int, seed: int) -> int:
    """64-bit hash of data[start:stop]; the seed is random per hot set, so that nobody can aim at one bucket."""
    h = _mix(seed, stop - start)
    at = start
    while at + 8 <= stop:
        h = _mix(h, load64(data, at))
        at += 8
    if at < stop:
        word = 0
        for i in range(stop - at):
            word |= int(data[at + i]) << (8 * i)
        h = _mix(h, word)
    return _mix(h, seed)


@part
def table_start(D: Array, level: int) -> int:
    """Cell at which the hash table of `level` begins: after 1, 4, 16, … times the smallest."""
    return D[D_TABLE] + ((1 << (TABLE_BITS + 2 * level)) - (1 << TABLE_BITS)) // 3


@part
def _entry_equals(mem: Array, mem8: Array, D: Array, code: int, data: Array, start: int, stop: int) -> bool:
    at, until = mem[D[D_POSITIONS] + code], mem[D[D_POSITIONS] + code + 1]
    if at < 0 or until > D[D_BYTES_MAX] or until - at != stop - start:
        return False
    at += D[D_BYTES]
    while start + 8 <= stop:
        if load64(mem8, at) != load64(data, start):
            return False
        at += 8
        start += 8
    for i in range(stop - start):  # noqa: SIM110 - numba compiles loops, not generators
        if mem8[at + i] != data[start + i]:
            return False
    return True


@part
def find(
    mem: Array, mem32: Array, mem8: Array, D: Array, count: int, hashed: int, data: Array, start: int, stop: int
) -> int:
    """Code below `count` of data[start:stop], or -1."""
    level = min(max(mem[D[D_HEAD] + DH_LEVEL], 0), TABLE_LEVELS - 1)
    mask = (1 << (TABLE_BITS + 2 * level)) - 1
    base = table_start(D, level)
    at = hashed & mask
    for _ in range(mask + 1):
        code = int(mem32[base + at]) - 1
        if code < 0:
            return -1
        if code < count and mem[D[D_HASHES] + code] == hashed and _entry_equals(mem, mem8, D, code, data, start, stop):
            return code
        at = (at + 1) & mask
    return -1


@part
def _hash_group(
    mem: Array, mem32: Array, D: Array, count: int, offsets: Array, data: Array, first: int, stop: int, hashes: Array
) -> None:
    """Hashes of the strings [first, stop), and the lines that `find` will read, asked for all at once."""
    seed = mem[D[D_HEAD] + DH_SEED]
    level = min(max(mem[D[D_HEAD] + DH_LEVEL], 0), TABLE_LEVELS - 1)
    mask, base = (1 << (TABLE_BITS + 2 * level)) - 1, table_start(D, level)
    for r in range(first, stop):
        hashes[r] = hash_bytes(data, int(offsets[r]), int(offsets[r + 1]), seed)
        prefetch(mem32, base + (hashes[r] & mask))
    for r in range(first, stop):
        code = int(mem32[base + (hashes[r] & mask)]) - 1
        if code >= 0 and code < count:
            prefetch(mem, D[D_HASHES] + code)
            prefetch(mem, D[D_POSITIONS] + code)


@kernel(i64(i64r, i32r, u8r, i64r, i64, i32r, u8r, u8r, i64w))
def encode(
    mem: Array, mem32: Array, mem8: Array, D: Array, count: int,
    offsets: Array, data: Array, valid: Array, codes: Array,
) -> int:  # fmt: skip
    """codes[r] = code of the string data[offsets[r]:offsets[r + 1]], -1 where unknown or null; returns the unknown.

    `valid` has a byte per row, or is empty.
    """
    unknown = 0
    count = min(count, D[D_ENTRIES_MAX])
    for first in range(0, codes.size, _GROUP):
        stop = min(first + _GROUP, codes.size)
        _hash_group(mem, mem32, D, count, offsets, data, first, stop, codes)
        for r in range(first, stop):
            hashed, codes[r] = codes[r], -1
            if valid.size > 0 and valid[r] == 0:
                continue
            codes[r] = find(mem, mem32, mem8, D, count, hashed, data, int(offsets[r]), int(offsets[r + 1]))
            unknown += 1 if codes[r] < 0 else 0
    return unknown


@part
def _grow(mem: Array, mem32: Array, D: Array, count: int) -> None:
    level = mem[D[D_HEAD] + DH_LEVEL] + 1
    mask = (1 << (TABLE_BITS + 2 * level)) - 1
    base = table_start(D, level)
    for code in range(count):
        at = mem[D[D_HASHES] + code] & mask
        while mem32[base + at] != 0:
            at = (at + 1) & mask
        mem32[base + at] = code + 1
    fence()
    mem[D[D_HEAD] + DH_LEVEL] = level


@part
def _insert(
    mem: Array, mem32: Array, mem8: Array, D: Array, count: int, hashed: int, data: Array, start: int, stop: int
) -> None:
    """Write entry `count`; the caller made sure of room and raises the head's count afterwards."""
    head = D[D_HEAD]
    if 2 * (count + 1) > 1 << (TABLE_BITS + 2 * mem[head + DH_LEVEL]):
        _grow(mem, mem32, D, count)
    at = mem[head + DH_BYTES_END]
    for i in range(stop - start):
        mem8[D[D_BYTES] + at + i] = data[start + i]
    mem[D[D_POSITIONS] + count] = at
    mem[D[D_POSITIONS] + count + 1] = at + stop - start
    mem[D[D_HASHES] + count] = hashed
    mem[head + DH_BYTES_END] = at + stop - start
    mask = (1 << (TABLE_BITS + 2 * mem[head + DH_LEVEL])) - 1
    base = table_start(D, mem[head + DH_LEVEL])
    cell = hashed & mask
    fence()
    while mem32[base + cell] != 0:
        cell = (cell + 1) & mask
    mem32[base + cell] = count + 1


@kernel(i64(i64w, i32w, u8w, i64r, i32r, u8r, u8r, i64w, i64))
def add_missing(
    mem: Array, mem32: Array, mem8: Array, D: Array,
    offsets: Array, data: Array, valid: Array, codes: Array, value_bytes_max: int,
) -> int:  # fmt: skip
    """Give every row that `encode` left at -1 a code, adding entries; returns how many rows could get none.

    Those (no room, or longer than `value_bytes_max`) become CODE_HEAP; null rows stay CODE_NULL.
    """
    head = D[D_HEAD]
    seed, count, refused = mem[head + DH_SEED], mem[head + DH_COUNT], 0
    for r in range(codes.size):
        if codes[r] >= 0 or (valid.size > 0 and valid[r] == 0):
            continue
        start, stop = int(offsets[r]), int(offsets[r + 1])
        hashed = hash_bytes(data, start, stop, seed)
        code = find(mem, mem32, mem8, D, count, hashed, data, start, stop)
        if code < 0:
            room = count < D[D_ENTRIES_MAX] and mem[head + DH_BYTES_END] + stop - start <= D[D_BYTES_MAX]
            if stop - start > value_bytes_max or not room:
                codes[r] = CODE_HEAP
                refused += 1
                continue
            _insert(mem, mem32, mem8, D, count, hashed, data, start, stop)
            code = count
            count += 1
        codes[r] = code
    fence()
    mem[head + DH_COUNT] = count
    return refused


assert CODE_NULL == -1  # `encode` and `add_missing` rely on unknown == null until told otherwise
