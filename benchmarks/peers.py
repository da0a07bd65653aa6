"""S7: DuckDB, polars and the embedded ClickHouse on the same rows in the same run, each asked in its own best way.

Each one holds the rows sorted and indexed as its documentation advises, and must give our answer before it is timed.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bench import Bench, filled
from benchmarks.report import at_least
from benchmarks.rows import COLUMNS, Rows
from benchmarks.timing import Ask, Run, in_turns, median
from benchmarks.windows import HOUR, MINUTES_5_NS, VWAP
from proxist.hot.ops import HotAsof, HotLastBy, HotWindow, probes_from_batch
from proxist.hot.reader import HotReader

ONE, ALL, ASOF, SERIES = "last_by_one_key", "last_by_all_keys", "asof_1000_probes", "vwap_series"
WHAT = {ONE: "last row of one key", ALL: "last row of every key", ASOF: "as-of, 1,000 probes", SERIES: "5-minute VWAP"}
TIMES_FASTER = {ONE: 500.0, ALL: 500.0, ASOF: 50.0, SERIES: 50.0}
LINES = {
    ONE: ("s1.last_by_one_key", "s1.last_by_one_key_arrow"), ALL: ("s1.last_by_all_keys", "s1.last_by_all_keys_arrow"),
    ASOF: ("s2.asof_1000_probes", "s2.asof_1000_probes_arrow"), SERIES: ("s3.vwap_series",),
}  # fmt: skip
WINDOW_US = MINUTES_5_NS // 1_000 - 1
"""Times are whole µs: a range that includes its lower bound is one shorter than ours, which does not."""
Values = npt.NDArray[np.float64]
Questions = Mapping[str, tuple[Callable[[], Any], Callable[[Any], Values]]]
"""question -> (ask, its answer's values in the order of ours)."""


class AnswersDiffer(Exception):
    """Another engine gives another answer: then its time says nothing."""


def measure(bench: Bench) -> None:
    rows, report = bench.rows, bench.report
    report.section(f"peers on the same {rows.count:,} rows: how many times as long as our engine they take")
    with filled(iter([rows.table]), rows.count, len(rows.keys)) as hot, _on_disk(rows) as directory:
        reader = hot.reader()
        try:
            ours, fast = our_questions(reader, rows, bench.one), our_prepared(reader, rows, bench.one)
            for name, prepare in (("duckdb", duckdb_of), ("polars", polars_of), ("clickhouse", clickhouse_of)):
                compare(bench, name, ours, fast, prepare(rows, bench.one, directory))
        finally:
            reader.close()


def compare(bench: Bench, name: str, ours: Questions, fast: Mapping[str, Ask], theirs: Questions) -> None:
    """A line per question: their time as a multiple of ours, taken in turns. Both give columns in memory: ours numpy
    arrays of a prepared read where there is one, theirs what they are fastest with; what Arrow costs us is beside it."""
    size = bench.size
    for question, (ask, values) in theirs.items():
        our_ask, our_values = ours[question]
        check(name, question, our_values(our_ask()), values(ask()))
        runs = in_turns(ask, fast.get(question, our_ask), runs=size.runs, for_s=2 * size.run_s)
        as_arrow = in_turns(ask, our_ask, runs=1, for_s=size.run_s)[0]
        took = median(run.p50 for run in runs)
        line = bench.report.add(
            f"s7.{question}_{name}",
            f"{WHAT[question]}: {name}'s time to ours",
            [Run(run.p50 / (run.floor or 1.0)) for run in runs],
            unit="x",
            budget=at_least(TIMES_FASTER[question]),
        )
        line.peers[name] = took
        line.detail = {"ours": median(run.floor or 0.0 for run in runs), "ours_as_arrow": as_arrow.floor}
        line.detail["times_as_arrow"] = as_arrow.p50 / (as_arrow.floor or 1.0)
        for id in LINES[question]:
            bench.report.peer(id, name, took)


def check(name: str, question: str, ours: Values, theirs: Values) -> None:
    same = ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=1e-9, atol=1e-9, equal_nan=True)
    if not same:
        raise AnswersDiffer(f"{name} answers {question} with {theirs[:5]}… ({theirs.shape}), we with {ours[:5]}…")


