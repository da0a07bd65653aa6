"""The writer's kernels of eviction: which blocks go, which boundary rows change.

Order (docs/formats/hot.md): boundary rows first, so that they cover the rows below the new floor; then the floor; then
generations, and only then blocks may be used again.
"""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import fence, i32w, i64, i64r, i64w, kernel, part, u8w
from proxist.hot.kernels_last import slot_of, word_of
from proxist.hot.kernels_search import lower_bound, seq_at
from proxist.hot.words import (
    B_COUNT,
    B_EVICTED,
    B_FIRST,
    B_GEN,
    B_KEY,
    B_MAX_TIME,
    B_NEXT_OFFSET,
    B_SORTED,
    CODE_HEAP,
    GROUP_SHIFT,
    INT64_MAX,
    INT64_MIN,
    K_EVICTED_SLOT,
    K_LAST,
    K_TAIL,
    KEY_STRIDE,
    L_BOUNDARY,
    L_HEADERS,
    L_HEAP,
    L_HEAP_BYTES,
    L_LAST,
    L_OFFSET,
    L_SHIFT,
    L_SIDE,
    L_SIDE_BYTES,
    L_SLOTS,
    L_TAIL,
    L_TIME,
    MIRROR_STRIDE,
    S_FIFO_COUNT,
    S_FIFO_HEAD,
    S_FREE,
    S_LIVE,
    S_PARTIAL,
    SHARED_STRIDE,
    SIDE_BIT,
)  # fmt: skip

Array = Any
SIDE_CLASSES = 48
"""Chunks of the side area have 2**class bytes."""


@part
def not_before(mem: Array, L: Array, a: int, b: int) -> bool:
    """Row at slot `a` is at or after the one at `b` by (time, seq); for equal ones the caller knows the offsets."""
    a_time, b_time = mem[L[L_TIME] + a], mem[L[L_TIME] + b]
    return a_time > b_time or (a_time == b_time and seq_at(mem, L, a) >= seq_at(mem, L, b))


@part
def _visit(mem: Array, L: Array, W: Array, K: Array, block: int, floor: int, keys: Array, key_count: int) -> Any:
    """Note the last in Order of the block's rows newly below `floor`; returns (whole block below, keys noted)."""
    w, first = block * MIRROR_STRIDE, block << L[L_SHIFT]
    lo, count = W[w + B_EVICTED], W[w + B_COUNT]
    offsets = L[L_OFFSET] + first
    if mem[offsets + count - 1] < floor:
        hi = count
    else:
        near = min(lo + 16, count)  # a step passes few rows of a key: they are on the next cache line
        hi = lower_bound(mem, offsets, lo, near, floor)
        if hi == near:
            hi = lower_bound(mem, offsets, near, count, floor)
    W[w + B_EVICTED] = hi
    W[w + B_NEXT_OFFSET] = mem[offsets + hi] if hi < count else INT64_MAX
    if hi > lo:
        best = first + hi - 1
        if W[w + B_SORTED] == 0:
            best = first + lo
            for i in range(lo + 1, hi):
                if not_before(mem, L, first + i, best):
                    best = first + i
        k = W[w + B_KEY] * KEY_STRIDE
        noted = K[k + K_EVICTED_SLOT] - 1
        if noted < 0:
            keys[key_count] = W[w + B_KEY]
            key_count += 1
        if noted < 0 or not_before(mem, L, best, noted):
            K[k + K_EVICTED_SLOT] = best + 1
    return hi == count, key_count


