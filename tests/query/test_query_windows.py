"""Windows and bars over real hot sets and a real ClickHouse: to the bit the same at every moment, and as SQL has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from real_tiers import NOW_NS, RealTiers

from proxist_query.cold import KEYS_INLINE_MAX

SECOND = 10**9
T0 = NOW_NS - 400 * SECOND
SYMBOLS = ("A", "B'\\", "C", "é", "rare")
TICKS = {
    "name": "ticks",
    "time": "ts",
    "key": "symbol",
    "seq": "id",
    "columns": [
        {"name": "symbol", "type": "string"},
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "id", "type": "uint64"},
        {"name": "price", "type": "double"},
        {"name": "size", "type": "int64", "nullable": True},
        {"name": "wild", "type": "double", "nullable": True},
        {"name": "side", "type": "bool"},
        {"name": "venue", "type": "string"},
    ],
}
COUNT = 900


def ticks(seed: int) -> pa.Table:
    """Four rows a second; times tie, ids tie sometimes, a tenth is late by up to 100 s, one symbol has three rows."""
    rng = np.random.default_rng(seed)
    late = np.where(rng.random(COUNT) < 0.1, rng.integers(0, 100, COUNT), 0)
    symbol = rng.integers(0, 4, COUNT)
    symbol[[10, 450, 880]] = 4
    size, wild = rng.integers(1, 50, COUNT), rng.random(COUNT) * 10.0 ** rng.integers(-9, 9, COUNT)
    wild[::50], wild[7::90] = np.nan, np.inf
    return pa.table(
        {
            "symbol": pa.array([SYMBOLS[i] for i in symbol]),
            "ts": pa.array(T0 + (np.arange(COUNT) // 4 - late) * SECOND, pa.timestamp("ns", "UTC")),
            "id": pa.array(rng.integers(0, 3, COUNT), pa.uint64()),
            "price": pa.array(rng.random(COUNT) * 1e5),
            "size": pa.array(size, pa.int64(), mask=size % 7 == 0),
            "wild": pa.array(wild, mask=rng.random(COUNT) < 0.1),
            "side": pa.array(rng.random(COUNT) < 0.5),
            "venue": pa.array([("x", "y")[i] for i in rng.integers(0, 2, COUNT)]),
        }
    )


@pytest.fixture(params=[1, 3], ids=["1 shard", "3 shards"])
def filled(tiers: RealTiers, request: pytest.FixtureRequest) -> RealTiers:
    tiers.create({**TICKS, "shards": request.param})
    tiers.write("ticks", ticks(1))
    return tiers


AGGS = [
    {"fn": "count"},
    {"fn": "count", "value": "size"},
    {"fn": "sum", "value": "price"},
    {"fn": "sum", "value": "size"},
    {"fn": "avg", "value": "price"},
    {"fn": "stddev", "value": "price"},
    {"fn": "vwap", "value": "price", "weight": "size"},
    {"fn": "ema", "value": "price", "alpha": 0.1},
    {"fn": "first", "value": "venue"},
    {"fn": "last", "value": "side"},
    {"fn": "last", "value": "size"},
    {"fn": "min", "value": "price"},
    {"fn": "max", "value": "ts", "as": "newest"},
    *({"fn": fn, "value": "wild"} for fn in ("sum", "avg", "stddev", "min", "max", "first")),
]
FROM, TO = T0 + 60 * SECOND + 1, T0 + 150 * SECOND
RANGES: list[dict[str, Any]] = [{}, {"from": FROM}, {"to": TO}, {"from": FROM, "to": TO}, {"from": TO, "to": FROM}]
KEYS: list[dict[str, Any]] = [{}, {"keys": ["A", "rare", "nobody"]}, {"keys": ["é"]}]
WINDOWS = [
    {"window": {"table": "ticks", "aggs": AGGS, **between, **keys, **length}}
    for between in RANGES
    for keys in KEYS
    for length in ({"range": "5s"}, {"range": 1}, {"range": "2h"}, {"rows": 40})
]
BARS = [
    {"bars": {"table": "ticks", "aggs": [*AGGS, {"fn": "open", "value": "price"}], **between, **keys, **every}}
    for between in RANGES
    for keys in KEYS
    for every in ({"every": "7s"}, {"every": "1s", "fill": "prev"}, {"every": "1h", "fill": "null"})
]


def bits(rows: pa.Table) -> pa.Table:
    """Doubles as their 64 bits, so that NaN equals NaN and -0.0 does not equal 0.0."""
    columns = [
        pa.chunked_array([chunk.view(pa.int64()) for chunk in column.chunks], pa.int64())
        if column.type == pa.float64()
        else column
        for column in rows.columns
    ]
    return pa.table(columns, names=rows.column_names).combine_chunks()


@pytest.mark.parametrize("queries", [WINDOWS, BARS], ids=["windows", "bars"])
def test_the_tier_of_a_row_changes_no_bit(filled: RealTiers, queries: list[dict[str, Any]]) -> None:
    first: list[pa.Table] = []
    tokens: list[str] = []
    for moment in filled.four_moments():
        for number, query in enumerate(queries):
            answer = filled.ask(query)
            if moment == "all hot":
                first.append(answer.rows)
                tokens.append(str(answer.receipt.token))
                assert answer.receipt.mode == "hot"
            assert answer.rows.schema.equals(first[number].schema), f"{moment}: {query}"
            assert bits(answer.rows).equals(bits(first[number])), f"{moment}: {query}"
    filled.write("ticks", ticks(3))
    for query, token, rows in zip(queries, tokens, first, strict=True):
        assert bits(filled.ask({**query, "as_of": token}).rows).equals(bits(rows)), query


def test_more_keys_than_a_statement_names_are_looked_up_too(filled: RealTiers) -> None:
    many = [*SYMBOLS, *(f"none {number}" for number in range(KEYS_INLINE_MAX))]
    shape = {"table": "ticks", "aggs": AGGS, "from": FROM, "rows": 40}
    for moment in filled.four_moments():
        some, all_ = (filled.ask({"window": {**shape, **keys}}).rows for keys in ({"keys": many}, {}))
        assert bits(some).equals(bits(all_)), moment


def test_windows_of_rows_are_as_sql_has_them(filled: RealTiers) -> None:
    """The window frames of ClickHouse, over the same rows; sums of doubles may differ in the last digits there."""
    fns = ("count", "sum", "min", "max", "first", "last")
    aggs = [{"fn": fn, "value": "size"} for fn in fns]
    asked = {"window": {"table": "ticks", "aggs": aggs, "rows": 25, "from": FROM, "to": TO}}
    frame = "(PARTITION BY symbol ORDER BY ts, id, _offset ROWS BETWEEN 24 PRECEDING AND CURRENT ROW)"
    names = dict(zip(fns, ("count", "sum", "min", "max", "first_value", "last_value"), strict=True))
    columns = ", ".join(f"{name}(size) OVER {frame} AS {fn}_size" for fn, name in names.items())
    text = (
        f"SELECT symbol, ts, id, {', '.join(f'{fn}_size' for fn in fns)} FROM "
        f"(SELECT symbol, ts, id, _offset, _log, {columns} FROM ticks) "
        f"WHERE ts >= fromUnixTimestamp64Nano({FROM}) AND ts < fromUnixTimestamp64Nano({TO}) "
        "ORDER BY ts, id, _offset, _log"
    )
    wanted = filled.sql(text).rows.to_pylist()
    assert len(wanted) > 200
    for moment in filled.four_moments():
        assert filled.ask(asked).rows.to_pylist() == wanted, moment


def test_bars_are_as_sql_has_them(filled: RealTiers) -> None:
    aggs = [
        *({"fn": fn, "value": "price", "as": fn} for fn in ("open", "high", "low", "close")),
        {"fn": "sum", "value": "size", "as": "volume"},
        {"fn": "count", "as": "trades"},
    ]
    asked = {"bars": {"table": "ticks", "aggs": aggs, "every": "10s", "from": FROM, "to": TO}}
    text = (
        "SELECT symbol, toUnixTimestamp(toStartOfInterval(ts, INTERVAL 10 SECOND)) AS start, argMin(price, ts) AS open, "
        "max(price) AS high, min(price) AS low, argMax(price, ts) AS close, sum(size) AS volume, count() AS trades "
        f"FROM ticks WHERE ts >= fromUnixTimestamp64Nano({FROM}) AND ts < fromUnixTimestamp64Nano({TO}) "
        "GROUP BY symbol, start ORDER BY start, symbol"
    )
    wanted = filled.sql(text).rows
    assert wanted.num_rows > 30
    for moment in filled.four_moments():
        found = filled.ask(asked).rows
        assert found.drop_columns("ts").to_pylist() == wanted.drop_columns("start").to_pylist(), moment
        starts = [ns // SECOND for ns in found["ts"].cast(pa.int64()).to_pylist()]
        assert starts == wanted["start"].to_pylist(), moment


def test_history_is_read_only_for_keys_whose_windows_reach_below_the_floor(filled: RealTiers) -> None:
    """Each number of statements is of one query: none where RAM has every row of the windows."""
    filled.persist("ticks", 1.0)
    filled.evict("ticks", 0.5)
    late = T0 + 200 * SECOND
    shape = {"table": "ticks", "aggs": [{"fn": "avg", "value": "price"}], "keys": ["A"]}

    def statements(query: dict[str, Any]) -> int:
        before = filled.clickhouse.statements
        filled.ask(query)
        return int(filled.clickhouse.statements - before)

    assert statements({"window": {**shape, "from": late, "range": "20s"}}) == 0
    assert statements({"window": {**shape, "from": late, "rows": 5}}) == 0
    assert statements({"bars": {**shape, "from": late, "every": "10s"}}) == 0
    assert statements({"window": {**shape, "from": late, "range": "190s"}}) == 1
    assert statements({"window": {**shape, "from": late, "rows": 500}}) == 1
    assert statements({"bars": {**shape, "every": "10s"}}) == 1
