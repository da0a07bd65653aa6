"""What a query reads, what it may not do, and what its rewriting keeps."""

from __future__ import annotations

import re

import pytest

from proxist.errors import InvalidArgument, NotFound, PermissionDenied, ProxistError
from proxist.model.ids import ShardId, TableId
from proxist.model.table import Table, parse_spec
from proxist.sql import Bounds, Prepared, prepare

NOW_NS = 1_723_161_256_419_684_465
T0 = 1_704_067_200_000_000_000  # 2024-01-01
HOUR = 3600 * 10**9


def make_table(name: str) -> Table:
    columns = [
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "symbol", "type": "string"},
        {"name": "id", "type": "uint64"},
        {"name": "price", "type": "double"},
        {"name": "size", "type": "double", "nullable": True},
    ]
    spec = parse_spec({"name": name, "time": "ts", "key": "symbol", "seq": "id", "columns": columns})
    return Table(TableId(1), "default", spec, (ShardId(1),))


TABLES = {name: make_table(name) for name in ("trades", "quotes")}


def table_of(name: str) -> Table:
    if name not in TABLES:
        raise NotFound(f"Table {name!r} is unknown.")
    return TABLES[name]


def ready(text: str) -> Prepared:
    return prepare(text, "default", table_of, NOW_NS)


def rendered(text: str) -> str:
    return ready(text).render({"trades": "(T)", "quotes": "(Q)"})


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("SELECT * FROM nosuch", NotFound, "nosuch"),
        ("SELECT * FROM other.trades", PermissionDenied, "'other'"),
        ("SELECT * FROM system.tables", PermissionDenied, "'system'"),
        ("SELECT * FROM url('http://x', CSV)", InvalidArgument, "url"),
        ("SELECT * FROM file('x.csv')", InvalidArgument, "file"),
        ("SELECT * FROM remote('h', default.trades)", InvalidArgument, "remote"),
        ("SELECT * FROM s3('http://b/x')", InvalidArgument, "s3"),
        ("SELECT * FROM Python(x)", InvalidArgument, "Python"),
        ("SELECT * FROM python(x)", InvalidArgument, "python"),
        ("SELECT * FROM executable('x', CSV, 'a Int8')", InvalidArgument, "executable"),
        ("SELECT * FROM merge('default', '.*')", InvalidArgument, "merge"),
        ("SELECT * FROM view(SELECT 1)", InvalidArgument, "view"),
        ("SELECT * FROM (SELECT * FROM mysql('h', 'd', 't', 'u', 'p'))", InvalidArgument, "mysql"),
        ("WITH q AS (SELECT * FROM url('x')) SELECT * FROM q", InvalidArgument, "url"),
        ("SELECT file('/etc/passwd')", InvalidArgument, "file"),
        ("SELECT dictGet('d', 'a', 1)", InvalidArgument, "dictGet"),
        ("SELECT sleep(3)", InvalidArgument, "sleep"),
        ("SELECT symbol IN trades FROM quotes", InvalidArgument, "IN"),
        ("SELECT symbol IN (trades) FROM quotes", InvalidArgument, "IN"),
        ("SELECT symbol GLOBAL NOT IN trades FROM quotes", InvalidArgument, "IN"),
        ("SELECT symbol IN ((trades)) FROM quotes", InvalidArgument, "IN"),
        ("SELECT 1 IN (((system.one)))", InvalidArgument, "IN"),
        ("SELECT t.COLUMNS('o') FROM trades AS t", InvalidArgument, "COLUMNS"),
        ("SELECT * FROM trades AS t(a, b, c)", InvalidArgument, "names for its columns"),
        ("SELECT count() FROM trades WHERE symbol = '\\xc3\\xa9'", InvalidArgument, "unhex"),
        ("SELECT 1 SETTINGS max_execution_time = 0", InvalidArgument, "max_execution_time"),
        ("SELECT notIn(symbol, trades) FROM quotes", InvalidArgument, "notIn"),
        ("SELECT 1 IN url('http://x')", InvalidArgument, "url"),
        ("SELECT 1 IN file('/etc/passwd')", InvalidArgument, "file"),
        ("SELECT * FROM 'a.csv'", NotFound, "a.csv"),
        ("SELECT 1 INTO OUTFILE 'x'", InvalidArgument, "INTO"),
        ("SELECT 1 FORMAT JSON", InvalidArgument, "FORMAT"),
        ("SELECT 1 SETTINGS readonly = 0", InvalidArgument, "readonly"),
        ("SELECT {x:Int8}", InvalidArgument, "parameter"),
        ("SELECT 1; DROP TABLE trades", InvalidArgument, "2 statements"),
        ("DROP TABLE trades", InvalidArgument, "DROP"),
        ("INSERT INTO trades SELECT * FROM trades", InvalidArgument, "INSERT"),
        ("SET a = 1", InvalidArgument, "SET"),
        ("SYSTEM SHUTDOWN", InvalidArgument, "SYSTEM"),
        ("SELECT FROM WHERE", InvalidArgument, "not SQL"),
        ("SELECT __px_o0 FROM trades", InvalidArgument, "__px_"),
        ("SELECT * FROM trades SAMPLE 0.1", InvalidArgument, "SAMPLE"),
    ],
)
def test_what_reaches_outside_is_refused_by_name(text: str, error: type[ProxistError], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        ready(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM trades",
        "SELECT * FROM default.trades",
        "SELECT * FROM `default`.`trades` FINAL",
        "WITH x AS (SELECT * FROM trades) SELECT * FROM x",
        "WITH [1, 2] AS known SELECT id IN known, id IN (1), id IN [1, 2], id IN tuple(1, 2) FROM trades",
        "WITH trades AS (SELECT * FROM trades) SELECT * FROM trades",
        "SELECT * FROM (SELECT symbol FROM trades GROUP BY symbol) AS s",
        "SELECT 1 WHERE 1 IN (SELECT id FROM trades)",
        "SELECT (SELECT max(ts) FROM trades) AS m",
        "SELECT 1 UNION ALL SELECT id FROM trades",
    ],
)
def test_tables_are_found_wherever_they_stand(text: str) -> None:
    assert [use.table.name for use in ready(text).uses] == ["trades"]
    assert rendered(text).count("(T) AS") == 1
    assert "__px_relation" not in rendered(text)


