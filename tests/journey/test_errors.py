"""What a caller meets when something is wrong: a typed error with a remedy, never a traceback, and nothing lost."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl
import pytest
from control import TRADES, Control, metrics_page
from doors import action, by_get, dial, each_call, put, receipt

from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

RESTART_S_MAX = 100.0
"""Nobody promises how fast a machine starts a process; this only ends the test."""

SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string()),
        pa.field("ts", pa.timestamp("ns", "UTC")),
        pa.field("trade_id", pa.uint64()),
        pa.field("price", pa.float64()),
        pa.field("size", pa.float64()),
        pa.field("buyer_is_maker", pa.bool_()),
    ]
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("errors")) as running:
        action(running.endpoints["query"][0]["flight"], "create_table", TRADES)
        yield running


@pytest.fixture
def ingest(cluster: LocalCluster) -> str:
    return str(cluster.endpoints["ingest"][0]["flight"])


@pytest.fixture
def query(cluster: LocalCluster) -> str:
    return str(cluster.endpoints["query"][0]["flight"])


def rows(n: int, first: int = 0, **replaced: Any) -> pa.RecordBatch:
    columns: dict[str, Any] = {
        "symbol": pa.array([f"S{i % 3}" for i in range(n)]),
        "ts": pa.array([1_723_161_600_000_000_000 + first + i for i in range(n)], pa.timestamp("ns", "UTC")),
        "trade_id": pa.array(range(first, first + n), pa.uint64()),
        "price": pa.array([1.5] * n),
        "size": pa.array([2.0] * n),
        "buyer_is_maker": pa.array([True] * n),
    }
    columns.update(replaced)
    return pa.record_batch({name: column for name, column in columns.items() if column is not None})


def refusal(call: Any) -> dict[str, Any]:
    """The wire form of the error that `call` ends in; checks that it shows no traceback and no path."""
    with pytest.raises((fl.FlightError, pa.ArrowException)) as raised:
        call()
    text = str(raised.value)
    assert "Traceback" not in text
    assert ".py" not in text
    assert not re.search(r"/(tmp|home|usr|proc|root)/", text), text
    return dict(json.loads(raised.value.extra_info))


PASSING = ("UNAVAILABLE", "NOT_OWNER", "STALE", "DEADLINE_EXCEEDED")
"""What a caller may be told while a part restarts; the same call succeeds once it is back."""


def code_of(error: pa.ArrowException | fl.FlightError) -> str:
    """Of a typed error. Raises AssertionError that shows one that is not."""
    wire = getattr(error, "extra_info", b"")
    assert wire, f"an error that is not typed: {type(error).__name__}: {error}"
    return str(json.loads(wire)["code"])


def when_back(cluster: LocalCluster, call: Callable[[], Any]) -> Any:
    """The answer of `call`, which is made again for as long as it is refused for a passing reason.

    On a slow machine etcd's restart takes longer than a lease: then the owner restarts too, as it promises.
    """
    answers: list[Any] = []

    def answered() -> bool:
        try:
            answers.append(call())
            return True
        except (fl.FlightError, pa.ArrowException) as error:
            code, said = code_of(error), str(error)
        assert code in PASSING, said
        return False

    cluster.until(answered, "a call succeeds", RESTART_S_MAX)
    return answers[0]


def corrupt() -> pa.RecordBatch:
    """String offsets that point far outside the data: what `validate(full=True)` alone notices."""
    good = rows(3)
    offsets = pa.array([0, 2**30, 2**30 + 1, 5], pa.int32()).buffers()[1]
    bad = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abcde")])
    return pa.RecordBatch.from_arrays([bad, *good.columns[1:]], schema=good.schema)


BAD_BATCHES: dict[str, tuple[pa.RecordBatch, str, str]] = {
    "missing column": (rows(2, price=None), "SCHEMA_MISMATCH", "price"),
    "extra column": (rows(2, colour=pa.array(["r", "g"])), "SCHEMA_MISMATCH", "colour"),
    "mistyped column": (rows(2, price=pa.array([1, 2])), "SCHEMA_MISMATCH", "price"),
    "null time": (rows(2, ts=pa.array([None, 1], pa.timestamp("ns", "UTC"))), "INVALID_BATCH", "ts"),
    "null key": (rows(2, symbol=pa.array([None, "A"])), "INVALID_BATCH", "symbol"),
    "null value": (rows(2, price=pa.array([None, 1.0])), "INVALID_BATCH", "price"),
    "corrupt offsets": (corrupt(), "INVALID_BATCH", "offset"),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_bad_batch_is_refused_by_name_and_nothing_else_is_lost(ingest: str, query: str, name: str) -> None:
    batch, code, subject = BAD_BATCHES[name]
    ask = by_get(query, "auto")
    before = ask({"sql": "SELECT count() AS n FROM trades"})["n"][0].as_py()
    error = refusal(lambda: put(ingest, "trades", batch))
    assert error["code"] == code, error
    assert subject in error["message"]
    put(ingest, "trades", rows(1))
    assert ask({"sql": "SELECT count() AS n FROM trades"})["n"][0].as_py() == before + 1


def test_an_unknown_table_is_refused_by_name(ingest: str, query: str) -> None:
    for call in (
        lambda: put(ingest, "nosuch", rows(1)),
        lambda: by_get(query, "auto")({"scan": {"table": "nosuch"}}),
        lambda: by_get(query, "auto")({"sql": "SELECT * FROM nosuch"}),
        lambda: by_get(ingest, "auto")({"last_by": {"table": "nosuch"}}),
    ):
        error = refusal(call)
        assert error["code"] == "NOT_FOUND"
        assert "nosuch" in error["message"]


def test_an_unsupported_type_is_refused_by_name(query: str) -> None:
    spec = {**TRADES, "name": "bad", "columns": [*TRADES["columns"], {"name": "m", "type": "map<string, int8>"}]}
    error = refusal(lambda: action(query, "create_table", spec))
    assert error["code"] == "UNSUPPORTED_TYPE"
    assert "'m'" in error["message"]


def test_a_batch_over_the_limit_is_refused(ingest: str) -> None:
    assert refusal(lambda: put(ingest, "trades", rows(1_100_000)))["code"] == "BATCH_TOO_LARGE"


def test_a_producer_number_repeats_its_ack_and_may_not_skip(ingest: str, query: str) -> None:
    ask = by_get(query, "auto")
    first = put(ingest, "trades", rows(5), {"producer": "feed-a", "seq": 17})
    count = ask({"sql": "SELECT count() AS n FROM trades"})["n"][0].as_py()
    again = put(ingest, "trades", rows(5), {"producer": "feed-a", "seq": 17})
    assert again == {**first, "duplicate": True}
    other = refusal(lambda: put(ingest, "trades", rows(6), {"producer": "feed-a", "seq": 17}))
    assert other["code"] == "PRODUCER_CONFLICT"
    skipped = refusal(lambda: put(ingest, "trades", rows(5), {"producer": "feed-a", "seq": 19}))
    assert skipped["code"] == "PRODUCER_GAP"
    assert "feed-a" in skipped["message"]
    assert "18" in skipped["message"]
    assert ask({"sql": "SELECT count() AS n FROM trades"})["n"][0].as_py() == count


def test_creating_a_table_again_succeeds_only_with_the_same_spec(query: str) -> None:
    action(query, "create_table", TRADES)
    error = refusal(lambda: action(query, "create_table", {**TRADES, "shards": 2}))
    assert error["code"] == "ALREADY_EXISTS"
    assert "trades" in error["message"]


def test_a_query_node_names_the_owner_to_a_writer(query: str, ingest: str) -> None:
    error = refusal(lambda: put(query, "trades", rows(1)))
    assert ingest.rpartition(":")[2] in error["message"]


def test_hot_queries_execute_no_clickhouse_statement(cluster: LocalCluster, query: str) -> None:
    def statements() -> float:
        text = metrics_page(cluster, cluster.endpoints["query"][0]["http"])
        found = re.findall(r"^proxist_clickhouse_statements_total(?:\{[^}]*\})? ([0-9.e+]+)", text, re.MULTILINE)
        assert found, "the query node counts its ClickHouse statements"
        return sum(map(float, found))

    before = statements()
    right = {"table": "trades", "columns": ["price"]}
    for path in ("attach", "flight"):
        ask = by_get(query, path)
        for question in (
            {"scan": {"table": "trades"}},
            {"last_by": {"table": "trades"}},
            {"first_by": {"table": "trades"}},
            {"asof": {"left": {"table": "trades"}, "right": right}},
            {"sql": "SELECT symbol, count(), argMax(price, ts) FROM trades GROUP BY symbol"},
        ):
            assert receipt(ask(question))["mode"] == "hot"
    assert statements() == before


def test_clickhouse_down_ingest_goes_on_and_history_says_what_is_missing(cluster: LocalCluster, query: str) -> None:
    control, ingest = Control(cluster.endpoints), cluster.endpoints["ingest"][0]["flight"]
    action(query, "create_table", {**TRADES, "name": "outage"})
    put(ingest, "outage", rows(10))
    control.flush("outage")
    control.evict("outage", all=True)
    with cluster.stopped("clickhouse"):
        put(ingest, "outage", rows(10, first=10))
        ask = by_get(query, "auto")
        assert ask({"last_by": {"table": "outage", "keys": ["S0"]}}).num_rows == 1
        error = refusal(lambda: ask({"scan": {"table": "outage"}}))
        assert error["code"] == "UNAVAILABLE"
        assert "ClickHouse" in error["message"]
    control.until(lambda: all(m.persisted == m.end == 20 for m in control.marks("outage")), "caught up")
    assert by_get(query, "auto")({"scan": {"table": "outage"}})["trade_id"].to_pylist() == list(range(20))
    control.close()


def test_etcd_down_writes_go_on_inside_the_lease_and_reads_too(cluster: LocalCluster, query: str, ingest: str) -> None:
    ask = by_get(query, "auto")
    with cluster.stopped("etcd"):
        put(ingest, "trades", rows(1))
        assert ask({"last_by": {"table": "trades"}}).num_rows == 3
        spec = {**TRADES, "name": "later"}
        error = refusal(lambda: action(query, "create_table", spec))
        assert error["code"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        assert "etcd" in error["message"]
    when_back(cluster, lambda: action(query, "create_table", {**TRADES, "name": "later"}))


def test_the_owner_killed_under_readers_never_answers_from_dead_memory(cluster: LocalCluster, query: str) -> None:
    control, ingest = Control(cluster.endpoints), cluster.endpoints["ingest"][0]["flight"]
    when_back(cluster, lambda: action(query, "create_table", {**TRADES, "name": "owned"}))
    acked, number = 0, 0

    def newest_epoch() -> int:
        found: list[int] = []
        control.until(lambda: not found.extend(mark.epoch for mark in control.marks("owned")), "the marks are told")
        return max(found)

    for round_number in range(3):
        for _ in range(20):
            # Numbered, so that a batch whose ack was lost is stored once however often it is sent.
            said = {"durability": "disk", "producer": "owned-feed", "seq": number}
            when_back(cluster, lambda: put(ingest, "owned", rows(10, first=acked), said))
            acked, number = acked + 10, number + 1
        epoch = newest_epoch()
        cluster.kill("ingest-0")
        refusals: Counter[str] = Counter()
        with dial(query) as client:

            def count() -> int | None:
                ticket = fl.Ticket(json.dumps({"scan": {"table": "owned", "columns": ["trade_id"]}}).encode())
                try:
                    return int(client.do_get(ticket, each_call()).read_all().num_rows)
                except (fl.FlightError, pa.ArrowException) as error:
                    refusals[code_of(error)] += 1
                    return None

            def recovered() -> bool:
                found = count()
                assert found in (None, acked), f"{found} rows of {acked} acked ones"
                return any(m.end == acked and m.epoch > epoch for m in control.marks("owned"))

            try:
                control.until(recovered, "the owner is back", RESTART_S_MAX)
                control.until(lambda: count() == acked, "answers again", RESTART_S_MAX)
            finally:
                print(f"round {round_number}: refused {dict(refusals)}")
        assert set(refusals) <= set(PASSING), refusals
    control.close()
