"""The same questions at four moments of the rows' way from RAM to history: the same answers, types and order included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from real_tiers import NOW_NS, RealTiers

TRADES = {
    "name": "trades",
    "time": "ts",
    "key": "symbol",
    "seq": "id",
    "columns": [
        {"name": "symbol", "type": "string"},
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "id", "type": "uint64"},
        {"name": "price", "type": "double"},
        {"name": "size", "type": "int64", "nullable": True},
        {"name": "row", "type": "int32"},
    ],
}
QUOTES = {**TRADES, "name": "quotes", "seq": None}
T0 = NOW_NS - 200 * 10**9
SYMBOLS = ("A", "B'\\", "C", "é")


def rows(count: int, seed: int) -> pa.Table:
    """Rows over 200 s; times tie often, ids tie sometimes, a tenth is late, sizes may be null."""
    rng = np.random.default_rng(seed)
    steps = np.arange(count) // 4 - np.where(rng.random(count) < 0.1, rng.integers(0, count // 4, count), 0)
    size = rng.integers(1, 50, count)
    return pa.table(
        {
            "symbol": pa.array([SYMBOLS[i] for i in rng.integers(0, 4, count)]),
            "ts": pa.array(T0 + steps * (800 * 10**9 // count), pa.timestamp("ns", "UTC")),
            "id": pa.array(rng.integers(0, 3, count), pa.uint64()),
            "price": pa.array(rng.integers(1, 20, count).astype(float)),
            "size": pa.array(size, pa.int64(), mask=size % 7 == 0),
            "row": pa.array(np.arange(count), pa.int32()),
        }
    )


@pytest.fixture(params=[1, 3], ids=["1 shard", "3 shards"])
def filled(tiers: RealTiers, request: pytest.FixtureRequest) -> RealTiers:
    for number, spec in enumerate((TRADES, QUOTES)):
        tiers.create({**spec, "shards": request.param})
        tiers.write(spec["name"], rows(600, number))
    return tiers


LOW, HIGH = f"fromUnixTimestamp64Nano({T0 + 40 * 10**9})", f"fromUnixTimestamp64Nano({T0 + 120 * 10**9})"
SQL = [
    "SELECT * FROM trades",
    "SELECT *, _offset, _log FROM trades WHERE price > 10 LIMIT 7",
    "SELECT row FROM trades ORDER BY price LIMIT 20",
    "SELECT row FROM trades ORDER BY price DESC, ts LIMIT 20 OFFSET 3",
    "SELECT row FROM trades ORDER BY ts DESC LIMIT 1",
    "SELECT symbol, row FROM trades ORDER BY ts DESC LIMIT 2 BY symbol",
    "SELECT symbol, row FROM trades LIMIT 1 BY symbol",
    "SELECT symbol, count(), sum(size), avg(size), min(price), max(ts), uniqExact(id) FROM trades GROUP BY symbol",
    "SELECT symbol, argMax(row, ts), argMin(row, ts), argMax(row, price), argMin(row, size) FROM trades GROUP BY symbol",
    "SELECT symbol, argMaxIf(row, ts, price < 10), argMin(size, ts) AS m FROM trades GROUP BY symbol ORDER BY m, symbol",
    "SELECT symbol, first_value(row), last_value(row), any(size), anyLast(row) FROM trades GROUP BY symbol",
    "SELECT first_value(size) RESPECT NULLS AS a, groupArray(row) AS b, groupArray(size) AS c FROM trades",
    "SELECT toStartOfMinute(ts) AS minute, count() AS n FROM trades GROUP BY minute",
    "SELECT symbol, row, row_number() OVER (PARTITION BY symbol ORDER BY ts) AS n FROM trades",
    "SELECT row, lagInFrame(row) OVER (PARTITION BY symbol ORDER BY ts) AS p, "
    "sum(price) OVER (PARTITION BY symbol ORDER BY ts ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS s, "
    "first_value(row) OVER (PARTITION BY symbol ORDER BY ts) AS f, last_value(row) OVER (PARTITION BY symbol ORDER BY ts) AS l, "
    "rank() OVER (PARTITION BY symbol ORDER BY ts) AS r FROM trades",
    "SELECT row, leadInFrame(row) OVER w AS n FROM trades WINDOW w AS (PARTITION BY symbol ORDER BY ts DESC ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)",
    "SELECT t.row, q.row FROM trades AS t ASOF JOIN quotes AS q ON t.symbol = q.symbol AND t.ts >= q.ts",
    "SELECT t.row AS a, q.row AS b FROM trades AS t ASOF LEFT JOIN quotes AS q ON t.symbol = q.symbol AND t.ts > q.ts",
    "SELECT t.row AS a, q.row AS b FROM trades AS t ASOF JOIN quotes AS q ON t.symbol = q.symbol AND t.ts <= q.ts",
    "SELECT t.row AS a, q.row AS b FROM trades AS t ASOF JOIN quotes AS q ON q.ts < t.ts AND q.symbol = t.symbol",
    "SELECT row, quotes.row FROM trades ASOF JOIN quotes USING (symbol, ts)",
    "SELECT * FROM trades AS t ASOF LEFT JOIN quotes AS q ON t.symbol = q.symbol AND t.ts >= q.ts LIMIT 9",
    "WITH q AS (SELECT symbol, ts, row FROM quotes WHERE price > 5) "
    "SELECT t.row AS a, q.row AS b FROM trades AS t ASOF LEFT JOIN q ON t.symbol = q.symbol AND t.ts >= q.ts",
    "SELECT t.row AS a, q.row AS b FROM trades AS t ASOF JOIN (SELECT * FROM quotes WHERE price > 3) AS q "
    "ON t.symbol = q.symbol AND t.ts >= q.ts ORDER BY a DESC LIMIT 30",
    "SELECT t.row AS a, q.row AS b FROM trades AS t JOIN quotes AS q ON t.symbol = q.symbol AND t.ts = q.ts",
    "SELECT count() FROM trades WHERE symbol IN (SELECT symbol FROM quotes WHERE price > 18)",
    "SELECT * FROM (SELECT * FROM trades) LIMIT 5",
    "SELECT * FROM (SELECT symbol, price, row FROM trades WHERE price > 3) AS s ORDER BY price LIMIT 11",
    "SELECT symbol, groupArray(row) FROM (SELECT symbol, row FROM trades ORDER BY price DESC LIMIT 40) GROUP BY symbol",
    "SELECT DISTINCT symbol FROM trades",
    "SELECT DISTINCT symbol, id FROM trades ORDER BY id DESC, symbol",
    "SELECT symbol, count() AS n FROM trades GROUP BY symbol ORDER BY n DESC LIMIT 2",
    "SELECT count() FROM trades WHERE ts >= now() - INTERVAL 100 SECOND",
    f"SELECT count(), sum(price) FROM trades WHERE ts >= {LOW} AND ts < {HIGH}",
    f"SELECT row FROM trades WHERE symbol = 'B\\'\\\\' AND ts BETWEEN {LOW} AND {HIGH}",
    "SELECT (SELECT max(row) FROM quotes) AS q, max(row) FROM trades",
    "SELECT row FROM trades WHERE price = 1 UNION ALL SELECT 1 WHERE 0",
    "SELECT symbol FROM trades WHERE symbol = 'none'",
    "SELECT count() FROM trades WHERE symbol = 'A' AND symbol = 'C'",
    "SELECT number FROM numbers(3)",
    "SELECT sum(price * size) / sum(size), quantileExact(0.5)(price), stddevSamp(size), topK(2)(symbol) FROM trades",
    "SELECT symbol, row FROM trades PREWHERE price > 18 WHERE row % 2 = 0",
    "SELECT size, count() FROM trades GROUP BY size WITH TOTALS ORDER BY size",
    "SELECT t.* EXCEPT (symbol) FROM trades AS t LIMIT 2",
]
OPERATORS: list[dict[str, Any]] = [
    {"scan": {"table": "trades"}},
    {"scan": {"table": "trades", "columns": ["row", "_log", "_offset"], "limit": 50}},
    {"scan": {"table": "quotes", "keys": ["A", "é", "none"], "from": T0 + 10**10, "to": T0 + 10**11}},
    {"scan": {"table": "quotes", "keys": []}},
    {"last_by": {"table": "trades"}},
    {"last_by": {"table": "quotes", "keys": ["C", "B'\\"], "columns": ["row", "_log"], "at": T0 + 10**11}},
    {"first_by": {"table": "trades", "columns": ["size"]}},
    {"first_by": {"table": "quotes", "at": T0 + 10**11}},
]
for direction in ("backward", "forward", "nearest"):
    left = {"table": "trades", "columns": ["symbol", "ts", "row"]}
    right = {"table": "quotes", "columns": ["row", "ts", "_offset"]}
    OPERATORS.append({"asof": {"left": left, "right": right, "direction": direction}})
    OPERATORS.append(
        {"asof": {"left": {**left, "limit": 5}, "right": right, "direction": direction, "allow_exact": False}}
    )
    OPERATORS.append({"asof": {"left": left, "right": {"table": "trades"}, "direction": direction, "tolerance": "2s"}})
QUESTIONS = [*({"sql": text} for text in SQL), *OPERATORS]


def test_every_answer_is_the_same_at_four_moments_and_at_its_token_later(filled: RealTiers) -> None:
    first: list[pa.Table] = []
    tokens: list[str] = []
    for moment in filled.four_moments():
        for number, question in enumerate(QUESTIONS):
            answer = filled.ask(question)
            rows = answer.rows.combine_chunks()
            if moment == "all hot":
                first.append(rows)
                tokens.append(str(answer.receipt.token))
                assert answer.receipt.mode == "hot", question
            assert rows.schema.equals(first[number].schema), f"{moment}: {question}"
            assert rows.equals(first[number]), f"{moment}: {question}\n{rows.to_pydict()}\n{first[number].to_pydict()}"
    for name, number in (("trades", 0), ("quotes", 1)):
        filled.write(name, rows_of_later(number))
    for question, token, expected in zip(QUESTIONS, tokens, first, strict=True):
        again = filled.ask({**question, "as_of": token})
        assert again.rows.combine_chunks().equals(expected), question
        assert str(again.receipt.token) == token


def rows_of_later(number: int) -> pa.Table:
    return rows(100, 10 + number)


def test_modes_rows_and_statements_say_which_tiers_answered(filled: RealTiers) -> None:
    found = []
    for _ in filled.four_moments():
        before = filled.clickhouse.statements
        receipt = filled.sql("SELECT count() FROM trades").receipt
        scan = filled.ask({"scan": {"table": "trades"}}).receipt
        found.append((receipt.mode, receipt.plan, scan.mode, filled.clickhouse.statements - before))
        assert receipt.rows_hot + receipt.rows_cold == scan.rows_hot + scan.rows_cold == 600
    assert found == [
        ("hot", "sql-hot", "hot", 0),
        ("hot", "sql-hot", "hot", 0),
        ("cold+hot", "sql-union", "cold+hot", 2),
        ("cold", "sql-union", "cold", 2),
    ]


def test_sql_whose_range_lies_above_what_was_evicted_asks_no_clickhouse(tiers: RealTiers) -> None:
    tiers.create(TRADES)
    old = rows(100, 1)
    tiers.write("trades", old)
    tiers.persist("trades", 1.0)
    tiers.evict("trades", 1.0)
    later = old.set_column(1, "ts", pa.array([NOW_NS + i for i in range(100)], pa.timestamp("ns", "UTC")))
    tiers.write("trades", later)
    before = tiers.clickhouse.statements
    answer = tiers.sql(f"SELECT count() AS n FROM trades WHERE ts >= fromUnixTimestamp64Nano({NOW_NS})")
    assert answer.rows["n"].to_pylist() == [100]
    assert tiers.ask({"scan": {"table": "trades", "from": NOW_NS}}).rows.num_rows == 100
    assert tiers.clickhouse.statements == before
    assert tiers.sql("SELECT count() AS n FROM trades").rows["n"].to_pylist() == [200]
    assert tiers.clickhouse.statements == before + 1


def test_explain_shows_plan_cut_and_rows_per_tier(tiers: RealTiers) -> None:
    tiers.create(TRADES)
    tiers.write("trades", rows(100, 1))
    assert tiers.sql("EXPLAIN SELECT * FROM trades").rows.to_pylist() == [
        {
            "plan": "sql-hot",
            "table": "trades",
            "shard": 1,
            "epoch": 3,
            "seam": 0,
            "end": 100,
            "rows_hot": 100,
            "rows_cold": 0,
        }
    ]
    tiers.persist("trades", 0.6)
    tiers.evict("trades", 0.5)
    assert tiers.sql("EXPLAIN SELECT * FROM trades").rows.to_pylist() == [
        {
            "plan": "sql-union",
            "table": "trades",
            "shard": 1,
            "epoch": 3,
            "seam": 60,
            "end": 100,
            "rows_hot": 40,
            "rows_cold": 60,
        }
    ]
