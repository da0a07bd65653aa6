"""The market data tables that replay and demo create: trades, quotes and depth."""

from __future__ import annotations

from typing import Any

from proxist.model.table import TableSpec, parse_spec

_TIME = "timestamp[ns, tz=UTC]"


def _spec(name: str, seq: str, columns: dict[str, str], **settings: Any) -> TableSpec:
    wire = [{"name": column, "type": type_} for column, type_ in columns.items()]
    return parse_spec({"name": name, "time": "ts", "key": "symbol", "seq": seq, "columns": wire, **settings})


TRADES = _spec(
    "trades",
    "trade_id",
    {
        "symbol": "string",
        "ts": _TIME,
        "trade_id": "uint64",
        "price": "double",
        "size": "double",
        "buyer_is_maker": "bool",
    },
)
QUOTES = _spec(
    "quotes",
    "update_id",
    {
        "symbol": "string", "ts": _TIME, "update_id": "uint64",
        "bid": "double", "bid_size": "double", "ask": "double", "ask_size": "double",
    },
)  # fmt: skip
DEPTH = _spec(
    "depth",
    "last_update_id",
    {
        "symbol": "string", "ts": _TIME, "first_update_id": "uint64", "last_update_id": "uint64",
        "bid_price": "list<item: double>", "bid_size": "list<item: double>",
        "ask_price": "list<item: double>", "ask_size": "list<item: double>",
    },
)  # fmt: skip

MARKET_TABLES = {spec.name: spec for spec in (TRADES, QUOTES, DEPTH)}
