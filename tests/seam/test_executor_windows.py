"""Windows and bars by the executor against their definition, whatever the split between RAM and history."""

from __future__ import annotations

from typing import Any

import naive_windows
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_tiers import Tiers, make_tiers
from test_executor_model import OPTIONAL_KEYS, TIMES, ask, tiers, without_none

from proxist.errors import InvalidArgument, Unavailable
from proxist.model.query import Bars, Window, parse_query
from proxist.seam import Executor

AGGS = [
    {"fn": "count"},
    {"fn": "count", "value": "price"},
    {"fn": "sum", "value": "price"},
    {"fn": "avg", "value": "price"},
    {"fn": "min", "value": "price"},
    {"fn": "max", "value": "id"},
    {"fn": "first", "value": "price"},
    {"fn": "last", "value": "price"},
    {"fn": "stddev", "value": "price"},
    {"fn": "vwap", "value": "price", "weight": "id", "as": "vwap"},
    {"fn": "ema", "value": "price", "alpha": 0.25},
]
SOME_AGGS = st.lists(st.sampled_from(AGGS), min_size=1, max_size=4, unique_by=repr)
LENGTH = st.one_of(st.integers(1, 6).map(lambda n: {"rows": n}), st.integers(1, 8).map(lambda n: {"range": n}))


def as_lists(rows: pa.Table) -> list[list[Any]]:
    """Rows as plain values, times as nanoseconds."""
    columns = [column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in rows.columns]
    return [list(row) for row in zip(*(column.to_pylist() for column in columns), strict=True)]


def assert_same(found: list[list[Any]], wanted: list[list[Any]]) -> None:
    """Floats to the last digits: the model's numbers are exact and rounded once, a square root twice."""
    close = [
        [pytest.approx(value, rel=1e-14, abs=0) if isinstance(value, float) else value for value in row]
        for row in wanted
    ]
    assert found == close


def rows_of(made: Tiers, keys: Any) -> list[Any]:
    return [row for row in made.rows() if keys is None or row.symbol in keys]


def check_window(made: Tiers, verb: dict[str, Any]) -> None:
    answer = ask(made, {"window": verb})
    parsed = parse_query({"window": verb}).verb
    assert isinstance(parsed, Window)
    own = ["symbol", "ts", "id"] if made.seq else ["symbol", "ts"]
    assert answer.rows.column_names == [*own, *(agg.name for agg in parsed.aggs)]
    wanted = naive_windows.windows(rows_of(made, parsed.keys), parsed, lambda row: row.order(made.seq))
    assert_same(as_lists(answer.rows), [[*(row.value(name) for name in own), *values] for row, values in wanted])
    check_receipt(made, answer, {"window": verb})


@settings(max_examples=100, deadline=None)
@given(tiers(), st.booleans(), OPTIONAL_KEYS, SOME_AGGS, st.none() | TIMES, st.none() | TIMES, LENGTH)
def test_a_window_is_of_the_tables_rows(
    made: Tiers, drift: bool, keys: Any, aggs: Any, low: Any, high: Any, length: dict[str, int]
) -> None:
    made.drift = drift
    check_window(made, without_none(table="trades", keys=keys, aggs=aggs, to=high, **{"from": low}, **length))


@pytest.mark.parametrize("length", [{"rows": n} for n in (1, 2, 3, 5)] + [{"range": n} for n in (1, 2, 4)], ids=str)
def test_a_window_reaches_back_over_every_seam(length: dict[str, int]) -> None:
    """Each floor, each start: what lies before `from` is of the window, on whichever side it is."""
    times = (0, 1, 1, 3, 2, 5, 4, 4, 7, 6)
    aggs = [{"fn": "count"}, {"fn": "first", "value": "price"}, {"fn": "sum", "value": "price"}]
    for floor in range(len(times) + 1):
        for start in range(9):
            made = make_tiers()
            for number, time in enumerate(times):
                made.write("AB"[number % 4 == 3], time, number % 2, number)
            made.move(1, floor, floor)
            check_window(made, {"table": "trades", "aggs": aggs, "from": start, **length})


def test_rows_of_shards_that_tie_come_in_the_order_of_their_shards() -> None:
    for down_to in (0, 4):
        made = make_tiers(3, precise=False)
        for number, key in enumerate("ABCDEFGHIJKL"):
            made.write(key, 1, 1, number)
        for number in made.shards:
            made.move(number, down_to, down_to)
        check_window(made, {"table": "trades", "aggs": [{"fn": "count"}], "rows": 2})


@settings(max_examples=100, deadline=None)
@given(
    tiers(),
    st.booleans(),
    OPTIONAL_KEYS,
    SOME_AGGS,
    st.none() | TIMES,
    st.none() | TIMES,
    st.integers(1, 7),
    st.sampled_from(("none", "null", "prev")),
)
def test_bars_are_of_the_tables_rows(
    made: Tiers, drift: bool, keys: Any, aggs: Any, low: Any, high: Any, every: int, fill: str
) -> None:
    made.drift = drift
    verb = without_none(table="trades", keys=keys, aggs=aggs, to=high, every=every, fill=fill, **{"from": low})
    answer = ask(made, {"bars": verb})
    parsed = parse_query({"bars": verb}).verb
    assert isinstance(parsed, Bars)
    assert answer.rows.column_names == ["symbol", "ts", *(agg.name for agg in parsed.aggs)]
    found = naive_windows.bars(rows_of(made, keys), parsed, lambda row: row.order(made.seq))
    wanted = naive_windows.filled(found, parsed)
    assert_same(as_lists(answer.rows), [[key, start, *values] for start, key, values in wanted])
    check_receipt(made, answer, {"bars": verb}, made_of=len(found))


