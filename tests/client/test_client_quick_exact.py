"""What is read without the executor is what the executor reads: all last rows, and as-of with probes, while rows come late,
tie, are null and are evicted, and while keys appear."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxist.client import quick
from proxist.client.attach import Elsewhere
from proxist.client.local import LocalReads
from proxist.client.quick_asof import PROBES_MAX
from proxist.client.topology import Topology, parse_topology
from proxist.errors import InvalidArgument
from proxist.hot.host import this_host_id
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.model.table import Table, parse_spec
from proxist.rpc.attach import AttachDoor

KEYS = ["A", "B", "AB", "Ä"]
SPEC = parse_spec(
    {
        "name": "trades",
        "time": "ts",
        "key": "symbol",
        "seq": "id",
        "columns": [
            {"name": "symbol", "type": "string"},
            {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
            {"name": "id", "type": "uint64"},
            {"name": "price", "type": "double", "nullable": True},
            {"name": "size", "type": "int32"},
            {"name": "buy", "type": "bool", "nullable": True},
            {"name": "day", "type": "date32[day]"},
            {"name": "note", "type": "string", "nullable": True},
        ],
        "hot_bytes": 2**21,
    }
)
FIXED = ["price", "size", "buy", "day", "id", "ts"]
TIME = pa.timestamp("ns", "UTC")
PROBES = pa.schema([("symbol", pa.string()), ("ts", TIME)])


class Owner:
    """One shard behind an attach door; what is evicted is in no history here."""

    def __init__(self, run_dir: Path, start: int = 0) -> None:
        table = Table(TableId(1), "default", SPEC, (ShardId(7),))
        self.hot = HotSet.create(SPEC, ShardId(7), Epoch(1), Offset(start), block_rows=16)
        self.hot.set_lease_until(2**62)
        descriptor = self._descriptor = self.hot.readonly_fd()
        self._door = AttachDoor(run_dir / "o.attach", lambda _: (descriptor, {}))
        node = {"name": "o", "role": "ingest", "flight": "grpc://h:1", "attach": str(self._door.path)}
        log = {"epoch": 1, "start": 0, "end": None, "state": "open"}
        shard = {"slot": 0, "shard": 7, "node": "o", "epoch": 1, "logs": [log]}
        tables = [{"table": table.to_json(), "shards": [shard]}]
        known = parse_topology({"nodes": [{**node, "host_id": this_host_id()}], "tables": tables})

        def topology(*, fresh: bool = False) -> Topology:
            return known

        self.local = LocalReads(topology, None, required=True)

    def write(self, rows: list[tuple[str, int, float | None, bool | None]]) -> None:
        if not rows:
            return
        keys, times, prices, flags = (list(column) for column in zip(*rows, strict=True))
        ids, sizes = [time % 3 for time in times], [time * 7 for time in times]
        columns = [keys, times, [i if i >= 0 else 0 for i in ids], prices, sizes, flags, sizes, ["n"] * len(rows)]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SPEC.schema, strict=True)]
        self.hot.append(pa.RecordBatch.from_arrays(arrays, schema=SPEC.schema), self.hot.appended_end, 0)
        self.hot.publish(self.hot.appended_end)

    def evict(self, share: float) -> None:
        self.hot.set_persisted(self.hot.appended_end)
        self.hot.evict(Offset(int(self.hot.appended_end * share)))

    def stop(self) -> None:
        self.local.close()
        assert self._door.stop(10.0) == []
        os.close(self._descriptor)
        self.hot.close()


@contextmanager
def owner(start: int = 0) -> Iterator[Owner]:
    with TemporaryDirectory() as directory:
        made = Owner(Path(directory) / "run", start)
        try:
            yield made
        finally:
            made.stop()


def probes_of(*rows: tuple[str, int]) -> pa.RecordBatch:
    keys, times = zip(*rows, strict=True)
    return pa.record_batch([pa.array(keys, pa.string()), pa.array(times, TIME)], schema=PROBES)


def asof(columns: list[str] | None = None, left: Any = None, **rule: Any) -> dict[str, Any]:
    right = {"table": "trades", "columns": FIXED if columns is None else columns}
    return {"asof": {"left": {"probe": True} if left is None else left, "right": right, **rule}}


def assert_same(made: Owner, query: dict[str, Any], probes: pa.RecordBatch | None = None) -> Any:
    """The quick answer, the same as the executor's; None where that needs history."""
    quick = made.local._quick.answer(query, probes)
    try:
        slow = made.local.answer({**query, "hot_path": "attach"}, probes, 30.0)
    except Elsewhere:
        assert quick is None
        return None
    if quick is not None:
        assert quick.schema.equals(slow.schema, check_metadata=True)
        assert quick.to_arrow().combine_chunks().equals(slow.to_arrow().combine_chunks())
        quick.to_arrow().validate(full=True)
        assert quick.receipt == slow.receipt
    return quick


ROWS = st.lists(
    st.tuples(
        st.sampled_from(KEYS),
        st.integers(-5, 5),
        st.none() | st.floats(allow_nan=False),
        st.sampled_from([None, True, False]),
    ),
    max_size=25,
)
ASKED = st.tuples(
    st.lists(st.tuples(st.sampled_from([*KEYS, "never"]), st.integers(-7, 7)), min_size=1, max_size=5),
    st.sampled_from(["backward", "forward", "nearest"]),
    st.booleans(),
    st.none() | st.integers(0, 4),
    st.lists(st.sampled_from(FIXED), unique=True, min_size=1, max_size=4),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), ROWS),
        st.tuples(st.just("evict"), st.sampled_from([0.3, 0.9, 1.0])),
        st.tuples(st.just("ask"), ASKED),
    ),
    max_size=10,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, last=ASKED)
