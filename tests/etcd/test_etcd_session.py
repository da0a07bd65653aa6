"""A service's lease and node record: who holds a name, and what happens when the lease goes."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator

import pytest

from proxist.etcd import Catalog, EtcdClient, KeptLease, NodeRecord, NodeSession, layout
from proxist.hot.host import this_host_id

DEADLINE_S = 30.0


@pytest.fixture
def name(client: EtcdClient) -> Iterator[str]:
    name = f"query-{uuid.uuid4().hex}"
    yield name
    client.delete(layout.node_key(name))


def record(name: str, pid: int | None = None) -> NodeRecord:
    return NodeRecord(name, "query", pid or os.getpid(), grpc="127.0.0.1:1", host_id=this_host_id(), state="starting")


def held_by(client: EtcdClient, name: str) -> NodeRecord | None:
    kv = client.get(layout.node_key(name))
    return None if kv is None else NodeRecord.from_json(json.loads(kv.value))


def test_a_session_shows_its_node_and_takes_it_away(client: EtcdClient, name: str) -> None:
    session = NodeSession(client, record(name)).start()
    assert session.wait_gained(DEADLINE_S)
    assert held_by(client, name) == record(name)
    session.update(state="ready")
    now = held_by(client, name)
    assert now is not None
    assert now.state == "ready"
    session.close()
    assert held_by(client, name) is None


def test_after_a_loss_the_holder_is_told_and_a_new_lease_is_taken(client: EtcdClient, name: str) -> None:
    told: queue.Queue[str | int] = queue.Queue()
    session = NodeSession(
        client, record(name), on_gained=lambda lease: told.put(lease.id), on_lost=told.put, ttl_s=2
    ).start()
    first = told.get(timeout=DEADLINE_S)
    assert isinstance(first, int)
    session.update(state="ready")
    client.lease_revoke(first)
    assert "lost" in str(told.get(timeout=DEADLINE_S))
    second = told.get(timeout=DEADLINE_S)
    assert isinstance(second, int)
    assert second != first
    kv = client.get(layout.node_key(name))
    assert kv is not None
    assert kv.lease == second
    assert json.loads(kv.value)["state"] == "ready"
    session.close()


def test_the_directory_lock_takes_the_name_at_once(client: EtcdClient, name: str) -> None:
    before, _ = client.lease_grant(600)
    client.put(layout.node_key(name), json.dumps(record(name, 1).to_json()).encode(), before)
    session = NodeSession(client, record(name), takeover=True).start()
    assert session.wait_gained(DEADLINE_S)
    assert client.lease_ttl(before) == -1  # with everything that hung on it
    session.close()


def test_a_dead_process_leaves_its_name_to_the_next(client: EtcdClient, name: str) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    before, _ = client.lease_grant(600)
    client.put(layout.node_key(name), json.dumps(record(name, dead.pid).to_json()).encode(), before)
    session = NodeSession(client, record(name)).start()
    assert session.wait_gained(DEADLINE_S)
    session.close()


def test_a_living_process_keeps_its_name(client: EtcdClient, name: str) -> None:
    before = KeptLease(client, 2).start()
    client.put(layout.node_key(name), json.dumps(record(name, os.getppid()).to_json()).encode(), before.id)
    session = NodeSession(client, record(name), ttl_s=2).start()
    assert not session.wait_gained(0.6)
    assert held_by(client, name) == record(name, os.getppid())
    before.close()
    assert session.wait_gained(DEADLINE_S)
    assert held_by(client, name) == record(name)
    session.close()


def test_a_session_may_start_before_etcd(name: str) -> None:
    from proxist.testing.etcd import LocalEtcd

    etcd = LocalEtcd()
    with EtcdClient([etcd.address], timeout_s=1.0) as client:
        session = NodeSession(client, record(name)).start()
        catalog = Catalog.start(client)
        with etcd:
            assert session.wait_gained(DEADLINE_S)
            assert catalog.wait_until(lambda c: c.node(name) is not None, DEADLINE_S)
            session.close()
            catalog.close()


def test_closing_a_session_that_never_gained_is_prompt(client: EtcdClient, name: str) -> None:
    client.put(layout.node_key(name), json.dumps(record(name, os.getppid()).to_json()).encode())
    session = NodeSession(client, record(name)).start()
    session.close()
    assert [t.name for t in threading.enumerate() if t.name == "etcd-session"] == []
