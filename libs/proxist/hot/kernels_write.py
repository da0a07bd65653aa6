"""The writer's kernels: place rows, scatter columns, publish what readers follow.

The order, and the fences that it needs: a reader that has loaded `end` must find everything
that rows below it depend on, and whatever it finds of newer rows must be harmless.
 1. `place` writes time, seq and offset cells and keeps headers and tails in the writer's private mirror.
 2. the scatters write the other columns.
 3. `expose` copies block headers, then (fence) tails and last rows. So a count never covers a cell not yet written, and
    a tail never names a block without its header.
 4. `publish` (a plain aligned store from Python) sets `end`.
x86-64 keeps stores in order; the fence keeps the compiler from moving them inside `expose`, and each call boundary does
so between the steps. On a machine with weaker order the same fences are real ones, but attach is refused there until
that was tested.
"""

from __future__ import annotations

from typing import Any

from proxist.hot.jit import fence, i32r, i32w, i64, i64r, i64w, kernel, part, prefetch, u8r, u8w, u16r, u16w
from proxist.hot.kernels_last import word_of
from proxist.hot.words import (
    B_BEFORE_SEQ,
    B_BEFORE_TIME,
    B_COUNT,
    B_EVICTED,
    B_FIRST,
    B_GEN,
    B_JUMP,
    B_JUMP_BEFORE_TIME,
    B_JUMP_FIRST,
    B_JUMP_GEN,
    B_JUMP_ORDINAL,
    B_KEY,
    B_MAX_SEQ,
    B_MAX_TIME,
    B_MIN_SEQ,
    B_MIN_TIME,
    B_NEXT_OFFSET,
    B_ORDINAL,
    B_PREV,
    B_PREV_GEN,
    B_SKIP_MAX_SEQ,
    B_SKIP_MAX_TIME,
    B_SKIP_MIN_SEQ,
    B_SKIP_MIN_TIME,
    B_SORTED,
    B_TOUCHED,
    GROUP_SHIFT,
    INT64_MAX,
    INT64_MIN,
    K_LAST,
    K_LAST_SEQ,
    K_LAST_TIME,
    K_PENDING,
    K_TAIL,
    K_TOUCHED,
    KEY_STRIDE,
    L_HEADERS,
    L_HEAP,
    L_HEAP_BYTES,
    L_LAST,
    L_OFFSET,
    L_SEQ,
    L_SHIFT,
    L_TAIL,
    L_TIME,
    MIRROR_STRIDE,
    S_BATCH,
    S_FIFO_COUNT,
    S_FIFO_HEAD,
    S_FREE,
    S_LIVE,
    S_NEXT,
    S_TOUCHED_BLOCKS,
    S_TOUCHED_KEYS,
    SHARED_STRIDE,
    SHARED_WORDS,
)  # fmt: skip

Array = Any
_AHEAD = 12
"""Rows that the writer looks ahead per step of what it asks memory for: key, then block header, then cells."""


@part
def _look_ahead(mem: Array, L: Array, W: Array, K: Array, codes: Array, r: int, seqs: int) -> None:
    """Ask for what rows a little after `r` will touch. A hint: the rows in between may move a key to another block."""
    if r + 3 * _AHEAD < codes.size:
        prefetch(K, codes[r + 3 * _AHEAD] * KEY_STRIDE)
    if r + 2 * _AHEAD < codes.size and codes[r + 2 * _AHEAD] >= 0:
        w = (K[codes[r + 2 * _AHEAD] * KEY_STRIDE + K_TAIL] - 1) * MIRROR_STRIDE
        prefetch(W, w)
        prefetch(W, w + B_TOUCHED)
    if r + _AHEAD < codes.size and codes[r + _AHEAD] >= 0:
        tail = K[codes[r + _AHEAD] * KEY_STRIDE + K_TAIL] - 1
        if tail >= 0:
            slot = (tail << L[L_SHIFT]) + W[tail * MIRROR_STRIDE + B_COUNT]
            prefetch(mem, L[L_TIME] + slot)
            prefetch(mem, L[L_OFFSET] + slot)
            if seqs > 0:
                prefetch(mem, L[L_SEQ] + slot)


