"""Where everything lies: the regions of a hot set's memory, computed once by the owner and described in its header.

An attaching process knows only the descriptor: names, byte offsets, dtypes and lengths of the regions. Kernels get the
same as integers (`kernel_layout`, `dictionary_layout`), in cells of the width that they index.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import Unavailable
from proxist.hot import words as w
from proxist.hot.kernels_last import ROWS_MAX
from proxist.model.table import Column, TableSpec, parse_spec
from proxist.model.types import is_fixed_width

PAGE = 4096
DESCRIPTOR_BYTES_MAX = 2**20
KEYS_MAX = 2**20
KEY_BYTES_MAX = 64 * 2**20
VALUES_MAX = 2**18
"""Entries of a string column's dictionary; further values are kept in the heap like binary."""
VALUE_BYTES_MAX = 128
"""Longer strings are not worth an entry that is never freed."""
SIDE_BYTES_MIN = 2**30
BLOCK_ROWS_MAX = 256
HUGE_PAGE = 2 * 2**20
HUGE_REGION_BYTES = 64 * 2**20
"""Regions from this size on begin at a huge page and ask for them; smaller ones would only waste memory."""


@dataclass(frozen=True, slots=True)
class Region:
    """`length` cells of `dtype` from byte `start` on."""

    start: int
    dtype: str
    length: int

    @property
    def bytes(self) -> int:
        return self.length * np.dtype(self.dtype).itemsize

    @property
    def first_cell(self) -> int:
        return self.start // np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Layout:
    """A hot set's geometry. Slots [0, slots) lie in blocks, [slots, slots + 2 * keys_max) are boundary rows."""

    spec: TableSpec
    tenant: str
    block_rows: int
    blocks: int
    keys_max: int
    regions: dict[str, Region]
    total_bytes: int

    @property
    def slots(self) -> int:
        return self.blocks * self.block_rows

    def block_regions(self) -> Iterator[tuple[Region, int]]:
        """The regions that every block has its part of, with the part's bytes."""
        yield self.regions["headers"], 8 * w.SHARED_STRIDE
        cells = self.slots + 2 * self.keys_max
        for name, region in self.regions.items():
            if name in ("time", "seq", "offset") or name.startswith(_PER_SLOT):
                yield region, region.bytes // cells * self.block_rows

    def to_bytes(self) -> bytes:
        """The descriptor: JSON at byte 4096 of the memory."""
        regions = {name: [r.start, r.dtype, r.length] for name, r in self.regions.items()}
        wire = {
            "format": w.VERSION,
            "tenant": self.tenant,
            "table": self.spec.to_json(),
            "block_rows": self.block_rows,
            "blocks": self.blocks,
            "keys_max": self.keys_max,
            "total_bytes": self.total_bytes,
            "regions": regions,
        }
        return json.dumps(wire, separators=(",", ":")).encode()

    def kernel_layout(self) -> npt.NDArray[np.int64]:
        """The L array of the kernels."""
        cell = {name: region.first_cell for name, region in self.regions.items()}
        out = np.zeros(w.L_SIZE + 1, np.int64)
        out[w.L_SHIFT] = self.block_rows.bit_length() - 1
        out[w.L_BLOCKS], out[w.L_SLOTS], out[w.L_KEYS] = self.blocks, self.slots, self.keys_max
        out[w.L_HEADERS], out[w.L_TIME], out[w.L_OFFSET] = cell["headers"], cell["time"], cell["offset"]
        out[w.L_SEQ] = cell.get("seq", -1)
        out[w.L_TAIL], out[w.L_LAST], out[w.L_BOUNDARY] = cell["tail"], cell["last"], cell["boundary"]
        out[w.L_HEAP], out[w.L_HEAP_BYTES] = cell["heap"], self.regions["heap"].length
        out[w.L_SIDE], out[w.L_SIDE_BYTES] = cell["side"], self.regions["side"].length
        out.flags.writeable = False
        return out

    def dictionary_layout(self, name: str) -> npt.NDArray[np.int64]:
        """The D array of the kernels for the dictionary `name`: "" for the keys, else a string column."""
        region = {part: self.regions[f"{part}:{name}"] for part in _DICTIONARY_PARTS}
        out = np.zeros(w.D_BYTES_MAX + 1, np.int64)
        out[w.D_HEAD], out[w.D_POSITIONS] = region["head"].first_cell, region["positions"].first_cell
        out[w.D_HASHES], out[w.D_TABLE] = region["hashes"].first_cell, region["table"].first_cell
        out[w.D_BYTES], out[w.D_BYTES_MAX] = region["bytes"].first_cell, region["bytes"].length
        out[w.D_ENTRIES_MAX] = region["hashes"].length
        out.flags.writeable = False
        return out


_PER_SLOT = ("data:", "codes:", "payload:", "length:", "valid:")
_DICTIONARY_PARTS = ("head", "positions", "hashes", "table", "bytes")


def cell_width(type_: pa.DataType) -> int:
    """Bytes of a fixed-width cell; 0 for bool (stored as one byte, packed to bits on the way out)."""
    return 0 if pa.types.is_boolean(type_) else int(type_.bit_width) // 8


