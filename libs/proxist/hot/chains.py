"""The writer's private side of the chains: mirrored block headers, per-key words, free blocks, blocks by age.

Appending and evicting are the two things that change it; both happen on the writer's thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from proxist.hot import words as w
from proxist.hot.arena import Arena
from proxist.hot.kernels import evict as evicting
from proxist.hot.kernels import write as writing
from proxist.hot.kernels_evict import SIDE_CLASSES
from proxist.hot.layout import Layout, cell_width, value_columns
from proxist.hot.store import ColumnStore, PayloadColumn, StringColumn
from proxist.model.types import is_fixed_width

Ints = npt.NDArray[np.int64]
Put = Callable[[Ints], None]
_TRIM_BLOCKS = 4096
"""Idle memory is looked for after so many freed blocks."""


class Chains:
    """Blocks, chains and boundary rows of one hot set."""

    def __init__(self, layout: Layout, kernel_layout: Ints, arena: Arena) -> None:
        blocks, keys = layout.blocks, layout.keys_max
        self._layout, self._arena, self._L = layout, arena, kernel_layout
        self._mem = arena.views.mem
        # zeroed pages come from the system only when they are touched
        self._mirror = np.zeros(blocks * w.MIRROR_STRIDE, np.int64)
        self._keys = np.zeros(keys * w.KEY_STRIDE, np.int64)
        self._state = np.zeros(w.STATE_WORDS, np.int64)
        self._free = np.zeros(blocks, np.int64)
        self._by_age = np.zeros(blocks + 1, np.int64)
        self._partial = np.zeros(min(keys, blocks) + 1, np.int64)
        self._live = np.zeros((layout.slots >> w.GROUP_SHIFT) + 1, np.int64)
        self._dirty = np.zeros(len(self._live), np.bool_)
        self._freed = np.zeros(blocks, np.int64)
        self._evicted_keys = np.zeros(min(keys, blocks), np.int64)
        self._freed_since_trim = 0
        self._boundaries = _BoundaryCopies(layout, kernel_layout, arena)

    @property
    def live_blocks(self) -> int:
        return int(self._state[w.S_LIVE])

    @property
    def used_blocks(self) -> int:
        """Blocks below this one have had rows, those above it never."""
        return int(self._state[w.S_NEXT])

    def block_arrays(self) -> list[tuple[int, int]]:
        """(address, bytes per block) of everything that is written when a block is filled."""
        shared = self._arena.views.mem8.ctypes.data
        parts = [(shared + region.start, width) for region, width in self._layout.block_regions()]
        return [*parts, (self._mirror.ctypes.data, 8 * w.MIRROR_STRIDE)]

    def blocks_needed(self, codes: Ints) -> int:
        """New blocks for these rows; a row of an unknown key (code -1) counts as one."""
        return int(writing.blocks_needed(self._L, self._mirror, self._keys, codes))

    def place(self, codes: Ints, times: Ints, seqs: Ints, first: int) -> tuple[Ints, Ints, Ints, int]:
        """(slot per row, touched blocks, touched keys, min time); nothing that readers follow changes yet."""
        slots, blocks, keys = (np.empty(len(codes), np.int64) for _ in range(3))
        min_time = writing.place(
            self._mem, self._L, self._mirror, self._keys, self._state, self._free, self._by_age, self._live,
            codes, times, seqs, first, slots, blocks, keys,
        )  # fmt: skip
        return slots, blocks, keys, int(min_time)

    def expose(self, blocks: Ints, keys: Ints) -> None:
        """Let readers follow what `place` placed; their rows stay outside until `end` is published."""
        writing.expose(self._mem, self._L, self._mirror, self._keys, self._state, blocks, keys)

    def cover(self, floor: int, stores: list[ColumnStore]) -> tuple[int, int]:
        """Make boundary rows cover the rows below `floor`: the first half of an eviction.

        Returns (blocks to free, max time of the boundary rows written; INT64_MIN if none).
        """
        counts = np.zeros(2, np.int64)
        evicting.collect(
            self._mem, self._L, self._mirror, self._keys, self._state, self._by_age, self._partial, floor,
            self._freed, self._evicted_keys, counts,
        )  # fmt: skip
        freed, keys = int(counts[0]), int(counts[1])
        sources, targets = np.empty(keys, np.int64), np.empty(keys, np.int64)
        chosen = int(
            evicting.choose_boundaries(self._mem, self._L, self._keys, self._evicted_keys, keys, sources, targets)
        )
        self._boundaries.copy(sources, targets, chosen, stores)
        return freed, int(evicting.commit_boundaries(self._mem, self._L, self._keys, sources, targets, chosen))

    def restore(self, codes: Ints, times: Ints, seqs: Ints, offsets: Ints, put: Put, stores: list[ColumnStore]) -> None:
        """Make these rows, one per key and of keys without rows, the boundary rows and last rows of their keys.

        `put` writes the value columns to the slots that it is given. Payloads take the way of an eviction: from the ring,
        where they may be forgotten afterwards, to the side area.
        """
        at, keys = self._L, codes * w.KEY_STRIDE
        sources = int(at[w.L_SLOTS]) + 2 * codes
        targets = sources + 1
        for array in (sources, targets):
            array.flags.writeable = False
        self._mem[at[w.L_TIME] + sources], self._mem[at[w.L_OFFSET] + sources] = times, offsets
        if len(seqs):
            self._mem[at[w.L_SEQ] + sources] = seqs
        put(sources)
        self._boundaries.copy(sources, targets, len(codes), stores)
        self._keys[keys + w.K_LAST_TIME], self._keys[keys + w.K_LAST] = times, sources + 1
        self._keys[keys + w.K_LAST_SEQ] = seqs ^ w.INT64_MIN if len(seqs) else 0
        evicting.commit_boundaries(self._mem, self._L, self._keys, sources, targets, len(codes))

    def free(self, count: int) -> None:
        """Free the blocks that `cover` found: the second half, after the floor was published."""
        self._dirty |= self._live > 0  # only here do groups become idle
        evicting.free_blocks(
            self._mem, self._L, self._mirror, self._keys, self._state, self._free, self._live, self._freed, count
        )
        self._freed_since_trim += count
        # The last blocks too, however few they were: nothing says when the next rows come.
        if self._freed_since_trim >= _TRIM_BLOCKS or (count and not self.live_blocks):
            self._freed_since_trim = 0
            self._trim()

    def first_offset_from_time(self, time_ns: int, limit: int) -> int:
        """The smallest offset of a resident row with time >= `time_ns`, at most `limit`."""
        return int(
            evicting.first_offset_from_time(
                self._mem, self._L, self._mirror, self._state, self._by_age, self._partial, time_ns, limit
            )
        )

    def _trim(self) -> None:
        """Give idle groups of blocks back, once they are more than a quarter of what was ever touched.

        Below that they are kept: the next blocks come from them without page faults.
        """
        touched = (int(self._state[w.S_NEXT]) * self._layout.block_rows) >> w.GROUP_SHIFT
        idle = np.flatnonzero((self._live[:touched] == 0) & self._dirty[:touched])
        if 4 * len(idle) <= touched:
            return
        self._dirty[idle] = False
        cuts = np.flatnonzero(np.diff(idle) != 1) + 1
        for run in np.split(idle, cuts):
            first, stop = int(run[0]) << w.GROUP_SHIFT, (int(run[-1]) + 1) << w.GROUP_SHIFT
            for name, region in self._layout.regions.items():
                if name in ("time", "seq", "offset") or name.startswith(
                    ("data:", "codes:", "payload:", "length:", "valid:")
                ):
                    width = region.bytes // (self._layout.slots + 2 * self._layout.keys_max)
                    self._arena.give_back(region.start + first * width, region.start + stop * width)


class _BoundaryCopies:
    """Copies whole rows from blocks to boundary slots, payloads included."""

    def __init__(self, layout: Layout, kernel_layout: Ints, arena: Arena) -> None:
        self._L, self._arena, self._cells = kernel_layout, arena, 2 * layout.keys_max
        region = layout.regions
        cells = [(region[name].start, 8) for name in ("time", "seq", "offset") if name in region]
        for column in value_columns(layout.spec):
            if is_fixed_width(column.type):
                cells.append((region[f"data:{column.name}"].start, cell_width(column.type) or 1))
            elif f"codes:{column.name}" in region:
                cells.append((region[f"codes:{column.name}"].start, 4))
            if column.nullable:
                cells.append((region[f"valid:{column.name}"].start, 1))
        self._starts = np.array([start for start, _ in cells], np.int64)
        self._widths = np.array([width for _, width in cells], np.int64)
        self._side = np.zeros(SIDE_CLASSES + 1, np.int64)
        self._chunks: dict[str, tuple[npt.NDArray[np.int32], Ints]] = {}

    def copy(self, sources: Ints, targets: Ints, count: int, stores: list[ColumnStore]) -> None:
        """Copy `count` rows; the targets are the slots that no reader uses at present."""
        v = self._arena.views
        evicting.copy_rows(v.mem8, v.mem, self._starts, self._widths, sources, targets, count)
        for store in stores:
            if isinstance(store, PayloadColumn | StringColumn) and store.used:
                classes, chunks = self._chunks.setdefault(
                    store.name, (np.zeros(self._cells, np.int32), np.zeros(self._cells, np.int64))
                )
                full = evicting.copy_payloads(
                    v.mem8, v.mem32, v.mem, self._L, store.positions, store.lengths, store.codes,
                    sources, targets, count, classes, chunks, self._side,
                )  # fmt: skip
                if full < 0:
                    raise MemoryError("the side area of boundary payloads is full")
