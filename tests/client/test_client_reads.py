"""Queries over DoGet and sessions: what is asked, what comes back, and what a break does."""

from __future__ import annotations

import threading
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from client_fakes import FakeCluster, rows

import proxist
from proxist.errors import DeadlineExceeded, InvalidArgument, NotFound, Stale, Unavailable

NS = 1_723_161_600_123_456_789


def test_verbs_become_the_public_json_with_exact_times(one_owner: FakeCluster) -> None:
    node = one_owner.nodes["query-0"]
    with proxist.connect(node.uri) as connection:
        trades = connection.table("trades")
        trades.last_by(["A"], ["price"], at=pd.Timestamp(NS, tz="UTC"), min_token="px1.x", wait_ms=5, hot_path="flight")
        trades.first_by("A")
        trades.scan(start=NS, stop=NS + 1, limit=3, as_of="px1.y")
        trades.asof("quotes", ["price"], direction="nearest", tolerance="1ms", allow_exact=False, start=1)
        average = {"fn": "avg", "value": "price", "as": "mean"}
        trades.window("A", average, range=pd.Timedelta("5m"), start=NS, stop=NS + 1, as_of="px1.y")
        trades.window(aggs=[average, {"fn": "count"}], rows=100)
        trades.bars(["A"], [{"fn": "open", "value": "price"}], every="1s", fill="prev")
        connection.sql("SELECT 1", on_stale="hot", completeness="best_effort")
    assert node.queries == [
        {
            "last_by": {"table": "trades", "keys": ["A"], "columns": ["price"], "at": NS},
            "freshness": {"min_token": "px1.x", "wait_ms": 5},
            "hot_path": "flight",
        },
        {"first_by": {"table": "trades", "keys": ["A"]}},
        {"scan": {"table": "trades", "from": NS, "to": NS + 1, "limit": 3}, "as_of": "px1.y"},
        {
            "asof": {
                "left": {"table": "quotes", "from": 1},
                "right": {"table": "trades", "columns": ["price"]},
                "direction": "nearest",
                "allow_exact": False,
                "tolerance": 1_000_000,
            }
        },
        {
            "window": {
                "table": "trades",
                "keys": ["A"],
                "aggs": [average],
                "range": 300 * 10**9,
                "from": NS,
                "to": NS + 1,
            },
            "as_of": "px1.y",
        },
        {"window": {"table": "trades", "aggs": [average, {"fn": "count"}], "rows": 100}},
        {
            "bars": {
                "table": "trades",
                "keys": ["A"],
                "aggs": [{"fn": "open", "value": "price"}],
                "every": 10**9,
                "fill": "prev",
            }
        },
        {"sql": "SELECT 1", "freshness": {"on_stale": "hot"}, "completeness": "best_effort"},
    ]


@pytest.mark.parametrize("text", ["SELECT 1", "SELECT 'late_receipt'"])
def test_an_answer_has_its_rows_and_its_receipt_wherever_it_stands(one_owner: FakeCluster, text: str) -> None:
    with proxist.connect(one_owner.nodes["query-0"].uri) as connection:
        answer = connection.sql(text)
    assert answer.to_arrow().equals(rows(2))
    assert answer.receipt["mode"] == "hot"
    assert answer.token == "px1.AAAAAA"


def test_an_ingest_address_reads_from_a_query_node_and_writes_to_owners(one_owner: FakeCluster) -> None:
    with proxist.connect(one_owner.nodes["ingest-0"].uri.removeprefix("grpc://")) as connection:
        connection.table("trades").write(rows(3))
        connection.table("trades").scan()
    assert [len(n.queries) for n in (one_owner.nodes["ingest-0"], one_owner.nodes["query-0"])] == [0, 1]


def test_probes_of_any_frame_travel_with_the_query(one_owner: FakeCluster) -> None:
    node = one_owner.nodes["query-0"]
    seen: list[pa.RecordBatch | None] = []

    def answer(_: dict[str, Any], probes: pa.RecordBatch | None) -> pa.Table:
        seen.append(probes)
        return rows(1)

    node.answer = answer
    plain = rows(3).select(["symbol", "ts"])
    with proxist.connect(node.uri) as connection:
        for probes in (plain, pl.from_arrow(plain), plain.to_pandas(), plain.slice(0, 0)):
            connection.table("trades").asof(probes, ["price"], tolerance=5)
    assert [probes.to_pylist() for probes in seen if probes is not None] == [plain.to_pylist()] * 3 + [[]]
    assert node.calls["session"] == 1
    assert node.queries[0]["asof"]["left"] == {"probe": True}


def test_a_session_asks_many_queries_over_one_stream_per_shape(one_owner: FakeCluster) -> None:
    node = one_owner.nodes["query-0"]
    node.answer = lambda query, _: rows(2) if "last_by" in query else rows(3).select(["price"])
    with proxist.connect(node.uri) as connection, connection.session() as session:
        for _ in range(5):
            assert session.last_by("trades", ["A"]).num_rows == 2
            answer = session.sql("SELECT price FROM trades")
        assert answer.column_names == ["price"]
        assert answer.token == "px1.AAAAAA"
    assert node.calls["session"] == 2


def test_aggregates_belong_to_the_shape_of_a_stream(one_owner: FakeCluster) -> None:
    node = one_owner.nodes["query-0"]
    node.answer = lambda query, _: rows(2).rename_columns(["symbol", "ts", "trade_id", query["bars"]["aggs"][0]["fn"]])
    with proxist.connect(node.uri) as connection, connection.session() as session:
        for fn in ("open", "close", "open"):
            answer = session.bars("trades", "A", {"fn": fn, "value": "price"}, every="1s")
            assert answer.column_names[-1] == fn
    assert node.calls["session"] == 2