def our_questions(reader: HotReader, rows: Rows, key: str) -> Questions:
    """As Arrow, as the peers' answers are."""
    probes = probes_from_batch(rows.probes)
    one, every, asof = HotLastBy(keys=(key,), columns=COLUMNS), HotLastBy(columns=COLUMNS), HotAsof(columns=COLUMNS)
    series = HotWindow((VWAP,), (rows.busy,), *HOUR, range_ns=MINUTES_5_NS)

    def price(part: Any) -> Values:
        return floats(part.rows["price"])

    return {
        ONE: (lambda: reader.run(one), price),
        ALL: (lambda: reader.run(every), price),
        ASOF: (lambda: reader.run(asof, probes), price),
        SERIES: (lambda: reader.run(series), lambda part: floats(part.rows["vwap"])),
    }


def our_prepared(reader: HotReader, rows: Rows, key: str) -> Mapping[str, Ask]:
    """The same questions into numpy arrays; a series has no prepared form."""
    probes = probes_from_batch(rows.probes)
    one, every = reader.prepare_last_by((key,), COLUMNS), reader.prepare_last_by(tuple(rows.keys), COLUMNS)
    asof = reader.prepare_asof(tuple(probes.keys.to_pylist()), COLUMNS)
    return {
        ONE: lambda: reader.read(one),
        ALL: lambda: reader.read(every),
        ASOF: lambda: reader.read(asof, probes.times_ns),
    }


def duckdb_of(rows: Rows, key: str, directory: Path) -> Questions:
    """A table ordered by key and time (zone maps) with an ART index of the key; prepared statements with
    ASOF JOIN, arg_max, window frames."""
    import duckdb

    count = itertools.count()
    base = duckdb.connect()
    base.execute("SET TimeZone = 'UTC'")
    rest = "SELECT * REPLACE (ts::TIMESTAMP AS ts) FROM"
    base.execute(f"CREATE TABLE bench AS {rest} '{directory}/rows.parquet' ORDER BY symbol, ts, trade_id")
    base.execute("CREATE INDEX by_symbol ON bench (symbol)")
    base.execute(f"CREATE TABLE probe AS {rest} '{directory}/probes.parquet'")
    last = "arg_max(price, (ts, trade_id)) AS price, arg_max(size, (ts, trade_id)) AS size, max(ts) AS ts"
    frame = f"ORDER BY ts RANGE BETWEEN INTERVAL {WINDOW_US} MICROSECONDS PRECEDING AND CURRENT ROW"

    def run(text: str) -> Callable[[], Any]:
        name = f"q{next(count)}"
        base.execute(f"PREPARE {name} AS {text}")
        return lambda: base.sql(f"EXECUTE {name}").to_arrow_table()

    asof = "SELECT p.*, b.price, b.size FROM probe p ASOF LEFT JOIN bench b ON p.symbol = b.symbol AND p.ts >= b.ts"
    return {
        ONE: (run(f"SELECT * FROM bench WHERE symbol = '{key}' ORDER BY ts DESC, trade_id DESC LIMIT 1"), _price),
        ALL: (run(f"SELECT symbol, {last} FROM bench GROUP BY symbol"), _by("symbol")),
        ASOF: (run(asof), _by("ts", "symbol")),
        SERIES: (run(
            f"SELECT ts, sum(price * size) OVER w / sum(size) OVER w AS vwap FROM bench WHERE symbol = '{rows.busy}' "
            f"WINDOW w AS ({frame})"
        ), _by("ts", value="vwap")),
    }  # fmt: skip


def polars_of(rows: Rows, key: str, directory: Path) -> Questions:
    """Keys as an Enum, frames sorted by what each operation wants, the sortedness declared; lazy where that helps."""
    import polars as pl

    symbols = pl.Enum(rows.keys)
    frame = pl.read_parquet(directory / "rows.parquet").with_columns(pl.col("symbol").cast(symbols))
    by_key = frame.sort("symbol", "ts", "trade_id")
    by_time = frame.sort("ts", "trade_id").set_sorted("ts")
    probes = pl.read_parquet(directory / "probes.parquet").with_columns(pl.col("symbol").cast(symbols)).set_sorted("ts")
    amount = (pl.col("price") * pl.col("size")).sum() / pl.col("size").sum()
    busy = by_key.lazy().filter(pl.col("symbol") == rows.busy).set_sorted("ts")
    return {
        ONE: (lambda: by_key.lazy().filter(pl.col("symbol") == key).last().collect(), _price),
        ALL: (lambda: by_time.lazy().group_by("symbol").last().collect(), _by("symbol")),
        ASOF: (lambda: probes.join_asof(by_time, on="ts", by="symbol", check_sortedness=False), _by("ts", "symbol")),
        SERIES: (
            lambda: busy.rolling("ts", period="5m").agg(amount.alias("vwap")).collect(),
            _by("ts", value="vwap"),
        ),
    }


