"""The heart of the journey over TLS: every part shows a certificate, every caller a certificate and a token.

PROXIST_TEST_TLS=1 runs all the other journeys that way too.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.flight as fl
import pytest
from control import TRADES, Control, channel, pxctl_says
from doors import Ask, action, by_get, by_session, dial, each_call, put, receipt
from test_errors import refusal, rows

import proxist
from proxist.auth.cluster import ClusterSecret
from proxist.auth.identity import Grant
from proxist.auth.store import create_token
from proxist.cli import cluster_tls
from proxist.errors import Unauthenticated, Unavailable
from proxist.etcd import EtcdClient
from proxist.pb import auth_pb2, auth_pb2_grpc, query_pb2, query_pb2_grpc
from proxist.rpc.grpc_client import connect
from proxist.rpc.tls import from_environment
from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("tls"), ingest=2, tls=True) as running:
        yield running


@pytest.fixture
def control(cluster: LocalCluster) -> Iterator[Control]:
    opened = Control(cluster.endpoints)
    yield opened
    opened.close()


@pytest.fixture
def query(cluster: LocalCluster) -> str:
    return str(cluster.endpoints["query"][0]["flight"])


def counted_by_grpc(address: str, table: str) -> int:
    with channel(address) as opened:
        asked = query_pb2.Query(sql=f"SELECT count() AS n FROM {table}")
        answers = list(query_pb2_grpc.QueryServiceStub(opened).Query(asked, timeout=TIMEOUT_S))
    return int(answers[0].rows[0]["n"])


def test_every_door_answers_alike_whatever_tier_the_rows_are_in(
    cluster: LocalCluster, control: Control, query: str
) -> None:
    """Rows reach both owners through either; then hot, persisted, in both tiers, and cold."""
    action(query, "create_table", {**TRADES, "shards": 2})
    for number, owner in enumerate(cluster.endpoints["ingest"] * 2):
        ack = put(owner["flight"], "trades", rows(30, first=30 * number), {"producer": "both", "seq": number})
        assert (ack["rows"], ack["duplicate"]) == (30, False)
    again = put(cluster.endpoints["ingest"][0]["flight"], "trades", rows(30, first=90), {"producer": "both", "seq": 3})
    assert again["duplicate"]
    asks: dict[str, Ask] = {
        "attach": by_get(query, "attach"),
        "flight": by_get(query, "flight"),
        "session": by_session(query),
        "unix": by_session(cluster.endpoints["query"][0]["flight_unix"]),
    }

    def check(mode: str) -> None:
        for door, ask in asks.items():
            scan = ask({"scan": {"table": "trades"}})
            assert scan["trade_id"].to_pylist() == list(range(120)), (mode, door)
            assert receipt(scan)["mode"] == mode, door
            assert ask({"last_by": {"table": "trades"}})["trade_id"].to_pylist() == [117, 118, 119], (mode, door)
            assert ask({"sql": "SELECT sum(trade_id) AS s FROM trades"})["s"].to_pylist() == [7140], (mode, door)
        assert counted_by_grpc(cluster.endpoints["query"][0]["grpc"], "trades") == 120

    check("hot")
    control.flush("trades")
    control.evict("trades", rows=10)
    check("cold+hot")
    control.evict("trades", all=True)
    check("cold")


def test_parts_that_come_back_find_and_trust_each_other_again(
    cluster: LocalCluster, control: Control, query: str
) -> None:
    action(query, "create_table", {**TRADES, "name": "restarts", "shards": 2})
    ingest = cluster.endpoints["ingest"][0]["flight"]
    put(ingest, "restarts", rows(10))
    killed = {part: cluster.kill(part) for part in ("etcd", "clickhouse", "ingest-1")}
    for part, pid in killed.items():
        cluster.wait_ready(part, other_than=pid)

    def all_persisted() -> bool:
        return sum(mark.end == mark.persisted for mark in control.marks("restarts")) == 2

    control.until(all_persisted, "the rows from before are in ClickHouse")
    put(ingest, "restarts", rows(10, first=10))
    control.flush("restarts")
    assert by_get(query, "auto")({"scan": {"table": "restarts"}})["trade_id"].to_pylist() == list(range(20))


def test_the_sdk_and_pxctl_take_the_files_by_name_too(
    cluster: LocalCluster, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, token = cluster.endpoints["tls"], os.environ["PROXIST_TOKEN"]
    status = json.loads(pxctl_says(cluster, "status", "-o", "json"))
    assert {node["name"] for node in status["nodes"] if node["state"] == "ready"} >= set(cluster.endpoints["pids"])
    assert not any(node.get("insecure") for node in status["nodes"])
    for name in cluster.client_environment():
        monkeypatch.delenv(name)
    with pytest.raises(Unavailable, match="PROXIST_TLS_CA|tls_ca"):
        proxist.connect(query, token=token, timeout_s=TIMEOUT_S)
    with pytest.raises(Unavailable, match="PROXIST_TLS_CERT|tls_cert"):
        proxist.connect(query, token=token, tls_ca=files["ca"], timeout_s=TIMEOUT_S)
    shown = {"tls_ca": files["ca"], "tls_cert": files["cert"], "tls_key": files["key"]}
    with pytest.raises(Unauthenticated):
        proxist.connect(query, **shown)
    with proxist.connect(query.partition("//")[2], token=token, **shown) as connection:
        assert connection.sql("SELECT 1 AS one")["one"].to_pylist() == [1]


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How an HTTP/2 client begins (RFC 9113, 3.4): its server answers with settings."""
PING = b"GET /ping HTTP/1.0\r\n\r\n"
ALERT = b"\x15"