def test_aggregates_that_are_none_are_refused_before_anything_is_sent(one_owner: FakeCluster) -> None:
    node = one_owner.nodes["query-0"]
    with proxist.connect(node.uri) as connection, pytest.raises(InvalidArgument, match="`aggs` is 'avg'"):
        connection.window("trades", None, "avg", rows=3)
    assert node.queries == []


def test_a_large_answer_comes_through_a_session_whole(one_owner: FakeCluster) -> None:
    node = one_owner.nodes["query-0"]
    big = rows(200_000)
    node.answer = lambda *_: big
    with proxist.connect(node.uri) as connection, connection.session() as session:
        assert session.scan("trades").to_arrow().equals(big)
        node.answer = lambda *_: big.slice(0, 0)
        empty = session.scan("trades")
        assert (empty.num_rows, empty.column_names) == (0, big.column_names)


def test_a_failed_query_raises_the_servers_class_and_leaves_the_session_open(one_owner: FakeCluster) -> None:
    node = one_owner.nodes["query-0"]

    def fail(*_: Any) -> pa.Table:
        raise Stale("The token was not reached.", retry_after_s=0.5, shard=3)

    with proxist.connect(node.uri) as connection, connection.session() as session:
        session.last_by("trades")
        node.answer = fail
        for ask in (session.last_by, connection.last_by):
            with pytest.raises(Stale, match="not reached") as raised:
                ask("trades")
            assert (raised.value.retry_after_s, raised.value.details) == (0.5, {"shard": 3})
        node.answer = lambda *_: rows(2)
        assert session.last_by("trades").num_rows == 2
    assert node.calls["session"] == 1


def test_a_broken_session_fails_one_query_and_works_again(one_owner: FakeCluster) -> None:
    node = one_owner.nodes["query-0"]
    with proxist.connect(node.uri) as connection, connection.session() as session:
        session.last_by("trades")
        node.stop()
        with pytest.raises(Unavailable):
            session.last_by("trades")
        node.start()
        assert session.last_by("trades").num_rows == 2


def test_reads_wait_for_a_query_node_that_restarts(one_owner: FakeCluster) -> None:
    node = one_owner.nodes["query-0"]
    with proxist.connect(node.uri) as connection:
        node.stop()
        restart = threading.Timer(0.3, node.start)
        restart.start()
        assert connection.last_by("trades").num_rows == 2
        assert connection.table("trades").asof(rows(1).select(["symbol", "ts"])).num_rows == 2
        restart.join()


def test_reads_go_on_at_another_query_node() -> None:
    with FakeCluster(1, 1, queries=2).running() as cluster:
        first, second = cluster.nodes["query-0"], cluster.nodes["query-1"]
        for door in (first, cluster.nodes["ingest-0"]):
            with proxist.connect(door.uri) as connection:
                probes = rows(1).select(["symbol", "ts"])
                connection.table("trades").asof(probes)
                seen = len(first.queries)
                first.stop()
                assert connection.last_by("trades").num_rows == 2
                assert connection.table("trades").asof(probes).num_rows == 2
                first.start()
                assert len(first.queries) == seen
        assert len(second.queries) == 4


def test_a_read_that_nobody_answers_ends_in_unavailable(one_owner: FakeCluster) -> None:
    node = one_owner.nodes["query-0"]
    with proxist.connect(node.uri, read_retry_s=0.2) as connection:
        node.stop()
        with pytest.raises(Unavailable, match="does not answer"):
            connection.last_by("trades")


def test_the_deadline_ends_a_query_and_a_sessions_query(one_owner: FakeCluster) -> None:
    node, release = one_owner.nodes["query-0"], threading.Event()

    def stall(*_: Any) -> pa.Table:
        release.wait(20)
        return rows(1)

    with proxist.connect(node.uri, timeout_s=0.4) as connection, connection.session() as session:
        node.answer = stall
        for ask in (connection.last_by, session.last_by):
            with pytest.raises(DeadlineExceeded):
                ask("trades")
        release.set()
        node.answer = lambda *_: rows(2)
        assert session.last_by("trades").num_rows == 2


def test_the_topology_is_asked_of_another_node_when_the_first_is_gone(three_slots: FakeCluster) -> None:
    with proxist.connect(three_slots.nodes["query-0"].uri) as connection:
        three_slots.nodes["query-0"].stop()
        assert [spec.name for spec in connection.tables()] == ["trades"]
        assert connection.table("trades").write(rows(10)).rows == 10


def test_nobody_there_is_unavailable_and_a_wrong_address_is_refused() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        proxist.connect("grpc://127.0.0.1:9", timeout_s=1.0)
    with pytest.raises(InvalidArgument, match=r"http://x.*grpc"):
        proxist.connect("http://x")
    with pytest.raises(InvalidArgument, match="attach"):
        proxist.connect("grpc://127.0.0.1:9", attach="always")


def test_tables_are_created_described_flushed_and_dropped(one_owner: FakeCluster) -> None:
    one_owner.created = False
    with proxist.connect(one_owner.nodes["query-0"].uri) as connection:
        with pytest.raises(NotFound, match="none yet"):
            _ = connection.table("trades").spec
        table = connection.create_table(one_owner.table.spec.to_json())
        assert table.spec == one_owner.table.spec
        table.flush()
        with pytest.raises(NotFound, match="nosuch"):
            connection.flush("nosuch")
        table.drop()
    calls = one_owner.nodes["query-0"].calls
    assert (calls["create_table"], calls["flush"], calls["drop_table"]) == (1, 2, 1)
    with pytest.raises(Unavailable, match="closed"):
        connection.tables()
