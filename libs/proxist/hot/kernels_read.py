"""The readers' kernels: from keys and times to slots. Inputs are read-only arrays in every process, the owner's too.

A slot at or above L_SLOTS is a boundary row's; its version goes to `versions`, so that `still_valid` can tell after the
copy whether it was rewritten. TORN as a result means: values from another moment, try again.
"""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import fence, i64, i64r, i64w, kernel, part
from proxist.hot.kernels_last import is_between, slot_of
from proxist.hot.kernels_search import header_of, lower_bound, rows_between, search_back, search_forward, seq_at
from proxist.hot.words import (
    B_FIRST,
    B_GEN,
    B_JUMP,
    B_JUMP_FIRST,
    B_JUMP_GEN,
    B_MAX_TIME,
    B_MIN_TIME,
    B_ORDINAL,
    B_PREV,
    B_PREV_GEN,
    B_SKIP_MAX_TIME,
    B_SKIP_MIN_TIME,
    B_SORTED,
    INT64_MAX,
    INT64_MIN,
    L_BLOCKS,
    L_BOUNDARY,
    L_HEADERS,
    L_KEYS,
    L_LAST,
    L_OFFSET,
    L_SHIFT,
    L_SLOTS,
    L_TAIL,
    L_TIME,
    SHARED_STRIDE,
    TORN,
)  # fmt: skip

Array = Any


@part
def boundary_of(mem: Array, L: Array, key: int) -> Any:
    """(version, slot, time, offset) of the key's boundary row; version 0: none, -1: torn."""
    version = mem[L[L_BOUNDARY] + key]
    if version <= 0:
        return 0, -1, INT64_MIN, 0
    fence()
    slot = L[L_SLOTS] + 2 * key + (version & 1)
    time, offset = mem[L[L_TIME] + slot], mem[L[L_OFFSET] + slot]
    fence()
    if mem[L[L_BOUNDARY] + key] != version:
        return -1, -1, INT64_MIN, 0
    return version, slot, time, offset


@part
def _boundary_wins(mem: Array, L: Array, boundary: int, slot: int) -> bool:
    """Whether the boundary row comes after the chain's `slot` (-1: none) in Order."""
    if slot < 0:
        return True
    a, b = mem[L[L_TIME] + boundary], mem[L[L_TIME] + slot]
    if a == b:
        a, b = seq_at(mem, L, boundary), seq_at(mem, L, slot)
    if a == b:
        a, b = mem[L[L_OFFSET] + boundary], mem[L[L_OFFSET] + slot]
    return a > b


@part
def _tail_before(mem: Array, L: Array, key: int, time: int) -> bool:
    """Whether the key's last block seems to end at or before `time`: only then its last row may be the answer."""
    block = mem[L[L_TAIL] + key] - 1
    return block < 0 or block >= L[L_BLOCKS] or mem[L[L_HEADERS] + block * SHARED_STRIDE + B_MAX_TIME] <= time


@part
def last_of(mem: Array, L: Array, key: int, time: int, seam: int, end: int, complete: int) -> Any:
    """(slot or -1, version, decided, visited) of the last row in Order with time <= `time`, offset < `end`.

    Decided: no row below the seam can change it. Slot TORN: try again.
    """
    return last_from(mem, L, key, time, seam, end, complete, mem[L[L_TAIL] + key] - 1, -1, -1, INT64_MAX)