@kernel(i64(i64r, i64r, i64w, i64r))
def blocks_needed(L: Array, W: Array, K: Array, codes: Array) -> int:
    """New blocks that appending these rows takes; each row of an unknown key (code < 0) counts as one. Exact else."""
    rows = 1 << L[L_SHIFT]
    needed = 0
    for r in range(codes.size):
        if r + 2 * _AHEAD < codes.size:
            prefetch(K, codes[r + 2 * _AHEAD] * KEY_STRIDE)
        if r + _AHEAD < codes.size and codes[r + _AHEAD] >= 0:
            prefetch(W, (K[codes[r + _AHEAD] * KEY_STRIDE + K_TAIL] - 1) * MIRROR_STRIDE)
        if codes[r] < 0:
            needed += 1
            continue
        k = codes[r] * KEY_STRIDE
        tail = K[k + K_TAIL] - 1
        fill = W[tail * MIRROR_STRIDE + B_COUNT] if tail >= 0 else 0
        if (fill + K[k + K_PENDING]) & (rows - 1) == 0:
            needed += 1
        K[k + K_PENDING] += 1
    for r in range(codes.size):
        if codes[r] >= 0:
            K[codes[r] * KEY_STRIDE + K_PENDING] = 0
    return needed


@part
def _pair_less(a_time: int, a_seq: int, b_time: int, b_seq: int) -> bool:
    return a_time < b_time or (a_time == b_time and a_seq < b_seq)


@part
def _cover(W: Array, w: int, min_time: int, min_seq: int, max_time: int, max_seq: int) -> None:
    """Widen the skip of the block at `w`."""
    if _pair_less(min_time, min_seq, W[w + B_SKIP_MIN_TIME], W[w + B_SKIP_MIN_SEQ]):
        W[w + B_SKIP_MIN_TIME], W[w + B_SKIP_MIN_SEQ] = min_time, min_seq
    if _pair_less(W[w + B_SKIP_MAX_TIME], W[w + B_SKIP_MAX_SEQ], max_time, max_seq):
        W[w + B_SKIP_MAX_TIME], W[w + B_SKIP_MAX_SEQ] = max_time, max_seq


@part
def _cover_block(W: Array, w: int, p: int) -> None:
    """Widen the skip of `w` by block `p` and by what `p` itself skips."""
    _cover(W, w, W[p + B_MIN_TIME], W[p + B_MIN_SEQ], W[p + B_MAX_TIME], W[p + B_MAX_SEQ])
    _cover(W, w, W[p + B_SKIP_MIN_TIME], W[p + B_SKIP_MIN_SEQ], W[p + B_SKIP_MAX_TIME], W[p + B_SKIP_MAX_SEQ])


@part
def _link(W: Array, block: int, key: int, prev: int, first: int, batch: int) -> None:
    """Fill the mirror header of a fresh block that follows `prev` (-1: none) in the key's chain."""
    w = block * MIRROR_STRIDE
    W[w + B_KEY], W[w + B_COUNT], W[w + B_SORTED], W[w + B_FIRST], W[w + B_ORDINAL] = key, 0, 1, first, 0
    W[w + B_MIN_TIME], W[w + B_MIN_SEQ], W[w + B_MAX_TIME], W[w + B_MAX_SEQ] = (
        INT64_MAX,
        INT64_MAX,
        INT64_MIN,
        INT64_MIN,
    )
    W[w + B_SKIP_MIN_TIME], W[w + B_SKIP_MIN_SEQ] = INT64_MAX, INT64_MAX
    W[w + B_SKIP_MAX_TIME], W[w + B_SKIP_MAX_SEQ] = INT64_MIN, INT64_MIN
    W[w + B_BEFORE_TIME], W[w + B_BEFORE_SEQ], W[w + B_JUMP_BEFORE_TIME] = INT64_MIN, INT64_MIN, INT64_MIN
    W[w + B_PREV], W[w + B_PREV_GEN], W[w + B_JUMP], W[w + B_JUMP_GEN] = -1, 0, -1, 0
    W[w + B_JUMP_FIRST], W[w + B_JUMP_ORDINAL] = 0, -1
    W[w + B_TOUCHED], W[w + B_EVICTED], W[w + B_NEXT_OFFSET] = batch, 0, first
    if prev < 0:
        return
    p = prev * MIRROR_STRIDE
    W[w + B_ORDINAL] = W[p + B_ORDINAL] + 1
    W[w + B_PREV], W[w + B_PREV_GEN] = prev, W[p + B_GEN]
    if _pair_less(W[p + B_BEFORE_TIME], W[p + B_BEFORE_SEQ], W[p + B_MAX_TIME], W[p + B_MAX_SEQ]):
        W[w + B_BEFORE_TIME], W[w + B_BEFORE_SEQ] = W[p + B_MAX_TIME], W[p + B_MAX_SEQ]
    else:
        W[w + B_BEFORE_TIME], W[w + B_BEFORE_SEQ] = W[p + B_BEFORE_TIME], W[p + B_BEFORE_SEQ]
    W[w + B_JUMP], W[w + B_JUMP_GEN], W[w + B_JUMP_FIRST] = prev, W[p + B_GEN], W[p + B_FIRST]
    W[w + B_JUMP_ORDINAL], W[w + B_JUMP_BEFORE_TIME] = W[p + B_ORDINAL], W[p + B_BEFORE_TIME]
    middle = W[p + B_JUMP]
    if middle < 0:
        return
    m = middle * MIRROR_STRIDE
    if W[m + B_GEN] != W[p + B_JUMP_GEN] or W[m + B_JUMP] < 0:
        return  # freed, or the chain's first: a jump over one block begins the pattern anew
    if W[p + B_ORDINAL] - W[m + B_ORDINAL] == W[m + B_ORDINAL] - W[m + B_JUMP_ORDINAL]:
        _cover_block(W, w, p)
        _cover_block(W, w, m)
        W[w + B_JUMP], W[w + B_JUMP_GEN], W[w + B_JUMP_FIRST] = W[m + B_JUMP], W[m + B_JUMP_GEN], W[m + B_JUMP_FIRST]
        W[w + B_JUMP_ORDINAL], W[w + B_JUMP_BEFORE_TIME] = W[m + B_JUMP_ORDINAL], W[m + B_JUMP_BEFORE_TIME]


