"""Canary, when parts fail: what callers are told then holds no path or secret either."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from auth_calls import outcome
from auth_cluster import Guarded, rows, spec

import proxist
from proxist.auth.outgoing import fixed
from proxist.errors import ProxistError
from proxist.pb import controlplane_pb2, controlplane_pb2_grpc
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.grpc_client import connect

FAULTY, SYMBOL = "acmefaulty", "CNRYFAULT9D"
TIMEOUT_S, WAIT_S = 5.0, 60.0


@pytest.fixture(scope="module")
def table(guarded: Guarded) -> Iterator[str]:
    with proxist.connect(guarded.endpoints["query"][0]["flight"], token=guarded.tokens["admin"]) as connection:
        connection.create_table(spec(FAULTY)).write(rows(SYMBOL))
        connection.flush(FAULTY)
        yield FAULTY
        connection.table(FAULTY).drop()


def asked(guarded: Guarded, role: str) -> Iterator[str]:
    """What a client is told at one node, reads and a write over Flight."""
    with FlightPeer(guarded.endpoints[role][0]["flight"], fixed(guarded.tokens["admin"])) as peer:
        for ticket in (
            {"last_by": {"table": FAULTY, "keys": [SYMBOL]}},
            {"scan": {"table": FAULTY}, "hot_path": "attach"},
            {"scan": {"table": FAULTY}, "hot_path": "flight"},
            {"sql": f"SELECT count(), any(hostName()) FROM {FAULTY}"},
            {"sql": f"SELECT price FROM {FAULTY} WHERE symbol = 'x' ORDER BY ts"},
        ):
            yield outcome(lambda ticket=ticket: peer.do_get(ticket, timeout_s=TIMEOUT_S)).text  # type: ignore[misc]
        yield outcome(lambda: peer.do_action("flush", {"table": FAULTY, "timeout_ms": 1}, timeout_s=TIMEOUT_S)).text
        opened = peer.do_exchange({"session": True}, timeout_s=TIMEOUT_S)
        try:
            opened.write({"id": 1, "scan": {"table": FAULTY}, "hot_path": "flight"})
            opened.done_writing()
            yield outcome(lambda: opened.read().metadata).text
        finally:
            opened.close()


def test_clients_are_told_no_path_while_the_owner_is_away(guarded: Guarded, table: str) -> None:
    with guarded.cluster.stopped("ingest-0"):
        told = list(asked(guarded, "query"))
    check(guarded, told)
    assert any("NOT_OWNER" in text or "UNAVAILABLE" in text for text in told)
    answers_again(guarded)


def test_clients_are_told_no_path_or_password_while_clickhouse_is_away(guarded: Guarded, table: str) -> None:
    evict_all(guarded)
    with guarded.cluster.stopped("clickhouse"):
        told = [text for role in ("query", "ingest") for text in asked(guarded, role)]
    check(guarded, told)
    assert any("ClickHouse" in text for text in told)
    answers_again(guarded)


def evict_all(guarded: Guarded) -> None:
    """So that reads need ClickHouse."""
    channel = connect(guarded.endpoints["controlplane"]["grpc"], credential=fixed(guarded.tokens["admin"]))
    try:
        request = controlplane_pb2.EvictRequest(table=FAULTY, all=True)
        controlplane_pb2_grpc.ControlPlaneServiceStub(channel).Evict(request)
    finally:
        channel.close()


def check(guarded: Guarded, told: list[str]) -> None:
    hidden = [str(guarded.cluster.data_dir), str(guarded.cluster.run_dir), *guarded.secrets]
    for text in told:
        for canary in hidden:
            assert canary not in text, text
    assert not any('"INTERNAL"' in text for text in told), told


def answers_again(guarded: Guarded) -> None:
    """The cluster is whole for the tests that follow."""
    deadline = time.monotonic() + WAIT_S
    with proxist.connect(guarded.endpoints["query"][0]["flight"], token=guarded.tokens["admin"]) as connection:
        while True:
            try:
                connection.table(FAULTY).write(rows(SYMBOL))
                connection.flush(FAULTY)
                return
            except ProxistError:
                if time.monotonic() > deadline:
                    raise
