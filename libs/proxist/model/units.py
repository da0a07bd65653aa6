"""Durations, byte sizes and times as people write them: "20ms", "16MiB", "2024-08-09T00:00:00Z"."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from proxist.errors import InvalidArgument
from proxist.model.ids import TimeNs

_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_BYTES = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)")


def _quantity(text: str, units: dict[str, int]) -> int | None:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in units:
        return None
    whole, _, fraction = match[1].partition(".")
    scale = units[match[2]]
    return int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)


def parse_duration_ns(value: Any, subject: str) -> int:
    """Nanoseconds of "1h", "20ms", "1.5s" or an integer number of nanoseconds; not negative.

    Raises InvalidArgument that names `subject`.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    parsed = _quantity(value, _NS) if isinstance(value, str) else None
    if parsed is None:
        raise InvalidArgument(
            f'{subject} is {value!r}, but a duration is a number with a unit ({", ".join(_NS)}). Write for example "20ms".'
        )
    return parsed


def parse_bytes(value: Any, subject: str) -> int:
    """Bytes of "16MiB", "2GB" or an integer; not negative. Raises InvalidArgument that names `subject`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    parsed = _quantity(value, _BYTES) if isinstance(value, str) else None
    if parsed is None:
        raise InvalidArgument(
            f"{subject} is {value!r}, but a size is a number with a unit ({', '.join(filter(None, _BYTES))}). "
            'Write for example "16MiB".'
        )
    return parsed


def parse_time_ns(value: Any, subject: str) -> TimeNs:
    """Nanoseconds since the epoch of an RFC 3339 string or an integer, exact to the nanosecond (no float on the way).

    Raises InvalidArgument that names `subject`.
    """
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return TimeNs(value)
    match = _RFC3339.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is not None:
        zone = "+00:00" if match[4] in "Zz" else match[4]
        try:
            whole = datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}") - datetime(1970, 1, 1, tzinfo=UTC)
        except ValueError:
            whole = None
        if whole is not None:
            ns = (whole.days * 86400 + whole.seconds) * 10**9 + int((match[3] or "0").ljust(9, "0"))
            if -(2**63) <= ns < 2**63:
                return TimeNs(ns)
    raise InvalidArgument(
        f"{subject} is {value!r}, but a time is an RFC 3339 string or an integer of nanoseconds since 1970. "
        'Write for example "2024-08-09T00:00:00.5Z".'
    )


def format_duration(duration_ns: int) -> str:
    """In the largest unit that says it exactly: "20ms"; the inverse of `parse_duration_ns`."""
    return _in_largest(
        duration_ns, (("h", 3600 * 10**9), ("m", 60 * 10**9), ("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1))
    )


def format_bytes(size_bytes: int) -> str:
    """In the largest unit that says it exactly: "2GiB"; the inverse of `parse_bytes`."""
    return _in_largest(size_bytes, (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)))


def _in_largest(value: int, units: tuple[tuple[str, int], ...]) -> str:
    unit, scale = next((u, s) for u, s in units if value % s == 0 and (value or s == 1))
    return f"{value // scale}{unit}"


def format_time_ns(time_ns: int) -> str:
    """RFC 3339 in UTC, with as many of nine fraction digits as are needed."""
    seconds, fraction = divmod(time_ns, 10**9)
    text = (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat(timespec="seconds")
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else f"{text}Z"
