"""The ingest service over its real doors, beside a real etcd."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from ingest_nodes import WAIT_S, Node, Process, create_table, put, wait_owned
from ingest_rows import DAY_NS, TRADES, rows

from proxist.client.session import Session
from proxist.client.wire import Wire
from proxist.errors import (
    DirectoryLocked,
    InvalidArgument,
    InvalidBatch,
    LogCorrupt,
    NotFound,
    NotOwner,
    Overloaded,
    Paused,
    PortTaken,
    ProducerConflict,
    ProducerGap,
    ProxistError,
    SchemaMismatch,
    Unavailable,
)
from proxist.etcd import Catalog, EtcdClient
from proxist.etcd.shards import change_table
from proxist.hot.ops import HotAsof, HotLastBy, HotOp, HotPart, HotScan, Probes, part_from_head
from proxist.hot.reader import HotReader
from proxist.model.ids import Offset
from proxist.model.table import Table
from proxist.model.token import parse_token
from proxist.pb import ingest_pb2 as pb
from proxist.pb import ingest_pb2_grpc as pb_grpc
from proxist.rpc.attached import request_fd
from proxist.rpc.flight_client import FlightPeer, PutStream
from proxist.rpc.grpc_client import connect
from proxist.testing.etcd import LocalEtcd


@pytest.fixture(scope="module")
def etcd() -> Iterator[LocalEtcd]:
    with LocalEtcd() as running:
        yield running


@pytest.fixture
def client(etcd: LocalEtcd) -> Iterator[EtcdClient]:
    with EtcdClient([etcd.address]) as connected:
        connected.delete("/proxist/", prefix=True)
        yield connected


@pytest.fixture
def catalog(client: EtcdClient) -> Iterator[Catalog]:
    catalog = Catalog.start(client)
    yield catalog
    catalog.close()


@pytest.fixture
def table(client: EtcdClient) -> Table:
    return create_table(client, TRADES, ["ingest-0"])


@pytest.fixture
def node(tmp_path: Path, etcd: LocalEtcd, table: Table) -> Iterator[Node]:
    assert table.shard_ids == (1,)
    with Node(tmp_path, etcd.address) as running:
        yield running


def scan(peer: FlightPeer, table: str = "trades") -> list[int]:
    """trade_id of all rows, through the public query."""
    answer = peer.do_get({"scan": {"table": table, "columns": ["trade_id"]}}, timeout_s=WAIT_S)
    return sorted(answer.table["trade_id"].to_pylist())


def end(stream: PutStream) -> None:
    """Send no more and read what is left: raises the error that the stream ended with."""
    stream.done_writing()
    while (ack := stream.read_ack()) is not None:
        assert "error" in ack
    stream.close()


def stub_of(node: Node) -> tuple[Any, Any]:
    channel = connect(node.endpoints["grpc"])
    return channel, pb_grpc.IngestServiceStub(channel)


# ---- DoPut -----------------------------------------------------------------------------------------------------------


def test_a_batch_is_acked_with_a_token_and_read_back(node: Node) -> None:
    ack = put(node.peer, rows(5))
    assert {k: ack[k] for k in ("rows", "duplicate", "durability")} == {
        "rows": 5,
        "duplicate": False,
        "durability": "disk",
    }
    (shard, mark) = next(iter(parse_token(ack["token"]).marks.items()))
    assert (shard, mark.epoch, mark.end) == (1, 1, 5)
    answer = node.peer.do_get(
        {"last_by": {"table": "trades", "columns": ["trade_id"]}, "freshness": {"min_token": ack["token"]}},
        timeout_s=WAIT_S,
    )
    assert answer.table.to_pydict() == {"symbol": ["S0", "S1", "S2"], "trade_id": [3, 4, 2]}
    receipt = json.loads(answer.metadata[b"proxist.receipt"])
    assert (receipt["mode"], receipt["token"]) == ("hot", ack["token"])


def test_many_batches_under_way_are_acked_in_order(node: Node) -> None:
    stream = node.peer.do_put(["trades"], rows(0).schema, timeout_s=WAIT_S)
    tokens: list[Any] = []

    def read() -> None:
        tokens.extend(stream.read_ack() for _ in range(200))

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(200):
        stream.write(rows(10, first=10 * n), {"producer": "p", "seq": n})
    reader.join()
    stream.done_writing()
    stream.close()
    ends = [next(iter(parse_token(ack["token"]).marks.values())).end for ack in tokens]
    assert ends == [10 * (n + 1) for n in range(200)]
    assert scan(node.peer) == list(range(2000))


REFUSED: dict[str, tuple[pa.RecordBatch, dict[str, Any], type[ProxistError], str]] = {
    "missing": (rows(2, price=None), {}, SchemaMismatch, "price"),
    "null key": (rows(2, symbol=pa.array([None, "A"])), {}, InvalidBatch, "symbol"),
    "unknown field": (rows(2), {"prodcer": "p"}, InvalidArgument, "prodcer"),
    "gap": (rows(2), {"producer": "p", "seq": 9}, ProducerGap, "8 are missing"),
    "conflict": (rows(2), {"producer": "p", "seq": 1}, ProducerConflict, "other content"),
    "no such slot": (rows(2), {"slot": 1}, InvalidBatch, "Slot 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_batch_ends_the_stream_with_a_typed_error_and_leaves_no_trace(node: Node, name: str) -> None:
    batch, metadata, kind, names = REFUSED[name]
    put(node.peer, rows(1, first=50), {"producer": "p", "seq": 1})
    with pytest.raises(ProxistError) as raised:
        put(node.peer, batch, metadata)
    assert type(raised.value) is kind
    assert names in raised.value.message
    assert scan(node.peer) == [50]


def test_what_was_acked_before_a_refused_batch_stays_acked(node: Node) -> None:
    stream = node.peer.do_put(["trades"], rows(0).schema, timeout_s=WAIT_S)
    stream.write(rows(3), {"producer": "p", "seq": 1})
    stream.write(rows(3, first=3), {"producer": "p", "seq": 2})
    stream.write(rows(3, first=9), {"producer": "p", "seq": 4})
    acks = [stream.read_ack(), stream.read_ack()]
    assert [ack and ack["rows"] for ack in acks] == [3, 3]
    with pytest.raises(ProducerGap):
        end(stream)
    assert scan(node.peer) == list(range(6))


def test_a_batch_that_finds_no_room_is_refused_with_a_hint_while_the_client_waits(
    tmp_path: Path, etcd: LocalEtcd, client: EtcdClient
) -> None:
    create_table(client, {**TRADES, "hot_bytes": "1MiB"}, ["ingest-0"])
    with Node(tmp_path, etcd.address, wal_gib_max=0.01) as node:
        stream = node.peer.do_put(["trades"], rows(0).schema, timeout_s=WAIT_S)
        acked, number, ack = 0, 0, None
        while ack is None or "error" not in ack:
            stream.write(rows(500, first=500 * number), {"producer": "p", "seq": number})
            ack = stream.read_ack()
            assert ack is not None
            acked += ack.get("rows", 0)
            number += 1
        assert ack["error"]["code"] == "OVERLOADED"
        assert ack["error"]["retry_after_s"] > 0
        with pytest.raises(Overloaded):
            end(stream)
        assert scan(node.peer) == list(range(acked))


def test_an_unknown_table_is_refused_by_name(node: Node) -> None:
    with pytest.raises(NotFound, match="nosuch"):
        put(node.peer, rows(1), table="nosuch")
    with pytest.raises(NotFound, match="nosuch"):
        node.peer.do_get({"scan": {"table": "nosuch"}}, timeout_s=WAIT_S)


def test_a_refused_first_batch_is_not_passed_over_by_those_behind_it(
    tmp_path: Path, etcd: LocalEtcd, client: EtcdClient
) -> None:
    create_table(client, {**TRADES, "hot_bytes": "1MiB"}, ["ingest-0"])
    with Node(tmp_path, etcd.address, wal_gib_max=0.01) as node:
        shard = node.node.open_shards()[0]
        with contextlib.suppress(Overloaded):
            for n in range(100):
                put(node.peer, rows(500, first=500 * n))
        for n in range(20):
            stream = node.peer.do_put(["trades"], rows(0).schema, timeout_s=WAIT_S)
            stream.write(rows(500), {"producer": f"p{n}", "seq": 0})
            with contextlib.suppress(ProxistError):  # the stream may have ended
                stream.write(rows(0), {"producer": f"p{n}", "seq": 1})  # finds room
            with pytest.raises(Overloaded):
                end(stream)
            assert shard.producers.last(f"p{n}") is None


@pytest.mark.usefixtures("table")
def test_a_repeat_has_the_original_ack_after_a_restart_of_the_node(tmp_path: Path, etcd: LocalEtcd) -> None:
    with Node(tmp_path, etcd.address) as node:
        first = put(node.peer, rows(5), {"producer": "feed-a", "seq": 17})
    with Node(tmp_path, etcd.address) as node:
        assert put(node.peer, rows(5), {"producer": "feed-a", "seq": 17}) == {**first, "duplicate": True}
        assert node.node.open_shards()[0].epoch == 2
        told = node.peer.do_action("producer", {"table": "trades", "producer": "feed-a"}, timeout_s=WAIT_S)
        assert told == [{"last": 17, "slots": {"0": 17}}]
        assert scan(node.peer) == list(range(5))


def test_later_acks_follow_as_the_batch_climbs(node: Node) -> None:
    stream = node.peer.do_put(["trades"], rows(0).schema, timeout_s=WAIT_S)
    stream.write(rows(3), {"producer": "p", "seq": 7, "acks": ["cold"]})
    assert (stream.read_ack() or {})["durability"] == "disk"
    channel, stub = stub_of(node)
    with channel:
        end = stub.Flush(pb.FlushRequest(table="trades")).shards[0].end
        stub.AdvancePersisted(pb.AdvancePersistedRequest(shard=1, epoch=1, persisted=end))
    follow_up = stream.read_ack()
    assert follow_up is not None
    assert {k: follow_up[k] for k in ("of", "durability", "rows")} == {"of": 7, "durability": "cold", "rows": 3}
    stream.done_writing()
    stream.close()


# ---- several owners --------------------------------------------------------------------------------------------------


@pytest.fixture
def two_nodes(
    tmp_path: Path, etcd: LocalEtcd, client: EtcdClient, catalog: Catalog
) -> Iterator[tuple[Node, Node, Table]]:
    table = create_table(client, {**TRADES, "shards": 4}, ["ingest-0", "ingest-1"])
    with Node(tmp_path, etcd.address, "ingest-0") as one, Node(tmp_path, etcd.address, "ingest-1") as two:
        wait_owned(catalog, table)
        for node in (one, two):
            wait_owned(node.node._catalog, table)
        yield one, two, table


def test_parts_go_on_to_their_owners_and_the_ack_waits_for_all(two_nodes: tuple[Node, Node, Table]) -> None:
    one, two, table = two_nodes
    for n in range(5):
        ack = put(one.peer, rows(100, first=100 * n, keys=40), {"producer": "p", "seq": n})
        assert ack["rows"] == 100
        assert set(parse_token(ack["token"]).marks) == set(table.shard_ids)
    assert put(two.peer, rows(100, keys=40), {"producer": "p", "seq": 0})["duplicate"]
    with pytest.raises(ProducerGap):
        put(two.peer, rows(1), {"producer": "p", "seq": 9})
    held = [
        shard.run(HotScan()).rows["trade_id"].to_pylist() for node in (one, two) for shard in node.node.open_shards()
    ]
    assert [len(node.node.open_shards()) for node in (one, two)] == [2, 2]
    assert sorted(i for ids in held for i in ids) == list(range(500))


def test_later_acks_of_forwarded_parts_follow_for_every_slot(two_nodes: tuple[Node, Node, Table]) -> None:
    one, two, table = two_nodes
    stream = one.peer.do_put(["trades"], rows(0).schema, timeout_s=WAIT_S)
    stream.write(rows(100, keys=40), {"producer": "p", "seq": 0, "acks": ["cold"]})
    stream.write(rows(0), {"producer": "q", "seq": 0, "acks": ["cold"]})
    assert [(stream.read_ack() or {})["rows"] for _ in range(2)] == [100, 0]
    for shard in [*one.node.open_shards(), *two.node.open_shards()]:
        end_of_shard = shard.flush()
        assert shard.bounds.after(Offset(0), WAIT_S) is not None
        shard.advance_persisted(shard.epoch, end_of_shard)
    told = [stream.read_ack() or {} for _ in range(2)]
    assert sorted((ack["of"], ack["durability"], ack["rows"]) for ack in told) == [(0, "cold", 0), (0, "cold", 100)]
    assert set(parse_token(told[0]["token"]).marks) == set(table.shard_ids)
    end(stream)


@pytest.mark.parametrize("forwarded", [False, True])
def test_a_stream_that_waits_for_later_acks_ends_when_they_cannot_come(
    two_nodes: tuple[Node, Node, Table], forwarded: bool
) -> None:
    one, two, table = two_nodes
    key = next(f"S{i}" for i in range(40) if table.slot_of(f"S{i}") == 1)
    stream = (one if forwarded else two).peer.do_put(["trades"], rows(0).schema, timeout_s=WAIT_S)
    stream.write(rows(100, symbol=pa.array([key] * 100)), {"acks": ["cold"]})
    assert (stream.read_ack() or {})["rows"] == 100
    for shard in two.node.open_shards():
        shard.stop("was dropped")
    with pytest.raises(NotOwner):
        end(stream)


def test_a_part_for_a_slot_is_refused_where_the_slot_is_not_owned(two_nodes: tuple[Node, Node, Table]) -> None:
    one, two, table = two_nodes
    key = next(f"S{i}" for i in range(40) if table.slot_of(f"S{i}") == 1)
    part = rows(2, symbol=pa.array([key, key]))
    with pytest.raises(Unavailable, match="ingest-1"):
        put(one.peer, part, {"slot": 1})
    assert put(two.peer, part, {"slot": 1})["rows"] == 2


def test_a_partial_failure_names_the_shards_and_a_repeat_completes_it(
    tmp_path: Path, etcd: LocalEtcd, client: EtcdClient
) -> None:
    table = create_table(client, {**TRADES, "shards": 2}, ["ingest-0", "ingest-1"])
    with Node(tmp_path, etcd.address, "ingest-0") as one:
        with pytest.raises(Unavailable) as raised:
            put(one.peer, rows(40, keys=40), {"producer": "p", "seq": 1})
        assert (raised.value.details["accepted"], raised.value.details["lacking"]) == ([1], [2])
        with Node(tmp_path, etcd.address, "ingest-1") as two:
            wait_owned(one.node._catalog, table)
            assert put(one.peer, rows(40, keys=40), {"producer": "p", "seq": 1})["rows"] == 40
            held = [
                shard.run(HotScan()).rows["trade_id"].to_pylist()
                for node in (one, two)
                for shard in node.node.open_shards()
            ]
            assert sorted(i for ids in held for i in ids) == list(range(40))


# ---- reads -----------------------------------------------------------------------------------------------------------


def hot_part(session: Session, shard: int, op: HotOp, probes: Probes | None = None, **more: int) -> HotPart:
    answer = session.query(
        {"hot": {"shard": shard, "op": op.to_json(), **more}}, None if probes is None else probes.to_batch()
    )
    return part_from_head(answer.receipt, answer.to_arrow().combine_chunks().to_batches()[0])


@pytest.fixture
def session(node: Node) -> Iterator[Session]:
    with Wire(node.peer.uri) as wire, Session(wire, timeout_s=WAIT_S) as opened:
        yield opened


def test_hot_reads_travel_with_their_marks(node: Node, session: Session) -> None:
    put(node.peer, rows(30))
    part = hot_part(session, 1, HotLastBy(("S1",)), min_end=30, wait_ms=1000)
    assert (part.end, part.epoch, bool(part.cold)) == (30, 1, False)
    assert part.rows["trade_id"].to_pylist() == [28]
    with pytest.raises(NotFound):
        hot_part(session, 99, HotLastBy())
    assert hot_part(session, 1, HotLastBy(("S1",))).end == 30, "a failed read ended the session"


def test_a_hot_asof_travels_on_a_session(node: Node, session: Session) -> None:
    put(node.peer, rows(30))
    probes = Probes(pa.array(["S0", "S1", "nosuch"]), np.array([DAY_NS + 5000] * 3))
    part = hot_part(session, 1, HotAsof(("trade_id",)), probes)
    assert part.rows["trade_id"].to_pylist() == [3, 4, None]


def test_a_session_answers_many_queries_and_survives_a_wrong_one(node: Node) -> None:
    put(node.peer, rows(30))
    exchange = node.peer.do_exchange({"session": True}, timeout_s=WAIT_S)
    answers = []
    for query_id, table in enumerate(["trades", "nosuch", "trades"]):
        exchange.write({"id": query_id, "last_by": {"table": table, "columns": ["price"]}})
        chunk = exchange.read()
        answers.append((json.loads(chunk.metadata or b"{}"), chunk.batch))
    assert [head["id"] for head, _ in answers] == [0, 1, 2]
    assert answers[1][0]["error"]["code"] == "NOT_FOUND"
    assert answers[2][1]["symbol"].to_pylist() == ["S0", "S1", "S2"]
    exchange.done_writing()
    exchange.close()


def test_sql_is_answered_with_the_name_of_where_to_ask(node: Node) -> None:
    with pytest.raises(ProxistError, match="query node"):
        node.peer.do_get({"sql": "SELECT 1"}, timeout_s=WAIT_S)


def test_an_attached_reader_sees_acked_rows(node: Node) -> None:
    put(node.peer, rows(10))
    for _ in range(3):
        fd, info = request_fd(node.endpoints["attach"], 1)
        reader = HotReader.attach(fd, info["epoch_page"])
        os.close(fd)
        assert reader.run(HotScan()).rows["trade_id"].to_pylist() == list(range(10))
        reader.close()
    with pytest.raises(NotFound):
        request_fd(node.endpoints["attach"], 99)


def test_the_follow_stream_is_served(node: Node) -> None:
    put(node.peer, rows(10))
    stream = node.peer.stream({"follow": {"shard": 1, "from": 0}}, timeout_s=WAIT_S)
    offsets: list[int] = []
    for chunk in stream:
        if chunk.batch is not None:
            offsets += chunk.batch["_offset"].to_pylist()
        if len(offsets) == 10:
            break
    stream.cancel()
    assert offsets == list(range(10))
    with pytest.raises(InvalidArgument, match="Offset 3"):
        list(node.peer.stream({"follow": {"shard": 1, "from": 3}}, timeout_s=WAIT_S))


# ---- gRPC, HTTP, actions ---------------------------------------------------------------------------------------------


def test_the_grpc_service_tells_marks_logs_and_moves_them(node: Node, client: EtcdClient) -> None:
    put(node.peer, rows(10))
    channel, stub = stub_of(node)
    with channel:
        status = stub.Status(pb.StatusRequest())
        assert (status.name, status.state, status.pid) == ("ingest-0", "ready", os.getpid())
        end = stub.Flush(pb.FlushRequest(table="trades")).shards[0].end
        with pytest.raises(NotOwner):
            stub.AdvancePersisted(pb.AdvancePersistedRequest(shard=1, epoch=9, persisted=end))
        flushed: list[Any] = []
        waiting = threading.Thread(
            target=lambda: flushed.append(stub.Flush(pb.FlushRequest(table="trades", wait=True)))
        )
        waiting.start()
        stub.AdvancePersisted(pb.AdvancePersistedRequest(shard=1, epoch=1, persisted=end))
        waiting.join()
        assert flushed[0].shards[0].persisted == 10
        (mark,) = stub.Evict(pb.EvictRequest(table="trades", rows=4)).shards
        assert (mark.floor, mark.persisted, mark.end, mark.HasField("t_persisted")) == (6, 10, 10, True)
        (log,) = stub.ListLogs(pb.ListLogsRequest()).logs
        assert (log.epoch, log.start, log.end, log.state, log.segments) == (1, 0, 10, "open", 1)
        with pytest.raises(NotFound, match="nosuch"):
            stub.Flush(pb.FlushRequest(table="nosuch"))
        change_table(client, "default", "trades", paused=True)
        assert node.node._catalog.wait_until(lambda now: now.table("default", "trades").paused, WAIT_S)
        with pytest.raises(Paused, match="resume trades"):
            stub.Flush(pb.FlushRequest(table="trades", wait=True))


def test_health_metrics_and_topology(node: Node) -> None:
    put(node.peer, rows(10))
    with urllib.request.urlopen(node.endpoints["http"] + "/health") as page:
        assert json.loads(page.read())["state"] == "ready"
    with urllib.request.urlopen(node.endpoints["http"] + "/metrics") as page:
        assert 'proxist_ingest_rows_total{shard="1",table="trades",tenant="default"} 10.0' in page.read().decode()
    (told,) = node.peer.do_action("topology", timeout_s=WAIT_S)
    (entry,) = told["tables"]
    assert (told["node"], entry["shards"][0]["node"], entry["table"]["spec"]["name"]) == (
        "ingest-0",
        "ingest-0",
        "trades",
    )
    assert [info.schema.names for info in node.peer.list_flights(timeout_s=WAIT_S)] == [rows(0).schema.names]
    with pytest.raises(InvalidArgument, match="unknown"):
        node.peer.do_action("dance", timeout_s=WAIT_S)
    with pytest.raises(Unavailable, match="control plane"):
        node.peer.do_action("create_table", TRADES, timeout_s=WAIT_S)


# ---- life ------------------------------------------------------------------------------------------------------------


def test_a_table_that_appears_is_served_and_one_that_is_dropped_is_released(
    tmp_path: Path, etcd: LocalEtcd, client: EtcdClient, catalog: Catalog
) -> None:
    with Node(tmp_path, etcd.address) as node:
        table = create_table(client, TRADES, ["ingest-0"])
        wait_owned(catalog, table)
        wait_owned(node.node._catalog, table)
        put(node.peer, rows(3))
        change_table(client, "default", "trades", state="dropping")
        assert catalog.wait_until(lambda now: now.owner(table.shard_ids[0]) is None, WAIT_S)
        with pytest.raises(ProxistError):
            put(node.peer, rows(3))
        files = tmp_path / "ingest-0" / "wal" / "1"
        assert files.is_dir()
        client.delete("/proxist/v1/tables/default/trades")
        client.delete("/proxist/v1/shards/1")
        deadline = time.monotonic() + WAIT_S
        while files.exists():
            assert time.monotonic() < deadline, "files of a dropped table are deleted"
            threading.Event().wait(0.02)


def test_a_directory_has_one_node(node: Node, tmp_path: Path, etcd: LocalEtcd) -> None:
    second = Node(tmp_path, etcd.address)
    with pytest.raises(DirectoryLocked):
        second.start()
    assert put(node.peer, rows(1))["rows"] == 1


def test_a_taken_port_is_named(node: Node, tmp_path: Path, etcd: LocalEtcd) -> None:
    port = node.endpoints["grpc"].rpartition(":")[2]
    with pytest.raises(PortTaken, match=port):
        Node(tmp_path, etcd.address, "ingest-1", grpc_port=port).start()


@pytest.mark.usefixtures("table")
def test_kill_9_and_restart_keep_every_acked_row_once_and_need_no_lease_to_expire(
    tmp_path: Path, etcd: LocalEtcd
) -> None:
    number = 0
    for _ in range(2):
        with Process(tmp_path, etcd.address, lease_ttl_s=600) as process, FlightPeer(process.ready()["flight"]) as peer:
            if number:
                again = put(peer, rows(10, first=10 * (number - 1)), {"producer": "p", "seq": number - 1})
                assert again["duplicate"]
            for _ in range(20):
                put(peer, rows(10, first=10 * number), {"producer": "p", "seq": number})
                number += 1
            assert scan(peer) == list(range(10 * number))
            process.kill()


@pytest.mark.usefixtures("table")
def test_an_attached_reader_gets_an_error_once_its_owner_is_superseded(tmp_path: Path, etcd: LocalEtcd) -> None:
    with Process(tmp_path, etcd.address, lease_ttl_s=600) as process:
        ready = process.ready()
        with FlightPeer(ready["flight"]) as peer:
            put(peer, rows(10))
        fd, info = request_fd(ready["attach"], 1)
        reader = HotReader.attach(fd, info["epoch_page"])
        os.close(fd)
        assert reader.run(HotScan()).end == 10
        process.kill()
    with Process(tmp_path, etcd.address) as process:
        process.ready()
        with pytest.raises(Unavailable):
            reader.run(HotScan())
    reader.close()


def test_sigterm_ends_a_node_in_order(tmp_path: Path, etcd: LocalEtcd, table: Table, catalog: Catalog) -> None:
    with Process(tmp_path, etcd.address) as process:
        ready = process.ready()
        with FlightPeer(ready["flight"]) as peer:
            put(peer, rows(10))
        process.process.terminate()
        assert process.wait() == 0
    assert catalog.wait_until(lambda now: now.owner(table.shard_ids[0]) is None, 5)


@pytest.mark.usefixtures("table")
def test_a_damaged_log_refuses_its_shard_and_the_process_goes_on(tmp_path: Path, etcd: LocalEtcd) -> None:
    with Node(tmp_path, etcd.address) as node:
        for n in range(5):
            put(node.peer, rows(100, first=100 * n))
    segment = tmp_path / "ingest-0" / "wal" / "1" / "1" / "00000000.wal"
    with segment.open("r+b") as file:
        file.seek(8000)
        file.write(b"\xff" * 64)
    with Process(tmp_path, etcd.address) as process:
        ready = process.ready()
        with FlightPeer(ready["flight"]) as peer, pytest.raises(LogCorrupt, match="from offset 100 up to 200"):
            put(peer, rows(5))
        process.process.terminate()
        assert process.wait() == 0
    assert not [line for line in process.errors if "Traceback" in line]


def test_etcd_down_at_start_is_waited_for(tmp_path: Path) -> None:
    etcd = LocalEtcd()
    try:
        with Process(tmp_path, etcd.address) as process:
            while not any("waiting for etcd" in line for line in process.errors):
                assert process.process.poll() is None
                threading.Event().wait(0.05)
            etcd.start()
            assert process.ready()["name"] == "ingest-0"
    finally:
        etcd.stop()


def test_a_node_that_loses_its_lease_stops_answering_and_ends(tmp_path: Path) -> None:
    with LocalEtcd() as etcd, EtcdClient([etcd.address]) as client:
        create_table(client, TRADES, ["ingest-0"])
        with Process(tmp_path, etcd.address, lease_ttl_s=2) as process:
            ready = process.ready()
            with FlightPeer(ready["flight"]) as peer:
                put(peer, rows(5))
                fd, info = request_fd(ready["attach"], 1)
                reader = HotReader.attach(fd, info["epoch_page"])
                os.close(fd)
                etcd.kill()
                assert process.wait() == 69
            with pytest.raises(Unavailable):
                reader.run(HotScan())
            reader.close()
            assert any("lease" in line and line.startswith("error ingest-0:") for line in process.errors)
        etcd.start()
        with Process(tmp_path, etcd.address) as process, FlightPeer(process.ready()["flight"]) as peer:
            assert scan(peer) == list(range(5))