def item_width(type_: pa.DataType) -> int:
    """Bytes of one item of a payload: 1 for binary, strings and lists of bool."""
    if not pa.types.is_list(type_):
        return 1
    return cell_width(type_.value_type) or 1


def value_columns(spec: TableSpec) -> tuple[Column, ...]:
    """The columns that are stored as such: all but time, key and seq."""
    return tuple(c for c in spec.columns if c.name not in (spec.time, spec.key, spec.seq))


def has_payloads(spec: TableSpec) -> bool:
    return any(not is_fixed_width(c.type) for c in value_columns(spec))


def row_bytes(spec: TableSpec) -> int:
    """Bytes that a row takes in its block, without payloads and block header."""
    total = 16 + (8 if spec.seq else 0)
    for column in value_columns(spec):
        if is_fixed_width(column.type):
            total += cell_width(column.type) or 1
        else:
            total += 4 if pa.types.is_string(column.type) else 12
        total += 1 if column.nullable else 0
    return total


def block_bytes(spec: TableSpec, block_rows: int) -> int:
    """Bytes that a block takes, its header included."""
    return row_bytes(spec) * block_rows + 8 * (w.SHARED_STRIDE + w.MIRROR_STRIDE)


def plan_layout(
    spec: TableSpec, tenant: str, hot_bytes: int, *, block_rows: int | None = None, keys_max: int = KEYS_MAX
) -> Layout:
    """Cut `hot_bytes` into blocks, of ROWS_MAX rows at most. Small hot sets get smaller blocks, so that many keys still
    find one."""
    rows = block_rows or BLOCK_ROWS_MAX
    while block_rows is None and rows > 16 and hot_bytes // block_bytes(spec, rows) < 4096:
        rows //= 2
    blocks = max(16, min(hot_bytes // block_bytes(spec, rows), ROWS_MAX // rows))
    regions: dict[str, Region] = {}
    at = PAGE + DESCRIPTOR_BYTES_MAX
    for name, dtype, length in _parts(spec, blocks, blocks * rows + 2 * keys_max, keys_max, hot_bytes):
        size = length * np.dtype(dtype).itemsize
        step = HUGE_PAGE if size >= HUGE_REGION_BYTES else PAGE
        at = (at + step - 1) // step * step
        regions[name] = Region(at, dtype, length)
        at += size
    total = (at + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
    return Layout(spec, tenant, rows, blocks, keys_max, regions, total)


def _parts(spec: TableSpec, blocks: int, cells: int, keys: int, hot_bytes: int) -> Iterator[tuple[str, str, int]]:
    yield "headers", "int64", blocks * w.SHARED_STRIDE
    yield "tail", "int64", keys
    yield "last", "int64", keys
    yield "boundary", "int64", keys
    yield from _dictionary_parts("", keys, KEY_BYTES_MAX)
    yield "time", "int64", cells
    if spec.seq:
        yield "seq", "int64", cells
    yield "offset", "int64", cells
    for column in value_columns(spec):
        yield from _column_parts(column, cells)
    payloads = has_payloads(spec)
    yield "heap", "uint8", max(hot_bytes, 2**20) // PAGE * PAGE if payloads else PAGE
    yield "side", "uint8", max(2 * hot_bytes, SIDE_BYTES_MIN) // PAGE * PAGE if payloads else PAGE


def _dictionary_parts(name: str, entries: int, value_bytes: int) -> Iterator[tuple[str, str, int]]:
    table = ((1 << (w.TABLE_BITS + 2 * w.TABLE_LEVELS)) - (1 << w.TABLE_BITS)) // 3
    yield f"head:{name}", "int64", 8
    yield f"positions:{name}", "int64", entries + 1
    yield f"hashes:{name}", "int64", entries
    yield f"table:{name}", "int32", table
    yield f"bytes:{name}", "uint8", value_bytes


_CELLS = {0: "uint8", 1: "uint8", 2: "uint16", 4: "int32", 8: "int64", 16: "int64", 32: "int64"}


def _column_parts(column: Column, cells: int) -> Iterator[tuple[str, str, int]]:
    if is_fixed_width(column.type):
        width = cell_width(column.type)
        yield f"data:{column.name}", _CELLS[width], cells * max(1, width // 8)
    else:
        if pa.types.is_string(column.type):
            yield from _dictionary_parts(column.name, VALUES_MAX, VALUES_MAX * 32)
            yield f"codes:{column.name}", "int32", cells
        yield f"payload:{column.name}", "int64", cells
        yield f"length:{column.name}", "int32", cells
    if column.nullable:
        yield f"valid:{column.name}", "uint8", cells


def layout_from_bytes(descriptor: bytes) -> Layout:
    """The inverse of `Layout.to_bytes`. Raises Unavailable where it is of another format."""
    try:
        wire: dict[str, Any] = json.loads(descriptor)
        if wire["format"] != w.VERSION:
            raise ValueError(f"format {wire['format']}")
        regions = {name: Region(*entry) for name, entry in wire["regions"].items()}
        spec = parse_spec(wire["table"])
        return Layout(
            spec, wire["tenant"], wire["block_rows"], wire["blocks"], wire["keys_max"], regions, wire["total_bytes"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(
            f"The hot set's descriptor cannot be read ({error}): it was written by another version. Use Flight instead.",
            reason="format",
        ) from None