def test_a_common_table_hides_a_table_of_its_name_only_where_it_is_visible() -> None:
    text = "WITH trades AS (SELECT price FROM quotes) SELECT trades.price FROM trades"
    assert [use.table.name for use in ready(text).uses] == ["quotes"]


@pytest.mark.parametrize(
    ("where", "bounds"),
    [
        ("ts >= '2024-01-01'", Bounds(from_ns=T0)),
        ("ts > '2024-01-01 00:00:00.5'", Bounds(from_ns=T0 + 500_000_001)),
        ("'2024-01-01' > ts", Bounds(to_ns=T0)),
        ("ts <= toDateTime('2024-01-01')", Bounds(to_ns=T0 + 1)),
        ("ts = toDateTime64('2024-01-01', 9, 'UTC')", Bounds(from_ns=T0, to_ns=T0 + 1)),
        ("ts BETWEEN '2024-01-01' AND '2024-01-01 01:00:00'", Bounds(from_ns=T0, to_ns=T0 + HOUR + 1)),
        (f"ts >= fromUnixTimestamp64Nano({T0}) AND (symbol = 'A' AND price > 1)", Bounds(("A",), T0)),
        ("trades.symbol IN ('A', 'B', 'A')", Bounds(("A", "B"))),
        ("symbol IN ('A', 'B') AND symbol = 'B'", Bounds(("B",))),
        ("ts > now() - INTERVAL 1 HOUR", Bounds(from_ns=NOW_NS // 10**9 * 10**9 - HOUR + 1)),
        ("ts >= today()", Bounds(from_ns=None)),
        ("ts >= CAST('2024-01-01' AS Date)", Bounds(from_ns=T0)),
        ("ts >= '2024-01-01' OR symbol = 'A'", Bounds()),
        ("NOT ts >= '2024-01-01'", Bounds()),
        ("ts + 1 >= '2024-01-01'", Bounds()),
        ("ts >= toDateTime('2024-01-01', 'Asia/Tokyo')", Bounds()),
        ("ts >= toDateTime64('2024-01-01 00:00:00.123456789', 3)", Bounds()),
        ("ts >= 'yesterday'", Bounds()),
        ("ts >= '2024-01-01T00:00:00+01:00'", Bounds()),
        ("symbol = lower('A')", Bounds()),
        ("symbol NOT IN ('A')", Bounds()),
        # DateTime wraps where its 32 bits end, and text plus an interval has milliseconds only.
        ("ts < toDateTime('1960-01-01')", Bounds()),
        ("ts >= toDateTime('2200-01-01 00:00:00')", Bounds()),
        ("ts < toDate('1960-01-01')", Bounds()),
        ("ts < toDateTime('1980-01-01') - INTERVAL 9999 DAY", Bounds()),
        ("ts > '2024-01-01 00:00:00.123456789' + INTERVAL 1 SECOND", Bounds()),
        ("ts = '1800-01-01'", Bounds()),
    ],
)
def test_bounds_are_what_the_conjuncts_prove(where: str, bounds: Bounds) -> None:
    (use,) = ready(f"SELECT count() FROM trades WHERE {where}").uses
    assert use.bounds == bounds
    (use,) = ready(f"SELECT count() FROM trades PREWHERE {where}").uses
    assert use.bounds == bounds


@pytest.mark.parametrize(
    "text",
    [
        "SELECT toDate(ts) AS ts FROM trades WHERE ts >= '2024-01-01'",
        "WITH toDateTime(1) AS ts SELECT price FROM trades WHERE ts >= '2024-01-01'",
        "SELECT count() FROM quotes AS q LEFT JOIN trades AS t ON q.id = t.id WHERE t.ts >= '2024-01-01'",
        "SELECT count() FROM trades AS t RIGHT JOIN quotes AS q ON q.id = t.id WHERE t.ts >= '2024-01-01'",
        "SELECT count() FROM quotes AS q ASOF JOIN trades AS t ON q.symbol = t.symbol AND q.ts >= t.ts WHERE t.ts < '2024-01-01'",
        "SELECT count() FROM quotes AS q ANY JOIN trades AS t ON q.id = t.id WHERE t.ts < '2024-01-01'",
        "SELECT count() FROM trades AS t JOIN quotes AS q ON q.id = t.id WHERE ts >= '2024-01-01'",
        "SELECT upper(lower(symbol) AS symbol) FROM trades WHERE symbol = 'a'",
        "SELECT (price, ts + INTERVAL 1 YEAR AS ts) FROM trades WHERE ts > '2025-01-01'",
        "SELECT count() FROM trades WHERE (lower(symbol) AS symbol) = symbol AND symbol = 'a'",
        "SELECT count() FROM trades GROUP BY symbol HAVING max(ts) >= '2024-01-01'",
        "SELECT (SELECT count() FROM trades WHERE ts > '2024-01-01'), (SELECT count() FROM trades)",
    ],
)
def test_what_is_not_proven_bounds_nothing(text: str) -> None:
    bounds = {use.table.name: use.bounds for use in ready(text).uses}
    assert bounds["trades"] == Bounds()


def test_bounds_of_several_references_cover_all_of_them() -> None:
    text = (
        "SELECT (SELECT count() FROM trades WHERE ts < '2024-01-01' AND symbol = 'A'), "
        "(SELECT count() FROM trades WHERE ts < '2024-01-01 01:00:00' AND symbol = 'B')"
    )
    assert ready(text).uses[0].bounds == Bounds(("A", "B"), None, T0 + HOUR)


def test_joined_tables_are_bounded_on_the_sides_that_where_may_prune() -> None:
    text = (
        "SELECT count() FROM trades AS t JOIN quotes AS q ON q.id = t.id "
        "WHERE t.ts >= '2024-01-01' AND q.symbol = 'A' AND t.symbol = 'B'"
    )
    bounds = {use.table.name: use.bounds for use in ready(text).uses}
    assert bounds == {"trades": Bounds(("B",), T0), "quotes": Bounds(("A",))}


def test_only_the_columns_that_are_named_are_read() -> None:
    assert ready("SELECT count(*), max(price) FROM trades").uses[0].columns == ("ts", "symbol", "id", "price")
    assert ready("SELECT t.* FROM trades AS t").uses[0].columns == ("ts", "symbol", "id", "price", "size")


def test_star_is_the_tables_own_columns_and_hidden_ones_can_be_named() -> None:
    assert "* EXCEPT (_log, _offset), _offset FROM" in rendered("SELECT *, _offset FROM trades")
    assert "* EXCEPT (price, _log, _offset)" in rendered("SELECT * EXCEPT (price) FROM trades")
    assert "count(*)" in rendered("SELECT count(*) FROM trades")
    assert "sipHash64(* EXCEPT (_log, _offset))" in rendered("SELECT sipHash64(*) FROM trades")
    assert "COLUMNS('o') EXCEPT (_log, _offset)" in rendered("SELECT COLUMNS('o') FROM trades")
    for text in (
        "SELECT sipHash64(*) FROM trades",
        "SELECT count(DISTINCT *) FROM trades",
        "SELECT COLUMNS('o') FROM trades",
    ):
        assert "price" in ready(text).uses[0].columns


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("SELECT argMax(price, ts), any(size), groupArray(3)(price), groupUniqArray(symbol) FROM trades", ()),
        ("SELECT argMaxArray([price], [ts]), anyState(price) FROM trades", ("argMaxArray()", "anyState()")),
        ("SELECT quantile(0.5)(price), groupConcat(',')(symbol) FROM trades", ("quantile()", "groupConcat()")),
        ("SELECT last_value(price) OVER (ORDER BY size) FROM trades", ("last_value()",)),
        ("SELECT first_value(price) OVER (ORDER BY size) FROM trades", ()),
        ("SELECT t.price FROM trades AS t ANY LEFT JOIN quotes AS q ON t.id = q.id", ("ANY JOIN",)),
        ("SELECT groupConcat(',')(price) FROM (SELECT price FROM trades ORDER BY ts)", ()),
        ("SELECT any(number), quantile(0.5)(number) FROM numbers(3)", ()),
    ],
)
def test_what_depends_on_the_order_of_arrival_is_made_exact_or_named(text: str, names: tuple[str, ...]) -> None:
    assert set(ready(text).not_repeatable) == set(names)


