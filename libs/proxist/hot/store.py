"""How the owner stores one column's values into its cells: one class per kind of column.

`take` reads a batch's column and may refuse it, changing nothing; `put` then writes the values to their slots.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.hot import words as w
from proxist.hot.arena import Views
from proxist.hot.dictionary import Dictionary
from proxist.hot.incoming import Strings, bitmap_of, cells_of, lists_of, strings_of
from proxist.hot.kernels import write as kernels
from proxist.hot.layout import VALUE_BYTES_MAX, Layout, cell_width, value_columns
from proxist.hot.payloads import PayloadRing
from proxist.model.table import Column
from proxist.model.types import is_fixed_width

Slots = npt.NDArray[np.int64]


class ColumnStore(Protocol):
    """One column of the hot set, seen by its writer."""

    name: str

    def take(self, array: pa.Array) -> Any:
        """The batch's column in the form that `put` wants."""
        ...

    def payload_bytes(self, taken: Any) -> tuple[int, int]:
        """(bytes that `put` may add to the ring, the longest of them); an upper bound."""
        ...

    def put(self, taken: Any, slots: Slots) -> None:
        """Write the values to their slots. There is room."""
        ...


class FixedColumn:
    """Cells of a fixed width."""

    def __init__(self, layout: Layout, views: Views, column: Column) -> None:
        self.name = column.name
        self._width = cell_width(column.type)
        self._base = layout.regions[f"data:{column.name}"].first_cell
        mem8, mem16, mem32, mem = views.mem8, views.mem16, views.mem32, views.mem
        self._cells: Any = {0: mem8, 1: mem8, 2: mem16, 4: mem32}.get(self._width, mem)
        scatters = {1: kernels.scatter8, 2: kernels.scatter16, 4: kernels.scatter32, 8: kernels.scatter64}
        self._scatter = scatters.get(self._width)

    def take(self, array: pa.Array) -> Any:
        return bitmap_of(array, 1) if self._width == 0 else cells_of(array, self._width)

    def payload_bytes(self, taken: Any) -> tuple[int, int]:
        return 0, 0

    def put(self, taken: Any, slots: Slots) -> None:
        if self._scatter is not None:
            self._scatter(self._cells, self._base, slots, taken)
        elif self._width == 0:
            kernels.scatter_bits(self._cells, self._base, slots, *taken)
        else:
            kernels.scatter_wide(self._cells, self._base, slots, taken, self._width // 8)


class PayloadColumn:
    """Binary and lists: the bytes in the ring, a position and a length in the cells."""

    def __init__(self, layout: Layout, ring: PayloadRing, column: Column) -> None:
        self.name = column.name
        self._is_list = pa.types.is_list(column.type)
        self.positions = layout.regions[f"payload:{column.name}"].first_cell
        self.lengths = layout.regions[f"length:{column.name}"].first_cell
        self.codes = -1
        self.used = True
        self._ring = ring

    def take(self, array: pa.Array) -> Strings:
        return lists_of(array, self.name) if self._is_list else strings_of(array)

    def payload_bytes(self, taken: Strings) -> tuple[int, int]:
        return taken.bytes, int(np.diff(taken.offsets).max(initial=0)) * taken.width

    def put(self, taken: Strings, slots: Slots) -> None:
        self._ring.put(self.positions, self.lengths, slots, taken, taken.valid)


class StringColumn:
    """Dictionary codes; what the dictionary does not take (full, or a long value) goes to the ring."""

    def __init__(self, layout: Layout, views: Views, ring: PayloadRing, column: Column) -> None:
        self.name = column.name
        self.dictionary = Dictionary(views, layout.dictionary_layout(column.name))
        self.dictionary.create()
        self.codes = layout.regions[f"codes:{column.name}"].first_cell
        self.positions = layout.regions[f"payload:{column.name}"].first_cell
        self.lengths = layout.regions[f"length:{column.name}"].first_cell
        self.used = False
        """Whether any value ever went to the ring."""
        self._cells = views.mem32
        self._ring = ring

    def take(self, array: pa.Array) -> Strings:
        return strings_of(array)

    def payload_bytes(self, taken: Strings) -> tuple[int, int]:
        longest = int(np.diff(taken.offsets).max(initial=0))
        if longest <= VALUE_BYTES_MAX and self.dictionary.room_for(len(taken.offsets) - 1, taken.bytes):
            return 0, 0
        return taken.bytes, longest

    def put(self, taken: Strings, slots: Slots) -> None:
        codes, unknown = self.dictionary.encode(taken)
        refused = self.dictionary.add_missing(taken, codes, VALUE_BYTES_MAX) if unknown else 0
        kernels.scatter32(self._cells, self.codes, slots, codes.astype(np.int32))
        if refused:
            self.used = True
            self._ring.put(self.positions, self.lengths, slots, taken, (codes == w.CODE_HEAP).view(np.uint8))


class ValidityColumn:
    """The byte per row that says whether a nullable column has a value there."""

    def __init__(self, layout: Layout, views: Views, column: Column) -> None:
        self.name = column.name
        self._base = layout.regions[f"valid:{column.name}"].first_cell
        self._cells = views.mem8

    def take(self, array: pa.Array) -> Any:
        return bitmap_of(array, 0)

    def payload_bytes(self, taken: Any) -> tuple[int, int]:
        return 0, 0

    def put(self, taken: Any, slots: Slots) -> None:
        kernels.scatter_bits(self._cells, self._base, slots, *taken)


def column_stores(layout: Layout, views: Views, ring: PayloadRing) -> list[ColumnStore]:
    """A store for every value column, and one more for each nullable one's validity."""
    stores: list[ColumnStore] = []
    for column in value_columns(layout.spec):
        if is_fixed_width(column.type):
            stores.append(FixedColumn(layout, views, column))
        elif pa.types.is_string(column.type):
            stores.append(StringColumn(layout, views, ring, column))
        else:
            stores.append(PayloadColumn(layout, ring, column))
        if column.nullable:
            stores.append(ValidityColumn(layout, views, column))
    return stores