@part
def _take_block(L: Array, st: Array, free: Array, fifo: Array, live: Array) -> int:
    """A free block (the caller made sure there is one), noted last in the queue of blocks by first offset."""
    if st[S_FREE] > 0:
        st[S_FREE] -= 1
        block = free[st[S_FREE]]
    else:
        block = st[S_NEXT]
        st[S_NEXT] += 1
    fifo[(st[S_FIFO_HEAD] + st[S_FIFO_COUNT]) % fifo.size] = block
    st[S_FIFO_COUNT] += 1
    st[S_LIVE] += 1
    live[(block << L[L_SHIFT]) >> GROUP_SHIFT] += 1
    return block


@kernel(i64(i64w, i64r, i64w, i64w, i64w, i64w, i64w, i64w, i64r, i64r, i64r, i64, i64w, i64w, i64w))
def place(
    mem: Array, L: Array, W: Array, K: Array, st: Array, free: Array, fifo: Array, live: Array,
    codes: Array, times: Array, seqs: Array, first: int, slots: Array, touched_blocks: Array, touched_keys: Array,
) -> int:  # fmt: skip
    """Give each row a slot, write its time, seq, offset; note blocks and keys to expose. Returns the batch's min time.

    There is room (`blocks_needed`). Nothing that readers follow changes.
    """
    rows = 1 << L[L_SHIFT]
    st[S_BATCH] += 1
    batch, blocks, keys, min_time = st[S_BATCH], 0, 0, INT64_MAX
    for r in range(codes.size):
        _look_ahead(mem, L, W, K, codes, r, seqs.size)
        key = codes[r]
        time = times[r]
        seq = seqs[r] ^ INT64_MIN if seqs.size > 0 else 0
        k = key * KEY_STRIDE
        block = K[k + K_TAIL] - 1
        if block < 0 or W[block * MIRROR_STRIDE + B_COUNT] == rows:
            fresh = _take_block(L, st, free, fifo, live)
            _link(W, fresh, key, block, first + r, -batch)
            block = fresh
            K[k + K_TAIL] = block + 1
            touched_blocks[blocks] = block
            blocks += 1
        w = block * MIRROR_STRIDE
        if W[w + B_TOUCHED] != batch and W[w + B_TOUCHED] != -batch:
            W[w + B_TOUCHED] = batch
            touched_blocks[blocks] = block
            blocks += 1
        if K[k + K_TOUCHED] != batch:
            K[k + K_TOUCHED] = batch
            touched_keys[keys] = key
            keys += 1
        slot = (block << L[L_SHIFT]) + W[w + B_COUNT]
        slots[r] = slot
        mem[L[L_TIME] + slot] = time
        if seqs.size > 0:
            mem[L[L_SEQ] + slot] = seqs[r]
        mem[L[L_OFFSET] + slot] = first + r
        if _pair_less(time, seq, W[w + B_MAX_TIME], W[w + B_MAX_SEQ]):
            W[w + B_SORTED] = 0
        else:
            W[w + B_MAX_TIME], W[w + B_MAX_SEQ] = time, seq
        if _pair_less(time, seq, W[w + B_MIN_TIME], W[w + B_MIN_SEQ]):
            W[w + B_MIN_TIME], W[w + B_MIN_SEQ] = time, seq
        W[w + B_COUNT] += 1
        if K[k + K_LAST] == 0 or not _pair_less(time, seq, K[k + K_LAST_TIME], K[k + K_LAST_SEQ]):
            K[k + K_LAST_TIME], K[k + K_LAST_SEQ], K[k + K_LAST] = time, seq, word_of(slot, first + r)
        min_time = min(min_time, time)
    st[S_TOUCHED_BLOCKS] = blocks
    st[S_TOUCHED_KEYS] = keys
    return min_time