def test_the_clock_is_a_literal_and_the_unrepeatable_is_named() -> None:
    made = ready("SELECT now(), today(), now64(9), rand(), generateUUIDv4(), current_timestamp FROM trades")
    assert made.reads_clock
    assert made.not_repeatable == ("rand()", "generateUUIDv4()")
    assert not re.search(r"\b(now|today|now64)\(\)(?!\")", made.text)
    assert not ready("SELECT 1").reads_clock


def test_changed_projections_keep_the_name_that_clickhouse_gives() -> None:
    text = rendered("SELECT argMax(price, ts), argMax(price, ts) * 2, now(), count() FROM trades")
    for name in ("argMax(price, ts)", "multiply(argMax(price, ts), 2)", "now()"):
        assert f'AS "{name}"' in text
    assert 'AS "count()"' not in text


ORDER = "trades.ts ASC, trades.id ASC, trades._offset ASC, trades._log ASC"


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("SELECT price FROM trades", f"ORDER BY {ORDER}"),
        ("SELECT price FROM trades LIMIT 3", f"ORDER BY {ORDER} LIMIT 3"),
        ("SELECT price FROM trades ORDER BY price LIMIT 1 BY symbol", f"ORDER BY price, {ORDER} LIMIT 1 BY symbol"),
        ("SELECT price FROM trades ORDER BY ts DESC LIMIT 1", "ts DESC, trades.ts DESC, trades.id DESC, trades._offset DESC, trades._log DESC LIMIT 1"),
        ("SELECT symbol, count() FROM trades GROUP BY symbol", "GROUP BY symbol ORDER BY symbol ASC"),
        ("SELECT symbol, count() AS n FROM trades GROUP BY symbol ORDER BY n DESC LIMIT 1", "ORDER BY n DESC, symbol ASC LIMIT 1"),
        ("SELECT DISTINCT symbol FROM trades", "ORDER BY ALL ASC"),
        ("SELECT DISTINCT symbol, id FROM trades ORDER BY id LIMIT 2", "ORDER BY id, tuple(symbol, id) ASC LIMIT 2"),
        ("SELECT DISTINCT ON (symbol) price FROM trades", f"ORDER BY {ORDER}"),
        ("SELECT price FROM trades LIMIT 1 BY symbol LIMIT 3 OFFSET 1", f"ORDER BY {ORDER} LIMIT 1 BY symbol LIMIT 3 OFFSET 1"),
        ("SELECT symbol, count() FROM trades GROUP BY ALL", "GROUP BY ALL ORDER BY symbol ASC"),
        ("SELECT id, count() FROM trades GROUP BY ROLLUP(id)", "ORDER BY id ASC, grouping(id) ASC"),
        ("SELECT count() FROM trades", "FROM (T) AS trades"),
        ("SELECT price FROM trades ORDER BY price LIMIT 2 WITH TIES", "ORDER BY price LIMIT 2 WITH TIES"),
        ("SELECT price FROM trades ORDER BY ts WITH FILL", "ORDER BY ts WITH FILL"),
    ],
)  # fmt: skip
def test_what_sorting_and_limits_leave_open_the_order_decides(text: str, tail: str) -> None:
    assert rendered(text).endswith(tail)


def test_explain_is_noticed() -> None:
    assert ready("EXPLAIN SELECT count() FROM trades").explain
    assert not ready("SELECT 'EXPLAIN'").explain
