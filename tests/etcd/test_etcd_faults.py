"""etcd killed, frozen, restarted, compacted and slow: what the client, the lease and the mirror do then."""

from __future__ import annotations

import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from proxist.errors import ConfigError, Unavailable
from proxist.etcd import EtcdClient, KeptLease, Mirror, watch
from proxist.etcd.mirror import Changes
from proxist.etcd.ops import KeyValue, Put
from proxist.pb import etcd_rpc_pb2 as pb
from proxist.pb import etcd_rpc_pb2_grpc as rpc
from proxist.rpc.ports import free_ports
from proxist.testing.etcd import LocalEtcd

DEADLINE_S = 30.0


def value_of(kv: KeyValue | None) -> bytes | None:
    return None if kv is None else kv.value


def test_an_absent_etcd_is_named_with_the_setting() -> None:
    (port,) = free_ports(1)
    with EtcdClient([f"127.0.0.1:{port}"]) as client:
        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port} does not answer.*PROXIST_ETCD") as caught:
            client.get("/a")
        assert caught.value.details == {"store": "etcd"}
        with pytest.raises(Unavailable) as caught:
            client.put("/a", b"")
        assert caught.value.details == {"store": "etcd", "outcome": "unknown"}
        with pytest.raises(Unavailable):
            client.wait_ready(0.1)
    with pytest.raises(Unavailable, match="CLOSED"):
        client.get("/a")


def test_no_endpoint_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="`etcd` is empty"):
        EtcdClient(" , ")


def test_reads_go_on_at_another_member(own_etcd: LocalEtcd) -> None:
    (port,) = free_ports(1)
    with EtcdClient(f"127.0.0.1:{port},{own_etcd.address}") as client:
        assert client.get("/a") is None
        client.put("/a", b"1")


def test_a_mirror_mends_itself_after_kill_and_restart(own_etcd: LocalEtcd, prefix: str) -> None:
    with EtcdClient([own_etcd.address]) as client:
        client.txn([], [Put(prefix + "stays", b"1"), Put(prefix + "goes", b"1")])
        mirror = Mirror(client, prefix).start()
        mirror.wait_synced(DEADLINE_S)
        seen: dict[str, bytes | None] = {}
        told = threading.Condition()

        def note(changes: Changes) -> None:
            with told:
                seen.update({key: value_of(kv) for key, kv in changes.items()})
                told.notify()

        mirror.subscribe(note)
        own_etcd.kill()
        assert mirror.wait_until(lambda _: not mirror.synced, DEADLINE_S)
        assert value_of(mirror.get(prefix + "stays")) == b"1"  # still readable
        own_etcd.start()
        client.delete(prefix + "goes")
        client.put(prefix + "comes", b"2")
        with told:
            assert told.wait_for(lambda: seen.get(prefix + "comes") == b"2", DEADLINE_S)
            assert told.wait_for(lambda: prefix + "goes" in seen and seen[prefix + "goes"] is None, DEADLINE_S)
        assert sorted(mirror.view.keys) == [prefix + "comes", prefix + "stays"]
        mirror.close()


def test_a_mirror_follows_an_etcd_that_lost_its_data(own_etcd: LocalEtcd, tmp_path: Path, prefix: str) -> None:
    """Revisions begin again at 1 then: a watch that merely resumed would wait for ever."""
    with EtcdClient([own_etcd.address]) as client:
        for i in range(20):
            client.put(prefix + "old", str(i).encode())
        mirror = Mirror(client, prefix).start()
        mirror.wait_synced(DEADLINE_S)
        own_etcd.kill()
        (tmp_path / "etcd").rename(tmp_path / "lost")
        own_etcd.start()
        client.put(prefix + "new", b"1")
        assert mirror.wait_until(lambda view: list(view.keys) == [prefix + "new"], DEADLINE_S)
        mirror.close()


class StaleOnce(EtcdClient):
    """Its first range is from before everything, so that the watch which follows it must be refused."""

    range_count = 0

    def range(self, prefix: str) -> tuple[list[KeyValue], int]:
        self.range_count += 1
        return super().range(prefix) if self.range_count > 1 else ([], 1)


def test_a_mirror_reads_again_after_compaction(own_etcd: LocalEtcd, prefix: str) -> None:
    with StaleOnce([own_etcd.address]) as client:
        client.put(prefix + "a", b"1")
        client.compact(client.put(prefix + "a", b"2"))
        mirror = Mirror(client, prefix).start()
        assert mirror.wait_until(lambda view: value_of(view.keys.get(prefix + "a")) == b"2", DEADLINE_S)
        assert mirror.resync_count >= 2
        mirror.close()