@kernel(i64(i64w, i64r, i64r, i64r, i64r, i64r, i64r))
def expose(mem: Array, L: Array, W: Array, K: Array, st: Array, touched_blocks: Array, touched_keys: Array) -> int:
    """Copy the touched headers to where readers look, then tails and last rows."""
    for i in range(st[S_TOUCHED_BLOCKS]):
        if i + _AHEAD < st[S_TOUCHED_BLOCKS]:
            prefetch(mem, L[L_HEADERS] + touched_blocks[i + _AHEAD] * SHARED_STRIDE)
            prefetch(W, touched_blocks[i + _AHEAD] * MIRROR_STRIDE)
        w = touched_blocks[i] * MIRROR_STRIDE
        head = L[L_HEADERS] + touched_blocks[i] * SHARED_STRIDE
        if W[w + B_TOUCHED] < 0:
            for word in range(SHARED_WORDS):
                mem[head + word] = W[w + word]
        else:
            mem[head + B_MIN_TIME] = W[w + B_MIN_TIME]
            mem[head + B_MAX_TIME] = W[w + B_MAX_TIME]
            mem[head + B_SORTED] = W[w + B_SORTED]
            mem[head + B_COUNT] = W[w + B_COUNT]
    fence()
    for i in range(st[S_TOUCHED_KEYS]):
        key = touched_keys[i]
        mem[L[L_TAIL] + key] = K[key * KEY_STRIDE + K_TAIL]
        mem[L[L_LAST] + key] = K[key * KEY_STRIDE + K_LAST]
    return 0


@part
def _scatter(cells: Array, base: int, slots: Array, values: Array) -> int:
    for r in range(slots.size):
        if r + _AHEAD < slots.size:
            prefetch(cells, base + slots[r + _AHEAD])
        cells[base + slots[r]] = values[r]
    return 0


@kernel(i64(u8w, i64, i64r, u8r))
def scatter8(cells: Array, base: int, slots: Array, values: Array) -> int:
    return _scatter(cells, base, slots, values)


@kernel(i64(u16w, i64, i64r, u16r))
def scatter16(cells: Array, base: int, slots: Array, values: Array) -> int:
    return _scatter(cells, base, slots, values)


@kernel(i64(i32w, i64, i64r, i32r))
def scatter32(cells: Array, base: int, slots: Array, values: Array) -> int:
    return _scatter(cells, base, slots, values)


@kernel(i64(i64w, i64, i64r, i64r))
def scatter64(cells: Array, base: int, slots: Array, values: Array) -> int:
    return _scatter(cells, base, slots, values)


@kernel(i64(i64w, i64, i64r, i64r, i64))
def scatter_wide(cells: Array, base: int, slots: Array, values: Array, words: int) -> int:
    """Cells of `words` int64 each (decimals)."""
    for r in range(slots.size):
        for word in range(words):
            cells[base + slots[r] * words + word] = values[r * words + word]
    return 0


@kernel(i64(u8w, i64, i64r, u8r, i64))
def scatter_bits(cells: Array, base: int, slots: Array, bitmap: Array, bit: int) -> int:
    """One byte per row from an Arrow bitmap that starts at `bit`; an empty bitmap is all ones."""
    for r in range(slots.size):
        value = 1
        if bitmap.size > 0:
            at = bit + r
            value = (bitmap[at >> 3] >> (at & 7)) & 1
        cells[base + slots[r]] = value
    return 0


@kernel(i64(u8w, i32w, i64w, i64r, i64, i64, i64, i64r, i32r, i64, u8r, u8r))
def put_payloads(
    mem8: Array, mem32: Array, mem: Array, L: Array, positions: int, lengths: int, end: int,
    slots: Array, offsets: Array, width: int, data: Array, chosen: Array,
) -> int:  # fmt: skip
    """Copy the payloads of the chosen rows (empty: all) into the ring from position `end` on; returns the new end.

    Row r's payload is data[offsets[r] * width : offsets[r + 1] * width]. A payload never wraps: the rest of the ring is
    left out instead. There is room.
    """
    from_heap, capacity = L[L_HEAP], L[L_HEAP_BYTES]
    for r in range(slots.size):
        if chosen.size > 0 and chosen[r] == 0:
            continue
        start = offsets[r] * width
        length = offsets[r + 1] * width - start
        at = end % capacity
        if at + length > capacity:
            end += capacity - at
            at = 0
        for i in range(length):
            mem8[from_heap + at + i] = data[start + i]
        mem[positions + slots[r]] = end
        mem32[lengths + slots[r]] = length
        end += length
    return end
