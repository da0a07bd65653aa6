"""The executor against the naive model: whatever the split between RAM and history, the answer is the table's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_tiers import Tiers, batch_of, by_key, make_tiers, matches, scanned

from proxist.hot.ops import HotAsof, HotFirstBy, HotLastBy, HotScan, Probes
from proxist.model.query import parse_query
from proxist.seam import Executor

KEYS = ("A", "B", "C", "é")
TIMES = st.integers(-3, 12)
WRITES = st.lists(st.tuples(st.sampled_from(KEYS), TIMES, st.integers(0, 3)), max_size=40)


@st.composite
def tiers(draw: st.DrawFn) -> Tiers:
    made = make_tiers(draw(st.integers(1, 3)), draw(st.booleans()), draw(st.booleans()))
    for number, (key, time, id_) in enumerate(draw(WRITES)):
        made.write(key, time, id_, number if number % 5 else None)
    for number, shard in made.shards.items():
        made.move(number, draw(st.integers(0, shard.end)), draw(st.integers(0, shard.end)))
    return made


OPTIONAL_KEYS = st.none() | st.lists(st.sampled_from((*KEYS, "none")), max_size=3)
COLUMNS = st.none() | st.lists(st.sampled_from(("price", "id", "ts", "symbol", "_offset", "_log")), max_size=3)


def ask(made: Tiers, verb: dict[str, Any], probes: pa.Table | None = None, **beside: Any) -> Any:
    return Executor(made, made, made).run(parse_query({**verb, **beside}), "default", probes)


def without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def named(columns: list[str] | None, *, key_first: bool = False) -> tuple[str, ...]:
    names = ["ts", "symbol", "id", "price"] if columns is None else columns
    return tuple(dict.fromkeys(["symbol", *names] if key_first else names))


@settings(max_examples=150, deadline=None)
@given(tiers(), OPTIONAL_KEYS, COLUMNS, st.none() | TIMES, st.none() | TIMES, st.none() | st.integers(0, 10))
def test_a_scan_is_the_tables_rows_in_order(
    made: Tiers, keys: Any, columns: Any, low: Any, high: Any, limit: Any
) -> None:
    verb = without_none(table="trades", keys=keys, columns=columns, to=high, limit=limit) | without_none(
        **{"from": low}
    )
    answer = ask(made, {"scan": verb})
    rows = [r for r in made.rows() if keys is None or r.symbol in keys]
    wanted = scanned(rows, HotScan(from_ns=low, to_ns=high, limit=limit), made.seq)
    assert answer.rows.to_pylist() == batch_of(list(wanted), named(columns), made.table_).to_pylist()
    receipt = answer.receipt
    assert receipt.rows_hot + receipt.rows_cold == len(wanted)
    assert made.statements == int(receipt.cold_used) <= 1
    again = ask(made, {"scan": verb}, as_of=str(receipt.token))
    assert again.rows.equals(answer.rows)


@settings(max_examples=100, deadline=None)
@given(tiers(), OPTIONAL_KEYS, COLUMNS, st.none() | TIMES, st.booleans())
def test_last_by_and_first_by_take_the_last_and_first_in_order(
    made: Tiers, keys: Any, columns: Any, at: Any, last: bool
) -> None:
    verb = without_none(table="trades", keys=keys, columns=columns, at=at)
    answer = ask(made, {"last_by" if last else "first_by": verb})
    rows = [r for r in made.rows() if keys is None or r.symbol in keys]
    wanted = by_key(rows, HotLastBy(at_ns=at) if last else HotFirstBy(at_ns=at), made.seq)
    assert answer.rows.to_pylist() == batch_of(list(wanted), named(columns, key_first=True), made.table_).to_pylist()


@settings(max_examples=150, deadline=None)
@given(
    tiers(),
    st.lists(st.tuples(st.sampled_from((*KEYS, "none")), TIMES), max_size=10),
    st.sampled_from(("backward", "forward", "nearest")),
    st.none() | st.integers(0, 4),
    st.booleans(),
)
def test_asof_of_probes_is_the_asof_by_definition(
    made: Tiers, sent: Any, direction: str, tolerance: Any, exact: bool
) -> None:
    times = pa.array([t for _, t in sent], pa.timestamp("ns", "UTC"))
    keys = pa.array([k for k, _ in sent], pa.string())
    verb = {"left": {"probe": True}, "right": {"table": "trades", "columns": ["price", "ts", "_offset"]}}
    verb |= {"direction": direction, "allow_exact": exact} | without_none(tolerance=tolerance)
    answer = ask(made, {"asof": verb}, pa.table({"ts": times, "symbol": keys}))
    probes = Probes(keys, np.array([t for _, t in sent], np.int64))
    op = HotAsof(direction=direction, tolerance_ns=tolerance, allow_exact=exact)
    wanted = matches(made.rows(), probes, op, made.seq)
    assert answer.rows.schema.names == ["ts", "symbol", "price", "ts_right", "_offset"]
    assert [r["_offset"] for r in answer.rows.to_pylist()] == [r and r.offset for r in wanted.values()]
    assert [r["price"] for r in answer.rows.to_pylist()] == [r and r.price for r in wanted.values()]


@settings(max_examples=60, deadline=None)
@given(tiers(), st.sampled_from(("backward", "forward", "nearest")), st.none() | st.integers(0, 8))
def test_asof_of_a_table_with_itself_sees_one_instant(made: Tiers, direction: str, limit: Any) -> None:
    left = without_none(table="trades", columns=["symbol", "ts", "_offset"], limit=limit)
    right = {"table": "trades", "columns": ["_offset"]}
    verb = {"asof": {"left": left, "right": right, "direction": direction, "allow_exact": False}}
    answer = ask(made, verb)
    rows = scanned(made.rows(), HotScan(limit=limit), made.seq)
    probes = Probes(pa.array([r.symbol for r in rows], pa.string()), np.array([r.ts for r in rows], np.int64))
    wanted = matches(made.rows(), probes, HotAsof(direction=direction, allow_exact=False), made.seq)
    assert answer.rows["_offset"].to_pylist() == [r.offset for r in rows]
    assert answer.rows["_offset_right"].to_pylist() == [r and r.offset for r in wanted.values()]
    assert ask(made, verb, as_of=str(answer.receipt.token)).rows.equals(answer.rows)
