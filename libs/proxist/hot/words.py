"""Names of the integers in the shared memory and beside it: indices into int64 arrays, used by every kernel."""

from __future__ import annotations

MAGIC = 0x31544F_48585250  # "PRXHOT1" read as a little-endian int64
VERSION = 2
INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

# Header: index into the first page. Static words on two cache lines of their own, the owner's marks after them.
H_MAGIC, H_VERSION, H_DESCRIPTOR_BYTES, H_SHARD, H_EPOCH, H_START, H_COMPLETE = range(7)
H_END, H_FLOOR, H_PERSISTED, H_LEASE_UNTIL, H_CLOSED, H_EVICTED_TIME_MAX, H_T_PERSISTED = range(16, 23)
H_HEAP_START, H_HEAP_END, H_APPENDED_END = range(24, 27)

# Layout: where the regions begin, in cells of their width (bytes for heaps). Private to a process, from the descriptor.
(
    L_SHIFT, L_BLOCKS, L_SLOTS, L_KEYS, L_HEADERS, L_TIME, L_SEQ, L_OFFSET, L_TAIL, L_LAST, L_BOUNDARY, L_HEAP,
    L_HEAP_BYTES, L_SIDE, L_SIDE_BYTES, L_SIZE,
) = range(16)  # fmt: skip

# Block header: the first 21 words are shared (stride 24), the writer's mirror has all (stride 32).
(
    B_KEY, B_GEN, B_COUNT, B_MIN_TIME, B_MAX_TIME, B_SORTED, B_FIRST, B_ORDINAL,
    B_PREV, B_PREV_GEN, B_JUMP, B_JUMP_GEN, B_BEFORE_TIME, B_BEFORE_SEQ, B_JUMP_FIRST, B_JUMP_ORDINAL,
    B_SKIP_MIN_TIME, B_SKIP_MIN_SEQ, B_SKIP_MAX_TIME, B_SKIP_MAX_SEQ, B_JUMP_BEFORE_TIME,
    B_MIN_SEQ, B_MAX_SEQ, B_TOUCHED, B_EVICTED, B_NEXT_OFFSET,
) = range(26)  # fmt: skip
SHARED_STRIDE = 24
SHARED_WORDS = 21
MIRROR_STRIDE = 32

# The writer's words per key (stride 8).
K_TAIL, K_LAST_TIME, K_LAST_SEQ, K_LAST, K_PENDING, K_TOUCHED, K_EVICTED_SLOT = range(7)
KEY_STRIDE = 8

# The writer's state.
S_FREE, S_NEXT, S_FIFO_HEAD, S_FIFO_COUNT, S_PARTIAL, S_BATCH, S_TOUCHED_KEYS, S_TOUCHED_BLOCKS, S_LIVE = range(9)
STATE_WORDS = 16

# A dictionary's layout (where its regions begin) and the words of its own head.
D_HEAD, D_POSITIONS, D_HASHES, D_TABLE, D_BYTES, D_ENTRIES_MAX, D_BYTES_MAX = range(7)
DH_COUNT, DH_LEVEL, DH_BYTES_END, DH_SEED = range(4)
TABLE_BITS = 10
"""log2 of the smallest hash table; each level has four times the slots of the one before."""
TABLE_LEVELS = 7

CODE_NULL, CODE_HEAP = -1, -2
"""A string cell that is no code: null, or kept in the heap."""
SIDE_BIT = 1 << 62
"""Set in a payload's position: it lies in the side area (boundary rows), not in the ring."""
TORN = -3
"""A kernel met values from another moment: try again."""
GROUP_SHIFT = 14
"""log2 of the rows that are given back to the kernel together: whole pages for every cell width."""
