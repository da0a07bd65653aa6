"""binance-raw: every line becomes the row that the format says, and the real captures give the golden file's numbers."""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from proxist.cli.feeds.binance import ROWS_MAX, SPAN_NS_MAX, BinanceRaw
from proxist.cli.feeds.tables import MARKET_TABLES
from proxist.errors import InvalidArgument

T0 = 1_723_161_254_000_000_001


def trade(n: int, symbol: str = "BTCUSDT", **other: Any) -> dict[str, Any]:
    data = {"e": "trade", "s": symbol, "t": n, "p": "61837.63000000", "q": "0.02000000", "m": True, **other}
    return {"stream": f"{symbol.lower()}@trade", "data": data}


def quote(n: int, symbol: str = "BTCUSDT") -> dict[str, Any]:
    data = {"u": n, "s": symbol, "b": "1.5", "B": "2", "a": "1.75", "A": "4"}
    return {"stream": f"{symbol.lower()}@bookTicker", "data": data}


def depth(n: int, bids: list[list[str]], asks: list[list[str]]) -> dict[str, Any]:
    return {"stream": "btcusdt@depth@100ms", "data": {"s": "BTCUSDT", "U": n - 3, "u": n, "b": bids, "a": asks}}


SNAPSHOT = {"lastUpdateId": 77, "bids": [["1.0", "2.0"], ["0.5", "3"]], "asks": []}


def write(path: Path, messages: list[Any], step_ns: int = 1_000) -> Path:
    lines = [f"{T0 + n * step_ns} {m if isinstance(m, str) else json.dumps(m)}\n" for n, m in enumerate(messages)]
    path.write_bytes(gzip.compress("".join(lines).encode()) if path.suffix == ".gz" else "".join(lines).encode())
    return path


def read(path: Path, venue: str | None = None) -> dict[str, pa.Table]:
    batches = defaultdict(list)
    for batch in BinanceRaw(path, venue).batches():
        assert batch.rows.num_rows > 0
        assert batch.first_ns == batch.rows["ts"][0].value
        batches[batch.table].append(batch.rows)
    return {name: pa.Table.from_batches(parts, MARKET_TABLES[name].schema) for name, parts in batches.items()}


def test_each_kind_of_line_becomes_its_row(tmp_path: Path) -> None:
    book = depth(9, [["61737.63", "0.0"], ["1", "2.5"]], [["3", "4"]])
    tables = read(write(tmp_path / "spot__x.gz", [trade(5), quote(7), book, SNAPSHOT, depth(10, [], [])]))
    assert tables["trades"].to_pylist() == [
        {
            "symbol": "spot:BTCUSDT",
            "ts": tables["trades"]["ts"][0].as_py(),
            "trade_id": 5,
            "price": 61837.63,
            "size": 0.02,
            "buyer_is_maker": True,
        }
    ]
    assert tables["trades"]["ts"][0].value == T0
    assert tables["quotes"].drop_columns(["ts"]).to_pylist() == [
        {"symbol": "spot:BTCUSDT", "update_id": 7, "bid": 1.5, "bid_size": 2.0, "ask": 1.75, "ask_size": 4.0}
    ]
    rows = tables["depth"].drop_columns(["symbol", "ts"]).to_pylist()
    names = ("first_update_id", "last_update_id", "bid_price", "bid_size", "ask_price", "ask_size")
    assert [tuple(row[name] for name in names) for row in rows] == [
        (6, 9, [61737.63, 1.0], [0.0, 2.5], [3.0], [4.0]),
        (77, 77, [1.0, 0.5], [2.0, 3.0], [], []),
        (7, 10, [], [], [], []),
    ]


def test_a_snapshot_before_any_stream_line_waits_for_the_symbol(tmp_path: Path) -> None:
    tables = read(write(tmp_path / "spot__x", [SNAPSHOT, trade(1)]))
    assert tables["depth"]["symbol"].to_pylist() == ["spot:BTCUSDT"]
    assert tables["depth"]["ts"][0].value == T0