def test_every_quick_answer_is_the_executors(steps: list[tuple[str, Any]], last: Any) -> None:
    with owner() as made:
        for name, value in [*steps, ("ask", last)]:
            if name == "write":
                made.write(value)
            elif name == "evict":
                made.evict(value)
            else:
                rows, direction, exact, tolerance, columns = value
                rule = {"direction": direction, "allow_exact": exact}
                if tolerance is not None:
                    rule["tolerance"] = tolerance
                assert_same(made, asof(columns, **rule), probes_of(*rows))
                assert_same(made, {"last_by": {"table": "trades", "columns": columns}})


def test_a_key_that_appears_is_in_the_next_answer() -> None:
    every = {"last_by": {"table": "trades", "columns": ["size"]}}
    with owner() as made:
        assert assert_same(made, every).num_rows == 0
        for count, key in enumerate(KEYS, 1):
            made.write([(key, count, 1.0, None)])
            assert made.local.answer(every, None, 30.0).num_rows == count
            assert assert_same(made, every).num_rows == count
            assert assert_same(made, asof(["size"]), probes_of((key, 9)))["size"].to_pylist() == [7 * count]


def test_all_of_many_keys_are_the_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "EVERY_KEYS_MAX", 3)
    every = {"last_by": {"table": "trades", "columns": ["size"]}}
    with owner() as made:
        for count, key in enumerate(KEYS, 1):
            made.write([(key, count, 1.0, None)])
            assert [made.local.answer(every, None, 30.0).num_rows for _ in range(3)] == [count] * 3
            assert (made.local._quick.answer(every, None) is not None) == (count <= 3)


def test_history_that_is_not_in_memory_is_never_taken_for_nothing() -> None:
    with owner(start=100) as made:
        for _ in range(2):
            assert assert_same(made, {"last_by": {"table": "trades", "columns": ["size"]}}) is None
            assert assert_same(made, asof(["size"]), probes_of(("A", 9))) is None
            made.write([("A", 1, 1.0, None)])


def test_probes_may_be_a_slice_and_have_columns_of_their_own() -> None:
    with owner() as made:
        made.write([(key, at, float(at), True) for key in KEYS for at in range(10)])
        probes = pa.record_batch(
            {
                "price": pa.array(range(9)),
                "ts": pa.array(range(1, 10), TIME),
                "symbol": pa.array([*KEYS, *KEYS, "never"], pa.string()),
            }
        )
        for part in (probes, probes.slice(3, 4), probes.slice(8)):
            found = assert_same(made, asof(["price", "size"]), part)
            assert found.column_names == ["price", "ts", "symbol", "price_right", "size"]


def nulls(name: str) -> pa.RecordBatch:
    columns = {"symbol": pa.array(["A"], pa.string()), "ts": pa.array([1], TIME)}
    return pa.record_batch({**columns, name: pa.array([None], columns[name].type)})


PROBE = probes_of(("A", 1))


@pytest.mark.parametrize(
    ("query", "probes", "error"),
    [
        (asof(direction=["forward"]), PROBE, "`direction`"),
        (asof(allow_exact=1), PROBE, "`allow_exact`"),
        (asof(tolerance=True), PROBE, "`tolerance`"),
        (asof(columns=["no such"]), PROBE, "no such"),
        (asof(more=1), PROBE, "more"),
        (asof(left={"probe": 1}), PROBE, "`left`"),
        ({"asof": {"left": {"probe": True}, "right": {"table": "trades", "more": 1}}}, PROBE, "more"),
        ({"asof": {"left": {"probe": True}, "right": ["trades"]}}, PROBE, "right"),
        (asof(), nulls("symbol"), "nulls"),
        (asof(), nulls("ts"), "nulls"),
        (asof(), PROBE.select(["symbol"]), "no column 'ts'"),
    ],
)
def test_what_is_no_query_is_refused_by_name_also_after_one_that_is(query: Any, probes: Any, error: str) -> None:
    with owner() as made:
        made.write([("A", 1, 1.0, None)])
        for right in (
            asof(),
            asof(allow_exact=True),
            asof(tolerance=1),
            {"asof": {"left": {"probe": True}, "right": {"table": "trades"}}},
        ):
            assert made.local.answer(right, PROBE, 30.0).num_rows == 1
        for _ in range(2):
            with pytest.raises(InvalidArgument, match=error):
                made.local.answer(query, probes, 30.0)


def test_more_probes_than_are_quicker_this_way_and_text_columns_are_the_executors() -> None:
    with owner() as made:
        made.write([("A", 1, 1.0, None)])
        many = probes_of(*[("A", 1)] * (PROBES_MAX + 1))
        assert made.local._quick.answer(asof(), many) is None
        assert made.local._quick.answer(asof(["note"]), PROBE) is None
        assert made.local._quick.answer(asof(["_offset"]), PROBE) is None
        assert made.local.answer(asof(["note"]), PROBE, 30.0)["note"].to_pylist() == ["n"]
