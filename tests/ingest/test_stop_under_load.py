"""SIGTERM while senders send and readers are stuck: everything accepted is finished, and the process ends in time."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow.flight as fl
import pytest
from ingest_nodes import WAIT_S, Process, create_table, put, wait_owned
from ingest_rows import rows
from kills import SPEC, Load, Oracle, OwnerUnderKills, Sender

from proxist.etcd import Catalog, EtcdClient
from proxist.rpc.flight_client import FlightPeer
from proxist.testing.etcd import LocalEtcd
from proxist.testing.nursery import Life, Nursery
from proxist.testing.process import freeze

STOP_S_MAX = 10.0
GRACE_S = 5
"""The default: how long open calls are waited for."""
ROWS = 200_000
"""More than the windows of a connection and the buffers of both sides hold."""
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def etcd() -> Iterator[LocalEtcd]:
    with LocalEtcd() as running:
        yield running


def _ready(life: Life) -> dict[str, str]:
    ready = life.ready()
    assert ready is not None, life.tail()
    return ready


def _stuck_get(stack: ExitStack, uri: str, ticket: dict[str, object]) -> None:
    """A DoGet whose answer is asked for and never read."""
    client = stack.enter_context(fl.connect(uri))
    reader = client.do_get(fl.Ticket(json.dumps(ticket).encode()))
    stack.callback(reader.cancel)
    assert reader.schema is not None  # it has begun


def _idle_session(stack: ExitStack, uri: str) -> None:
    """A session that was used once and is then left open."""
    peer = stack.enter_context(FlightPeer(uri))
    exchange = peer.do_exchange({"session": True}, timeout_s=WAIT_S, lasting=True)
    stack.callback(exchange.cancel)
    exchange.write({"id": 1, "last_by": {"table": "trades", "columns": ["trade_id"]}})
    while not json.loads(exchange.read().metadata or b"{}").get("last"):
        pass


def _stuck_writer(stack: ExitStack, uri: str, batches: int) -> None:
    """A DoPut that has sent some batches, sends no more, does not end, and never reads an ack."""
    client = stack.enter_context(fl.connect(uri))
    writer, _ = client.do_put(fl.FlightDescriptor.for_path("others"), rows(0).schema)
    stack.callback(_abandon, writer)
    for number in range(batches):
        writer.write_batch(rows(10, first=ROWS + 10 * number))


def _abandon(writer: fl.FlightStreamWriter) -> None:
    with contextlib.suppress(fl.FlightError):
        writer.close()


def _frozen_reader(stack: ExitStack, attach: str, shard: int) -> None:
    """Another process that has the memory mapped and stands still in the middle of a read."""
    command = [sys.executable, str(Path(__file__).with_name("stuck_reader.py")), attach, str(shard)]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("read ")
    freeze(process.pid)


def _others(uri: str) -> list[int]:
    with FlightPeer(uri) as peer:
        answer = peer.do_get({"scan": {"table": "others", "columns": ["trade_id"]}}, timeout_s=WAIT_S)
    return sorted(answer.table["trade_id"].to_pylist())


def test_a_node_with_stuck_readers_and_writers_stops_in_time_and_loses_nothing(
    etcd: LocalEtcd, tmp_path: Path, rng: random.Random
) -> None:
    with ExitStack() as lives:
        owners = lives.enter_context(Nursery("proxist_ingest"))
        client = lives.enter_context(EtcdClient([etcd.address]))
        table = create_table(client, SPEC, ["ingest-0"])
        others = create_table(client, {**SPEC, "name": "others", "shards": 1, "hot_bytes": "128MiB"}, ["ingest-0"], 3)
        owner, oracle = (
            OwnerUnderKills(owners, tmp_path / "owner", etcd.address, table, stop_grace_s=GRACE_S),
            Oracle(rng),
        )
        life = owner.start()
        at_owner = _ready(life)
        query = lives.enter_context(
            Process(tmp_path, etcd.address, "query-0", module="proxist_query", stop_grace_s=GRACE_S)
        )
        at_query = query.ready()
        with contextlib.closing(Catalog.start(client)) as catalog:
            wait_owned(catalog, others)
        with FlightPeer(at_owner["flight"]) as peer:
            assert put(peer, rows(ROWS), table="others")["rows"] == ROWS
        load = Load([Sender(oracle, numbered, "disk") for numbered in (True, True, False)], at_owner["flight"])
        with ExitStack() as stuck:
            for uri in (at_owner["flight"], at_owner["flight_unix"], at_query["flight"]):
                _stuck_get(stuck, uri, {"scan": {"table": "others"}})
                _idle_session(stuck, uri)
            _stuck_get(stuck, at_owner["flight"], {"follow": {"shard": others.shard_ids[0], "from": 0}})
            for batches in (0, 200):
                _stuck_writer(stuck, at_owner["flight"], batches)
            _frozen_reader(stuck, at_owner["attach"], others.shard_ids[0])
            _until(lambda: oracle.acked > 20, "load")
            began_s = time.monotonic()
            query.process.send_signal(signal.SIGTERM)
            life.send(signal.SIGTERM)
            codes = query.wait(), life.wait()
            took_s = time.monotonic() - began_s
            load.stop()
        assert codes == (0, 0), life.tail()
        assert took_s <= STOP_S_MAX, f"{took_s:.1f} s\n{life.tail()}"
        again = owner.start()
        ready = _ready(again)
        owner.check(ready, oracle)
        held = _others(ready["flight"])
        assert held == list(range(len(held))), "a hole, or a row twice"
        assert len(held) >= ROWS
        print(f"stopped after {took_s:.1f} s with {oracle.acked} acked batches and {len(held)} rows of stuck senders")


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what}"
        time.sleep(0.01)
