"""The last rows of a few keys at a door, without the executor: the same rows, receipts and rights, or nothing at all."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxist.auth.identity import Caller, Grant, Identity, enter, local_caller
from proxist.errors import NotFound, Unavailable
from proxist.hot.ops import HotOp, HotPart, Probes
from proxist.hot.reader import HotReader
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.model.query import parse_query
from proxist.model.table import Table, TableSpec, parse_spec
from proxist.rpc.quick import TEXT_BYTES_MAX, TEXTS_MAX, QuickReads, QuickShards, request_of, ticket_text, without_id
from proxist.seam import Answer, Chain, ColdOp, Executor, Log
from proxist.seam.last_rows import Form

KEYS = ["A", "B", "AB", "Ä", "b"]
SPEC = {
    "name": "trades",
    "time": "ts",
    "key": "symbol",
    "seq": "id",
    "columns": [
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "symbol", "type": "string"},
        {"name": "id", "type": "uint64"},
        {"name": "price", "type": "double", "nullable": True},
        {"name": "size", "type": "int32"},
        {"name": "buy", "type": "bool"},
        {"name": "note", "type": "string", "nullable": True},
    ],
    "hot_bytes": 2**21,
}
FIXED = ["price", "size", "buy", "ts", "id"]
Row = tuple[str, int, float | None, int, bool]


class HistoryNeeded(Exception):
    pass


class Tiers:
    """Tables of two tenants over real hot sets: what the executor and the quick way both see. History is never here."""

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str], Table] = {}
        self.hot: dict[ShardId, HotSet] = {}
        self.readers: dict[ShardId, HotReader] = {}
        self.ended: list[ShardId] = []
        self.quick = QuickReads(self.table, self.readers.get, lambda shard, _: self.ended.append(shard))

    def create(self, spec: TableSpec, *, tenant: str = "default", shards: int = 1, epoch: int = 3) -> Table:
        first = 1 + len(self.hot)
        table = Table(TableId(first), tenant, spec, tuple(ShardId(first + i) for i in range(shards)))
        self.tables[tenant, table.name] = table
        for shard in table.shard_ids:
            self.start(table, shard, epoch)
        return table

    def start(self, table: Table, shard: ShardId, epoch: int, start: int = 0) -> None:
        """An owner of a shard, with nothing in memory."""
        hot = HotSet.create(table.spec, shard, Epoch(epoch), Offset(start), block_rows=16)
        hot.set_lease_until(2**62)
        self.hot[shard], self.readers[shard] = hot, hot.reader()

    def write(self, table: Table, rows: list[Row]) -> None:
        for symbol, ts, price, size, buy in rows:
            hot = self.hot[table.shard_ids[table.slot_of(symbol)]]
            cells = {"ts": ts, "symbol": symbol, "id": ts % 3, "price": price, "size": size, "buy": buy, "note": "n"}
            arrays = [pa.array([cells[field.name]], field.type) for field in table.spec.schema]
            hot.append(pa.RecordBatch.from_arrays(arrays, schema=table.spec.schema), hot.appended_end, 0)
            hot.publish(hot.appended_end)

    def evict(self, table: Table, share: float) -> None:
        for shard in table.shard_ids:
            hot = self.hot[shard]
            hot.set_persisted(hot.appended_end)
            hot.evict(Offset(int(hot.appended_end * share)))

    def close(self) -> None:
        for reader in self.readers.values():
            reader.close()
        for hot in self.hot.values():
            hot.close()

    # Catalog, HotSource and ColdSource of the executor
    def table(self, tenant: str, name: str) -> Table:
        try:
            return self.tables[tenant, name]
        except KeyError:
            raise NotFound(f"There is no table {name!r}.") from None

    def chain(self, shard: ShardId, at_least: Epoch) -> Chain:
        return Chain(shard, (Log(Epoch(max(3, at_least)), Offset(0), None, "open"),))

    def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        return self.readers[shard].run(op, probes)

    def read(self, op: ColdOp) -> pa.Table:
        raise HistoryNeeded

    def slow(self, query: dict[str, Any], tenant: str = "default") -> Answer | None:
        """The executor's answer; None where it needs history."""
        try:
            return Executor(self, self, self).run(parse_query(query), tenant)
        except HistoryNeeded:
            return None

    def ask(self, query: dict[str, Any], caller: Caller | None = None) -> Any:
        text = ticket_text(json.dumps(query).encode())
        assert text is not None
        return self.quick.answer(text, caller or local_caller("flight/DoGet"))