def trusting(cluster: LocalCluster, *, showing: bool) -> ssl.SSLContext:
    files = cluster.endpoints["tls"]
    context = ssl.create_default_context(cafile=files["ca"])
    if showing:
        context.load_cert_chain(files["cert"], files["key"])
    return context


def first_byte(address: str, request: bytes, context: ssl.SSLContext | None) -> bytes:
    """Of the answer; none where the door ends the connection instead."""
    host, _, port = address.rpartition("//")[2].partition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), TIMEOUT_S) as opened:
        if context is None:
            opened.sendall(request)
            return opened.recv(1)
        context.set_alpn_protocols(["h2" if request == PREFACE else "http/1.1"])
        with context.wrap_socket(opened, server_hostname=host) as secured:
            secured.sendall(request)
            return secured.recv(1)
    return b""


def test_no_door_answers_without_a_certificate_nor_in_clear(cluster: LocalCluster) -> None:
    doors = [
        (name, part[door], PREFACE)
        for name, part in cluster.status().items()
        for door in ("flight", "grpc")
        if door in part
    ]
    doors.append(("clickhouse", cluster.endpoints["clickhouse"], PING))
    assert len(doors) == 3 * 2 + 2 + 1 + 1, "Flight and gRPC of three, gRPC of two, the stores"
    for name, address, request in doors:
        shown = cluster.service_tls.http_client() if name == "etcd" else trusting(cluster, showing=True)
        assert first_byte(address, request, shown) not in (b"", ALERT), name
        assert first_byte(address, request, trusting(cluster, showing=False)) == b"", name
        assert first_byte(address, request, None) in (b"", ALERT), name


def http_status(url: str, context: ssl.SSLContext, token: str | None) -> int:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S, context=context
        ) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_clients_certificate_opens_no_store(cluster: LocalCluster) -> None:
    with (
        EtcdClient([cluster.endpoints["etcd"]], tls=from_environment()) as etcd,
        pytest.raises(Unavailable, match="refuses the certificate"),
    ):
        create_token(etcd, tenant="*", grants=[Grant("admin", "*")], expires_in_ns=0)
    url = f"{cluster.endpoints['clickhouse']}/?query=SELECT+1"
    assert http_status(url, trusting(cluster, showing=True), None) == 403
    assert http_status(url, cluster.service_tls.http_client(), None) == 200


def http_doors(cluster: LocalCluster) -> list[str]:
    return [part["http"] for name, part in cluster.status().items() if name not in ("etcd", "clickhouse")]


