"""Column types: Arrow's names, as pyarrow prints them, and back."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from proxist.errors import UnsupportedType

TIME_TYPE = pa.timestamp("ns", tz="UTC")
KEY_TYPE = pa.string()
SEQ_TYPE = pa.uint64()

_PLAIN: dict[str, pa.DataType] = {
    str(t): t
    for t in (
        pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
        pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"),
        pa.time64("us"), pa.time64("ns"), pa.string(), pa.binary(),
        *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    )
} | {"float64": pa.float64(), "float32": pa.float32(), "float16": pa.float16()}  # fmt: skip
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, ?tz=(.+))?\]")
_DECIMAL = re.compile(r"decimal(128|256)\((\d+), ?(-?\d+)\)")
_LIST = re.compile(r"list<(?:\w+: ?)?(.+)>")


def parse_type(text: str, subject: str) -> pa.DataType:
    """The Arrow type named by `text`: primitives, decimals, timestamps, string, binary, and lists of primitives.

    Raises UnsupportedType that names `subject` (say, `column 'price' of table 'trades'`).
    """
    parsed = _PLAIN.get(text) or _parse_compound(text, subject)
    if parsed is None:
        raise UnsupportedType(
            f"{subject} has type {text!r}, which Proxist does not store. Use one of {', '.join(sorted(_PLAIN))}, "
            "timestamp[unit, tz=UTC], decimal128(precision, scale), decimal256(precision, scale) or list<item: primitive>."
        )
    return parsed


def _parse_compound(text: str, subject: str) -> pa.DataType | None:
    if match := _TIMESTAMP.fullmatch(text):
        return pa.timestamp(match[1], tz=match[2])
    if match := _DECIMAL.fullmatch(text):
        precision, scale = int(match[2]), int(match[3])
        limit = 38 if match[1] == "128" else 76
        if not (1 <= precision <= limit and 0 <= scale <= precision):
            return None
        return pa.decimal128(precision, scale) if match[1] == "128" else pa.decimal256(precision, scale)
    if match := _LIST.fullmatch(text):
        item = parse_type(match[1], f"the item of {subject}")
        return pa.list_(item) if is_fixed_width(item) else None
    return None


def is_fixed_width(type_: pa.DataType) -> bool:
    """True where every value takes the same number of bytes (bool included: one byte in the hot set)."""
    return not (pa.types.is_string(type_) or pa.types.is_binary(type_) or pa.types.is_list(type_))


def accepts(declared: pa.DataType, incoming: pa.DataType) -> bool:
    """Whether a batch's column of type `incoming` is taken for a column declared as `declared`.

    Equal types are; so are the other encodings of a string (large, view, dictionary) for string, and a list whose
    item differs in its field's name or nullable flag only.
    """
    if incoming.equals(declared):
        return True
    if pa.types.is_string(declared):
        inner = incoming.value_type if pa.types.is_dictionary(incoming) else incoming
        return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner))
    if pa.types.is_list(declared):
        return bool(pa.types.is_list(incoming) and incoming.value_type.equals(declared.value_type))
    return False


def numpy_type(type_: pa.DataType) -> np.dtype[Any] | None:
    """What a numpy array of such values has as dtype (timestamps: datetime64); None where no fixed-width one holds them."""
    if pa.types.is_timestamp(type_):
        return np.dtype(f"M8[{type_.unit}]")
    if pa.types.is_boolean(type_):
        return np.dtype(np.bool_)
    is_number = pa.types.is_integer(type_) or pa.types.is_floating(type_)
    return np.dtype(type_.to_pandas_dtype()) if is_number else None
