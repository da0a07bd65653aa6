"""Many probes down their keys' chains at once, so that they wait for memory together instead of one after the other.

A search waits at each step: tail, header, header, row. Probes do not depend on each other: a pass takes each of a group
one block further back and asks for the lines of its next step, which arrive while the others take theirs. A probe stops
at the first block that may hold its row; `search_back` goes on from there. Every step obeys the reader's protocol, so
what was passed by needs no second look.
"""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import fence, part, prefetch
from proxist.hot.kernels_search import header_of
from proxist.hot.words import (
    B_COUNT,
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
    B_SKIP_MIN_TIME,
    INT64_MAX,
    L_BLOCKS,
    L_BOUNDARY,
    L_HEADERS,
    L_KEYS,
    L_SHIFT,
    L_TAIL,
    L_TIME,
    SHARED_STRIDE,
)  # fmt: skip

Array = Any
GROUP = 64
"""Probes that go together: their lines fit into the first cache level."""
P_BLOCK, P_GEN, P_ORDINAL, P_LATER, P_GOING, P_WORDS = range(6)
"""Where a probe stands: the block to look at next and the generation by which it was referred to (-1: any), ordinal and
first offset of the block before it on the way (-1, INT64_MAX: none). The last word is scratch: which still go."""
PLACES = GROUP * P_WORDS
_LINE_WORDS = 8


@part
def _ask_header(mem: Array, L: Array, block: int) -> None:
    if block >= 0 and block < L[L_BLOCKS]:
        head = L[L_HEADERS] + block * SHARED_STRIDE
        prefetch(mem, head)
        prefetch(mem, head + _LINE_WORDS)
        prefetch(mem, head + 2 * _LINE_WORDS)


@part
def _ask_row(mem: Array, L: Array, block: int, head: int, time: int) -> None:
    """Ask for the cell where a straight line through the block's ends puts `time`."""
    low, high = float(mem[head + B_MIN_TIME]), float(mem[head + B_MAX_TIME])
    count, guess = min(max(mem[head + B_COUNT], 0), 1 << L[L_SHIFT]), 0
    if time >= high:
        guess = count - 1
    elif time > low:
        guess = int((float(time) - low) / (high - low) * count)
    prefetch(mem, L[L_TIME] + (block << L[L_SHIFT]) + guess)


@part
def start_at_tail(mem: Array, L: Array, key: int, places: Array, p: int) -> None:
    """Put the probe at places[p:] before its key's last block."""
    places[p + P_BLOCK] = mem[L[L_TAIL] + key] - 1
    places[p + P_GEN], places[p + P_ORDINAL], places[p + P_LATER] = -1, -1, INT64_MAX


@part
def _step(mem: Array, L: Array, key: int, time: int, seam: int, end: int, places: Array, p: int) -> bool:
    """Take the probe at places[p:] one block further back; False where it stays: its row may be here, or the chain ends."""
    block, generation = places[p + P_BLOCK], places[p + P_GEN]
    head = header_of(mem, L, block, generation, key)
    if head < 0:
        places[p + P_BLOCK] = -1
        return False
    generation = mem[head + B_GEN]
    fence()
    first, here = mem[head + B_FIRST], mem[head + B_ORDINAL]
    if (mem[head + B_MIN_TIME] <= time and first < end) or first <= seam or here == 0:
        _ask_row(mem, L, block, head, time)
        return False
    if mem[head + B_SKIP_MIN_TIME] > time or mem[head + B_JUMP_FIRST] >= end:
        further, further_generation = mem[head + B_JUMP], mem[head + B_JUMP_GEN]
    else:
        further, further_generation = mem[head + B_PREV], mem[head + B_PREV_GEN]
    fence()
    if mem[head + B_GEN] != generation or (places[p + P_ORDINAL] >= 0 and here >= places[p + P_ORDINAL]):
        places[p + P_BLOCK] = -1
        return False
    _ask_header(mem, L, further)
    places[p + P_BLOCK], places[p + P_GEN], places[p + P_ORDINAL], places[p + P_LATER] = (
        further,
        further_generation,
        here,
        first,
    )
    return True


@part
def descend(
    mem: Array, L: Array, codes: Array, times: Array, earlier: int, start: int, stop: int, seam: int, end: int,
    places: Array,
) -> int:  # fmt: skip
    """Probes [start, stop) to the blocks from which `search_back` goes on, for the last row with time <= their own
    (< where `earlier` is 1). Returns the blocks that were passed by."""
    for i in range(start, stop):
        if codes[i] >= 0 and codes[i] < L[L_KEYS]:
            prefetch(mem, L[L_TAIL] + codes[i])
            prefetch(mem, L[L_BOUNDARY] + codes[i])
    left, passed = 0, 0
    for i in range(start, stop):
        if codes[i] >= 0 and codes[i] < L[L_KEYS]:
            start_at_tail(mem, L, codes[i], places, (i - start) * P_WORDS)
            _ask_header(mem, L, places[(i - start) * P_WORDS + P_BLOCK])
            places[left * P_WORDS + P_GOING] = i
            left += 1
    while left > 0:
        still = 0
        for at in range(left):
            i = places[at * P_WORDS + P_GOING]
            time = times[i] - (earlier if times[i] > -INT64_MAX else 0)
            if _step(mem, L, codes[i], time, seam, end, places, (i - start) * P_WORDS):
                places[still * P_WORDS + P_GOING] = i
                still += 1
        left = still
        passed += still
    return passed
