"""The ring of payloads: binary, lists, and strings that no dictionary takes, in order of arrival."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from proxist.hot import words as w
from proxist.hot.arena import Arena
from proxist.hot.incoming import Strings
from proxist.hot.kernels import write as kernels

_NOTE_BYTES = 2**20
"""How finely the ring remembers which offset began where: what eviction frees is a multiple of about this."""


class PayloadRing:
    """Positions are absolute and only grow; the byte is position modulo capacity. Freed by the floor.

    A position below the header's start is freed: the position is its own generation.
    """

    def __init__(self, arena: Arena, layout: npt.NDArray[np.int64]) -> None:
        self._arena = arena
        self._layout = layout
        self.capacity = int(layout[w.L_HEAP_BYTES])
        self.start = self.end = 0
        self._notes: deque[tuple[int, int]] = deque()
        self._given_back = 0

    @property
    def used_bytes(self) -> int:
        return self.end - self.start

    def has_room(self, payload_bytes: int, longest: int) -> bool:
        """Whether payloads of so many bytes in all fit, wherever the ring's end falls among them."""
        return self.used_bytes + payload_bytes + longest <= self.capacity

    def note(self, first: int) -> None:
        """The rows from offset `first` on have their payloads at or above the present end."""
        if not self._notes or self.end - self._notes[-1][1] >= _NOTE_BYTES:
            self._notes.append((first, self.end))

    def put(
        self, positions: int, lengths: int, slots: npt.NDArray[np.int64], values: Strings, chosen: npt.NDArray[np.uint8]
    ) -> None:
        """Copy the payloads of the chosen rows (empty: all) and write their cells. There is room."""
        v = self._arena.views
        end = kernels.put_payloads(
                v.mem8,
                v.mem32,
                v.mem,
                self._layout,
                positions,
                lengths,
                self.end,
                slots,
                values.offsets,
                values.width,
                values.data,
                chosen,
            )  # fmt: skip
        self.end = int(end)
        v.mem[w.H_HEAP_END] = self.end

    def free_below(self, floor: int, appended_end: int) -> None:
        """Forget the payloads of rows below `floor`, which was published before."""
        if floor >= appended_end:
            self._notes.clear()
            self._notes.append((floor, self.end))
        while len(self._notes) > 1 and self._notes[1][0] <= floor:
            self._notes.popleft()
        if self._notes and self._notes[0][0] <= floor and self._notes[0][1] > self.start:
            self.start = self._notes[0][1]
            self._arena.views.mem[w.H_HEAP_START] = self.start
            self._give_back()

    def _give_back(self) -> None:
        base = int(self._layout[w.L_HEAP])
        while self.start - self._given_back >= _NOTE_BYTES:
            at = self._given_back % self.capacity
            step = min(self.start - self._given_back, self.capacity - at)
            self._arena.give_back(base + at, base + at + step)
            self._given_back += step
