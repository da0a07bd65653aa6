"""An operator's hands in the tests: the control plane's gRPC, with the plain stubs."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
from doors import shown

from proxist.auth.cluster import ClusterSecret
from proxist.pb import controlplane_pb2 as pb
from proxist.pb import controlplane_pb2_grpc, ingest_pb2, ingest_pb2_grpc
from proxist.testing.cluster import LocalCluster

TIMEOUT_S = 60.0

TRADES = {
    "name": "trades",
    "time": "ts",
    "key": "symbol",
    "seq": "trade_id",
    "columns": [
        {"name": "symbol", "type": "string"},
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "trade_id", "type": "uint64"},
        {"name": "price", "type": "double"},
        {"name": "size", "type": "double"},
        {"name": "buyer_is_maker", "type": "bool"},
    ],
}
QUOTES = {
    "name": "quotes",
    "time": "ts",
    "key": "symbol",
    "seq": "update_id",
    "columns": [
        {"name": "symbol", "type": "string"},
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "update_id", "type": "uint64"},
        {"name": "bid", "type": "double"},
        {"name": "bid_size", "type": "double"},
        {"name": "ask", "type": "double"},
        {"name": "ask_size", "type": "double"},
    ],
}
BY_HAND = {"flush": {"rows": 1_000_000, "bytes": "1GiB", "age": "24h"}}
"""A flush policy under which the owner cuts a batch only when it is told to."""


def channel(address: str) -> grpc.Channel:
    """To a gRPC door; with TLS each call carries the token."""
    pem = shown()
    if not pem:
        return grpc.insecure_channel(address)
    token = grpc.access_token_call_credentials(os.environ["PROXIST_TOKEN"])
    credentials = grpc.ssl_channel_credentials(pem["CA"], pem["KEY"], pem["CERT"])
    return grpc.secure_channel(address, grpc.composite_channel_credentials(credentials, token))


def operators_environment(cluster: LocalCluster) -> dict[str, str]:
    """For pxctl as whoever runs the cluster, not as a tenant of it: with the cluster's secret where it has one."""
    if not cluster.tls:
        return dict(os.environ)
    own = {name: value for name, value in os.environ.items() if name != "PROXIST_TOKEN"}
    return {**own, "PROXIST_CLUSTER_SECRET_FILE": str(cluster.cluster_secret)}


def pxctl_says(cluster: LocalCluster, *words: str) -> str:
    """What pxctl prints for whoever runs the cluster."""
    command = [sys.executable, "-m", "proxist.cli.pxctl", "--controlplane", cluster.endpoints["controlplane"]["grpc"]]
    env = operators_environment(cluster)
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def metrics_page(cluster: LocalCluster, url: str) -> str:
    """What a part counts, as whoever runs the cluster sees it."""
    request, context = urllib.request.Request(f"{url}/metrics"), None
    if cluster.tls:
        request.add_header("authorization", f"Bearer {ClusterSecret.read(cluster.cluster_secret).sign('journey')}")
        context = ssl.create_default_context(cafile=os.environ["PROXIST_TLS_CA"])
        context.load_cert_chain(os.environ["PROXIST_TLS_CERT"], os.environ["PROXIST_TLS_KEY"])
    with urllib.request.urlopen(request, context=context, timeout=TIMEOUT_S) as page:
        return str(page.read().decode())


class Control:
    """The verbs that the journeys need, against one cluster's endpoints."""

    def __init__(self, endpoints: dict[str, Any]) -> None:
        self._channel = channel(endpoints["controlplane"]["grpc"])
        self._owners = [channel(owner["grpc"]) for owner in endpoints["ingest"]]
        self._stub = controlplane_pb2_grpc.ControlPlaneServiceStub(self._channel)

    def close(self) -> None:
        for channel in (self._channel, *self._owners):
            channel.close()

    def drop(self, table: str) -> None:
        self._stub.DropTable(pb.DropTableRequest(table=table), timeout=TIMEOUT_S)

    def pause(self, table: str) -> None:
        self._stub.PausePersist(pb.PausePersistRequest(table=table), timeout=TIMEOUT_S)

    def resume(self, table: str) -> None:
        self._stub.ResumePersist(pb.ResumePersistRequest(table=table), timeout=TIMEOUT_S)

    def flush(self, table: str) -> None:
        self._stub.Flush(pb.FlushRequest(table=table, timeout_ms=50_000), timeout=TIMEOUT_S)

    def cut(self, table: str) -> None:
        """A batch bound at every shard's end, without waiting for the persister."""
        for owner in self._owners:
            stub = ingest_pb2_grpc.IngestServiceStub(owner)
            stub.Flush(ingest_pb2.FlushRequest(table=table, wait=False), timeout=TIMEOUT_S)

    def evict(self, table: str, **to: Any) -> None:
        self._stub.Evict(pb.EvictRequest(table=table, **to), timeout=TIMEOUT_S)

    def marks(self, table: str) -> list[Any]:
        return list(self._stub.Watermarks(pb.WatermarksRequest(table=table), timeout=TIMEOUT_S).watermarks)

    def end(self, table: str) -> int:
        return sum(mark.end for mark in self.marks(table))

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        """Polls until `condition` holds; a gRPC error counts as not yet."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not within {timeout_s} s: {what}")