@part
def last_from(
    mem: Array, L: Array, key: int, time: int, seam: int, end: int, complete: int,
    block: int, generation: int, ordinal: int, later: int,
) -> Any:  # fmt: skip
    """`last_of`, beginning at a block as `search_back` does."""
    if complete == 1 and (time == INT64_MAX or _tail_before(mem, L, key, time)):
        # The last row of all the key's rows ever: if it is inside, nothing else needs to be looked at.
        word = mem[L[L_LAST] + key]
        slot = slot_of(word)
        if slot >= 0 and slot < L[L_SLOTS] and is_between(word, seam, end):
            fence()
            if time == INT64_MAX or mem[L[L_TIME] + slot] <= time:
                return slot, 0, 1, 0
    version, boundary, boundary_time, boundary_offset = boundary_of(mem, L, key)
    if version < 0:
        return TORN, 0, 0, 0
    decided, usable = complete, 0
    if version > 0:
        if boundary_time <= time and boundary_offset < end:
            usable = 1
        else:
            decided = 0
    slot, visited = search_back(mem, L, key, time, seam, end, block, generation, ordinal, later)
    if usable == 1 and _boundary_wins(mem, L, boundary, slot):
        return boundary, version, decided, visited
    return slot, 0, decided, visited


@part
def first_of(mem: Array, L: Array, key: int, time: int, seam: int, end: int, complete: int) -> Any:
    """(slot or -1, version, decided, visited) of the first row in Order with time >= `time`, offset < `end`."""
    version, _, boundary_time, _ = boundary_of(mem, L, key)
    if version < 0:
        return TORN, 0, 0, 0
    decided = complete if version == 0 or boundary_time < time else 0
    slot, visited = search_forward(mem, L, key, time, seam, end)
    return slot, 0, decided, visited


@part
def _by_key(
    mem: Array, L: Array, codes: Array, forward: int, time: int, seam: int, end: int, complete: int,
    slots: Array, versions: Array, cold: Array, stats: Array,
) -> int:  # fmt: skip
    found, undecided, visited = 0, 0, 0
    for i in range(codes.size):
        key = codes[i]
        if key < 0 or key >= L[L_KEYS]:
            continue
        if forward == 1:
            slot, version, decided, steps = first_of(mem, L, key, time, seam, end, complete)
        else:
            slot, version, decided, steps = last_of(mem, L, key, time, seam, end, complete)
        if slot == TORN:
            return TORN
        visited += steps
        if slot >= 0:
            slots[found], versions[found] = slot, version
            found += 1
        if decided == 0:
            cold[undecided] = key
            undecided += 1
    stats[0], stats[1] = undecided, visited
    return found


@part
def newest_rows(mem: Array, L: Array, codes: Array, seam: int, end: int, slots: Array, versions: Array) -> int:
    """1 if every key's last row is one of [seam, end): then `slots` has them. It touches the words of the keys alone."""
    outside = 0
    for i in range(codes.size):
        key = codes[i]
        word = mem[L[L_LAST] + key] if key >= 0 and key < L[L_KEYS] else 0
        slot = slot_of(word)
        outside += 0 if slot >= 0 and slot < L[L_SLOTS] and is_between(word, seam, end) else 1
        slots[i], versions[i] = slot, 0
    fence()
    return 1 if outside == 0 else 0


@kernel(i64(i64r, i64r, i64r, i64, i64, i64, i64, i64w, i64w, i64w, i64w))
def last_by(
    mem: Array, L: Array, codes: Array, time: int, seam: int, end: int, complete: int,
    slots: Array, versions: Array, cold: Array, stats: Array,
) -> int:  # fmt: skip
    """Per code (-1: unknown key) the last row; only matched ones are written. Returns how many; stats = [codes written
    to `cold`, blocks visited]."""
    if complete == 1 and time == INT64_MAX and newest_rows(mem, L, codes, seam, end, slots, versions) == 1:
        stats[0], stats[1] = 0, 0
        return codes.size
    return _by_key(mem, L, codes, 0, time, seam, end, complete, slots, versions, cold, stats)


@kernel(i64(i64r, i64r, i64r, i64, i64, i64, i64, i64w, i64w, i64w, i64w))
def first_by(
    mem: Array, L: Array, codes: Array, time: int, seam: int, end: int, complete: int,
    slots: Array, versions: Array, cold: Array, stats: Array,
) -> int:  # fmt: skip
    """As `last_by`, for the first row at or after `time`."""
    return _by_key(mem, L, codes, 1, time, seam, end, complete, slots, versions, cold, stats)


