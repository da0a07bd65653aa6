"""Whatever a query leaves to the engine: the same at four moments, or named in the receipt; and pruning loses no row."""

from __future__ import annotations

import sys

import pyarrow as pa
import pytest
from real_tiers import RealTiers
from test_query_moments import QUOTES, T0, TRADES, rows

from proxist.sql import prepare

SAME = [
    "SELECT sipHash64(*), tuple(t.*) FROM trades AS t",
    "SELECT uniqExact(*), count(DISTINCT *) FROM trades",
    "SELECT COLUMNS('') FROM trades LIMIT 9",
    "SELECT * APPLY(toString) FROM trades LIMIT 9",
    "SELECT symbol, id, count() FROM trades GROUP BY ALL",
    "SELECT symbol, id, count() FROM trades GROUP BY symbol, id WITH TOTALS",
    "SELECT symbol, id, count() FROM trades GROUP BY ROLLUP(symbol, id)",
    "SELECT symbol, id, count() FROM trades GROUP BY symbol, id WITH CUBE",
    "SELECT symbol, id, count() FROM trades GROUP BY GROUPING SETS ((symbol), (id))",
    "SELECT DISTINCT symbol, id FROM trades ORDER BY id LIMIT 2",
    "SELECT DISTINCT * FROM trades ORDER BY price LIMIT 5",
    "SELECT DISTINCT ON (symbol) symbol, row FROM trades ORDER BY ts DESC",
    "SELECT sum(row) FROM (SELECT DISTINCT ON (symbol) row FROM trades)",
    "SELECT symbol FROM (SELECT DISTINCT symbol FROM trades) LIMIT 2",
    "SELECT row FROM (SELECT row, price FROM trades UNION ALL SELECT row, price FROM quotes) ORDER BY price LIMIT 10",
    "SELECT argMax(row, price), any(row), groupArray(row) FROM (SELECT row, price FROM trades UNION ALL SELECT row, price FROM quotes)",
    "WITH u AS (SELECT row FROM trades UNION ALL SELECT row FROM quotes) SELECT row FROM u LIMIT 5",
    "SELECT t.row, a FROM trades AS t ARRAY JOIN [3, 1, 2] AS a LIMIT 7",
    "SELECT row, arrayJoin([3, 1, 2]) AS a FROM trades LIMIT 7",
    "SELECT t.row, q.n FROM trades AS t JOIN (SELECT DISTINCT symbol, id AS n FROM quotes) AS q ON t.symbol = q.symbol",
    "SELECT row, sum(row) OVER (w ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS s FROM trades WINDOW w AS (PARTITION BY symbol ORDER BY ts)",
    "SELECT row, sum(row) OVER (w ORDER BY ts ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS s FROM trades WINDOW w AS (PARTITION BY symbol)",
    "SELECT row, first_value(row) OVER (PARTITION BY symbol ORDER BY price DESC) AS f FROM trades",
    "SELECT symbol, argMaxMerge(s) FROM (SELECT symbol, argMaxState(row, price) AS s FROM trades GROUP BY symbol) GROUP BY symbol",
    "SELECT symbol, argMaxIfOrNull(row, price, price < 10), argMinOrNullIf(row, size, price < 10) FROM trades GROUP BY symbol",
    "SELECT symbol, groupArray(5)(row), groupUniqArray(id), groupArrayDistinct(id) FROM trades GROUP BY symbol",
    "SELECT t.row, q.row FROM trades AS t ASOF LEFT JOIN quotes AS q ON t.symbol = q.symbol AND t.ts >= q.ts AND t.price > 5",
    "SELECT t.row, q.row FROM trades AS t ASOF LEFT JOIN (SELECT DISTINCT symbol, ts, row FROM quotes) AS q "
    "ON t.symbol = q.symbol AND t.ts >= q.ts",
    "SELECT symbol, row FROM trades ORDER BY ts DESC LIMIT 2 BY symbol LIMIT 3",
    "SELECT (SELECT max(row) FROM quotes), 1 + (SELECT min(row) FROM trades)",
]


@pytest.fixture(params=[1, 3], ids=["1 shard", "3 shards"])
def filled(tiers: RealTiers, request: pytest.FixtureRequest) -> RealTiers:
    for number, spec in enumerate((TRADES, QUOTES)):
        tiers.create({**spec, "shards": request.param})
        tiers.write(spec["name"], rows(600, number))
    return tiers


def test_what_an_engine_may_choose_is_chosen_alike_at_four_moments(filled: RealTiers) -> None:
    first: dict[str, pa.Table] = {}
    for moment in filled.four_moments():
        for text in SAME:
            answer = filled.sql(text)
            found = answer.rows.combine_chunks()
            expected = first.setdefault(text, found)
            assert answer.receipt.not_repeatable == (), text
            assert found.schema.equals(expected.schema), f"{moment}: {text}"
            assert found.equals(expected), f"{moment}: {text}"
            assert not {"_log", "_offset"} & set(found.schema.names), text


BOUND_NS = T0 + 51 * 10**9
BOUND_S = BOUND_NS // 10**9
CONDITIONS = [
    *(f"ts {sign} toDateTime({BOUND_S})" for sign in ("<", "<=", ">", ">=")),
    *(f"ts {sign} {BOUND_S}" for sign in ("<", ">=")),
    f"ts < toDateTime({BOUND_S}) - INTERVAL 1 MINUTE + INTERVAL 61 SECOND",
    f"ts > fromUnixTimestamp64Nano({BOUND_NS}) AND symbol IN ('A', 'C')",
    "ts > now() - INTERVAL 99 SECOND",
    "toStartOfMinute(ts) < now() - INTERVAL 100 SECOND",
    "ts < toDateTime('1980-01-01 00:00:00') - INTERVAL 9999 DAY",
    "(lower(symbol) AS symbol) = 'a' AND symbol = 'a'",
]


def test_pruning_keeps_every_row_that_the_condition_keeps(filled: RealTiers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge has no history, no bounds and no index: all rows in memory, the condition alone."""
    texts = [f"SELECT count(), sum(row) FROM trades WHERE {condition}" for condition in CONDITIONS]
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[prepare.__module__], "bounds_in", lambda _: iter(()))
        judged = [filled.sql(text).rows.to_pylist() for text in texts]
    for moment in filled.four_moments():
        for text, expected in zip(texts, judged, strict=True):
            assert filled.sql(text).rows.to_pylist() == expected, f"{moment}: {text}"
