"""Every column of golden_asof_vwap.csv, asked through public queries: once with SQL, once with the JSON operators."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from doors import Ask

MIDNIGHT_NS = 1_723_161_600_000_000_000
APPROXIMATE = {"volume", "vwap", "asof_sum_bid", "asof_sum_ask"}
TOLERANCES = {"asof_matched_tol_1ms": "1ms", "asof_matched_tol_10ms": "10ms", "asof_matched_tol_100ms": "100ms"}

ALL_TIME_NS = 10**18
"""A bar that holds every row of the captures."""
WHOLE = [
    {"fn": "low", "value": "price", "as": "low"},
    {"fn": "high", "value": "price", "as": "high"},
    {"fn": "sum", "value": "size", "as": "volume"},
    {"fn": "vwap", "value": "price", "weight": "size", "as": "vwap"},
]

Golden = dict[str, dict[str, Any]]


def read_golden(path: Path) -> Golden:
    """The file's rows by symbol; integers as int, the rest as float."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {
        row["sym"]: {
            name: float(text) if name in APPROXIMATE or "." in text else int(text)
            for name, text in row.items()
            if name != "sym"
        }
        for row in rows
    }


def assert_golden(found: Golden, golden: Golden) -> None:
    """Counts, ids and prices exactly; sums and the VWAP to 1e-9 relative."""
    assert sorted(found) == sorted(golden)
    for symbol, row in golden.items():
        for name, value in row.items():
            mine = found[symbol][name]
            same = math.isclose(mine, value, rel_tol=1e-9) if name in APPROXIMATE else mine == value
            # The file prints the VWAP with six decimals.
            same = same or (name == "vwap" and math.isclose(mine, value, abs_tol=1e-6))
            assert same, f"{symbol} {name}: found {mine}, golden {value}"


def by_sql(ask: Ask) -> Golden:
    trades = ask(
        {
            "sql": f"""
            SELECT symbol, count() AS trades, toInt64(toUnixTimestamp64Nano(min(ts))) AS first_ts,
                   toUnixTimestamp64Nano(max(ts)) AS last_ts, min(trade_id) AS min_trade_id, max(trade_id) AS max_trade_id,
                   argMin(price, ts) AS first, argMax(price, ts) AS last, min(price) AS low, max(price) AS high,
                   sum(size) AS volume, sum(price * size) / sum(size) AS vwap,
                   argMaxIf(price, ts, ts < fromUnixTimestamp64Nano({MIDNIGHT_NS})) AS last_before_midnight,
                   countIf(ts < fromUnixTimestamp64Nano({MIDNIGHT_NS})) AS trades_before_midnight
            FROM trades GROUP BY symbol ORDER BY symbol"""
        }
    )
    quotes = ask({"sql": "SELECT symbol, count() AS quotes FROM quotes GROUP BY symbol ORDER BY symbol"})
    backward = ask(
        {
            "sql": """
            SELECT t.symbol AS symbol, count() AS asof_matched, sum(q.bid) AS asof_sum_bid, sum(q.ask) AS asof_sum_ask,
                   countIf(dateDiff('nanosecond', q.ts, t.ts) <= 1000000) AS asof_matched_tol_1ms,
                   countIf(dateDiff('nanosecond', q.ts, t.ts) <= 10000000) AS asof_matched_tol_10ms,
                   countIf(dateDiff('nanosecond', q.ts, t.ts) <= 100000000) AS asof_matched_tol_100ms
            FROM trades AS t ASOF JOIN quotes AS q ON t.symbol = q.symbol AND t.ts >= q.ts
            GROUP BY symbol ORDER BY symbol"""
        }
    )
    forward = ask(
        {
            "sql": """SELECT t.symbol AS symbol, count() AS asof_forward_matched
            FROM trades AS t ASOF JOIN quotes AS q ON t.symbol = q.symbol AND t.ts <= q.ts
            GROUP BY symbol ORDER BY symbol"""
        }
    )
    found: Golden = {}
    for table in (trades, quotes, backward, forward):
        for row in table.to_pylist():
            found.setdefault(row.pop("symbol"), {}).update(row)
    return found


def by_operators(ask: Ask) -> Golden:
    scan = ask({"scan": {"table": "trades"}})
    found: Golden = {}
    for symbol in sorted(set(scan["symbol"].to_pylist())):
        rows = scan.filter(pc.equal(scan["symbol"], symbol))
        found[symbol] = {
            "trades": rows.num_rows,
            "first_ts": rows["ts"][0].value,
            "last_ts": rows["ts"][-1].value,
            "min_trade_id": pc.min(rows["trade_id"]).as_py(),
            "max_trade_id": pc.max(rows["trade_id"]).as_py(),
        }
    for row in ask({"bars": {"table": "trades", "every": ALL_TIME_NS, "aggs": WHOLE}}).to_pylist():
        found[row["symbol"]] |= {agg["as"]: row[agg["as"]] for agg in WHOLE}
    _point_queries(ask, found)
    _asof_queries(ask, found)
    return found


def _point_queries(ask: Ask, found: Golden) -> None:
    first = ask({"first_by": {"table": "trades", "columns": ["price"]}})
    last = ask({"last_by": {"table": "trades", "columns": ["price"]}})
    before = ask({"last_by": {"table": "trades", "columns": ["price"], "at": MIDNIGHT_NS - 1}})
    early = ask({"scan": {"table": "trades", "to": MIDNIGHT_NS, "columns": ["symbol"]}})
    quotes = ask({"scan": {"table": "quotes", "columns": ["symbol"]}})
    for name, table in (("first", first), ("last", last), ("last_before_midnight", before)):
        for row in table.to_pylist():
            found[row["symbol"]][name] = row["price"]
    for name, table in (("trades_before_midnight", early), ("quotes", quotes)):
        for row in table.group_by("symbol").aggregate([("symbol", "count")]).to_pylist():
            found[row["symbol"]][name] = row["symbol_count"]


def asof_query(**options: Any) -> dict[str, Any]:
    right = {"table": "quotes", "columns": ["bid", "ask"]}
    return {"asof": {"left": {"table": "trades"}, "right": right, **options}}


def _asof_queries(ask: Ask, found: Golden) -> None:
    backward = _by_symbol(ask(asof_query()))
    for symbol, rows in backward.items():
        found[symbol]["asof_matched"] = _matched(rows)
        found[symbol]["asof_sum_bid"] = pc.sum(rows["bid"]).as_py()
        found[symbol]["asof_sum_ask"] = pc.sum(rows["ask"]).as_py()
    for name, tolerance in TOLERANCES.items():
        for symbol, rows in _by_symbol(ask(asof_query(tolerance=tolerance))).items():
            found[symbol][name] = _matched(rows)
    for symbol, rows in _by_symbol(ask(asof_query(direction="forward"))).items():
        found[symbol]["asof_forward_matched"] = _matched(rows)


def _by_symbol(table: pa.Table) -> dict[str, pa.Table]:
    symbols = sorted(set(table["symbol"].to_pylist()))
    return {symbol: table.filter(pc.equal(table["symbol"], symbol)) for symbol in symbols}


def _matched(rows: pa.Table) -> int:
    return int(rows.num_rows - rows["bid"].null_count)