@kernel(i64(i64r, i64r, i64r, i64r))
def still_valid(mem: Array, L: Array, slots: Array, versions: Array) -> int:
    """1 if no boundary row among `slots` was rewritten since its version was read."""
    fence()
    for i in range(slots.size):
        if versions[i] > 0 and mem[L[L_BOUNDARY] + ((slots[i] - L[L_SLOTS]) >> 1)] != versions[i]:
            return 0
    return 1


@kernel(i64(i64r, i64r, i64r, i64, i64w))
def cold_for_range(mem: Array, L: Array, codes: Array, from_time: int, cold: Array) -> int:
    """Codes of the keys with evicted rows at or after `from_time`; returns how many, or TORN."""
    found = 0
    for i in range(codes.size):
        if codes[i] < 0 or codes[i] >= L[L_KEYS]:
            continue
        version, _, time, _ = boundary_of(mem, L, codes[i])
        if version < 0:
            return TORN
        if version > 0 and time >= from_time:
            cold[found] = codes[i]
            found += 1
    return found


@part
def _collect_block(
    mem: Array, L: Array, block: int, head: int, from_time: int, last_time: int, seam: int, end: int,
    later: int, slots: Array, found: int,
) -> int:  # fmt: skip
    """Write the block's matching slots backwards from slots[size - found - 1] on; returns the new count."""
    lo, hi = rows_between(mem, L, block, head, seam, end, later)
    base, first, room = L[L_TIME] + (block << L[L_SHIFT]), block << L[L_SHIFT], slots.size
    if mem[head + B_SORTED] == 1:
        lo = lower_bound(mem, base, lo, hi, from_time)
        while hi > lo and mem[base + hi - 1] > last_time:
            hi -= 1
    for i in range(hi - 1, lo - 1, -1):
        if mem[base + i] >= from_time and mem[base + i] <= last_time:
            if found < room:
                slots[room - 1 - found] = first + i
            found += 1
    return found


@kernel(i64(i64r, i64r, i64r, i64, i64, i64, i64, i64w, i64w))
def scan(
    mem: Array, L: Array, codes: Array, from_time: int, last_time: int, seam: int, end: int, slots: Array, stats: Array
) -> int:
    """Slots of the rows of these keys with time in [from_time, last_time] and offset in [seam, end).

    They end up in slots[size - n :], each key's in offset order, where n is returned; if n is larger than the array,
    it holds a part of them: come again with a larger one. stats = [_, blocks visited].
    """
    found, visited = 0, 0
    for i in range(codes.size):
        key = codes[i]
        if key < 0 or key >= L[L_KEYS] or end <= seam:
            continue
        block, generation, ordinal, later = mem[L[L_TAIL] + key] - 1, -1, -1, INT64_MAX
        for _ in range(L[L_BLOCKS]):
            head = header_of(mem, L, block, generation, key)
            if head < 0:
                break
            generation = mem[head + B_GEN]
            fence()
            visited += 1
            first, here, before = mem[head + B_FIRST], mem[head + B_ORDINAL], found
            if first < end and mem[head + B_MIN_TIME] <= last_time and mem[head + B_MAX_TIME] >= from_time:
                found = _collect_block(mem, L, block, head, from_time, last_time, seam, end, later, slots, found)
            skip = (
                mem[head + B_SKIP_MIN_TIME] > last_time
                or mem[head + B_SKIP_MAX_TIME] < from_time
                or mem[head + B_JUMP_FIRST] >= end
            )
            jump, jump_generation = mem[head + B_JUMP], mem[head + B_JUMP_GEN]
            prev, prev_generation = mem[head + B_PREV], mem[head + B_PREV_GEN]
            fence()
            if mem[head + B_GEN] != generation or (ordinal >= 0 and here >= ordinal):
                found = before  # freed meanwhile: it had no row at or above the seam
                break
            ordinal, later = here, first
            if first <= seam or here == 0:
                break
            if skip:
                block, generation = jump, jump_generation
            else:
                block, generation = prev, prev_generation
    stats[1] = visited
    return found