def test_probes_need_nothing_and_other_pages_a_certificate_and_a_token(cluster: LocalCluster) -> None:
    token = os.environ["PROXIST_TOKEN"]
    showing, bare = (trusting(cluster, showing=shows) for shows in (True, False))
    assert len(http_doors(cluster)) == 5
    for url in http_doors(cluster):
        assert [http_status(f"{url}/{probe}", bare, None) for probe in ("livez", "readyz")] == [200, 200]
        assert http_status(f"{url}/health", showing, token) == 200
        assert http_status(f"{url}/health", bare, token) == 401
        assert http_status(f"{url}/health", showing, None) == 401
        assert http_status(f"{url}/metrics", showing, token) == 403, "it counts for every tenant"


def token_for(cluster: LocalCluster, tenant: str, role: str, tables: str = "*") -> str:
    """A new token, which every node knows on return."""
    internal = ClusterSecret.read(cluster.cluster_secret).credential("journey")
    address = cluster.endpoints["controlplane"]["grpc"]
    with connect(address, credential=internal, tls=from_environment()) as opened:
        grants = [auth_pb2.Grant(role=role, tables=tables)]
        asked = auth_pb2.CreateTokenRequest(tenant=tenant, grants=grants, expires_in="1h")
        token = str(auth_pb2_grpc.AuthServiceStub(opened).CreateToken(asked).secret_token)
    showing = trusting(cluster, showing=True)
    pages = [f"{url}/health" for url in http_doors(cluster)]
    cluster.until(lambda: {http_status(page, showing, token) for page in pages} == {200}, "the token is known")
    return token


def test_a_write_that_an_owner_passes_on_stays_its_callers(
    cluster: LocalCluster, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner that passes parts on is trusted by the other one, which must not make its caller's right larger."""
    for tenant in ("acme", "umbra"):
        monkeypatch.setenv("PROXIST_TOKEN", token_for(cluster, tenant, "admin"))
        action(query, "create_table", {**TRADES, "name": "shared", "shards": 2})
    monkeypatch.setenv("PROXIST_TOKEN", token_for(cluster, "acme", "writer", "shared"))
    owners = [owner["flight"] for owner in cluster.endpoints["ingest"]]
    for number, owner in enumerate(owners):
        assert put(owner, "shared", rows(30, first=30 * number))["rows"] == 30
        assert refusal(lambda owner=owner: put_to(owner, ["umbra", "shared"], rows(30)))["code"] == "PERMISSION_DENIED"
    monkeypatch.setenv("PROXIST_TOKEN", token_for(cluster, "umbra", "writer", "other*"))
    for owner in owners:
        assert refusal(lambda owner=owner: put(owner, "shared", rows(30)))["code"] == "PERMISSION_DENIED"
    found = {}
    for tenant in ("acme", "umbra"):
        monkeypatch.setenv("PROXIST_TOKEN", token_for(cluster, tenant, "reader"))
        found[tenant] = by_get(query, "flight")({"scan": {"table": "shared"}})["trade_id"].to_pylist()
        own = Control(cluster.endpoints)
        found[f"{tenant}'s shards with rows"] = sum(mark.end > 0 for mark in own.marks("shared"))
        own.close()
    assert found == {
        "acme": list(range(60)),
        "acme's shards with rows": 2,
        "umbra": [],
        "umbra's shards with rows": 0,
    }


def put_to(uri: str, path: list[str], batch: pa.RecordBatch) -> None:
    """A DoPut that names a tenant."""
    with dial(uri) as client:
        writer, reader = client.do_put(fl.FlightDescriptor.for_path(*path), batch.schema, each_call())
        with writer:
            writer.write_batch(batch)
            reader.read()


def test_the_first_administrators_token_is_kept_while_it_is_good(cluster: LocalCluster) -> None:
    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (cluster.data_dir / "tls").iterdir()}

    before = content()
    files = cluster_tls.prepare(cluster.data_dir)
    files.admit(cluster.status())
    assert content() == before, "a start with good files makes none"
    files.token.write_text("px_" + "0" * 12 + "_" + "0" * 48)
    files.admit(cluster.status())
    token = files.token.read_text().strip()
    assert (
        http_status(f"{cluster.endpoints['controlplane']['http']}/health", trusting(cluster, showing=True), token)
        == 200
    )
    assert files.token.stat().st_mode & 0o077 == 0
