"""A table over real hot sets and a real ClickHouse engine, without the services between them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proxist.clickhouse import ClickHouse, sort_columns
from proxist.errors import NotFound
from proxist.hot.ops import HotOp, HotPart, Probes
from proxist.hot.reader import HotReader
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId, TableId, log_id
from proxist.model.query import Sql, parse_query
from proxist.model.table import Table, parse_spec
from proxist.seam import Answer, Chain, Executor, Log, ReadRules
from proxist_query.cold import Cold
from proxist_query.engine import Engine
from proxist_query.sql import SqlRun

NOW_NS = 1_723_161_600_000_000_000
EPOCH = Epoch(3)


@dataclass
class Shard:
    hot: HotSet
    reader: HotReader
    end: int = 0
    persisted: int = 0
    rows: list[pa.Table] = field(default_factory=list)
    """Everything that was written, with `_log` and `_offset`."""


class RealTiers:
    """Catalog and HotSource of one or several tables; history is in `clickhouse`."""

    def __init__(self, clickhouse: ClickHouse, engine: Engine) -> None:
        self.clickhouse = clickhouse
        self.engine = engine
        self.cold = Cold(clickhouse)
        self.tables: dict[str, Table] = {}
        self.shards: dict[ShardId, Shard] = {}
        self.hot_reads = 0

    def create(self, spec: Mapping[str, Any]) -> Table:
        parsed = parse_spec(dict(spec))
        first = len(self.shards) + 1
        ids = tuple(ShardId(first + slot) for slot in range(parsed.shards))
        table = Table(TableId(first), "default", parsed, ids)
        self.clickhouse.create_table(table)
        self.tables[table.name] = table
        for shard in ids:
            hot = HotSet.create(parsed, shard, EPOCH, Offset(0))
            hot.set_lease_until(time.monotonic_ns() + 3600 * 10**9)
            self.shards[shard] = Shard(hot, hot.reader())
        return table

    def close(self) -> None:
        for shard in self.shards.values():
            shard.reader.close()
            shard.hot.close()
        for table in self.tables.values():
            self.clickhouse.drop_table(table)

    def write(self, name: str, rows: pa.Table) -> None:
        """Append to the shards of the keys, and publish."""
        table = self.tables[name]
        slots = np.array([table.slot_of(key) for key in rows.column(table.spec.key).to_pylist()], np.int64)
        for slot, number in enumerate(table.shard_ids):
            part = rows.filter(pa.array(slots == slot)).select(table.spec.schema.names)
            if not part.num_rows:
                continue
            shard = self.shards[number]
            batch = part.cast(table.spec.schema).combine_chunks().to_batches()[0]
            shard.hot.append(batch, Offset(shard.end), time.time_ns())
            offsets = pa.array(np.arange(shard.end, shard.end + part.num_rows), pa.uint64())
            logs = pa.array(np.full(part.num_rows, log_id(number, EPOCH)), pa.uint64())
            shard.rows.append(
                pa.Table.from_batches([batch]).append_column("_log", logs).append_column("_offset", offsets)
            )
            shard.end += part.num_rows
            shard.hot.publish(Offset(shard.end))

    def persist(self, name: str, share: float) -> None:
        """The first `share` of each shard's rows is in ClickHouse, and a few more that nobody has confirmed."""
        table = self.tables[name]
        for number in table.shard_ids:
            shard = self.shards[number]
            until = int(shard.end * share)
            if until <= shard.persisted:
                continue
            rows = pa.concat_tables(shard.rows)
            self._insert(table, rows.slice(shard.persisted, until - shard.persisted), f"{number}:{until}")
            shard.persisted = until
            shard.hot.set_persisted(Offset(until))

    def _insert(self, table: Table, rows: pa.Table, token: str) -> None:
        rows = rows.sort_by([(name, "ascending") for name in sort_columns(table.spec)])
        days = pc.strftime(rows.column(table.spec.time), "%Y%m%d")
        for day in sorted(set(days.to_pylist())):
            self.clickhouse.insert(table, rows.filter(pc.equal(days, day)), f"{token}:{day}")

    def evict(self, name: str, share: float) -> None:
        """The floor at `share` of what is persisted."""
        for number in self.tables[name].shard_ids:
            shard = self.shards[number]
            shard.hot.evict(Offset(int(shard.persisted * share)))

    # Catalog
    def table(self, tenant: str, name: str) -> Table:
        if tenant != "default" or name not in self.tables:
            raise NotFound(f"There is no table {name!r}.")
        return self.tables[name]

    def chain(self, shard: ShardId, at_least: Epoch) -> Chain:
        return Chain(shard, (Log(EPOCH, Offset(0), None, "open"),))

    # HotSource
    def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        self.hot_reads += 1
        return self.shards[shard].reader.run(op, probes)

    # Questions
    def ask(self, wire: Mapping[str, Any], probes: pa.Table | None = None) -> Answer:
        query = parse_query(dict(wire))
        if isinstance(query.verb, Sql):
            rules = ReadRules.of(query)
            run = SqlRun(self, self, self.clickhouse, self.engine, rules, lambda: None, lambda: 60.0)
            return run.run(query.verb.text, "default", NOW_NS)
        return Executor(self, self, self.cold).run(query, "default", probes)

    def sql(self, text: str, **beside: Any) -> Answer:
        return self.ask({"sql": text, **beside})

    def four_moments(self) -> Iterator[str]:
        """All hot; half persisted, floor at 0; floor in the middle of what is persisted; all cold."""
        yield "all hot"
        for name in self.tables:
            self.persist(name, 0.5)
        yield "half persisted"
        for name in self.tables:
            self.persist(name, 0.8)
            self.evict(name, 0.6)
        yield "floor in the middle"
        for name in self.tables:
            self.persist(name, 1.0)
            self.evict(name, 1.0)
        yield "all cold"


@contextmanager
def real_tiers(clickhouse: ClickHouse, engine: Engine) -> Iterator[RealTiers]:
    tiers = RealTiers(clickhouse, engine)
    try:
        yield tiers
    finally:
        tiers.close()
