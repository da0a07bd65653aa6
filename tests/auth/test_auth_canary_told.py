"""Canary, told to operators: no span, log line or metric of a call holds a secret, a path, a symbol, another's table.

Calls of two tenants over Flight, gRPC, HTTP and attach, good ones and ones that have secrets where none belong; then
everything that came of them is searched: spans whole, as an OTLP receiver gets them, every service's log, every page of
metrics.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pytest
from auth_calls import Doors, outcome
from auth_cluster import CANARY_SYMBOL, CANARY_TABLE, TABLE, Guarded, rows, spec
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from test_auth_canary import requests_of
from test_auth_matrix import GHOST, walk

import proxist
from proxist.auth.outgoing import fixed
from proxist.errors import ProxistError
from proxist.pb import query_pb2, query_pb2_grpc
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.grpc_client import connect
from proxist.telemetry import setup, tracing
from proxist.telemetry.spans import Api

SPARE = "acmespare"
ROLES = ("query", "ingest", "persister", "controlplane")
TIMEOUT_S = 10.0
WAIT_S = 60.0
STEPS = {"query.run", "sql.engine", "hot.read", "ingest.batch", "wal.write", "hot.apply", "persist.batch"}
"""Spans that must be among the searched: nothing is proved by what was not recorded."""


@dataclass
class Told:
    """What came of the calls: by where it was found, its text."""

    all: dict[str, str]
    of_acme: dict[str, str]
    """Of the calls by the tenant whose tables are not the canary's."""


@contextmanager
def one_trace() -> Iterator[str]:
    """Every call of this thread inside belongs to the trace with this id."""
    provider = setup.provider("test", "client")
    provider.sampler = ALWAYS_ON
    trace_id = secrets.token_hex(16)
    tracing.decide(Api(provider.get_tracer("test")))
    try:
        with tracing.serve("client", {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}):
            yield trace_id
    finally:
        tracing.undecide()
        provider.shutdown()


@pytest.fixture(scope="module")
def told(guarded: Guarded) -> Told:
    with proxist.connect(guarded.endpoints["query"][0]["flight"], token=guarded.tokens["admin"]) as connection:
        connection.create_table(spec(SPARE))
    with one_trace():
        owner_reads_and_writes(guarded)
        for lost in (str(guarded.tokens["admin"]), guarded.secret, CANARY_SYMBOL, str(guarded.tokens["internal"])):
            misplaced(guarded, lost)
    with one_trace() as acme:
        with FlightPeer(guarded.endpoints["query"][0]["flight"], fixed(guarded.tokens["admin"])) as peer:
            list(requests_of(peer, 2))
        walk(guarded, "admin", "umbra", CANARY_TABLE)
        walk(guarded, "admin", "", GHOST)
        for role in ROLES:
            http(f"{base_of(guarded, role)}/health", "GET", f"Bearer {guarded.tokens['admin']}")
    everything_is_exported(guarded)
    spans = dict_of(guarded.wiretap.texts())
    return Told(spans | logs(guarded) | metrics(guarded), dict_of(guarded.wiretap.texts(acme)))


def dict_of(texts: Iterator[tuple[str, str]]) -> dict[str, str]:
    return {f"span {name} ({n})": text for n, (name, text) in enumerate(texts)}


