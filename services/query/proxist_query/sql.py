"""SQL over both tiers. Plan (a): RAM suffices, the rows go to the engine in this process, ClickHouse is not asked.
Plan (b): every table is the union of its history below the cut and its tail, sent along; any SQL is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from proxist.clickhouse import ClickHouse, table_name
from proxist.errors import InvalidArgument, NotFound, ProxistError, TransientError, Unavailable
from proxist.hot.ops import HotScan
from proxist.model.ids import Offset, TimeNs
from proxist.model.receipt import Receipt
from proxist.model.units import format_time_ns
from proxist.seam import Answer, ReadRules, ShardReader
from proxist.seam.reader import shards_of
from proxist.seam.sources import Catalog, HotSource, Step
from proxist.sql import Prepared, TableUse, prepare
from proxist.telemetry import tracing
from proxist_query.engine import Engine, plain, rows_as_files
from proxist_query.relation import Relation

HOT_PLAN, UNION_PLAN = "sql-hot", "sql-union"
TAIL = "__px_tail_"
BEFORE_ALL = TimeNs(-(2**63))
EXPLAIN_SCHEMA = pa.schema(
    [
        pa.field("plan", pa.string()),
        pa.field("table", pa.string()),
        pa.field("shard", pa.uint64()),
        pa.field("epoch", pa.uint64()),
        pa.field("seam", pa.uint64()),
        pa.field("end", pa.uint64()),
        pa.field("rows_hot", pa.uint64()),
        pa.field("rows_cold", pa.uint64()),
    ]
)


@dataclass(slots=True)
class SqlRun:
    """One SQL query. Not thread-safe."""

    catalog: Catalog
    hot: HotSource
    clickhouse: ClickHouse
    engine: Engine
    rules: ReadRules
    step: Step
    seconds_left: Callable[[], float]
    reader: ShardReader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = ShardReader(self.catalog, self.hot, self.rules, self.step)

    def run(self, text: str, tenant: str, now_ns: int) -> Answer:
        """Raises what `proxist.sql.prepare` and the executor raise, and InvalidArgument with ClickHouse's own words."""
        prepared = prepare(text, tenant, lambda name: self.catalog.table(tenant, name), now_ns)
        hot = self._ram_suffices(prepared)
        relations = {use.table.name: self._relation(use, "floor" if hot else "persisted") for use in prepared.uses}
        # Between the question and the answer the floor may have moved: then history has what was asked for.
        if hot and any(_needs_cold(relation) for relation in relations.values()):
            hot, relations = False, {use.table.name: self._relation(use, "persisted") for use in prepared.uses}
        plan = HOT_PLAN if hot else UNION_PLAN
        if prepared.explain:
            return self._explain(prepared, relations, plan, now_ns)
        if hot:
            return self._answer(prepared, relations, plan, self._in_engine(prepared, relations), now_ns)
        try:
            return self._answer(prepared, relations, plan, self._in_clickhouse(prepared, relations), now_ns)
        except TransientError as error:
            if not self.rules.best_effort:
                raise
            self.reader.missing.append(f"history: {error.message}")
        relations = {use.table.name: self._relation(use, "floor") for use in prepared.uses}
        return self._answer(prepared, relations, HOT_PLAN, self._in_engine(prepared, relations), now_ns)

    def schema(self, text: str, tenant: str, now_ns: int) -> pa.Schema:
        """The schema of the answer, found by running the query over empty tables in the engine."""
        prepared = prepare(text, tenant, lambda name: self.catalog.table(tenant, name), now_ns)
        if prepared.explain:
            return EXPLAIN_SCHEMA
        empty = {use.table.name: Relation(use, ()) for use in prepared.uses}
        return self._in_engine(prepared, empty).schema

    def _ram_suffices(self, prepared: Prepared) -> bool:
        """Asks the owners without rows. It also fixes each shard's end for the whole query."""
        for use in prepared.uses:
            for shard, keys in shards_of(use.table, use.bounds.keys).items():
                read = self.reader.read(use.table, shard, question(keys, use.bounds.from_ns))
                if read is not None and read.part.cold and read.cold is not None:
                    return False
        return True

    def _relation(self, use: TableUse, seam: str) -> Relation:
        reads = [
            self.reader.read(use.table, shard, _scan(use, keys, seam))
            for shard, keys in shards_of(use.table, use.bounds.keys).items()
        ]
        return Relation(use, tuple(read for read in reads if read is not None))

    def _in_engine(self, prepared: Prepared, relations: Mapping[str, Relation]) -> pa.Table:
        self.step()
        with rows_as_files({name: relation.rows() for name, relation in relations.items()}) as paths:
            texts = {name: relation.of_file(paths[name]) for name, relation in relations.items()}
            with tracing.span("sql.engine") as span:
                rows = _uniform(self.engine.query(prepared.render(texts)))
                span.set("db.response.returned_rows", rows.num_rows)
                return rows

    def _in_clickhouse(self, prepared: Prepared, relations: Mapping[str, Relation]) -> pa.Table:
        external: dict[str, pa.Table] = {}
        structures, texts = {}, {}
        for name, relation in relations.items():
            rows = relation.rows()
            tail = TAIL + name if rows.num_rows else None
            if tail is not None:
                external[tail], structures[tail] = rows, relation.structure
            texts[name] = relation.of_both(tail)
        self.step()
        try:
            settings = {"session_timezone": "UTC", "max_execution_time": max(1, round(self.seconds_left()))}
            answer = self.clickhouse.query(
                prepared.render(texts), external or None, settings, structures=structures or None
            )
        except ProxistError as error:
            raise _told(error) from None
        return _uniform(answer)

    def _explain(self, prepared: Prepared, relations: Mapping[str, Relation], plan: str, now_ns: int) -> Answer:
        """One row per shard: its cut, and how many rows each tier would give."""
        rows: list[dict[str, Any]] = []
        for name, relation in relations.items():
            cold = {} if plan == HOT_PLAN else self._cold_counts(relation)
            for read in relation.reads:
                part = read.part
                seam = min(part.seam, part.persisted, part.end)
                cut = {"shard": read.shard, "epoch": part.epoch, "seam": seam, "end": part.end}
                counts = {"rows_hot": read.num_rows, "rows_cold": cold.get(read.shard, 0)}
                rows.append({"plan": plan, "table": name, **cut, **counts})
        table = pa.Table.from_pylist(rows, schema=EXPLAIN_SCHEMA)
        return self._answer(prepared, relations, plan, table, now_ns)

    def _cold_counts(self, relation: Relation) -> dict[int, int]:
        if not relation.cuts:
            return {}
        text = (
            f"SELECT intDiv(_log, 16777216) AS shard, count() AS n FROM {table_name(relation.use.table)} "
            f"WHERE {relation.cold_condition()} GROUP BY shard"
        )
        try:
            counted = self.clickhouse.query(text, settings={"session_timezone": "UTC"}).to_pylist()
        except ProxistError as error:
            raise _told(error) from None
        return {row["shard"]: row["n"] for row in counted}

    def _answer(
        self, prepared: Prepared, relations: Mapping[str, Relation], plan: str, rows: pa.Table, now_ns: int
    ) -> Answer:
        """`rows_cold` counts the offsets below the cuts: what history stands for, not what ClickHouse had to read."""
        reads = [read for relation in relations.values() for read in relation.reads]
        hot_rows = sum(read.num_rows for read in reads)
        below = {read.shard: read.cold.below for read in reads if read.cold is not None} if plan == UNION_PLAN else {}
        receipt = Receipt(
            cuts=self.reader.cuts,
            rows_hot=hot_rows,
            rows_cold=sum(below.values()),
            plan=plan,
            cold_used=bool(below),
            hot_used=hot_rows > 0 or not below,
            schema_version={use.table.name: use.table.schema_version for use in prepared.uses},
            now=format_time_ns(now_ns) if prepared.reads_clock else None,
            not_repeatable=prepared.not_repeatable,
            missing=tuple(dict.fromkeys(self.reader.missing)),
        )
        return Answer(rows, receipt)