def check_receipt(made: Tiers, answer: Any, verb: dict[str, Any], made_of: int | None = None) -> None:
    """One statement at most, rows of both sides add up, and the same answer again with the receipt's token."""
    receipt = answer.receipt
    assert receipt.rows_hot + receipt.rows_cold == (answer.rows.num_rows if made_of is None else made_of)
    assert made.statements == int(receipt.cold_used) <= 1
    assert ask(made, verb, as_of=str(receipt.token)).rows.equals(answer.rows)


def test_a_bar_of_both_sides_says_so() -> None:
    made = make_tiers()
    for id_ in range(4):
        made.write("A", 1, id_, id_)
    made.move(1, 2, 2)
    answer = ask(made, {"bars": {"table": "trades", "every": 10, "aggs": [{"fn": "sum", "value": "price"}]}})
    assert as_lists(answer.rows) == [["A", 0, 6]]
    assert (answer.receipt.mode, answer.receipt.rows_cold) == ("cold+hot", 1)


def test_an_answer_without_rows_has_the_columns_types() -> None:
    aggs = [{"fn": "sum", "value": "price"}, {"fn": "avg", "value": "price"}, {"fn": "count"}]
    types = [pa.int64(), pa.float64(), pa.uint64()]
    shape = {"table": "trades", "keys": ["nobody"], "aggs": aggs}
    assert ask(make_tiers(), {"window": {**shape, "rows": 3}}).rows.schema.types[-3:] == types
    made = make_tiers(2)
    made.shards[1].down = made.shards[2].down = True
    answer = ask(made, {"bars": {**shape, "every": 3, "fill": "prev"}}, completeness="best_effort")
    assert answer.rows.schema.types[-3:] == types
    assert answer.receipt.missing


def test_without_history_best_effort_computes_from_ram_and_says_what_it_lacks() -> None:
    made = make_tiers()
    for id_ in range(4):
        made.write("A", 1, id_, id_)
    made.move(1, 2, 2)

    def away(_: Any) -> pa.Table:
        raise Unavailable("ClickHouse does not answer.")

    made.read = away  # type: ignore[method-assign]
    verb = {"bars": {"table": "trades", "every": 10, "aggs": [{"fn": "count"}]}}
    answer = ask(made, verb, completeness="best_effort")
    assert as_lists(answer.rows) == [["A", 0, 2]]
    assert "history" in answer.receipt.missing[0]
    with pytest.raises(Unavailable):
        ask(made, verb)
    with pytest.raises(Unavailable, match="Ask a query node"):
        Executor(made, made, None).run(parse_query(verb), "default")


def test_what_cannot_be_aggregated_is_refused_by_name() -> None:
    made = make_tiers()
    made.write("A", 1, 1, 1)
    for agg, words in (
        ({"fn": "sum", "value": "cost"}, "no column 'cost'"),
        ({"fn": "vwap", "value": "price", "weight": "size"}, "no column 'size'"),
        ({"fn": "count", "as": "ts"}, "named 'ts'"),
        ({"fn": "count", "as": "_offset"}, "named '_offset'"),
    ):
        for verb in ({"window": {"table": "trades", "rows": 2}}, {"bars": {"table": "trades", "every": 1}}):
            ((name, body),) = verb.items()
            with pytest.raises(InvalidArgument, match=words):
                ask(made, {name: {**body, "aggs": [agg]}})


def test_a_fill_that_would_take_the_memory_is_refused() -> None:
    made = make_tiers()
    made.write("A", 1, 1, 1)
    made.write("A", 10**12, 1, 1)
    verb = {"table": "trades", "every": 1, "fill": "null", "aggs": [{"fn": "count"}]}
    with pytest.raises(InvalidArgument, match=r"999,999,999,\d+|1,000,000,000,000.*longer `every`"):
        ask(made, {"bars": verb})
    assert ask(made, {"bars": {**verb, "fill": "none"}}).rows.num_rows == 2


def test_bars_reach_both_ends_of_time() -> None:
    made = make_tiers()
    low, high = -2_208_988_800 * 10**9, 2**63 - 1
    made.write("A", low, 1, 1)
    made.write("A", high, 2, 2)
    for every in (2**63 - 1, 2**62 + 1, 10**18):
        verb = {"table": "trades", "every": every, "from": -(2**63), "to": high, "fill": "null"}
        answer = ask(made, {"bars": {**verb, "aggs": [{"fn": "count"}]}})
        starts = answer.rows["ts"].cast(pa.int64()).to_pylist()
        assert starts == [start * every for start in range(low // every, (high - 1) // every + 1)]
        assert answer.rows["count"].to_pylist()[0] == 1