@pytest.fixture
def tiers() -> Any:
    made = Tiers()
    yield made
    made.close()


def last_by(*keys: str, columns: list[str] | None = None, **beside: Any) -> dict[str, Any]:
    body = {"table": "trades", "keys": list(keys), "columns": FIXED if columns is None else columns}
    return {"last_by": body, **beside}


def assert_same(tiers: Tiers, query: dict[str, Any], tenant: str = "default", caller: Caller | None = None) -> Any:
    """Both ways give the same, and the quick one gives something unless history is needed."""
    quick, slow = tiers.ask(query, caller), tiers.slow(query, tenant)
    assert (quick is None) == (slow is None)
    if quick is not None and slow is not None:
        assert quick.schema == slow.rows.schema
        assert pa.Table.from_batches([quick.rows]).equals(slow.rows.combine_chunks())
        assert quick.receipt == json.dumps(slow.receipt.to_json()).encode()
        full = quick.full()
        assert full.rows.equals(slow.rows.combine_chunks())
        assert full.receipt == slow.receipt
    return quick


ROWS = st.tuples(
    st.sampled_from(KEYS),
    st.integers(-5, 5),
    st.none() | st.floats(allow_nan=False, width=32),
    st.integers(-(2**31), 2**31 - 1),
    st.booleans(),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(ROWS, max_size=30)),
        st.tuples(st.just("evict"), st.sampled_from([0.3, 0.9, 1.0])),
        st.tuples(st.just("ask"), st.lists(st.sampled_from([*KEYS, "never"]), min_size=1, max_size=4)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, columns=st.lists(st.sampled_from([*FIXED, "symbol"]), unique=True, max_size=5))
def test_both_ways_give_the_same_rows_and_receipts(steps: list[tuple[str, Any]], columns: list[str]) -> None:
    """Late rows, ties, nulls, keys that nobody wrote, and evictions in between; the same text comes again and again."""
    tiers = Tiers()
    table = tiers.create(parse_spec(SPEC))
    try:
        for name, value in [*steps, ("ask", KEYS)]:
            if name == "write":
                tiers.write(table, value)
            elif name == "evict":
                tiers.evict(table, value)
            else:
                assert_same(tiers, last_by(*value, columns=columns))
                assert_same(tiers, last_by("A", "never", columns=columns))
    finally:
        tiers.close()


@pytest.mark.parametrize(
    "query",
    [
        last_by("A", columns=["note"]),
        last_by("A", columns=["_offset"]),
        last_by("A", columns=["no such"]),
        last_by(),
        {"last_by": {"table": "trades"}},
        {"last_by": {"table": "trades", "keys": ["A"], "at": 5}},
        {"last_by": {"table": "no such", "keys": ["A"]}},
        {"last_by": {"table": "trades", "keys": "A"}},
        {"last_by": {"table": "trades", "keys": ["A"], "more": 1}},
        {"first_by": {"table": "trades", "keys": ["A"], "columns": ["price"]}},
        {"sql": "SELECT 1"},
        last_by("A", as_of="px1."),
        last_by("A", as_of="px1.AQMFe7BhQg"),
        last_by("A", freshness={"min_token": "px1.AQMFe7BhQg"}),
        last_by("A", freshness={"wait_ms": 5}),
        last_by("A", freshness={"on_stale": "hot"}),
        last_by("A", completeness="best_effort"),
        last_by("A", id=7),
        last_by("A", unknown=7),
        last_by("A" * TEXT_BYTES_MAX),
    ],
    ids=lambda query: json.dumps(query)[:60],
)
def test_what_only_the_executor_can_settle_is_left_to_it_each_time(tiers: Tiers, query: dict[str, Any]) -> None:
    tiers.write(tiers.create(parse_spec(SPEC)), [("A", 1, 1.0, 1, True)])
    for _ in range(2):
        assert tiers.ask(query) is None


