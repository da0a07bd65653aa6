"""Rows as JSON for gRPC: times as RFC 3339, binary as base64, integers that a double cannot hold as text."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from google.protobuf.struct_pb2 import Struct

from proxist.model.units import format_time_ns

EXACT_MAX = 2**53
"""protobuf's Struct has doubles only: larger integers would lose digits, so they are sent as decimal text."""
_NS_OF = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def rows_as_structs(rows: pa.Table) -> Iterator[Struct]:
    """One Struct per row, in order; a column name that occurs twice keeps its last value."""
    for batch in rows.to_batches(max_chunksize=1024):
        columns = [_values(batch.column(i)) for i in range(batch.num_columns)]
        for values in zip(*columns, strict=True):
            struct = Struct()
            struct.update(dict(zip(batch.schema.names, values, strict=True)))
            yield struct


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        scale = _NS_OF[column.type.unit]
        return [None if v is None else format_time_ns(v * scale) for v in column.cast(pa.int64()).to_pylist()]
    return [_plain(value) for value in column.to_pylist()]


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value if -EXACT_MAX <= value <= EXACT_MAX else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value)
