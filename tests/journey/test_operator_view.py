"""What an operator sees: reflection, status, marks; and a cluster that starts while a store is down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control import TRADES, Control, channel, pxctl_says
from doors import action, by_get, put
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from test_errors import rows

from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("operator"), ingest=2) as running:
        action(running.endpoints["query"][0]["flight"], "create_table", {**TRADES, "shards": 4})
        yield running


def pxctl(cluster: LocalCluster, *words: str) -> Any:
    return json.loads(pxctl_says(cluster, "-o", "json", *words))


def test_reflection_lists_the_four_services_and_their_methods(cluster: LocalCluster) -> None:
    doors = {
        "proxist.ingest.v1.IngestService": cluster.endpoints["ingest"][0]["grpc"],
        "proxist.query.v1.QueryService": cluster.endpoints["query"][0]["grpc"],
        "proxist.persister.v1.PersisterService": cluster.endpoints["persister"]["grpc"],
        "proxist.controlplane.v1.ControlPlaneService": cluster.endpoints["controlplane"]["grpc"],
    }
    for name, address in doors.items():
        with channel(address) as opened:
            database = ProtoReflectionDescriptorDatabase(opened)
            listed = set(database.get_services())
            assert {name, "grpc.health.v1.Health"} <= listed
            service = DescriptorPool(database).FindServiceByName(name)
            assert len(service.methods) >= 2


def test_status_shows_nodes_with_current_pids_and_shards_with_lag(cluster: LocalCluster) -> None:
    status = pxctl(cluster, "status")
    nodes = {node["name"]: node for node in status["nodes"]}
    parts = {"ingest-0", "ingest-1", "query-0", "persister-0", "controlplane-0", "etcd", "clickhouse"}
    assert parts <= set(nodes)
    for name in parts:
        assert nodes[name]["pid"] == cluster.pid(name), name
        assert nodes[name]["state"] == "ready", nodes[name]
    marks = pxctl(cluster, "watermarks")
    assert len(marks) == 4
    assert {"table", "shard", "epoch", "floor", "persisted", "end"} <= set(marks[0])
    assert len(pxctl(cluster, "shards")) == 4
    text = pxctl_says(cluster, "status")
    for word in ("ingest-0", "trades", "end", "persisted", "floor", "lag"):
        assert word in text.lower(), text


def test_rows_sent_to_either_owner_reach_the_right_shard(cluster: LocalCluster) -> None:
    control = Control(cluster.endpoints)
    for number, owner in enumerate(cluster.endpoints["ingest"] * 2):
        ack = put(owner["flight"], "trades", rows(30, first=30 * number), {"producer": "both", "seq": number})
        assert (ack["rows"], ack["duplicate"]) == (30, False)
    assert control.end("trades") == 120
    for path in ("attach", "flight"):
        ask = by_get(cluster.endpoints["query"][0]["flight"], path)
        assert sorted(ask({"scan": {"table": "trades"}})["trade_id"].to_pylist()) == list(range(120))
        assert ask({"last_by": {"table": "trades"}})["symbol"].to_pylist() == ["S0", "S1", "S2"]
        assert ask({"sql": "SELECT count() AS n FROM trades"})["n"].to_pylist() == [120]
    control.close()


@pytest.mark.parametrize("store", ["clickhouse", "etcd"])
def test_a_store_that_is_down_when_the_services_start_is_waited_for(tmp_path: Path, store: str) -> None:
    """The services restart while the store is down; what works without it works, the rest follows when it is back."""
    with LocalCluster(tmp_path) as cluster:
        control = Control(cluster.endpoints)
        query, ingest = cluster.endpoints["query"][0]["flight"], cluster.endpoints["ingest"][0]["flight"]
        action(query, "create_table", TRADES)
        put(ingest, "trades", rows(10))
        control.flush("trades")
        with cluster.stopped(store):
            services = ("ingest-0", "persister-0", "query-0")
            pids = {name: cluster.kill(name) for name in services}
            if store == "clickhouse":
                for name in services:
                    cluster.wait_ready(name, other_than=pids[name])
                put(ingest, "trades", rows(10, first=10))
                assert by_get(query, "auto")({"scan": {"table": "trades"}}).num_rows == 20
        for name in services:
            cluster.wait_ready(name, other_than=pids[name])
        total = 20 if store == "clickhouse" else 10
        control.until(lambda: all(m.persisted == m.end == total for m in control.marks("trades")), "all persisted")
        assert by_get(query, "auto")({"scan": {"table": "trades"}}).num_rows == total
        control.close()