def clickhouse_of(rows: Rows, key: str, directory: Path) -> Questions:
    """MergeTree ordered by (key, time, seq), one part, LowCardinality keys; argMax, ASOF JOIN, window frames."""
    from chdb import session as engine

    open_session: Any = engine.Session
    session = open_session(str(directory / "chdb"))
    columns = "symbol LowCardinality(String), ts DateTime64(9, 'UTC'), trade_id UInt64, price Float64, size Float64"
    session.query("CREATE DATABASE IF NOT EXISTS store")
    session.query(f"CREATE TABLE store.bench ({columns}) ENGINE = MergeTree ORDER BY (symbol, ts, trade_id)")
    session.query(
        f"INSERT INTO store.bench SELECT {', '.join(rows.table.column_names)} FROM file('{directory}/rows.parquet')"
    )
    session.query("OPTIMIZE TABLE store.bench FINAL")
    session.query("CREATE TABLE store.probe (symbol LowCardinality(String), ts DateTime64(9, 'UTC')) ENGINE = Memory")
    session.query(f"INSERT INTO store.probe SELECT symbol, ts FROM file('{directory}/probes.parquet')")
    last = "argMax(price, (ts, trade_id)) AS price, argMax(size, (ts, trade_id)) AS size, max(ts) AS at"
    frame = f"ORDER BY toUnixTimestamp64Micro(ts) RANGE BETWEEN {WINDOW_US} PRECEDING AND CURRENT ROW"
    asof = "SELECT p.symbol AS symbol, p.ts AS ts, b.price AS price, b.size AS size FROM store.probe AS p ASOF LEFT JOIN store.bench AS b ON p.symbol = b.symbol AND p.ts >= b.ts SETTINGS join_use_nulls = 1"

    def run(text: str) -> Callable[[], Any]:
        return lambda: session.query(text, "Arrow").bytes()

    return {
        ONE: (run(
            f"SELECT * FROM store.bench WHERE symbol = '{key}' ORDER BY symbol DESC, ts DESC, trade_id DESC LIMIT 1"
        ), _price),
        ALL: (run(f"SELECT symbol, {last} FROM store.bench GROUP BY symbol"), _by("symbol")),
        ASOF: (run(asof), _by("ts", "symbol")),
        SERIES: (run(
            f"SELECT ts, sum(price * size) OVER w / sum(size) OVER w AS vwap FROM store.bench "
            f"WHERE symbol = '{rows.busy}' WINDOW w AS ({frame})"
        ), _by("ts", value="vwap")),
    }  # fmt: skip


@contextmanager
def _on_disk(rows: Rows) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="proxist-bench-") as found:
        pq.write_table(in_us(rows.table), Path(found) / "rows.parquet")
        pq.write_table(in_us(pa.Table.from_batches([rows.probes])), Path(found) / "probes.parquet")
        yield Path(found)


def in_us(table: pa.Table) -> pa.Table:
    """Times as whole µs, the peers' own unit."""
    at = table.column_names.index("ts")
    return table.set_column(at, "ts", table["ts"].cast(pa.timestamp("us", tz="UTC")))


def _price(answer: Any) -> Values:
    return floats(_table(answer)["price"])


def _by(*order: str, value: str = "price") -> Callable[[Any], Values]:
    """The values in the order of ours: by key, or by time (probes ascend in time)."""

    def values(answer: Any) -> Values:
        table = _table(answer)
        texts = [table[name].cast(pa.string()) if name == "symbol" else table[name] for name in order]
        sorted_ = pa.table({**dict(zip(order, texts, strict=True)), "value": table[value]})
        return floats(sorted_.sort_by([(name, "ascending") for name in order])["value"])

    return values


def floats(column: Any) -> Values:
    found: Values = column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
    return found


def _table(answer: Any) -> pa.Table:
    if isinstance(answer, pa.Table):
        return answer
    if isinstance(answer, bytes):
        return (
            pa.ipc.open_file(pa.py_buffer(answer)).read_all()
            if answer[:6] == b"ARROW1"
            else pa.ipc.open_stream(answer).read_all()
        )
    found: pa.Table = answer.to_arrow()
    return found
