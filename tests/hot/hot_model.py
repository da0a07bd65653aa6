"""The naive model of a hot set: a list of rows and the definitions of docs/architecture.md, taken literally."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from proxist.hot.ops import HotAsof, HotFirstBy, HotLastBy, HotPart, HotScan, Probes
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import TableSpec, parse_spec

FOREVER_NS = 2**62


def make_spec(*, seq: bool = True, values: bool = True, hot_bytes: int = 2**20) -> TableSpec:
    columns: list[dict[str, Any]] = [
        {"name": "sym", "type": "string"},
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
    ]
    if seq:
        columns.append({"name": "id", "type": "uint64"})
    if values:
        columns += [
            {"name": "price", "type": "double", "nullable": True},
            {"name": "flag", "type": "bool"},
            {"name": "venue", "type": "string", "nullable": True},
            {"name": "note", "type": "string"},
            {"name": "raw", "type": "binary", "nullable": True},
            {"name": "levels", "type": "list<item: double>"},
            {"name": "cost", "type": "decimal128(20, 4)"},
        ]
    wire = {
        "name": "ticks", "time": "ts", "key": "sym", "seq": "id" if seq else None, "columns": columns,
        "hot_bytes": hot_bytes,
    }  # fmt: skip
    return parse_spec(wire)


def values_at(offset: int) -> dict[str, Any]:
    """The value columns of a row, from its offset alone."""
    from decimal import Decimal

    return {
        "price": None if offset % 7 == 3 else offset / 4,
        "flag": offset % 3 == 0,
        "venue": None if offset % 5 == 1 else f"venue{offset % 11}",
        "note": f"{offset}" * (60 if offset % 4 == 2 else 1),
        "raw": None if offset % 6 == 5 else bytes([offset % 251]) * (offset % 40),
        "levels": [float(offset + i) for i in range(offset % 9)],
        "cost": Decimal(offset - 500) / Decimal(100),
    }


@dataclass(frozen=True)
class Row:
    offset: int
    key: str
    time: int
    seq: int

    @property
    def order(self) -> tuple[int, int, int]:
        return (self.time, self.seq, self.offset)


def batch_of(spec: TableSpec, rows: list[Row]) -> pa.RecordBatch:
    """The rows as a record batch of the table."""
    columns: dict[str, list[Any]] = {"sym": [r.key for r in rows], "ts": [r.time for r in rows]}
    if spec.seq:
        columns["id"] = [r.seq for r in rows]
    if any(c.name == "price" for c in spec.columns):
        values = [values_at(r.offset) for r in rows]
        for name in values_at(0):
            columns[name] = [v[name] for v in values]
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[f.name], f.type) if f.name != "ts" else pa.array(columns["ts"], pa.int64()).cast(f.type) for f in spec.schema],
        schema=spec.schema,
    )  # fmt: skip


def new_hot_set(spec: TableSpec, **options: Any) -> HotSet:
    hot = HotSet.create(spec, ShardId(7), Epoch(3), Offset(0), **options)
    hot.set_lease_until(FOREVER_NS)
    return hot


class Oracle:
    """Rows by definition. `check` compares a part, and its merge with cold rows, against all rows ever accepted."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.rows: list[Row] = []
        self.by_key: dict[str, list[Row]] = {}

    def add(self, rows: list[Row]) -> None:
        self.rows += rows
        for row in rows:
            self.by_key.setdefault(row.key, []).append(row)

    def below(self, key: str, end: int) -> list[Row]:
        return [r for r in self.by_key.get(key, []) if r.offset < end]

    def returned(self, rows: pa.RecordBatch, names: tuple[str, ...] | None) -> list[Row | None]:
        """The model's rows that the part's rows claim to be; every value is compared."""
        out: list[Row | None] = []
        wanted = {c.name for c in self.spec.columns} if names is None else set(names)
        columns = {name: _plain(rows.column(name)) for name in rows.schema.names}
        for name in wanted - {self.spec.key}:
            assert name in columns, name
        for i, offset in enumerate(columns["_offset"]):
            if offset is None:
                assert all(values[i] is None for values in columns.values())
                out.append(None)
                continue
            row = self.rows[offset]
            known: dict[str, Any] = {"sym": row.key, "ts": row.time, "id": row.seq, "_offset": offset}
            known |= values_at(offset)
            for name, values in columns.items():
                assert values[i] == known[name], (name, offset)
            out.append(row)
        return out

    def check(self, part: HotPart, op: Any, probes: Probes | None = None) -> None:
        if isinstance(op, HotScan):
            self._check_scan(part, op)
        elif isinstance(op, HotAsof):
            assert probes is not None
            self._check_asof(part, op, probes)
        else:
            self._check_by_key(part, op)

    def _check_by_key(self, part: HotPart, op: HotLastBy | HotFirstBy) -> None:
        hot = self.returned(part.rows, op.columns)
        keys = [r.key for r in hot if r is not None]
        assert keys == sorted(set(keys), key=str.encode)
        by_key = {r.key: r for r in hot if r is not None}
        last = isinstance(op, HotLastBy)
        for key in op.keys if op.keys is not None else self.by_key:

            def best(rows: list[Row]) -> Row | None:
                if last:
                    return max(
                        (r for r in rows if op.at_ns is None or r.time <= op.at_ns), key=lambda r: r.order, default=None
                    )
                return min((r for r in rows if op.at_ns is None or r.time >= op.at_ns), key=lambda r: r.order, default=None)  # fmt: skip

            merged = [r for r in [by_key.get(key)] if r is not None]
            if part.cold.keys is None or key in part.cold.keys:
                merged += self.below(key, min(part.seam, part.end))
            assert best(merged) == best(self.below(key, part.end)), (key, part, op)

    def _check_scan(self, part: HotPart, op: HotScan) -> None:
        def inside(r: Row) -> bool:
            return (
                (op.keys is None or r.key in op.keys)
                and (op.from_ns is None or r.time >= op.from_ns)
                and (op.to_ns is None or r.time < op.to_ns)
            )

        hot = self.returned(part.rows, op.columns)
        expected = sorted((r for r in self.rows[part.seam : part.end] if inside(r)), key=lambda r: r.order)
        if op.ordered:
            assert hot == expected[: op.limit]
        else:
            assert {r.offset for r in hot if r} == {r.offset for r in expected}
            assert len(hot) == len(expected)
        for r in self.rows[: min(part.seam, part.end)]:
            assert not inside(r) or part.cold.keys is None or r.key in part.cold.keys

    def _check_asof(self, part: HotPart, op: HotAsof, probes: Probes) -> None:
        hot = self.returned(part.rows, op.columns)
        undecided = set(part.cold.probes.tolist()) if part.cold.probes is not None else set()
        for i, (key, at) in enumerate(zip(probes.keys.to_pylist(), probes.times_ns.tolist(), strict=True)):
            row = hot[i]
            merged = [row] if row is not None else []
            if i in undecided:
                merged += self.below(key, min(part.seam, part.end))
            truth = self.asof(self.below(key, part.end) if key is not None else [], at, op)
            assert self.asof(merged, at, op) == truth, (key, at, op, part.seam, part.end, row)

    @staticmethod
    def asof(rows: list[Row], at: int, op: HotAsof) -> Row | None:
        within = [
            r for r in rows
            if (op.tolerance_ns is None or abs(r.time - at) <= op.tolerance_ns) and (op.allow_exact or r.time != at)
        ]  # fmt: skip
        back = max((r for r in within if r.time <= at), key=lambda r: r.order, default=None)
        ahead = min((r for r in within if r.time >= at), key=lambda r: r.order, default=None)
        if op.direction == "backward":
            return back
        if op.direction == "forward":
            return ahead
        if back is None or ahead is None:
            return back or ahead
        return back if at - back.time <= ahead.time - at else ahead


