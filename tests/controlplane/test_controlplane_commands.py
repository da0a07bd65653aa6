"""Operators' commands reach the owners and persisters, and say what is missing where they cannot."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from controlplane_fakes import FakeIngest, FakePersister
from test_controlplane_tables import create, spec

from proxist.errors import DeadlineExceeded, InvalidArgument, Paused, Unavailable
from proxist.pb import controlplane_pb2 as pb
from proxist.rpc.http import HttpDoor
from proxist.rpc.ports import free_ports
from proxist.rpc.tls import Tls
from proxist.testing.etcd import LocalEtcd
from proxist.testing.tls import DevCerts


def marks(control: Any, table: str = "") -> list[tuple[int, int, int, int]]:
    answer = control.Watermarks(pb.WatermarksRequest(table=table))
    return [(w.shard, w.floor, w.persisted, w.end) for w in answer.watermarks]


def pause(control: Any) -> None:
    control.PausePersist(pb.PausePersistRequest(table="trades"))


@pytest.fixture
def ingest(etcd: LocalEtcd) -> Iterator[FakeIngest]:
    with FakeIngest(etcd.address, "ingest-0") as ingest:
        yield ingest


def test_watermarks_are_the_owners_own_now(control: Any, etcd: LocalEtcd, ingest: FakeIngest) -> None:
    with FakeIngest(etcd.address, "ingest-1") as other:
        create(control, shards=2)
        create(control, name="quotes")
        owned = {**ingest.shards, **other.shards}
        for shard, held in owned.items():
            held.end = 100 + shard
        assert marks(control) == [(1, 0, 0, 101), (2, 0, 0, 102), (3, 0, 0, 103)]
        assert marks(control, "quotes") == [(3, 0, 0, 103)]
        owned[1].persisted = 50
        (first, second) = control.Watermarks(pb.WatermarksRequest(table="trades")).watermarks
        assert (first.table, first.tenant, first.epoch, first.t_persisted) == ("trades", "default", 1, 17)
        assert not second.HasField("t_persisted")


def test_flush_persists_and_evict_moves_the_floor(control: Any, ingest: FakeIngest) -> None:
    create(control)
    ingest.shards[1].end = 100
    control.Flush(pb.FlushRequest(table="trades"))
    assert marks(control) == [(1, 0, 100, 100)]
    kept = control.Evict(pb.EvictRequest(table="trades", rows=30)).watermarks
    assert [(w.shard, w.floor) for w in kept] == [(1, 70)]
    control.Evict(pb.EvictRequest(table="trades", all=True))
    assert marks(control) == [(1, 100, 100, 100)]
    with pytest.raises(InvalidArgument, match="needs one of"):
        control.Evict(pb.EvictRequest(table="trades"))


@pytest.mark.usefixtures("ingest")
def test_flush_of_a_paused_table_fails_at_once_and_names_resume(control: Any, etcd: LocalEtcd) -> None:
    with FakePersister(etcd.address, "persister-0") as persister:
        create(control)
        pause(control)
        assert persister.told == [("pause", "trades")]
        with pytest.raises(Paused, match="pxctl persist resume trades"):
            control.Flush(pb.FlushRequest(table="trades"))
        assert control.DescribeTable(pb.DescribeTableRequest(table="trades")).table.paused
        control.ResumePersist(pb.ResumePersistRequest(table="trades"))
        assert persister.told[-1] == ("resume", "trades")
        control.Flush(pb.FlushRequest(table="trades"))


@pytest.mark.usefixtures("ingest")
def test_a_pause_holds_without_a_persister_and_is_not_confirmed_by_a_silent_one(control: Any, etcd: LocalEtcd) -> None:
    create(control)
    pause(control)
    with FakePersister(etcd.address, "persister-0") as persister:
        persister.fails = True
        assert control.DescribeTable(pb.DescribeTableRequest(table="trades")).table.paused
        wait_for_node(control, "persister-0")
        with pytest.raises(Unavailable, match=r"marked as paused, but persister-0 did not confirm.*in flight"):
            pause(control)


def wait_for_node(control: Any, name: str) -> None:
    tick = threading.Event()
    for _ in range(500):
        if name in [n.name for n in control.Status(pb.StatusRequest()).nodes]:
            return
        tick.wait(0.01)
    raise AssertionError(f"{name} does not appear")


def test_a_flush_that_does_not_end_says_how_the_sink_does(control: Any, etcd: LocalEtcd, ingest: FakeIngest) -> None:
    create(control)
    ingest.persists = False
    with pytest.raises(DeadlineExceeded, match="No persister is alive"):
        control.Flush(pb.FlushRequest(table="trades", timeout_ms=500))
    with FakePersister(etcd.address, "persister-0"):
        wait_for_node(control, "persister-0")
        with pytest.raises(DeadlineExceeded, match=r"sink is DOWN: ClickHouse at http://c:8123 does not answer"):
            control.Flush(pb.FlushRequest(table="trades", timeout_ms=500))


def test_a_shard_without_an_owner_is_named_not_left_out(control: Any, etcd: LocalEtcd) -> None:
    with FakeIngest(etcd.address, "ingest-0"):
        create(control)
    for call in (
        lambda: control.Watermarks(pb.WatermarksRequest(), timeout=1.0),
        lambda: control.Flush(pb.FlushRequest(table="trades"), timeout=1.0),
        lambda: control.Evict(pb.EvictRequest(table="trades", all=True), timeout=1.0),
    ):
        with pytest.raises(Unavailable, match=r"shard 1 on ingest-0 \(not alive\)"):
            call()
    (shard,) = control.ListShards(pb.ListShardsRequest()).shards
    assert shard.state == "unowned"
    node = next(n for n in control.Status(pb.StatusRequest()).nodes if n.role == "ingest")
    assert (node.name, node.state) == ("ingest-0", "down")


def test_a_command_waits_for_an_owner_that_restarts(control: Any, etcd: LocalEtcd) -> None:
    with FakeIngest(etcd.address, "ingest-0"):
        create(control)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(marks(control)))
    asking.start()
    with FakeIngest(etcd.address, "ingest-0"):
        asking.join()
    assert answers == [[(1, 0, 0, 0)]]


class Ping(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"Ok.\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.usefixtures("ingest")
def test_status_shows_every_node_and_store_with_current_pids(
    start: Callable[..., Any], etcd: LocalEtcd, tmp_path: Path
) -> None:
    server = HTTPServer(("127.0.0.1", 0), Ping)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    clickhouse = f"http://127.0.0.1:{server.server_port}"
    parts = {
        "etcd": {"role": "etcd", "pid": etcd.pid, "state": "ready", "grpc": etcd.address},
        "clickhouse": {"role": "clickhouse", "pid": 77, "state": "ready", "http": clickhouse},
        "query-0": {"role": "query", "pid": 78, "state": "starting"},
    }
    (tmp_path / "parts.json").write_text(json.dumps({"supervisor": 1, "parts": parts}))
    control = start(clickhouse=clickhouse)
    create(control)
    wait_for_node(control, "ingest-0")
    status = control.Status(pb.StatusRequest())
    nodes = {n.name: n for n in status.nodes}
    assert list(nodes) == ["query-0", "ingest-0", "controlplane-0", "etcd", "clickhouse"]
    assert (nodes["ingest-0"].pid, nodes["ingest-0"].state) == (4711, "ready")
    assert nodes["controlplane-0"].grpc == control.endpoints["grpc"]
    assert (nodes["etcd"].pid, nodes["etcd"].grpc, nodes["etcd"].state) == (etcd.pid, etcd.address, "ready")
    assert (nodes["clickhouse"].pid, nodes["clickhouse"].state) == (77, "ready")
    assert (nodes["query-0"].pid, nodes["query-0"].state) == (78, "starting")
    assert [(w.table, w.shard) for w in status.shards] == [("trades", 1)]
    server.shutdown()
    serving.join()
    server.server_close()
    after = {n.name: n for n in control.Status(pb.StatusRequest()).nodes}
    assert after["clickhouse"].state == "down"


@pytest.mark.usefixtures("ingest")
def test_without_etcd_reads_go_on_and_writes_say_why(control: Any, etcd: LocalEtcd) -> None:
    create(control)
    etcd.kill()
    assert [t.spec.name for t in control.ListTables(pb.ListTablesRequest()).tables] == ["trades"]
    assert control.DescribeTable(pb.DescribeTableRequest(table="trades")).table.id == 1
    assert marks(control) == [(1, 0, 0, 0)]
    state = {n.name: n.state for n in control.Status(pb.StatusRequest()).nodes}
    assert (state["etcd"], state["clickhouse"]) == ("down", "down")
    for call in (
        lambda: create(control, name="quotes", timeout_s=8),
        lambda: pause(control),
        lambda: control.DropTable(pb.DropTableRequest(table="trades"), timeout=8),
    ):
        with pytest.raises(Unavailable, match=r"etcd at .* does not answer"):
            call()
    etcd.start()
    create(control, name="quotes")


def test_a_control_plane_that_starts_before_etcd_says_so(start: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setattr("proxist_controlplane.service.START_WAIT_S", 0.1)
    (port,) = free_ports(1)
    control = start(etcd=f"127.0.0.1:{port}")
    with pytest.raises(Unavailable, match=f"etcd at 127.0.0.1:{port} did not answer"):
        control.ListTables(pb.ListTablesRequest())
    assert {n.name: n.state for n in control.Status(pb.StatusRequest()).nodes} == {"etcd": "down", "clickhouse": "down"}


def test_a_store_whose_certificate_is_not_trusted_is_not_down(start: Callable[..., Any], tmp_path: Path) -> None:
    certs, strangers = DevCerts(tmp_path / "certs"), DevCerts(tmp_path / "strangers")
    door = HttpDoor("127.0.0.1", 0, lambda: {}, tls=Tls(certs.server.cert, certs.server.key, certs.ca))
    door.start()
    control = start(clickhouse=door.url, clickhouse_ca=strangers.ca)
    assert {n.name: n.state for n in control.Status(pb.StatusRequest()).nodes}["clickhouse"] == "handshake failed"
    assert door.stop(5.0) == []


def test_a_tenant_is_a_name(control: Any) -> None:
    with pytest.raises(InvalidArgument, match="Tenant 'a/b' is not a name"):
        control.CreateTable(pb.CreateTableRequest(tenant="a/b", spec=spec()))


@pytest.mark.usefixtures("ingest")
def test_many_statuses_and_flushes_at_once_do_not_block_each_other(control: Any, etcd: LocalEtcd) -> None:
    with FakeIngest(etcd.address, "ingest-1"):
        create(control, shards=2)
        barrier, answers = threading.Barrier(24), []

        def call(i: int) -> None:
            barrier.wait()
            if i % 2:
                answers.append(len(control.Status(pb.StatusRequest()).shards))
            else:
                control.Flush(pb.FlushRequest(table="trades"))
                answers.append(2)

        threads = [threading.Thread(target=call, args=(i,)) for i in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [2] * 24
