"""Rows in plain lists, split over RAM and history as the marks say: the model beside the executor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import naive_windows
import numpy as np
import pyarrow as pa

from proxist.errors import NotFound, Unavailable
from proxist.hot.ops import (
    ColdNeed,
    HotAsof,
    HotBars,
    HotFirstBy,
    HotLastBy,
    HotOp,
    HotPart,
    HotScan,
    HotWindow,
    Probes,
)
from proxist.model.ids import Epoch, Offset, ShardId, TableId, log_id
from proxist.model.query import Agg
from proxist.model.table import Table, TableSpec, parse_spec
from proxist.seam.cuts import Chain, ColdCut, Log
from proxist.seam.sources import ColdAsof, ColdFirstBy, ColdLastBy, ColdOp, ColdScan
from proxist.seam.warm import WarmAnswer, WarmPart

NAMES = ("symbol", "ts", "id", "price", "_log", "_offset")


def make_table(shards: int = 1, seq: bool = True, name: str = "trades", first_shard: int = 1) -> Table:
    spec = parse_spec(
        {
            "name": name,
            "time": "ts",
            "key": "symbol",
            "seq": "id" if seq else None,
            "columns": [
                {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
                {"name": "symbol", "type": "string"},
                {"name": "id", "type": "uint64"},
                {"name": "price", "type": "int64", "nullable": True},
            ],
        }
    )
    return Table(TableId(1), "default", spec, tuple(ShardId(first_shard + i) for i in range(shards)))


@dataclass(frozen=True)
class Row:
    symbol: str
    ts: int
    id: int
    price: int | None
    shard: int
    offset: int
    epoch: int

    def order(self, seq: bool) -> tuple[int, int, int, int]:
        return (self.ts, self.id if seq else 0, self.offset, self.shard)

    def value(self, name: str) -> Any:
        if name == "_log":
            return log_id(ShardId(self.shard), Epoch(self.epoch))
        return self.offset if name == "_offset" else getattr(self, name)


@dataclass
class Shard:
    """`stored` is what ClickHouse has: everything below persisted, and whatever else a test puts there."""

    rows: list[Row] = field(default_factory=list)
    stored: list[Row] = field(default_factory=list)
    floor: int = 0
    persisted: int = 0
    end: int = 0
    logs: list[Log] = field(default_factory=lambda: [Log(Epoch(1), Offset(0), None, "open")])
    down: bool = False


@dataclass
class Tiers:
    """A catalog, a hot source and a cold source over the same lists."""

    table_: Table
    shards: dict[int, Shard]
    statements: int = 0
    hot_reads: int = 0
    precise: bool = True
    """Whether the hot side names the keys that need cold, or, of odd shards, says: all."""
    drift: bool = False
    """Whether each hot read is followed by an eviction of all that is persisted, and that by more persisting."""
    warm_reads: int = 0
    moving: int = 0
    """So many warm reads find that half of the rows went to history, and the log let go of them."""

    def write(self, symbol: str, ts: int, id_: int, price: int | None) -> Row:
        number = self.table_.shard_ids[self.table_.slot_of(symbol)]
        shard = self.shards[number]
        row = Row(symbol, ts, id_, price, number, shard.end, shard.logs[-1].epoch)
        shard.rows.append(row)
        shard.stored.append(row)
        shard.end += 1
        return row

    def move(self, number: int, floor: int, persisted: int) -> None:
        """Above persisted the floor leaves warm rows behind: in the log, in neither tier."""
        shard = self.shards[number]
        shard.persisted = min(persisted, shard.end)
        shard.floor = min(floor, shard.end)

    def rows(self, ends: dict[int, int] | None = None) -> list[Row]:
        """The table as it was at `ends`."""
        return [r for n, s in self.shards.items() for r in s.rows if r.offset < (ends or {}).get(n, s.end)]

    # Catalog
    def table(self, tenant: str, name: str) -> Table:
        if name != self.table_.name or tenant != "default":
            raise NotFound(f"Table {name!r} is unknown.")
        return self.table_

    def chain(self, shard: ShardId, at_least: Epoch) -> Chain:
        return Chain(shard, tuple(self.shards[shard].logs))

    # HotSource
    def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        self.hot_reads += 1
        state = self.shards[shard]
        if state.down:
            raise Unavailable(f"Shard {shard} has no owner.")
        end = state.end if op.end is None else min(state.end, op.end)
        tail = isinstance(op, HotScan) and op.seam == "persisted"
        seam = max(state.floor, state.persisted) if tail else state.floor
        rows = [r for r in state.rows if seam <= r.offset < end]
        evicted = {r.symbol for r in state.rows if r.offset < min(seam, end)}
        cold = ColdNeed()
        if isinstance(op, HotAsof):
            assert probes is not None
            found = matches(rows, probes, op, self.seq)
            names = tuple(dict.fromkeys((*(op.columns or NAMES[:4]), "ts", "id", "_offset")))
            batch = batch_of([found[i] for i in range(len(probes.times_ns))], names, self.table_)
            keys = probes.keys.to_pylist()
            cold = ColdNeed((), np.array([i for i, k in enumerate(keys) if k in evicted], np.int64))
        elif isinstance(op, HotWindow | HotBars):
            asked = [r for r in rows if op.keys is None or r.symbol in op.keys]
            need = tuple(sorted(k for k in evicted if op.keys is None or k in op.keys))
            cold = ColdNeed(need if self.precise or shard % 2 == 0 or not need else None)
            decided = [] if cold.keys is None else [r for r in asked if r.symbol not in need]
            batch = self.aggregated(decided, op)
        else:
            asked = [r for r in rows if op.keys is None or r.symbol in op.keys]
            found = scanned(asked, op, self.seq) if isinstance(op, HotScan) else by_key(asked, op, self.seq)
            if isinstance(op, HotScan) and op.before:
                assert op.from_ns is not None
                found += last_before(asked, op.from_ns, op.before, self.seq)
            names = tuple(dict.fromkeys(("symbol", "ts", "id", *(op.columns or NAMES[:4]), "_offset")))
            batch = batch_of(found, names, self.table_)
            need = tuple(sorted(k for k in evicted if op.keys is None or k in op.keys))
            cold = ColdNeed(need if self.precise or shard % 2 == 0 or not need else None)
        floor, persisted = Offset(state.floor), Offset(state.persisted)
        if self.drift:
            self.move(shard, max(state.floor, state.persisted), (state.persisted + state.end + 1) // 2)
        return HotPart(batch, state.logs[-1].epoch, Offset(seam), Offset(end), floor, persisted, cold)

    def warm(self, shard: ShardId, op: HotOp, probes: Probes | None, first: Offset, end: Offset) -> WarmPart:
        """The answer of `proxist.seam.warm`, from chunks of three rows."""
        self.warm_reads += 1
        state = self.shards[shard]
        if self.moving:
            self.moving -= 1
            self.move(shard, state.floor, (state.persisted + state.floor + 1) // 2)
        if state.persisted > first:
            raise Unavailable("the log let go of rows", reason="persisted")
        assert first == state.persisted
        assert end <= state.floor
        assert isinstance(op, HotScan | HotLastBy | HotFirstBy | HotAsof)
        asked = getattr(op, "keys", None)
        known = tuple(sorted({r.symbol for r in state.rows if asked is None or r.symbol in asked}))
        answer = WarmAnswer(self.table_.spec, op, probes, known if self.precise else None)
        columns = tuple(column.name for column in self.table_.spec.columns)
        for start in reversed(range(first, end, 3)):
            rows: list[Row | None] = [r for r in state.rows if start <= r.offset < min(start + 3, end)]
            times = [r.ts for r in rows if r is not None]
            if answer.wants(min(times), max(times)):
                answer.add(pa.Table.from_batches([batch_of(rows, columns, self.table_)]), start)
        below = max((r.ts for r in state.rows if r.offset < first), default=None)
        return answer.part(below)

    def aggregated(self, rows: list[Row], op: HotWindow | HotBars) -> pa.RecordBatch:
        spec = self.table_.spec
        if isinstance(op, HotBars):
            found = naive_windows.bars(rows, op, lambda r: r.order(self.seq))
            columns = {"symbol": [key for _, key, _ in found], "ts": [start for start, _, _ in found]}
        else:
            ended = naive_windows.windows(rows, op, lambda r: r.order(self.seq))
            columns = {name: [row.value(name) for row, _ in ended] for name in ("symbol", *spec.order)}
        values = [one[-1] for one in (found if isinstance(op, HotBars) else ended)]
        types = {name: spec.column(name).type for name in columns} | {"_offset": pa.uint64()}
        for at, agg in enumerate(op.aggs):
            columns[agg.name] = [one[at] for one in values]
            types[agg.name] = type_of_agg(agg, spec)
        if isinstance(op, HotWindow):
            columns["_offset"] = [row.offset for row, _ in ended]
        return pa.RecordBatch.from_arrays([pa.array(v, types[n]) for n, v in columns.items()], list(columns))

    # ColdSource
    def read(self, op: ColdOp) -> pa.Table:
        self.statements += 1
        cuts = {cut.shard: cut for cut in op.cuts}
        rows = [
            r
            for n, s in self.shards.items()
            for r in s.stored
            if n in cuts and _holds(cuts[ShardId(n)], r)
        ]  # fmt: skip
        if isinstance(op, ColdAsof):
            found = matches(rows, op.probes, op, self.seq)
            hits = [(i, r) for i, r in found.items() if r is not None]
            table = pa.Table.from_batches([batch_of([r for _, r in hits], op.columns, self.table_)])
            return table.append_column("_probe", pa.array([i for i, _ in hits], pa.int64()))
        asked = [r for r in rows if op.keys is None or r.symbol in op.keys]
        found_rows = scanned(asked, op, self.seq) if isinstance(op, ColdScan) else by_key(asked, op, self.seq)
        if isinstance(op, ColdScan) and op.before:
            assert op.from_ns is not None
            found_rows += last_before(asked, op.from_ns, op.before, self.seq)
        return pa.Table.from_batches([batch_of(found_rows, op.columns, self.table_)])

    @property
    def seq(self) -> bool:
        return self.table_.spec.seq is not None


def _holds(cut: ColdCut, row: Row) -> bool:
    return cut.holds(row.value("_log"), row.offset)


def scanned(rows: Iterable[Row], op: HotScan | ColdScan, seq: bool) -> list[Row]:
    kept = [
        r for r in rows if (op.from_ns is None or r.ts >= op.from_ns) and (op.to_ns is None or r.ts < op.to_ns)
    ]  # fmt: skip
    return sorted(kept, key=lambda r: r.order(seq))[: op.limit]


def last_before(rows: Iterable[Row], time_ns: int, count: int, seq: bool) -> list[Row]:
    """Of each key the last `count` rows before a time."""
    earlier = sorted((r for r in rows if r.ts < time_ns), key=lambda r: r.order(seq))
    return [row for key in {r.symbol for r in earlier} for row in [r for r in earlier if r.symbol == key][-count:]]


def type_of_agg(agg: Agg, spec: TableSpec) -> pa.DataType:
    if agg.fn == "count":
        return pa.uint64()
    if agg.fn in ("avg", "stddev", "vwap", "ema"):
        return pa.float64()
    return spec.column(str(agg.value)).type


def by_key(rows: Iterable[Row], op: HotLastBy | HotFirstBy | ColdLastBy | ColdFirstBy, seq: bool) -> list[Row]:
    best: dict[str, Row] = {}
    last = isinstance(op, HotLastBy | ColdLastBy)
    for row in sorted(rows, key=lambda r: r.order(seq), reverse=not last):
        if op.at_ns is None or (row.ts <= op.at_ns if last else row.ts >= op.at_ns):
            best[row.symbol] = row
    return [best[k] for k in sorted(best)]


def matches(rows: Iterable[Row], probes: Probes, op: HotAsof | ColdAsof, seq: bool) -> dict[int, Row | None]:
    """The as-of by definition, one probe after the other."""
    ordered = sorted(rows, key=lambda r: r.order(seq))
    out: dict[int, Row | None] = {}
    for i, (key, time) in enumerate(zip(probes.keys.to_pylist(), probes.times_ns.tolist(), strict=True)):
        mine = [r for r in ordered if r.symbol == key and (op.allow_exact or r.ts != time)]
        if op.tolerance_ns is not None:
            mine = [r for r in mine if abs(r.ts - time) <= op.tolerance_ns]
        back = [r for r in mine if r.ts <= time][-1:]
        ahead = [r for r in mine if r.ts >= time][:1]
        candidates = {"backward": back, "forward": ahead, "nearest": [*back, *ahead]}[op.direction]
        out[i] = min(candidates, key=lambda r: abs(r.ts - time), default=None)
    return out


def batch_of(rows: list[Row | None], names: tuple[str, ...], table: Table) -> pa.RecordBatch:
    def type_of(name: str) -> pa.DataType:
        return pa.uint64() if name in ("_log", "_offset") else table.spec.column(name).type

    return pa.RecordBatch.from_arrays(
        [pa.array([None if r is None else r.value(n) for r in rows], type_of(n)) for n in names], list(names)
    )


def make_tiers(shards: int = 1, seq: bool = True, precise: bool = True) -> Tiers:
    table = make_table(shards, seq)
    return Tiers(table, {shard: Shard() for shard in table.shard_ids}, precise=precise)