def owner_reads_and_writes(guarded: Guarded) -> None:
    """The canary's tenant, over every door; what fails fails with its symbol in the request."""
    token = guarded.tokens["wrong tenant"]
    query = guarded.endpoints["query"][0]
    probes = pa.table({"ts": rows("A")["ts"], "symbol": [CANARY_SYMBOL] * 2})
    with proxist.connect(query["flight"], token=token) as connection:
        table = connection.table(CANARY_TABLE)
        table.write(rows(CANARY_SYMBOL))
        connection.flush(CANARY_TABLE)
        for path in ("attach", "flight"):
            assert table.last_by([CANARY_SYMBOL], hot_path=path).num_rows == 1
            assert table.asof(probes, ["price"], hot_path=path).num_rows == 2
        with connection.session() as session:
            assert session.last_by(CANARY_TABLE, [CANARY_SYMBOL], ["price"]).num_rows == 1
        assert connection.sql(f"SELECT price FROM {CANARY_TABLE} WHERE symbol = '{CANARY_SYMBOL}'").num_rows
        for text in (
            f"SELECT nocolumn FROM {CANARY_TABLE} WHERE symbol = '{CANARY_SYMBOL}'",
            f"SELECT toInt64(symbol) FROM {CANARY_TABLE} WHERE symbol = '{CANARY_SYMBOL}'",
            f"SELECT throwIf(symbol = '{CANARY_SYMBOL}', symbol) FROM {CANARY_TABLE}",
            f"SELECT {CANARY_SYMBOL}(price) FROM {CANARY_TABLE}",
        ):
            with pytest.raises(ProxistError):
                connection.sql(text)
        for wrong in (
            pa.table({"ts": [CANARY_SYMBOL], "symbol": [CANARY_SYMBOL], "price": [CANARY_SYMBOL]}),
            rows(CANARY_SYMBOL).rename_columns(["ts", "symbol", CANARY_SYMBOL.lower()]),
        ):
            with pytest.raises(ProxistError):
                table.write(wrong)
    channel = connect(query["grpc"], credential=fixed(token))
    try:
        asked = query_pb2.Query(last_by=query_pb2.LastBy(table=CANARY_TABLE, keys=[CANARY_SYMBOL]))
        assert len(list(query_pb2_grpc.QueryServiceStub(channel).Query(asked, timeout=TIMEOUT_S))) >= 1
    finally:
        channel.close()


def misplaced(guarded: Guarded, lost: str) -> None:
    """`lost` wherever a hasty client could put it. What the client itself gets back is its own text."""
    token = guarded.tokens["admin"]
    for role in ("query", "ingest"):
        with FlightPeer(guarded.endpoints[role][0]["flight"], fixed(token)) as peer:
            for ticket in (
                {"scan": {"table": lost}},
                {"asof": {"left": {"table": lost}, "right": {"table": lost}}},
                {"sql": f"SELECT '{lost}' FROM {TABLE}", "id": lost},
                {"sql": f"SELECT * FROM `{lost}`"},
                {"last_by": {"table": TABLE, "keys": [lost], "columns": [lost]}, "id": lost},
                {lost: {"table": TABLE}},
            ):
                outcome(lambda ticket=ticket, peer=peer: peer.do_get(ticket, timeout_s=TIMEOUT_S))  # type: ignore[misc]
            for name, body in ((lost, {}), ("flush", {"table": lost}), ("producer", {"table": TABLE, "producer": lost}),
                               ("create_table", {**spec(TABLE), "time": lost}), ("cancel", {"id": lost})):  # fmt: skip
                outcome(lambda name=name, body=body, peer=peer: peer.do_action(name, body, timeout_s=TIMEOUT_S))  # type: ignore[misc]
            for path, metadata in (([lost], {}), ([SPARE], {"producer": lost, "seq": 1}), ([SPARE], {lost: lost})):
                outcome(lambda path=path, metadata=metadata, peer=peer: put(peer, path, metadata))  # type: ignore[misc]
        with FlightPeer(guarded.endpoints[role][0]["flight"], fixed(f"Basic {lost}x")) as stranger:
            outcome(lambda stranger=stranger: stranger.do_action(lost, {}, timeout_s=TIMEOUT_S))  # type: ignore[misc]
    for _ in Doors(guarded.endpoints, token, lost, lost).grpc():
        pass
    for role in ROLES:
        for path in (lost, f"metrics?token={lost}", f"health/{lost}"):
            for method, credential in (("GET", f"Bearer {token}"), ("GET", f"Basic {lost}x"), (method_of(lost), "")):
                http(f"{base_of(guarded, role)}/{path}", method, credential)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(guarded.endpoints["ingest"][0]["attach"])
        client.send(json.dumps({"shard": lost, "token": lost + "x"}).encode())
        assert b"error" in client.recv(1 << 16)