@kernel(i64(i64r, i64r, i64w, i64w, i64w, i64r, i64w, i64, i64w, i64w, i64w))
def collect(
    mem: Array, L: Array, W: Array, K: Array, st: Array, fifo: Array, partial: Array, floor: int,
    freed: Array, keys: Array, counts: Array,
) -> int:  # fmt: skip
    """Blocks wholly below `floor` (out of queue and partial list) and the keys with rows newly below it.

    counts = [blocks freed, keys]. Only blocks that have rows newly below the floor are looked at, and the partial ones
    (at most one per key, one word each).
    """
    freed_count, key_count, kept = 0, 0, 0
    for i in range(st[S_PARTIAL]):  # partial blocks are older than those in the queue: keys meet their blocks in order
        block = partial[i]
        whole = False
        if W[block * MIRROR_STRIDE + B_NEXT_OFFSET] < floor:
            whole, key_count = _visit(mem, L, W, K, block, floor, keys, key_count)
        if whole:
            freed[freed_count] = block
            freed_count += 1
        else:
            partial[kept] = block
            kept += 1
    while st[S_FIFO_COUNT] > 0:
        block = fifo[st[S_FIFO_HEAD]]
        if W[block * MIRROR_STRIDE + B_FIRST] >= floor:
            break
        st[S_FIFO_HEAD] = (st[S_FIFO_HEAD] + 1) % fifo.size
        st[S_FIFO_COUNT] -= 1
        whole, key_count = _visit(mem, L, W, K, block, floor, keys, key_count)
        if whole:
            freed[freed_count] = block
            freed_count += 1
        else:
            partial[kept] = block
            kept += 1
    st[S_PARTIAL] = kept
    counts[0], counts[1] = freed_count, key_count
    return 0


@kernel(i64(i64r, i64r, i64w, i64r, i64, i64w, i64w))
def choose_boundaries(mem: Array, L: Array, K: Array, keys: Array, count: int, sources: Array, targets: Array) -> int:
    """For each key whose boundary row changes: the slot to copy and the slot to copy to; returns how many."""
    chosen = 0
    for i in range(count):
        key = keys[i]
        source = K[key * KEY_STRIDE + K_EVICTED_SLOT] - 1
        K[key * KEY_STRIDE + K_EVICTED_SLOT] = 0
        version = mem[L[L_BOUNDARY] + key]
        place = L[L_SLOTS] + 2 * key
        if version == 0 or not_before(mem, L, source, place + (version & 1)):
            sources[chosen] = source
            targets[chosen] = place + ((version + 1) & 1)
            chosen += 1
    return chosen


@kernel(i64(u8w, i64w, i64r, i64r, i64r, i64r, i64))
def copy_rows(mem8: Array, mem: Array, starts: Array, widths: Array, sources: Array, targets: Array, count: int) -> int:
    """Copy whole rows between slots: column c has cells of widths[c] bytes from byte starts[c] on."""
    for c in range(starts.size):
        width = widths[c]
        if width == 8:
            base = starts[c] >> 3
            for i in range(count):
                mem[base + targets[i]] = mem[base + sources[i]]
        else:
            for i in range(count):
                a, b = starts[c] + sources[i] * width, starts[c] + targets[i] * width
                for j in range(width):
                    mem8[b + j] = mem8[a + j]
    return 0


@kernel(i64(u8w, i32w, i64w, i64r, i64, i64, i64, i64r, i64r, i64, i32w, i64w, i64w))
def copy_payloads(
    mem8: Array, mem32: Array, mem: Array, L: Array, positions: int, lengths: int, codes: int,
    sources: Array, targets: Array, count: int, classes: Array, chunks: Array, side: Array,
) -> int:  # fmt: skip
    """Copy the payloads of one column into the side area, for rows that `copy_rows` copied. -1: the area is full.

    `codes` is the column's code base where only cells with CODE_HEAP have a payload, else -1. Boundary cell c of this
    column owns the chunk at chunks[c], of size class classes[c] - 1. For all columns: side = [first byte never used,
    first free chunk + 1 of each class]; a free chunk's first 8 bytes name the next one + 1.
    A chunk is rewritten or given away only after its cell's version was passed by, so a reader's check finds it.
    """
    for i in range(count):
        cell = targets[i] - L[L_SLOTS]
        length, source = int(mem32[lengths + sources[i]]), mem[positions + sources[i]]
        if codes >= 0 and mem32[codes + sources[i]] != CODE_HEAP:
            continue
        size_class = 3
        while (1 << size_class) < length:
            size_class += 1
        owned = classes[cell] - 1
        at = chunks[cell]
        if owned < size_class:
            if owned >= 0:
                mem[(L[L_SIDE] + at) >> 3] = side[1 + owned]
                side[1 + owned] = at + 1
                classes[cell] = 0
            if side[1 + size_class] > 0:
                at = side[1 + size_class] - 1
                side[1 + size_class] = mem[(L[L_SIDE] + at) >> 3]
            else:
                at = side[0]
                if at + (1 << size_class) > L[L_SIDE_BYTES]:
                    return -1
                side[0] = at + (1 << size_class)
            classes[cell] = size_class + 1
            chunks[cell] = at
        origin = L[L_HEAP] + source % L[L_HEAP_BYTES]
        for j in range(length):
            mem8[L[L_SIDE] + at + j] = mem8[origin + j]
        mem[positions + targets[i]] = SIDE_BIT | at
        mem32[lengths + targets[i]] = length
    return 0


