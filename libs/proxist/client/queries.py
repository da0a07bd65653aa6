"""The JSON query of docs/api.md, built from Python's arguments. Times become integer nanoseconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxist.client.times import to_duration_ns, to_time_ns
from proxist.errors import InvalidArgument

Query = dict[str, Any]


def options(
    *,
    min_token: str | None = None,
    wait_ms: int | None = None,
    on_stale: str | None = None,
    as_of: str | None = None,
    hot_path: str | None = None,
    completeness: str | None = None,
) -> Query:
    """What stands beside the verb; absent where it was not asked for."""
    freshness = _present(min_token=min_token, wait_ms=wait_ms, on_stale=on_stale)
    return _present(freshness=freshness or None, as_of=as_of, hot_path=hot_path, completeness=completeness)


def point(table: str, keys: Any, columns: Any, at: Any) -> Query:
    """The body of last_by and first_by."""
    return _present(table=table, keys=names(keys, "keys"), columns=names(columns, "columns"), at=_time(at, "at"))


def scan(table: str, keys: Any, columns: Any, start: Any, stop: Any, limit: int | None) -> Query:
    """The body of scan, and of asof's left side."""
    return _present(
        table=table,
        keys=names(keys, "keys"),
        columns=names(columns, "columns"),
        **{"from": _time(start, "start"), "to": _time(stop, "stop")},
        limit=limit,
    )


def asof(left: Query, table: str, columns: Any, direction: str, tolerance: Any, allow_exact: bool) -> Query:
    """The body of asof; `left` is a scan's body or `{"probe": True}`."""
    return {
        "left": left,
        "right": _present(table=table, columns=names(columns, "columns")),
        "direction": direction,
        "allow_exact": allow_exact,
        **_present(tolerance=None if tolerance is None else to_duration_ns(tolerance, "tolerance")),
    }


def window(table: str, keys: Any, aggs: Any, start: Any, stop: Any, range_: Any, rows: int | None) -> Query:
    """The body of window."""
    range_ns = None if range_ is None else to_duration_ns(range_, "range")
    return _over(table, keys, aggs, start, stop) | _present(range=range_ns, rows=rows)


def bars(table: str, keys: Any, aggs: Any, start: Any, stop: Any, every: Any, fill: str) -> Query:
    """The body of bars."""
    return _over(table, keys, aggs, start, stop) | {"every": to_duration_ns(every, "every"), "fill": fill}


def _over(table: str, keys: Any, aggs: Any, start: Any, stop: Any) -> Query:
    """What window and bars have in common; one aggregate is a list of one."""
    if not isinstance(aggs, dict | list | tuple):
        example = '{"fn": "avg", "value": "price"}'
        raise InvalidArgument(f"`aggs` is {aggs!r}, but must be one aggregate or a list of them, such as {example}.")
    return scan(table, keys, None, start, stop, None) | {"aggs": [aggs] if isinstance(aggs, dict) else list(aggs)}


def names(value: Any, subject: str) -> list[str] | None:
    """A list of names; one string is a list of one. Any iterable of strings is taken, a polars or pandas column too."""
    if value is None:
        return None
    if isinstance(value, str):
        return [value]
    listed = value.to_pylist() if hasattr(value, "to_pylist") else list(value) if isinstance(value, Iterable) else value
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise InvalidArgument(f"`{subject}` is {value!r}, but must be a string or a list of strings.")
    return [str(name) for name in listed]


def _time(value: Any, subject: str) -> int | None:
    return None if value is None else to_time_ns(value, f"`{subject}`")


def _present(**fields: Any) -> Query:
    return {name: value for name, value in fields.items() if value is not None}