def put(peer: FlightPeer, path: list[str], metadata: dict[str, object]) -> None:
    batch = rows("A").to_batches()[0]
    stream = peer.do_put(path, batch.schema, timeout_s=TIMEOUT_S)
    try:
        stream.write(batch, json.dumps(metadata).encode())
        stream.done_writing()
        stream.read_ack()
    finally:
        stream.close()


def method_of(lost: str) -> str:
    """A method is any word, and a hasty client's may be anything."""
    return lost.replace("_", "-")


def base_of(guarded: Guarded, role: str) -> str:
    node = guarded.endpoints[role]
    return str((node[0] if isinstance(node, list) else node)["http"])


def http(url: str, method: str, credential: str) -> None:
    """One request inside the current trace, whatever comes of it."""
    headers = {**tracing.headers(), **({"authorization": credential} if credential else {})}
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        error.close()


def everything_is_exported(guarded: Guarded) -> None:
    """Each process sends its spans in their order: what ended before its last call's has come with that one."""
    with one_trace() as last:
        for role in ROLES:
            http(f"{base_of(guarded, role)}/health", "GET", f"Bearer {guarded.tokens['cluster']}")
    assert guarded.wiretap.wait(lambda spans: len({span.service for span in spans}) >= len(ROLES), WAIT_S, last)
    assert guarded.wiretap.wait(lambda spans: {span.name for span in spans} >= STEPS, WAIT_S)


def logs(guarded: Guarded) -> dict[str, str]:
    """By file and line; of the services and of what started them."""
    files = [*(guarded.cluster.data_dir / "logs").glob("*.log"), guarded.cluster.data_dir / "up.log"]
    return {
        f"{file.name}:{n}": line
        for file in files
        if not file.name.startswith("etcd")
        for n, line in enumerate(file.read_text(errors="replace").splitlines())
        if not line.startswith("ready ")  # on stdout, to whoever started the part: where it listens, sockets too
    }


def metrics(guarded: Guarded) -> dict[str, str]:
    found = {}
    for role in ROLES:
        headers = {"authorization": f"Bearer {guarded.tokens['cluster']}"}
        request = urllib.request.Request(f"{base_of(guarded, role)}/metrics", headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            found |= {f"metrics of {role}:{n}": line.decode() for n, line in enumerate(answer)}
    return found


def found_in(texts: dict[str, str], hidden: dict[str, str]) -> list[str]:
    """Each kind of place once, with what stands around."""
    found = {}
    for where, text in texts.items():
        for what, canary in hidden.items():
            at = text.lower().find(canary.lower())
            if at >= 0:
                around = " ".join(text[max(0, at - 200) : at + len(canary) + 60].split())
                key = re.sub(r"\d+", "#", f"{what} in {where}") + re.sub(r"[0-9a-f]{8,}|\d+", "#", around[:60])
                found[key] = f"{what} in {where}: … {around} …"
    return list(found.values())


def test_spans_logs_and_metrics_hold_no_secret_symbol_or_path(guarded: Guarded, told: Told) -> None:
    hidden = {f"secret {n}": secret for n, secret in enumerate(guarded.secrets)} | {
        "a service's signature": str(guarded.tokens["internal"]).rpartition("_")[2],
        "a symbol": CANARY_SYMBOL,
        "the data directory": str(guarded.cluster.data_dir),
        "the run directory": str(guarded.cluster.run_dir),
        "the code's directory": str(proxist.__path__[0]),
    }
    leaks = found_in(told.all, hidden)
    assert not leaks, "\n".join(leaks)
    kinds = {where.partition(" ")[0].partition("-")[0] for where in told.all}
    assert {"span", "metrics", "query", "ingest", "persister", "controlplane"} <= kinds


def test_spans_of_one_tenants_calls_do_not_name_anothers_table(guarded: Guarded, told: Told) -> None:
    leaks = found_in(told.of_acme, {"another tenant's table": CANARY_TABLE, "another tenant's symbol": CANARY_SYMBOL})
    assert not leaks, "\n".join(leaks)
    entries = {where.split(" ")[1] for where in told.of_acme}
    for sign in (
        "arrow.flight.protocol.FlightService/DoGet",
        "proxist.query.v1.QueryService/Query",
        "GET",
        "query.run",
    ):
        assert sign in entries, (sign, sorted(entries))
