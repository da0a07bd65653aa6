"""One dictionary of the shared memory, from Python: the keys', or a string column's."""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import Unavailable
from proxist.hot import words as w
from proxist.hot.arena import Views
from proxist.hot.incoming import Strings, strings_of
from proxist.hot.kernels import dictionary as kernels


class Dictionary:
    """Strings to codes. `encode` is for any process, the rest for the owner."""

    def __init__(self, views: Views, layout: npt.NDArray[np.int64]) -> None:
        self._views = views
        self.layout = layout
        self._head = int(layout[w.D_HEAD])

    def create(self) -> None:
        """Called once by the owner, before anything else."""
        self._views.mem[self._head + w.DH_SEED] = secrets.randbits(63)

    @property
    def count(self) -> int:
        """Entries. A row that was published before this was read has only codes below it."""
        return min(max(int(self._views.mem[self._head + w.DH_COUNT]), 0), int(self.layout[w.D_ENTRIES_MAX]))

    def room_for(self, entries: int, value_bytes: int) -> bool:
        """Whether that many new entries with so many bytes in all fit."""
        used = int(self._views.mem[self._head + w.DH_BYTES_END])
        return self.count + entries <= self.layout[w.D_ENTRIES_MAX] and used + value_bytes <= self.layout[w.D_BYTES_MAX]

    def encode(self, strings: Strings) -> tuple[npt.NDArray[np.int64], int]:
        """(code per row, -1 where null or unknown; how many are unknown)."""
        codes = np.empty(len(strings.offsets) - 1, np.int64)
        v = self._views
        unknown = kernels.encode(
            v.mem, v.mem32, v.mem8, self.layout, self.count, strings.offsets, strings.data, strings.valid, codes
        )
        return codes, int(unknown)

    def add_missing(self, strings: Strings, codes: npt.NDArray[np.int64], value_bytes_max: int) -> int:
        """Fill the codes that `encode` left at -1, adding entries; returns how many rows could get none (CODE_HEAP)."""
        v = self._views
        refused = kernels.add_missing(
            v.mem, v.mem32, v.mem8, self.layout, strings.offsets, strings.data, strings.valid, codes, value_bytes_max
        )
        return int(refused)

    def values(self, count: int) -> pa.Array:
        """The first `count` entries, in code order, as Arrow strings (a copy).

        Raises Unavailable where they are no strings: the memory is not what its header says.
        """
        at = int(self.layout[w.D_POSITIONS])
        cells = self._views.mem[at : at + count + 1].copy()
        broken = Unavailable("A dictionary of the hot set is damaged. Use Flight instead.", reason="format")
        if cells[0] != 0 or cells[-1] > self.layout[w.D_BYTES_MAX] or (np.diff(cells) < 0).any():
            raise broken
        start = int(self.layout[w.D_BYTES])
        data = self._views.mem8[start : start + int(cells[-1])].tobytes()
        values = pa.StringArray.from_buffers(count, pa.py_buffer(cells.astype(np.int32)), pa.py_buffer(data))
        try:
            values.validate(full=True)
        except pa.ArrowInvalid:
            raise broken from None
        return values


def strings_from(values: tuple[str, ...]) -> Strings:
    """Python strings as `Dictionary.encode` takes them."""
    return strings_of(pa.array(values, pa.string()))