def test_a_snapshot_among_several_symbols_names_its_own(tmp_path: Path) -> None:
    several = [trade(1), trade(1, "ETHUSDT"), {**SNAPSHOT, "symbol": "ETHUSDT"}]
    assert read(write(tmp_path / "spot__x", several))["depth"]["symbol"].to_pylist() == ["spot:ETHUSDT"]
    with pytest.raises(InvalidArgument, match="Line 3"):
        read(write(tmp_path / "spot__y", [trade(1), trade(1, "ETHUSDT"), SNAPSHOT]))


def test_the_venue_is_given_or_the_files_name_has_it(tmp_path: Path) -> None:
    path = write(tmp_path / "capture.gz", [trade(1)])
    assert read(path, "usdm")["trades"]["symbol"].to_pylist() == ["usdm:BTCUSDT"]
    assert read(write(tmp_path / "cm__a.gz", [trade(1)]), "spot")["trades"]["symbol"].to_pylist() == ["spot:BTCUSDT"]
    with pytest.raises(InvalidArgument, match=r"'capture\.gz'.*--venue"):
        read(path)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "{not json",
        '{"channel": "l2Book"}',
        '{"stream": "btcusdt@kline_1m", "data": {"s": "BTCUSDT"}}',
        '{"stream": "btcusdt@trade", "data": {"s": "BTCUSDT"}}',
        "[]",
        "7",
    ],
)
def test_a_line_that_is_no_market_data_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(InvalidArgument, match=r"Line 2 of 'spot__x\.gz'.*--format"):
        read(write(tmp_path / "spot__x.gz", [trade(1), line]))


def test_answers_to_a_subscription_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "spot__x", [{"result": None, "id": 1}, trade(1)])
    path.write_bytes(path.read_bytes() + b"\n")
    assert read(path)["trades"].num_rows == 1


def test_a_file_that_was_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "spot__x.gz", [trade(n) for n in range(2_000)])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InvalidArgument, match=r"'spot__x\.gz'.*damaged or cut short"):
        read(path)


def test_batches_end_at_their_rows_or_at_one_second(tmp_path: Path) -> None:
    fast = list(BinanceRaw(write(tmp_path / "spot__f", [trade(n) for n in range(ROWS_MAX + 5)]), None).batches())
    assert [batch.rows.num_rows for batch in fast] == [ROWS_MAX, 5]
    slow = [trade(n) for n in range(10)]
    batches = list(BinanceRaw(write(tmp_path / "spot__s", slow, SPAN_NS_MAX // 4), None).batches())
    assert [batch.rows.num_rows for batch in batches] == [5, 5]


def test_the_real_captures_give_the_golden_counts_ids_and_prices(data_dir: Path) -> None:
    with (data_dir / "golden_asof_vwap.csv").open() as file:
        golden = {row["sym"]: row for row in csv.DictReader(file)}
    trades, quotes, depth_rows = [], [], 0
    for path in sorted(data_dir.glob("*.gz")):
        if not path.name.startswith("hyperliquid"):
            tables = read(path)
            trades.append(tables["trades"])
            quotes.append(tables["quotes"])
            depth_rows += tables["depth"].num_rows
    all_trades, all_quotes = pa.concat_tables(trades), pa.concat_tables(quotes)
    assert depth_rows == 110_052 + 6  # and one snapshot in each file of the 8th
    assert set(pc.unique(all_trades["symbol"]).to_pylist()) == set(golden)
    for symbol, row in golden.items():
        mine = all_trades.filter(pc.equal(all_trades["symbol"], symbol)).sort_by("ts")
        ids, ts, price = mine["trade_id"], mine["ts"], mine["price"]
        assert mine.num_rows == int(row["trades"]) == pc.count_distinct(ids).as_py()
        assert (pc.min(ids).as_py(), pc.max(ids).as_py()) == (int(row["min_trade_id"]), int(row["max_trade_id"]))
        assert (ts[0].value, ts[-1].value) == (int(row["first_ts"]), int(row["last_ts"]))
        assert (price[0].as_py(), price[-1].as_py()) == (float(row["first"]), float(row["last"]))
        assert pc.sum(mine["size"]).as_py() == pytest.approx(float(row["volume"]), rel=1e-9)
        assert pc.sum(pc.equal(all_quotes["symbol"], symbol)).as_py() == int(row["quotes"])