@kernel(i64(i64w, i64r, i64w, i64r, i64r, i64))
def commit_boundaries(mem: Array, L: Array, K: Array, sources: Array, targets: Array, count: int) -> int:
    """Make the copied rows the boundary rows; the last row of a key moves there with them. Returns their max time."""
    max_time = INT64_MIN
    fence()
    for i in range(count):
        mem[L[L_BOUNDARY] + ((targets[i] - L[L_SLOTS]) >> 1)] += 1
        max_time = max(max_time, mem[L[L_TIME] + targets[i]])
    fence()
    for i in range(count):
        key = (targets[i] - L[L_SLOTS]) >> 1
        if slot_of(K[key * KEY_STRIDE + K_LAST]) == sources[i]:
            K[key * KEY_STRIDE + K_LAST] = word_of(targets[i], 0)
            mem[L[L_LAST] + key] = word_of(targets[i], 0)
    return max_time


@kernel(i64(i64w, i64r, i64w, i64w, i64w, i64w, i64w, i64r, i64))
def free_blocks(
    mem: Array, L: Array, W: Array, K: Array, st: Array, free: Array, live: Array, freed: Array, count: int
) -> int:  # fmt: skip
    """Raise generations, cut the chains whose tail goes, then hand the blocks out again."""
    for i in range(count):
        w = freed[i] * MIRROR_STRIDE
        W[w + B_GEN] += 1
        mem[L[L_HEADERS] + freed[i] * SHARED_STRIDE + B_GEN] = W[w + B_GEN]
        key = W[w + B_KEY]
        if K[key * KEY_STRIDE + K_TAIL] - 1 == freed[i]:
            K[key * KEY_STRIDE + K_TAIL] = 0
            mem[L[L_TAIL] + key] = 0
    fence()
    for i in range(count):
        free[st[S_FREE]] = freed[i]
        st[S_FREE] += 1
        st[S_LIVE] -= 1
        live[(freed[i] << L[L_SHIFT]) >> GROUP_SHIFT] -= 1
    return 0


@part
def _first_late(mem: Array, L: Array, W: Array, block: int, time: int, best: int) -> int:
    """The smallest offset below `best` of a resident row of `block` with time >= `time`, else `best`."""
    w, first = block * MIRROR_STRIDE, block << L[L_SHIFT]
    if W[w + B_MAX_TIME] < time:
        return best
    for i in range(W[w + B_EVICTED], W[w + B_COUNT]):
        if mem[L[L_OFFSET] + first + i] >= best:
            break
        if mem[L[L_TIME] + first + i] >= time:
            return mem[L[L_OFFSET] + first + i]
    return best


@kernel(i64(i64r, i64r, i64r, i64r, i64r, i64r, i64, i64))
def first_offset_from_time(
    mem: Array, L: Array, W: Array, st: Array, fifo: Array, partial: Array, time: int, limit: int
) -> int:  # fmt: skip
    """The smallest offset of a resident row with time >= `time`, at most `limit`."""
    best = limit
    for i in range(st[S_PARTIAL]):
        best = _first_late(mem, L, W, partial[i], time, best)
    for i in range(st[S_FIFO_COUNT]):
        block = fifo[(st[S_FIFO_HEAD] + i) % fifo.size]
        if W[block * MIRROR_STRIDE + B_FIRST] >= best:
            break
        best = _first_late(mem, L, W, block, time, best)
    return best
