"""Record batches on their way in: columns as plain numpy arrays, without a copy where Arrow's layout allows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import InvalidBatch, SchemaMismatch, UnsupportedType
from proxist.model.table import Column, TableSpec
from proxist.model.types import accepts

EMPTY8: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
EMPTY8.flags.writeable = False
_NUMPY = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.int64, 16: np.int64, 32: np.int64}


@dataclass(frozen=True, slots=True, eq=False)
class Strings:
    """offsets[r]:offsets[r + 1] of `data` is row r; `valid` has a byte per row, or is empty (no nulls).

    For lists the offsets count items of `width` bytes.
    """

    offsets: npt.NDArray[np.int32]
    data: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.uint8]
    width: int = 1

    @property
    def bytes(self) -> int:
        return int(self.offsets[-1] - self.offsets[0]) * self.width


class Incoming:
    """Finds a table's columns in batches."""

    def __init__(self, spec: TableSpec) -> None:
        self._spec = spec
        self._schema = spec.schema
        self._names = tuple(column.name for column in spec.columns)

    def arrays(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """The table's columns by name, each of its declared type. Raises SchemaMismatch or InvalidBatch."""
        if batch.schema.equals(self._schema):
            found = batch.columns
        else:
            found = [self._column(batch, column) for column in self._spec.columns]
        for column, array in zip(self._spec.columns, found, strict=True):
            if not column.nullable and array.null_count:
                raise InvalidBatch(
                    f"Column {column.name!r} of table {self._spec.name!r} has {array.null_count} nulls, but is not "
                    "nullable. Fill them."
                )
        return dict(zip(self._names, found, strict=True))

    def _column(self, batch: pa.RecordBatch, column: Column) -> pa.Array:
        at = batch.schema.get_field_index(column.name)
        if at < 0:
            raise SchemaMismatch(
                f"The batch for table {self._spec.name!r} lacks the column {column.name!r}. Send every column."
            )
        array = batch.column(at)
        if array.type == column.type:
            return array
        if not accepts(column.type, array.type):
            raise SchemaMismatch(
                f"Column {column.name!r} of table {self._spec.name!r} came as {array.type}, but is {column.type}. Cast it."
            )
        return array.cast(column.type)


def _plain(buffer: Any, dtype: Any, start: int, stop: int) -> npt.NDArray[Any]:
    """Cells [start, stop) of a buffer, aligned and read-only."""
    values = np.frombuffer(buffer, dtype)[start:stop] if buffer is not None else np.zeros(stop - start, dtype)
    if not values.flags.aligned:
        values = values.copy()
    values.flags.writeable = False
    return values


def cells_of(array: pa.Array, width: int) -> npt.NDArray[Any]:
    """The values of a fixed-width array of `width` bytes each; 16 and 32 as two and four int64."""
    per_value = max(1, width // 8)
    start = array.offset * per_value
    return _plain(array.buffers()[1], _NUMPY[width], start, start + len(array) * per_value)


def bitmap_of(array: pa.Array, which: int) -> tuple[npt.NDArray[np.uint8], int]:
    """A bitmap buffer (0: validity, 1: values of a bool array) and the bit at which the array begins; empty if none."""
    buffer = array.buffers()[which]
    if buffer is None:
        return EMPTY8, 0
    return _plain(buffer, np.uint8, 0, buffer.size), array.offset


def valid_bytes(array: pa.Array) -> npt.NDArray[np.uint8]:
    """A byte per row, 1 where valid; empty where nothing is null."""
    if not array.null_count:
        return EMPTY8
    bitmap, start = bitmap_of(array, 0)
    bits = np.unpackbits(bitmap, bitorder="little")[start : start + len(array)]
    bits.flags.writeable = False
    return bits


def strings_of(array: pa.Array) -> Strings:
    """A string or binary array."""
    _, offsets, data = array.buffers()
    return Strings(
        _plain(offsets, np.int32, array.offset, array.offset + len(array) + 1),
        EMPTY8 if data is None else _plain(data, np.uint8, 0, data.size),
        valid_bytes(array),
    )


def lists_of(array: pa.Array, name: str) -> Strings:
    """A list array; bool items become a byte each. Raises InvalidBatch where an item is null."""
    offsets = _plain(array.buffers()[1], np.int32, array.offset, array.offset + len(array) + 1)
    items = array.values
    used = items.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    if used.null_count:
        raise InvalidBatch(f"Column {name!r} has a null inside a list, which is not stored. Leave it out of the list.")
    if pa.types.is_boolean(items.type):
        items = items.cast(pa.uint8())
    width = items.type.bit_width // 8
    if width == 0:
        raise UnsupportedType(f"Column {name!r} has items of type {items.type}, which Proxist does not store.")
    data = items.buffers()[1]
    plain = EMPTY8 if data is None else _plain(data, np.uint8, items.offset * width, data.size)
    return Strings(offsets, plain, valid_bytes(array), width)


class Take:
    """A batch as plain arrays: checked, not stored."""

    __slots__ = ("batch", "codes", "columns", "keys", "seqs", "times", "unknown")

    def __init__(
        self,
        batch: pa.RecordBatch,
        keys: Strings,
        codes: npt.NDArray[np.int64],
        unknown: int,
        times: npt.NDArray[np.int64],
        seqs: npt.NDArray[np.int64],
        columns: list[Any],
    ) -> None:
        self.batch, self.keys, self.codes, self.unknown = batch, keys, codes, unknown
        self.times, self.seqs, self.columns = times, seqs, columns
