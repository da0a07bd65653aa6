"""The naive model of windows and bars: definitions taken literally, sums in fractions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from hot_model import Row

from proxist.hot.ops import HotBars, HotWindow
from proxist.model.ids import Offset
from proxist.model.query import Agg
from proxist.model.table import TableSpec, parse_spec

VALUES = {
    "price": "double", "size": "int64", "volume": "uint64", "ratio": "float", "small": "int16", "flag": "bool",
    "venue": "string", "cost": "decimal128(20, 4)", "seen": "timestamp[ms, tz=UTC]",
}  # fmt: skip
NUMBERS = ("price", "size", "volume", "ratio", "small")
MOODS = ("plain", "money", "wild", "extreme")


def make_spec(*, seq: bool) -> TableSpec:
    columns: list[dict[str, Any]] = [
        {"name": "sym", "type": "string"},
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
    ]
    if seq:
        columns.append({"name": "id", "type": "uint64"})
    columns += [{"name": name, "type": type_, "nullable": name != "volume"} for name, type_ in VALUES.items()]
    wire = {"name": "ticks", "time": "ts", "key": "sym", "seq": "id" if seq else None, "columns": columns}
    return parse_spec(wire)


def values_of(offset: int, mood: str) -> dict[str, Any]:
    """The value columns of a row, from its offset and the mood alone; each but volume is null now and then."""
    r = random.Random(offset * 31 + len(mood))
    floats: dict[str, Callable[[], float]] = {
        "plain": lambda: r.randrange(-50, 50) / 4,
        "money": lambda: r.randrange(1, 10**6) / 100,
        "wild": lambda: r.choice([1e16, -1e16, 1.0, 1e-12, -0.0, r.uniform(-1, 1), r.uniform(-1, 1) * 2.0 ** r.randrange(-40, 40)]),
        "extreme": lambda: r.choice(
            [math.nan, math.inf, -math.inf, 1.5, -2.25, 0.0, -0.0, 1e140, -1e140, 5e-120, r.uniform(-1, 1)]
            if offset % 3 == 0 else [1.5, r.uniform(-9, 9)]
        ),
    }  # fmt: skip
    integers = [2**63 - 1, -(2**63), 0, 7] if mood == "extreme" and offset % 5 == 0 else [r.randrange(-99, 99)]
    unsigned = [2**64 - 1, 2**63, 3] if mood == "extreme" and offset % 7 == 0 else [r.randrange(0, 2**40)]
    values = {
        "price": floats[mood](),
        "size": r.choice(integers),
        "volume": r.choice(unsigned),
        "ratio": float(np.float32(r.uniform(-3, 3))),
        "small": r.randrange(-3, 3),
        "flag": r.random() < 0.5,
        "venue": r.choice(["a", "b", "long" * 40]),
        "cost": Decimal(r.randrange(-9999, 9999)) / Decimal(100),
        "seen": r.randrange(10**6, 10**7),
    }
    return {name: None if name != "volume" and r.random() < 0.15 else value for name, value in values.items()}


def batch_of(spec: TableSpec, rows: list[Row], mood: str) -> pa.RecordBatch:
    """The rows as a record batch of the table."""
    values = [values_of(r.offset, mood) for r in rows]
    columns: dict[str, pa.Array] = {"sym": pa.array([r.key for r in rows], pa.string())}
    columns["ts"] = pa.array([r.time for r in rows], pa.int64()).cast(spec.schema.field("ts").type)
    if spec.seq:
        columns["id"] = pa.array([r.seq for r in rows], pa.uint64())
    for name in VALUES:
        type_ = spec.schema.field(name).type
        cells = [v[name] for v in values]
        columns[name] = pa.array(cells, pa.int64()).cast(type_) if name == "seen" else pa.array(cells, type_)
    return pa.RecordBatch.from_arrays([columns[name] for name in spec.schema.names], schema=spec.schema)


class TooLarge(Exception):
    """A sum of integers that does not fit: the answer must be an error."""


def _double(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def _total(terms: list[float | int | tuple[float, float]]) -> float:
    """The exact sum of numbers, or of products of two, rounded once; NaN and infinities as in IEEE arithmetic."""
    pairs = [term if isinstance(term, tuple) else (term, 1.0) for term in terms]
    special = [a * b for a, b in pairs if not (math.isfinite(a) and math.isfinite(b))]
    if special:
        return math.nan if any(map(math.isnan, special)) or len(set(special)) > 1 else special[0]
    return _double(sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction(0)))


def _divided(a: float, b: float) -> float:
    return math.nan if (math.isinf(a) and math.isinf(b)) else a / b


def _sum(values: list[Any], unsigned: bool) -> Any:
    if isinstance(values[0], float):
        return _total(values)
    total = sum(values)
    if not (0 <= total < 2**64 if unsigned else -(2**63) <= total < 2**63):
        raise TooLarge
    return total


def _stddev(values: list[Any]) -> float | None:
    doubles, n = [float(v) for v in values], len(values)
    if n < 2:
        return None
    if not all(map(math.isfinite, doubles)):
        return math.nan
    exact = [Fraction(v) for v in doubles]
    difference = n * sum((v * v for v in exact), Fraction(0)) - sum(exact, Fraction(0)) ** 2
    return math.sqrt(_double(difference) / (float(n) * float(n - 1)))


def _extreme(values: list[Any], best: Callable[..., Any]) -> Any:
    numbers = [v for v in values if v == v]
    return best(numbers) if numbers else values[0]


class Model:
    """Rows of one table; `answer` computes a window's or bars' rows from all of them below an end."""

    def __init__(self, spec: TableSpec, mood: str) -> None:
        self.spec, self.mood = spec, mood
        self.rows: list[Row] = []

    def _value(self, row: Row, name: str) -> Any:
        known = {"sym": row.key, "ts": row.time, "id": row.seq}
        return known[name] if name in known else values_of(row.offset, self.mood)[name]

    def _aggregate(self, agg: Agg, span: list[Row], history: list[Row]) -> Any:
        """`history`: the key's rows since `from`, up to the last of the span."""
        fn = {"open": "first", "high": "max", "low": "min", "close": "last"}.get(agg.fn, agg.fn)
        if agg.value is None:
            return len(span)
        if fn == "ema":
            average = None
            for row in history:
                x = self._value(row, agg.value)
                if x is not None:
                    x = float(x)
                    average = x if average is None else agg.alpha * x + (1.0 - agg.alpha) * average
            return average
        if fn == "vwap":
            return self._vwap(agg, span)
        values = [v for v in (self._value(r, agg.value) for r in span) if v is not None]
        if fn == "count":
            return len(values)
        if not values:
            return None
        made: dict[str, Callable[[], Any]] = {
            "sum": lambda: _sum(values, agg.value == "volume"),
            "avg": lambda: _divided(_total(values), len(values)),
            "stddev": lambda: _stddev(values),
            "min": lambda: _extreme(values, min),
            "max": lambda: _extreme(values, max),
            "first": lambda: values[0],
            "last": lambda: values[-1],
        }
        return made[fn]()

    def _vwap(self, agg: Agg, span: list[Row]) -> float | None:
        both = [(self._value(r, str(agg.value)), self._value(r, str(agg.weight))) for r in span]
        pairs = [(float(a), float(b)) for a, b in both if a is not None and b is not None]
        weight = _total([b for _, b in pairs])
        return None if not pairs or weight == 0 else _divided(_total(list(pairs)), weight)

    def answer(self, op: HotWindow | HotBars, end: int, without: frozenset[str] = frozenset()) -> list[tuple[Any, ...]]:
        """Rows as tuples in the answer's order, without those keys."""
        keys = {r.key for r in self.rows} if op.keys is None else set(op.keys)
        made: list[tuple[Any, tuple[Any, ...]]] = []
        for key in keys - without:
            rows = sorted((r for r in self.rows if r.key == key and r.offset < end), key=lambda r: r.order)
            asked = [
                r for r in rows
                if (op.from_ns is None or r.time >= op.from_ns) and (op.to_ns is None or r.time < op.to_ns)
            ]  # fmt: skip
            made += self._bars(op, key, asked) if isinstance(op, HotBars) else self._windows(op, rows, asked)
        return [row for _, row in sorted(made, key=lambda pair: pair[0])]

    def _windows(self, op: HotWindow, rows: list[Row], asked: list[Row]) -> list[tuple[Any, tuple[Any, ...]]]:
        made = []
        for i, row in enumerate(asked):
            upto = [r for r in rows if r.order <= row.order]
            if op.rows is not None:
                span = upto[-op.rows :]
            else:
                assert op.range_ns is not None
                span = [r for r in upto if r.time > row.time - op.range_ns]
            aggregates = (self._aggregate(agg, span, asked[: i + 1]) for agg in op.aggs)
            seq = (row.seq,) if self.spec.seq else ()
            made.append((row.order, (row.key, row.time, *seq, *aggregates, row.offset)))
        return made

    def _bars(self, op: HotBars, key: str, asked: list[Row]) -> list[tuple[Any, tuple[Any, ...]]]:
        made = []
        for start in sorted({r.time // op.every_ns * op.every_ns for r in asked}):
            span = [r for r in asked if start <= r.time < start + op.every_ns]
            history = [r for r in asked if r.order <= span[-1].order]
            aggregates = (self._aggregate(agg, span, history) for agg in op.aggs)
            made.append(((start, key.encode()), (key, start, *aggregates)))
        return made


def rows_of(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
    """A batch as tuples; times as integers."""
    columns = [
        (c.view(pa.int64()) if pa.types.is_timestamp(c.type) else c).to_pylist() for c in batch.columns
    ]  # fmt: skip
    return list(zip(*columns, strict=True))


def same(a: Any, b: Any) -> bool:
    """Equal, to the bit; all NaN are one, and so are 0.0 and -0.0."""
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def random_aggs(rng: np.random.Generator, *, bars: bool) -> tuple[Agg, ...]:
    fns = ["count", "sum", "avg", "min", "max", "first", "last", "stddev", "vwap", "ema"]
    fns += ["open", "high", "low", "close"] if bars else []
    aggs = []
    for i in range(int(rng.integers(1, 5))):
        fn = str(rng.choice(fns))
        ranked, anything = (*NUMBERS, "flag", "seen", "ts"), (*VALUES, "sym", "ts")
        pool = ranked if fn in ("min", "max", "high", "low") else NUMBERS
        if fn in ("count", "first", "last", "open", "close"):
            pool = anything
        value = None if fn == "count" and rng.random() < 0.5 else str(rng.choice(pool))
        weight = str(rng.choice(NUMBERS)) if fn == "vwap" else None
        alpha = float(rng.choice([0.1, 0.5, 1.0])) if fn == "ema" else None
        aggs.append(Agg(fn, value, weight, alpha, f"a{i}"))
    return tuple(aggs)


def random_window(rng: np.random.Generator, keys: list[str], clock: int, end: int) -> HotWindow | HotBars:
    """Any window or bars with any arguments."""
    asked = None if rng.random() < 0.4 else tuple(rng.choice([*keys, "nobody"], int(rng.integers(0, len(keys) + 2))))
    clamp = None if rng.random() < 0.6 else Offset(int(rng.integers(0, end + 3)))

    def moment() -> Any:
        if rng.random() < 0.3:
            return None if rng.random() < 0.7 else int(rng.choice([-(2**63), 2**63 - 1, -(2**60), 2**60]))
        return int(rng.integers(-50, clock + 50))

    if rng.random() < 0.4:
        every = int(rng.choice([1, 3, 7, 50, 1000, 2**62]))
        return HotBars(random_aggs(rng, bars=True), every, asked, moment(), moment(), clamp)
    by_rows = rng.random() < 0.4
    return HotWindow(
        random_aggs(rng, bars=False), asked, moment(), moment(),
        None if by_rows else int(rng.choice([1, 2, 10, 40, 10**4, 2**63 - 1])),
        int(rng.choice([1, 2, 5, 30, 10**6])) if by_rows else None, clamp,
    )  # fmt: skip
