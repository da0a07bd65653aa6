"""DuckDB, polars and the embedded ClickHouse on the same rows, in the same run, each asked in its own best way."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.report import Report, latency
from benchmarks.rows import PROBES, Rows

Questions = dict[str, Callable[[], Any]]
ONE, ALL, ASOF = "last_by, one key", "last_by, all keys", f"as-of, {PROBES:,} probes"


def measure(report: Report, rows: Rows, ours: Mapping[str, float]) -> None:
    """`ours` are the engine's p50s; the ratio says how many times as long the other one takes."""
    report.section("others on the same rows (floor: our engine; ratio: how many times as long)")
    with tempfile.TemporaryDirectory(prefix="proxist-bench-") as directory:
        path = Path(directory) / "rows.parquet"
        pq.write_table(rows.table, path)
        for name, prepare in (("DuckDB", _duckdb), ("polars", _polars), ("ClickHouse embedded", _clickhouse)):
            try:
                for question, ask in prepare(rows, path).items():
                    report.timed(f"{name}: {question}", latency(ask, warm=1, for_s=1.0), ours.get(question))
            except Exception as error:
                report.missing(name, error)


def _duckdb(rows: Rows, path: Path) -> Questions:
    import duckdb

    base = duckdb.connect()
    base.execute("SET TimeZone = 'UTC'")
    base.execute(f"CREATE TABLE bench AS SELECT * FROM read_parquet('{path}')")
    base.execute("CREATE INDEX by_symbol ON bench (symbol)")
    base.register("probes", rows.probes)
    base.execute("CREATE TABLE probe AS SELECT * FROM probes")
    key = rows.keys[len(rows.keys) // 2]
    last = "max_by(price, (ts, trade_id)), max_by(size, (ts, trade_id)), max(ts)"
    asof = "SELECT p.*, b.price, b.size FROM probe p ASOF LEFT JOIN bench b ON p.symbol = b.symbol AND p.ts >= b.ts"

    def run(text: str) -> Callable[[], Any]:
        return lambda: base.sql(text).to_arrow_table()

    return {
        ONE: run(f"SELECT * FROM bench WHERE symbol = '{key}' ORDER BY ts DESC, trade_id DESC LIMIT 1"),
        ALL: run(f"SELECT symbol, {last} FROM bench GROUP BY symbol"),
        ASOF: run(asof),
    }


def _polars(rows: Rows, path: Path) -> Questions:
    import polars as pl

    frame = pl.read_parquet(path).sort("symbol", "ts", "trade_id")
    by_time = frame.sort("ts", "trade_id")
    probes = pl.DataFrame(rows.probes).sort("ts")
    key = rows.keys[len(rows.keys) // 2]
    return {
        ONE: lambda: by_time.lazy().filter(pl.col("symbol") == key).last().collect(),
        ALL: lambda: by_time.lazy().group_by("symbol").last().collect(),
        ASOF: lambda: probes.join_asof(by_time, on="ts", by="symbol", check_sortedness=False),
    }


def _clickhouse(rows: Rows, path: Path) -> Questions:
    from chdb.session import Session

    session = Session(str(path.parent / "chdb"))
    columns = "symbol LowCardinality(String), ts DateTime64(9, 'UTC'), trade_id UInt64, price Float64, size Float64"
    session.query("CREATE DATABASE store")
    session.query(f"CREATE TABLE store.bench ({columns}) ENGINE = MergeTree ORDER BY (symbol, ts, trade_id)")
    session.query(f"INSERT INTO store.bench SELECT symbol, ts, trade_id, price, size FROM file('{path}', Parquet)")
    pq.write_table(_as_table(rows), path.parent / "probes.parquet")
    session.query("CREATE TABLE store.probe (symbol String, ts DateTime64(9, 'UTC')) ENGINE = Memory")
    session.query(f"INSERT INTO store.probe SELECT symbol, ts FROM file('{path.parent}/probes.parquet', Parquet)")
    key = rows.keys[len(rows.keys) // 2]
    last = "argMax(price, (ts, trade_id)), argMax(size, (ts, trade_id)), max(ts)"
    asof = "SELECT p.symbol, p.ts, b.price, b.size FROM store.probe AS p ASOF LEFT JOIN store.bench AS b ON p.symbol = b.symbol AND p.ts >= b.ts"

    def run(text: str) -> Callable[[], Any]:
        return lambda: session.query(text, "Arrow")

    return {
        ONE: run(f"SELECT * FROM store.bench WHERE symbol = '{key}' ORDER BY ts DESC, trade_id DESC LIMIT 1"),
        ALL: run(f"SELECT symbol, {last} FROM store.bench GROUP BY symbol"),
        ASOF: run(asof),
    }


def _as_table(rows: Rows) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches([rows.probes])
