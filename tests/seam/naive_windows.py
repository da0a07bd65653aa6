"""Windows and bars by definition, one row after the other, in exact numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from proxist.hot.ops import HotBars, HotWindow
from proxist.model.query import Agg, Bars, Window

Op = Window | Bars | HotWindow | HotBars


def windows(rows: Sequence[Any], op: Window | HotWindow, order: Callable[[Any], Any]) -> list[tuple[Any, list[Any]]]:
    """(row, values) of each row with time in [from, to), ascending by `order`."""
    out = []
    for group in _groups(rows, order).values():
        for at, row in enumerate(group):
            if not inside(row, op):
                continue
            if op.rows is not None:
                members = group[max(0, at + 1 - op.rows) : at + 1]
            else:
                assert op.range_ns is not None
                members = [one for one in group[: at + 1] if one.ts > row.ts - op.range_ns]
            seeds = [one for one in group[: at + 1] if inside(one, op)]
            out.append((row, [value(agg, members, seeds) for agg in op.aggs]))
    return sorted(out, key=lambda found: order(found[0]))


def bars(rows: Sequence[Any], op: Bars | HotBars, order: Callable[[Any], Any]) -> list[tuple[int, str, list[Any]]]:
    """(start, key, values), ascending, none empty."""
    out = []
    for key, group in _groups(rows, order).items():
        group = [row for row in group if inside(row, op)]
        for start in sorted({row.ts // op.every_ns * op.every_ns for row in group}):
            members = [row for row in group if start <= row.ts < start + op.every_ns]
            seeds = [row for row in group if row.ts < start + op.every_ns]
            out.append((start, key, [value(agg, members, seeds) for agg in op.aggs]))
    return sorted(out, key=lambda bar: bar[:2])


def filled(found: list[tuple[int, str, list[Any]]], op: Bars) -> list[tuple[int, str, list[Any]]]:
    """With the empty bars of each key of `found`."""
    if op.fill == "none" or not found:
        return found
    first = found[0][0] if op.from_ns is None else op.from_ns // op.every_ns * op.every_ns
    last = found[-1][0] if op.to_ns is None else op.to_ns - 1
    known = {(start, key): values for start, key, values in found}
    nothing: list[Any] = [None] * len(op.aggs)
    before: dict[str, list[Any]] = {}
    out = []
    for start in range(first, last + 1, op.every_ns):
        for key in sorted({key for _, key, _ in found}):
            values = known.get((start, key), before.get(key, nothing) if op.fill == "prev" else nothing)
            before[key] = values
            out.append((start, key, values))
    return out


def inside(row: Any, op: Op) -> bool:
    return (op.from_ns is None or row.ts >= op.from_ns) and (op.to_ns is None or row.ts < op.to_ns)


def value(agg: Agg, members: Sequence[Any], seeds: Sequence[Any]) -> Any:
    """Of the rows of one window or bar; `seeds`: what ema runs over."""
    if agg.value is None:
        return len(members)
    if agg.fn == "vwap":
        return vwap([(getattr(row, agg.value), getattr(row, str(agg.weight))) for row in members])
    if agg.fn == "ema":
        return ema([x for row in seeds if (x := getattr(row, agg.value)) is not None], float(agg.alpha or 0))
    return _PLAIN[agg.fn]([x for row in members if (x := getattr(row, agg.value)) is not None])


def vwap(pairs: Sequence[tuple[Any, Any]]) -> float | None:
    known = [(x, w) for x, w in pairs if x is not None and w is not None]
    weight = sum(w for _, w in known)
    return None if weight == 0 else float(Fraction(sum(x * w for x, w in known)) / weight)


def ema(values: Sequence[Any], alpha: float) -> float | None:
    average = None
    for x in values:
        average = float(x) if average is None else alpha * float(x) + (1.0 - alpha) * average
    return average


def stddev(values: Sequence[Any]) -> float | None:
    if len(values) < 2:
        return None
    mean = Fraction(sum(values)) / len(values)
    return math.sqrt(float(sum((x - mean) ** 2 for x in values) / (len(values) - 1)))


def _groups(rows: Sequence[Any], order: Callable[[Any], Any]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for row in sorted(rows, key=order):
        groups.setdefault(row.symbol, []).append(row)
    return groups


def _or_none(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: fn(values) if values else None


_PLAIN: dict[str, Callable[[Sequence[Any]], Any]] = {
    "count": len,
    "sum": _or_none(sum),
    "avg": _or_none(lambda values: float(Fraction(sum(values)) / len(values))),
    **dict.fromkeys(("min", "low"), _or_none(min)),
    **dict.fromkeys(("max", "high"), _or_none(max)),
    **dict.fromkeys(("first", "open"), _or_none(lambda values: values[0])),
    **dict.fromkeys(("last", "close"), _or_none(lambda values: values[-1])),
    "stddev": stddev,
}