def test_the_owner_is_asked_where_nothing_is_mapped_or_the_query_wants_flight(tiers: Tiers) -> None:
    """By the text that the owner's own quick way knows; its rows and receipt are passed on as they are."""
    table = tiers.create(parse_spec(SPEC))
    tiers.write(table, [("A", 1, 1.0, 1, True), ("B", 1, None, 1, True)])
    owner = QuickShards(lambda _: tiers.tables["default", "trades"], tiers.readers.get)
    asked: list[str] = []

    def elsewhere(form: Form, hot_path: str) -> Any:
        asked.append(hot_path)
        found = owner.answer(json.dumps(request_of(form)).encode()[:-1])
        return None if found is None else (found.rows, found.receipt)

    mapped: dict[ShardId, HotReader] = dict(tiers.readers)
    tiers.quick = QuickReads(tiers.table, mapped.get, lambda *_: None, elsewhere)
    for hot_path in ("auto", "attach", "flight"):
        assert assert_same(tiers, last_by("B", "A", "never", hot_path=hot_path)).rows.num_rows == 2
    assert asked == ["flight"]
    mapped.clear()
    assert assert_same(tiers, last_by("A")).rows.num_rows == 1
    assert asked == ["flight", "auto"]
    tiers.readers[table.shard_ids[0]].close()
    assert tiers.ask(last_by("A")) is None


@pytest.mark.parametrize(
    "text",
    [
        b'{"last_rows": {"shard": 2, "keys": ["A"], "columns": []}',
        b'{"last_rows": {"shard": 1, "keys": [1], "columns": []}',
        b'{"last_rows": {"shard": 1, "keys": [], "columns": []}',
        b'{"last_rows": {"shard": 1, "keys": ["A"], "columns": ["no such"]}',
        b'{"last_rows": {"shard": 1, "keys": ["A"]}',
        b'{"last_rows": {"shard": "1", "keys": ["A"], "columns": []}',
        b'{"last_rows": []',
        b'{"other": 1',
        b"{",
    ],
)
def test_a_request_that_is_none_gets_no_answer(tiers: Tiers, text: bytes) -> None:
    table = tiers.create(parse_spec(SPEC))
    owner = QuickShards(lambda _: table, tiers.readers.get)
    assert owner.answer(b'{"last_rows": {"shard": 1, "keys": ["A"], "columns": []}') is not None
    for _ in range(2):
        assert owner.answer(text) is None


def test_keys_of_several_shards_are_the_executors_and_of_one_of_them_are_not(tiers: Tiers) -> None:
    table = tiers.create(parse_spec({**SPEC, "shards": 3}), shards=3)
    tiers.write(table, [(key, 1, 1.0, 1, True) for key in KEYS])
    assert len({table.slot_of(key) for key in KEYS}) > 1
    assert tiers.ask(last_by(*KEYS)) is None
    for key in KEYS:
        assert assert_same(tiers, last_by(key)).rows.num_rows == 1


def test_a_shard_that_is_not_mapped_is_the_executors(tiers: Tiers) -> None:
    table = tiers.create(parse_spec(SPEC))
    reader = tiers.readers.pop(table.shard_ids[0])
    assert tiers.ask(last_by("A")) is None
    tiers.readers[table.shard_ids[0]] = reader
    assert tiers.ask(last_by("A")) is not None


def test_history_below_the_first_offset_in_memory_is_never_guessed(tiers: Tiers) -> None:
    table = tiers.create(parse_spec(SPEC))
    shard = table.shard_ids[0]
    tiers.hot[shard].close()
    tiers.start(table, shard, 4, start=100)
    for query in (last_by("A"), last_by("never")):
        assert assert_same(tiers, query) is None
    tiers.write(table, [("A", 5, 1.0, 1, True)])
    assert_same(tiers, last_by("A"))
    assert assert_same(tiers, last_by("A", "B")) is None


def test_an_owner_that_has_started_again_answers_under_its_own_epoch(tiers: Tiers) -> None:
    table = tiers.create(parse_spec(SPEC))
    shard = table.shard_ids[0]
    tiers.write(table, [("A", 1, 1.0, 1, True)])
    before = assert_same(tiers, last_by("A"))
    tiers.hot[shard].close()
    assert tiers.ask(last_by("A")) is None
    assert tiers.ended == [shard]
    tiers.start(table, shard, 9)
    tiers.write(table, [("A", 1, 2.0, 1, True)])
    after = assert_same(tiers, last_by("A"))
    epochs = [json.loads(one.receipt)["cut"][0]["epoch"] for one in (before, after)]
    assert (epochs, after.rows["price"].to_pylist()) == ([3, 9], [2.0])