def _plain(column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())
    return list(column.to_pylist())


def random_rows(rng: np.random.Generator, first: int, count: int, keys: list[str], clock: int, style: str) -> list[Row]:
    """Rows from `first` on, around time `clock`: in order, late, tied, or with wild timestamps."""
    rows = []
    seqs = str(rng.choice(["small", "offset", "falling", "mixed"]))
    for offset in range(first, first + count):
        key = keys[int(rng.integers(0, len(keys)))] if style != "one key" else keys[0]
        time_ns = clock + (offset - first) // 3
        if style == "late":
            time_ns -= int(rng.integers(0, 60))
        elif style == "ties":
            time_ns = clock
        elif style == "wild" and rng.random() < 0.2:
            time_ns = int(rng.integers(-1000, 3000))
        elif style == "far" and rng.random() < 0.02:
            time_ns = int(rng.choice([-(2**60), 2**60]))
        kind = seqs if seqs != "mixed" else str(rng.choice(["small", "offset"]))
        seq = int(rng.integers(0, 7)) if kind == "small" else offset if kind == "offset" else 2**40 - offset
        if seqs == "mixed" and rng.random() < 0.01:
            seq = 2**64 - 1
        rows.append(Row(offset, key, time_ns, seq))
    return rows


def random_op(rng: np.random.Generator, keys: list[str], clock: int, end: int) -> tuple[Any, Probes | None]:
    """Any operation with any arguments."""
    asked = None if rng.random() < 0.4 else tuple(rng.choice([*keys, "nobody"], int(rng.integers(0, len(keys) + 2))))
    columns = [None, (), ("price",), ("raw", "venue"), ("sym", "ts", "levels", "note"), ("id", "cost", "flag")]
    names: Any = columns[int(rng.integers(0, len(columns)))]
    clamp = None if rng.random() < 0.6 else Offset(int(rng.integers(0, end + 3)))

    def moment() -> Any:
        if rng.random() < 0.1:
            return int(rng.choice([-(2**63), 2**63 - 1, -(2**60), 2**60]))
        return int(rng.integers(-50, clock + 50))

    kind = rng.integers(0, 4)
    if kind == 0:
        return HotLastBy(asked, names, None if rng.random() < 0.3 else moment(), clamp), None
    if kind == 1:
        return HotFirstBy(asked, names, None if rng.random() < 0.3 else moment(), clamp), None
    if kind == 2:
        limit = None if rng.random() < 0.6 else int(rng.integers(0, 30))
        return (
            HotScan(
                asked, names, None if rng.random() < 0.4 else moment(), None if rng.random() < 0.4 else moment(), limit,
                "persisted" if rng.random() < 0.3 else "floor", clamp, ordered=limit is not None or rng.random() < 0.8,
            ),
            None,
        )  # fmt: skip
    count = int(rng.integers(0, 12))
    probes = Probes(
        pa.array(
            [None if rng.random() < 0.1 else str(rng.choice([*keys, "nobody"])) for _ in range(count)], pa.string()
        ),
        np.array([moment() for _ in range(count)], np.int64),
    )
    direction = str(rng.choice(["backward", "forward", "nearest"]))
    tolerance = None if rng.random() < 0.5 else int(rng.integers(0, 40))
    return HotAsof(names, direction, tolerance, bool(rng.random() < 0.7), clamp), probes


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    """Poll until `condition()` is true; fails at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)
