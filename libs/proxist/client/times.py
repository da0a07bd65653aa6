"""Times and durations as Python writes them, to integer nanoseconds, exactly: no value passes through a float."""

from __future__ import annotations

import calendar
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from proxist.model.units import parse_duration_ns, parse_time_ns

_UNIT_NS = {"D": 86_400 * 10**9, "h": 3_600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_UNITS_PER_NS = {"ps": 10**3, "fs": 10**6, "as": 10**9}


def to_time_ns(value: Any, subject: str) -> int:
    """Nanoseconds since 1970 (UTC) of an int (taken as nanoseconds), RFC 3339 string, datetime, date, numpy.datetime64,
    pandas.Timestamp or Arrow timestamp scalar. A datetime without a zone is UTC, as in numpy and polars.

    Raises InvalidArgument that names `subject` for anything else, NaT and times that 64 bits cannot count.
    """
    ns = _time_ns(value)
    return int(parse_time_ns(value if ns is None else ns, subject))


def to_duration_ns(value: Any, subject: str) -> int:
    """Nanoseconds of an int, a string such as "10ms", a timedelta, numpy.timedelta64 or pandas.Timedelta; not negative.

    Raises InvalidArgument that names `subject`.
    """
    ns = _duration_ns(value)
    return int(parse_duration_ns(value if ns is None else ns, subject))


def _time_ns(value: Any) -> int | None:
    """None: not one of Python's types; the model's parser takes it or refuses it."""
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else _numpy_ns(_in_days(value))
    if isinstance(value, pa.TimestampScalar):
        return int(value.value) * _UNIT_NS[value.type.unit] if value.is_valid else None
    if isinstance(value, datetime):
        return _datetime_ns(value)
    if isinstance(value, date):
        return (value - date(1970, 1, 1)).days * _UNIT_NS["D"]
    return None


def _datetime_ns(value: datetime) -> int | None:
    if value != value:  # pandas' NaT is a datetime that equals nothing
        return None
    fraction_ns = value.microsecond * 1_000 + int(getattr(value, "nanosecond", 0))  # pandas.Timestamp has nanoseconds
    return calendar.timegm(value.utctimetuple()) * 10**9 + fraction_ns


def _duration_ns(value: Any) -> int | None:
    if isinstance(value, np.timedelta64):
        return None if np.isnat(value) else _numpy_ns(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, timedelta):
        micros = (value.days * 86_400 + value.seconds) * 10**6 + value.microseconds
        return micros * 1_000 + int(getattr(value, "nanoseconds", 0))  # pandas.Timedelta has nanoseconds
    return None


def _in_days(value: np.datetime64) -> np.datetime64:
    """Years, months and weeks have no fixed length in nanoseconds until they are counted in days."""
    return value.astype("datetime64[D]") if np.datetime_data(value.dtype)[0] in ("Y", "M", "W") else value


def _numpy_ns(value: np.datetime64 | np.timedelta64) -> int | None:
    unit, step = np.datetime_data(value.dtype)
    count = int(value.astype(np.int64)) * step
    if unit in _UNIT_NS:
        return count * _UNIT_NS[unit]
    finer = _UNITS_PER_NS.get(unit)
    return count // finer if finer is not None and count % finer == 0 else None