def _scan(use: TableUse, keys: tuple[str, ...] | None, seam: str) -> Callable[[Offset | None], HotScan]:
    bounds = use.bounds
    return lambda end: HotScan(keys, use.columns, bounds.from_ns, bounds.to_ns, None, seam, end, ordered=False)


def question(keys: tuple[str, ...] | None, from_ns: TimeNs | None) -> Callable[[Offset | None], HotScan]:
    """A scan of no rows, whose answer says whether RAM has all from `from_ns` on: what was evicted decides that, not
    where the range ends."""
    return lambda end: HotScan(keys, (), from_ns, BEFORE_ALL, None, "floor", end, ordered=False)


def _needs_cold(relation: Relation) -> bool:
    return any(read.part.cold and read.cold is not None for read in relation.reads)


def _told(error: ProxistError) -> ProxistError:
    """The caller's mistake in ClickHouse's own words, without our statement; what is not his mistake as Unavailable."""
    if isinstance(error, NotFound):
        return Unavailable(f"History cannot be read: {plain(error.message)} Check the table in ClickHouse.")
    if isinstance(error, InvalidArgument):
        name = str(error.details.get("clickhouse_name", "UNKNOWN"))
        sentence = error.message.partition(f"{name}: ")[2] or error.message
        return InvalidArgument(f"The query is refused, {name}: {plain(sentence)}", **error.details)
    return error


def _uniform(rows: pa.Table) -> pa.Table:
    """Every field nullable and without metadata: servers differ in how they mark what cannot be null."""
    return pa.Table.from_arrays(rows.columns, schema=pa.schema([f.with_nullable(True) for f in rows.schema]))
