"""Who wins among equals, and that every Arrow type means the same in either plan."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from real_tiers import NOW_NS, RealTiers

from proxist.errors import DeadlineExceeded, InvalidArgument, NotFound, PermissionDenied, Unavailable
from proxist_query.engine import Engine

TIES = {
    "name": "ties",
    "time": "ts",
    "key": "k",
    "seq": "s",
    "columns": [
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "k", "type": "string"},
        {"name": "s", "type": "uint64"},
        {"name": "v", "type": "int64", "nullable": True},
        {"name": "y", "type": "int64", "nullable": True},
    ],
}
#        ts  s  v     y
ROWS = [(5, 1, 10, 7), (5, 2, 11, None), (5, 2, 12, 7), (5, 0, 13, 9), (3, 9, 14, 9), (9, 0, None, None)]


@pytest.fixture
def ties(tiers: RealTiers) -> RealTiers:
    tiers.create(TIES)
    columns = list(zip(*ROWS, strict=True))
    table = pa.table(
        {
            "ts": pa.array([NOW_NS + t for t in columns[0]], pa.timestamp("ns", "UTC")),
            "k": pa.array(["A"] * len(ROWS)),
            "s": pa.array(columns[1], pa.uint64()),
            "v": pa.array(columns[2], pa.int64()),
            "y": pa.array(columns[3], pa.int64()),
        }
    )
    tiers.write("ties", table)
    return tiers


AT = f"fromUnixTimestamp64Nano({NOW_NS + 5})"
PROBE = f"(SELECT 'A' AS k, {AT} AS ts) AS p"
CASES = [
    (f"SELECT argMax(v, ts) FROM ties WHERE ts <= {AT}", [12]),
    (f"SELECT argMin(v, ts) FROM ties WHERE ts >= {AT}", [13]),
    ("SELECT argMax(v, y) FROM ties", [13]),
    ("SELECT argMin(v, y) FROM ties", [10]),
    ("SELECT first_value(v) FROM ties", [14]),
    ("SELECT last_value(v) FROM ties", [12]),
    ("SELECT last_value(v) RESPECT NULLS FROM ties", [None]),
    ("SELECT groupArray(v) FROM ties", [[14, 13, 10, 11, 12]]),
    ("SELECT v FROM ties", [14, 13, 10, 11, 12, None]),
    ("SELECT v FROM ties ORDER BY ts DESC LIMIT 2", [None, 12]),
    ("SELECT v FROM ties ORDER BY ts LIMIT 2 OFFSET 1", [13, 10]),
    (f"SELECT q.v FROM {PROBE} ASOF JOIN ties AS q ON p.k = q.k AND p.ts >= q.ts", [12]),
    (f"SELECT q.v FROM {PROBE} ASOF JOIN ties AS q ON p.k = q.k AND p.ts <= q.ts", [13]),
    (f"SELECT q.v FROM {PROBE} ASOF JOIN ties AS q ON p.k = q.k AND p.ts > q.ts", [14]),
    (f"SELECT q.v FROM {PROBE} ASOF JOIN ties AS q ON p.k = q.k AND q.ts <= p.ts", [12]),
    ("SELECT v FROM (SELECT v, ts FROM ties) ORDER BY ts LIMIT 3", [14, 13, 10]),
    ("SELECT argMax(v, ts) FROM (SELECT v, ts FROM ties WHERE v > 0)", [12]),
]


def test_among_equals_the_order_decides(ties: RealTiers) -> None:
    for moment in ties.four_moments():
        for text, expected in CASES:
            found = ties.sql(text).rows
            assert found.column(0).to_pylist() == expected, f"{moment}: {text}"
        last = ties.ask({"last_by": {"table": "ties", "at": NOW_NS + 5, "columns": ["v"]}})
        first = ties.ask({"first_by": {"table": "ties", "at": NOW_NS + 4, "columns": ["v"]}})
        assert (last.rows["v"].to_pylist(), first.rows["v"].to_pylist()) == ([12], [13]), moment


def test_an_answers_columns_have_clickhouses_names(ties: RealTiers) -> None:
    text = "SELECT argMax(v, ts), argMax(v, ts) * 2, v + 1 AS w, now(), count() FROM ties GROUP BY w"
    names = ["argMax(v, ts)", "multiply(argMax(v, ts), 2)", "w", "now()", "count()"]
    assert ties.sql(text).rows.schema.names == names
    receipt = ties.sql(text).receipt
    assert receipt.now == "2024-08-09T00:00:00Z"
    assert ties.sql("SELECT rand() FROM ties").receipt.not_repeatable == ("rand()",)


VALUES: dict[str, list[Any]] = {
    "bool": [True, False],
    "int8": [-128, 127],
    "int16": [-(2**15), 2**15 - 1],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1],
    "uint8": [0, 255],
    "uint16": [0, 2**16 - 1],
    "uint32": [0, 2**32 - 1],
    "uint64": [0, 2**64 - 1],
    "halffloat": [1.5, -2.0],
    "float": [1.5, float("inf")],
    "double": [1e300, -0.0],
    "string": ["", "é'\\\n"],
    "binary": [b"", b"\xff\x00'"],
    "date32[day]": [date(1900, 1, 1), date(2299, 12, 31)],
    "timestamp[s]": [0, 2**32],
    "timestamp[ms, tz=UTC]": [0, 10**12],
    "timestamp[us, tz=Europe/Berlin]": [0, 10**15],
    "timestamp[ns]": [1, 10**18],
    "time64[us]": [0, 86_399_999_999],
    "time64[ns]": [1, 86_399_999_999_999],
    "duration[ms]": [-5, 10**12],
    "decimal128(38, 10)": [Decimal("-1.5"), Decimal("9" * 28 + "." + "9" * 10)],
    "decimal256(60, 4)": [Decimal("0.0001"), Decimal("9" * 56)],
    "list<item: double>": [[], [1.5, -2.0]],
    "list<item: bool>": [[True], []],
    "time32[s]": [0, 86_399],
    "time32[ms]": [0, 86_399_999],
    "date64[ms]": [date(1970, 1, 1), date(2200, 1, 1)],
    "list<item: int64>": [[2**63 - 1], [0, -1]],
}


def test_every_type_is_the_same_in_every_plan(tiers: RealTiers) -> None:
    columns = [{"name": "ts", "type": "timestamp[ns, tz=UTC]"}, {"name": "k", "type": "string"}]
    columns += [{"name": f"c{i}", "type": t} for i, t in enumerate(VALUES)]
    columns += [{"name": f"n{i}", "type": t, "nullable": True} for i, t in enumerate(VALUES) if "list" not in t]
    table = tiers.create({"name": "types", "time": "ts", "key": "k", "columns": columns})
    arrays: list[pa.Array] = [pa.array([NOW_NS, NOW_NS + 1], pa.timestamp("ns", "UTC")), pa.array(["A", "A"])]
    for column in table.spec.columns[2:]:
        low, high = list(VALUES.values())[int(column.name[1:])]
        values = [None if column.nullable else low, high]
        if pa.types.is_float16(column.type):
            arrays.append(pa.array(values, pa.float32()).cast(column.type))
        else:
            arrays.append(pa.array(values, column.type))
    rows = pa.Table.from_arrays(arrays, schema=table.spec.schema)
    tiers.write("types", rows)
    first: dict[str, pa.Table] = {}
    for moment in tiers.four_moments():
        scan = tiers.ask({"scan": {"table": "types"}}).rows.combine_chunks()
        assert scan.equals(rows.combine_chunks()), moment
        for text in ("SELECT * FROM types", "SELECT max(c4), min(n4), any(c12), groupArray(c24) FROM types"):
            found = tiers.sql(text).rows.combine_chunks()
            expected = first.setdefault(text, found)
            assert found.schema.equals(expected.schema), moment
            assert found.equals(expected), moment


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("SELECT nosuch FROM ties", InvalidArgument, "nosuch"),
        ("SELECT count( FROM ties", InvalidArgument, "not SQL"),
        ("SELECT nosuchfunction(v) FROM ties", InvalidArgument, "nosuchfunction"),
        ("SELECT throwIf(v = 12) FROM ties", InvalidArgument, "THROW"),
        ("SELECT * FROM nosuch", NotFound, "nosuch"),
        ("SELECT * FROM system.one", PermissionDenied, "system"),
    ],
)
def test_a_wrong_query_is_refused_alike_by_either_plan(
    ties: RealTiers, text: str, error: type[Exception], words: str
) -> None:
    for moment in ties.four_moments():
        with pytest.raises(error, match=words) as raised:
            ties.sql(text)
        message = str(raised.value)
        assert "__px" not in message, moment
        assert "/proc" not in message, moment
        # The engine's handle on which a statement failed must not answer the next one.
        assert ties.sql("SELECT 5 AS x, count() AS n FROM ties").rows.to_pylist() == [{"x": 5, "n": len(ROWS)}], moment


def test_history_down_is_typed_and_best_effort_says_what_is_missing(ties: RealTiers) -> None:
    ties.persist("ties", 0.5)
    ties.evict("ties", 1.0)
    ties.clickhouse.drop_table(ties.tables["ties"])
    for question in ({"sql": "SELECT count() AS n FROM ties"}, {"scan": {"table": "ties"}}):
        with pytest.raises(Unavailable, match="ties"):
            ties.ask(question)
        answer = ties.ask({**question, "completeness": "best_effort"})
        assert answer.receipt.missing
        assert answer.receipt.rows_hot == len(ROWS) - 3


def test_many_keys_travel_as_external_data(ties: RealTiers) -> None:
    ties.persist("ties", 1.0)
    ties.evict("ties", 1.0)
    keys = ["A", *(f"none-{i}" for i in range(300))]
    for verb in ("scan", "last_by", "first_by"):
        wire = {
            verb: {"table": "ties", "keys": keys, "columns": ["v"]} | ({"at": NOW_NS + 4} if verb == "last_by" else {})
        }
        answer = ties.ask(wire)
        assert (
            answer.rows["v"].to_pylist()
            == {"scan": [14, 13, 10, 11, 12, None], "last_by": [14], "first_by": [14]}[verb]
        )
        assert answer.receipt.mode == "cold"


def test_a_statement_that_runs_too_long_is_ended() -> None:
    engine = Engine(1, 0.2)
    with pytest.raises(DeadlineExceeded):
        engine.query("SELECT count() FROM numbers(1000000000000) WHERE sqrt(number) = 0.5")
    assert engine.query("SELECT 1 AS one").to_pylist() == [{"one": 1}]
    engine.close()