def test_an_owner_whose_lease_has_ended_is_not_believed(tiers: Tiers) -> None:
    table = tiers.create(parse_spec(SPEC))
    tiers.write(table, [("A", 1, 1.0, 1, True)])
    assert tiers.ask(last_by("A")) is not None
    tiers.hot[table.shard_ids[0]].set_lease_until(1)
    assert tiers.ask(last_by("A")) is None
    with pytest.raises(Unavailable):
        tiers.slow(last_by("A"))


def test_a_table_that_was_made_again_or_got_a_column_answers_as_it_is_now(tiers: Tiers) -> None:
    first = tiers.create(parse_spec(SPEC))
    tiers.write(first, [("A", 1, 1.0, 1, True)])
    assert assert_same(tiers, last_by("A", columns=["price"])).rows.num_rows == 1
    again = tiers.create(parse_spec(SPEC))
    assert assert_same(tiers, last_by("A", columns=["price"])).rows.num_rows == 0
    tiers.write(again, [("A", 1, None, 1, True)])
    assert assert_same(tiers, last_by("A", columns=["price"])).rows["price"].to_pylist() == [None]
    tiers.tables["default", "trades"] = replace(again, schema_version=2)
    assert json.loads(assert_same(tiers, last_by("A", columns=["price"])).receipt)["schema_version"] == {"trades": 2}
    del tiers.tables["default", "trades"]
    assert tiers.ask(last_by("A", columns=["price"])) is None


def test_each_tenant_sees_its_own_table_of_a_name_and_only_with_the_right(tiers: Tiers) -> None:
    callers = {}
    for tenant, price in (("red", 1.0), ("blue", 2.0)):
        tiers.write(tiers.create(parse_spec(SPEC), tenant=tenant), [("A", 1, price, 1, True)])
        identity = Identity(f"reader of {tenant}", tenant, (Grant("reader", "trades"),))
        callers[tenant] = lambda identity=identity: enter(identity, "flight/DoGet")
    for _ in range(2):
        for tenant, price in (("red", 1.0), ("blue", 2.0)):
            found = assert_same(tiers, last_by("A", columns=["price"]), tenant, callers[tenant]())
            assert found.rows["price"].to_pylist() == [price]
    other = enter(Identity("of another table", "red", (Grant("reader", "quotes"),)), "flight/DoGet")
    assert tiers.ask(last_by("A", columns=["price"]), other) is None
    assert tiers.ask(last_by("A", columns=["price"])) is None  # there is no such table of the default tenant


def test_texts_are_remembered_up_to_a_bound(tiers: Tiers) -> None:
    tiers.write(tiers.create(parse_spec(SPEC)), [("A", 1, 1.0, 1, True)])
    for n in range(TEXTS_MAX + 10):
        tiers.quick.answer(b'{"sql": "SELECT %d"' % n, local_caller("flight/DoGet"))
    assert len(tiers.quick._texts) <= TEXTS_MAX
    assert tiers.ask(last_by("A")) is not None


def test_a_closed_reader_lets_go_of_what_was_prepared_for_it(tiers: Tiers) -> None:
    table = tiers.create(parse_spec(SPEC))
    tiers.write(table, [("A", 1, 1.0, 1, True)])
    assert tiers.ask(last_by("A")) is not None
    reader = tiers.readers[table.shard_ids[0]]
    assert reader._shared
    reader.close()
    assert tiers.ask(last_by("A")) is None
    assert not reader._shared


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        (b'{"sql": "x", "id": 17}', (b'{"sql": "x"', b"17")),
        (b'{"sql": "x", "id": 0}', (b'{"sql": "x"', b"0")),
        (b'{"sql": "x", "id": 07}', None),
        (b'{"sql": "x", "id": -7}', None),
        (b'{"sql": "x", "id": "7"}', None),
        (b'{"sql": "x", "id": 7, "traceparent": "00-1"}', None),
        (b'{"sql": "x", "id": {"id": 7}}', None),
        (b'{"sql": "x","id":7}', None),
        (b'{"sql": "x", "id": 1234567890123456789}', None),
        (b'{"sql": "x", "id": }', None),
        (b'{"sql": ", "id": 7}', (b'{"sql": "', b"7")),
        (b"", None),
    ],
)
def test_only_a_plain_number_is_taken_off_as_the_id(request_: bytes, parts: Any) -> None:
    assert without_id(request_) == parts