def test_a_frozen_etcd_is_noticed_and_followed_again(own_etcd: LocalEtcd, prefix: str) -> None:
    with EtcdClient([own_etcd.address], timeout_s=1.0) as client:
        mirror = Mirror(client, prefix).start()
        mirror.wait_synced(DEADLINE_S)
        own_etcd.pause()
        try:
            with pytest.raises(Unavailable):
                client.get(prefix)
            assert mirror.wait_until(lambda _: not mirror.synced, DEADLINE_S)
        finally:
            own_etcd.resume()
        client.wait_ready(DEADLINE_S)
        client.put(prefix + "a", b"1")
        assert mirror.wait_until(lambda view: prefix + "a" in view.keys, DEADLINE_S)
        mirror.close()


def test_a_lease_is_lost_before_a_frozen_etcd_can_expire_it(own_etcd: LocalEtcd, prefix: str) -> None:
    lost = threading.Event()
    with EtcdClient([own_etcd.address]) as client:
        extended: list[int] = []
        lease = KeptLease(client, 2, on_extend=extended.append, on_lost=lambda _: lost.set()).start()
        client.put(prefix + "a", b"1", lease.id)
        own_etcd.pause()
        try:
            assert lost.wait(DEADLINE_S)
            assert lease.lost
            assert time.monotonic_ns() >= lease.valid_until_ns == extended[-1]
        finally:
            own_etcd.resume()
        client.wait_ready(DEADLINE_S)
        lease.close()
        assert client.get(prefix + "a") is None  # whether it expired or was revoked


def test_a_short_restart_of_etcd_does_not_cost_the_lease(own_etcd: LocalEtcd) -> None:
    ttl_s, restarted_ns, again = 10, [0], threading.Event()

    def extended(valid_until_ns: int) -> None:
        if restarted_ns[0] and valid_until_ns > restarted_ns[0] + ttl_s * 10**9:
            again.set()

    with EtcdClient([own_etcd.address]) as client:
        lease = KeptLease(client, ttl_s, on_extend=extended).start()
        own_etcd.kill()
        own_etcd.start()
        restarted_ns[0] = time.monotonic_ns()
        assert again.wait(DEADLINE_S)
        assert not lease.lost
        lease.close()


def test_a_slow_subscriber_holds_up_nobody_and_gets_the_latest(client: EtcdClient, prefix: str) -> None:
    mirror = Mirror(client, prefix).start()
    entered, go_on, done, calls = threading.Event(), threading.Event(), threading.Event(), []

    def slow(changes: Changes) -> None:
        calls.append({key: value_of(kv) for key, kv in changes.items()})
        entered.set()
        assert go_on.wait(DEADLINE_S)
        if prefix + "last" in changes:
            done.set()

    quick_saw = threading.Event()
    client.put(prefix + "a", b"first")
    assert mirror.wait_until(lambda view: prefix + "a" in view.keys, DEADLINE_S)
    mirror.subscribe(slow)
    mirror.subscribe(lambda changes: quick_saw.set() if prefix + "last" in changes else None)
    assert entered.wait(DEADLINE_S)
    for i in range(300):
        client.put(prefix + "a", str(i).encode())
    assert mirror.wait_revision(client.put(prefix + "last", b""), DEADLINE_S)
    assert quick_saw.wait(DEADLINE_S)
    go_on.set()
    assert done.wait(DEADLINE_S)
    assert calls == [{prefix + "a": b"first"}, {prefix + "a": b"299", prefix + "last": b""}]
    mirror.close()


def test_a_subscriber_that_fails_gets_the_next_change(client: EtcdClient, prefix: str) -> None:
    mirror = Mirror(client, prefix).start()
    second = threading.Event()
    failed = threading.Event()

    def fails_once(changes: Changes) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("once")
        if prefix + "b" in changes:
            second.set()

    client.put(prefix + "a", b"")
    mirror.subscribe(fails_once)
    assert failed.wait(DEADLINE_S)
    client.put(prefix + "b", b"")
    assert second.wait(DEADLINE_S)
    mirror.close()


def test_closing_while_etcd_is_away_is_prompt_and_leaves_no_thread(own_etcd: LocalEtcd, prefix: str) -> None:
    client = EtcdClient([own_etcd.address], timeout_s=1.0)
    mirror = Mirror(client, prefix).start()
    mirror.wait_synced(DEADLINE_S)
    mirror.subscribe(lambda _: None)
    lease = KeptLease(client, 10).start()
    own_etcd.kill()
    lease.close()
    mirror.close()
    client.close()
    assert [t.name for t in threading.enumerate() if t.name.startswith("etcd-")] == []


class SilentWatch(rpc.WatchServicer):
    """Takes a watch, says that it was created, and never another word."""

    def Watch(self, requests: object, context: grpc.ServicerContext) -> object:
        yield pb.WatchResponse(created=True)
        done = threading.Event()
        context.add_callback(done.set)
        done.wait()


def test_a_watch_without_any_sign_of_life_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LIVENESS_S", 0.1)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    rpc.add_WatchServicer_to_server(SilentWatch(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with EtcdClient([f"127.0.0.1:{port}"]) as client, pytest.raises(Unavailable, match="watch"):
        list(client.watch("/a", 1))
    server.stop(None).wait()
