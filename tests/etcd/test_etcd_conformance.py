"""What Proxist expects of an etcd, whichever it is and with TLS as without: key-values, transactions, leases, watches."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from proxist.errors import InternalError, NotFound, Unavailable
from proxist.etcd import EtcdClient
from proxist.etcd.ops import Delete, Get, Put, absent, exists, lease_is, mod_is, unchanged, value_is
from proxist.testing.etcd import LocalEtcd
from proxist.testing.tls import DevCerts


@pytest.fixture(params=["plain", "tls"])
def client(
    request: pytest.FixtureRequest, etcd_address: str, tls_etcd: LocalEtcd, certs: DevCerts
) -> Iterator[EtcdClient]:
    address = tls_etcd.address if request.param == "tls" else etcd_address
    with EtcdClient([address], tls=certs.server) as client:
        yield client


def test_a_written_key_reads_back_with_its_revisions(client: EtcdClient, prefix: str) -> None:
    first = client.put(prefix + "a", b"1")
    second = client.put(prefix + "a", b"2")
    kv = client.get(prefix + "a")
    assert kv is not None
    assert (kv.key, kv.value, kv.create_revision, kv.mod_revision) == (prefix + "a", b"2", first, second)
    assert (kv.version, kv.lease) == (2, 0)
    assert first < second


def test_a_key_that_is_not_there_is_none(client: EtcdClient, prefix: str) -> None:
    assert client.get(prefix + "a") is None
    assert client.delete(prefix + "a") == 0


def test_range_takes_the_prefix_and_nothing_beside_it(client: EtcdClient, prefix: str) -> None:
    for name in ("t/b", "t/a", "t/ü", "u", "t"):
        client.put(prefix + name, name.encode())
    kvs, revision = client.range(prefix + "t/")
    assert [kv.value.decode() for kv in kvs] == ["t/a", "t/b", "t/ü"]
    assert revision >= max(kv.mod_revision for kv in kvs)


def test_delete_by_prefix_counts_what_it_took(client: EtcdClient, prefix: str) -> None:
    client.txn([], [Put(f"{prefix}{i}", b"") for i in range(5)])
    assert client.delete(prefix, prefix=True) == 5
    assert client.range(prefix)[0] == []


def test_a_transaction_takes_one_branch_whole(client: EtcdClient, prefix: str) -> None:
    key, other = prefix + "a", prefix + "b"
    made = client.txn([absent(key)], [Put(key, b"1"), Put(other, b"1")], [Get(key)])
    assert made.succeeded
    again = client.txn([absent(key)], [Put(key, b"2"), Delete(other)], [Get(key)])
    assert not again.succeeded
    assert [kv.value for kv in again.reads[0]] == [b"1"]
    assert client.get(other) is not None


@pytest.mark.parametrize("holds", [True, False])
def test_each_compare_tells_the_state_of_its_key(client: EtcdClient, prefix: str, holds: bool) -> None:
    key, gone = prefix + "a", prefix + "gone"
    lease, _ = client.lease_grant(60)
    client.put(key, b"1", lease)
    kv = client.get(key)
    assert kv is not None
    compares = (
        [exists(key), absent(gone), unchanged(kv), mod_is(gone, 0), value_is(key, b"1"), lease_is(key, lease)]
        if holds
        else [
            absent(key),
            exists(gone),
            mod_is(key, kv.mod_revision - 1),
            value_is(key, b"2"),
            lease_is(key, lease + 1),
        ]
    )
    assert [client.txn([c], []).succeeded for c in compares] == [holds] * len(compares)
    client.lease_revoke(lease)


def test_one_transaction_of_a_thousand_shards_is_one_revision(client: EtcdClient, prefix: str) -> None:
    result = client.txn([absent(prefix + "0")], [Put(f"{prefix}{i}", b"x") for i in range(2050)] + [Get(prefix + "7")])
    kvs, _ = client.range(prefix)
    assert len(kvs) == 2050
    assert {kv.mod_revision for kv in kvs} == {result.revision}
    assert len(result.reads) == 2051
    assert [kv.value for kv in result.reads[-1]] == [b"x"]


def test_writing_a_key_twice_in_one_transaction_is_refused(client: EtcdClient, prefix: str) -> None:
    with pytest.raises(InternalError, match="duplicate key"):
        client.txn([], [Put(prefix + "a", b"1"), Put(prefix + "a", b"2")])


def test_of_many_writers_exactly_one_wins_a_compare(client: EtcdClient, prefix: str) -> None:
    barrier = threading.Barrier(8)
    won: list[int] = []

    def race(i: int) -> None:
        barrier.wait()
        if client.txn([absent(prefix + "a")], [Put(prefix + "a", str(i).encode())]).succeeded:
            won.append(i)

    threads = [threading.Thread(target=race, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kv = client.get(prefix + "a")
    assert kv is not None
    assert [str(i).encode() for i in won] == [kv.value]


def test_a_revoked_lease_takes_its_keys(client: EtcdClient, prefix: str) -> None:
    lease, ttl_s = client.lease_grant(60)
    assert ttl_s >= 60
    client.put(prefix + "a", b"1", lease)
    assert 0 < client.lease_ttl(lease) <= ttl_s
    assert client.lease_keepalive(lease) == ttl_s
    assert client.lease_revoke(lease)
    assert client.get(prefix + "a") is None
    assert not client.lease_revoke(lease)


def test_an_expired_lease_fences_its_holder(client: EtcdClient, prefix: str) -> None:
    lease, _ = client.lease_grant(60)
    client.lease_revoke(lease)
    assert client.lease_keepalive(lease) <= 0
    assert client.lease_ttl(lease) == -1
    with pytest.raises(NotFound, match="lease"):
        client.put(prefix + "a", b"1", lease)
    with pytest.raises(NotFound, match="lease"):
        client.txn([absent(prefix + "a")], [Put(prefix + "a", b"1", lease)])


def test_a_watch_brings_every_change_in_order_from_its_revision(client: EtcdClient, prefix: str) -> None:
    revision = client.put(prefix + "a", b"1")
    client.put(prefix + "a", b"2")
    client.put("/elsewhere" + prefix, b"")
    client.delete(prefix + "a")
    stream = client.watch(prefix, revision + 1)
    seen: list[bytes | None] = []
    for batch in stream:
        seen.extend(change.kv.value if change.kv else None for change in batch.changes)
        if seen[-1] is None:
            stream.cancel()
    assert seen == [b"2", None]


def test_a_transaction_arrives_as_one_batch(client: EtcdClient, prefix: str) -> None:
    result = client.txn([], [Put(f"{prefix}{i:04}", b"x") for i in range(1000)])
    stream = client.watch(prefix, result.revision)
    batch = next(iter(stream))
    stream.cancel()
    assert (len(batch.changes), batch.revision) == (1000, result.revision)


def test_a_watch_of_forgotten_history_says_so(client: EtcdClient, prefix: str) -> None:
    first = client.put(prefix + "a", b"1")
    client.compact(client.put(prefix + "a", b"2"))
    with pytest.raises(Unavailable, match="compacted"):
        list(client.watch(prefix, first))


def test_status_names_version_and_leader(client: EtcdClient) -> None:
    status = client.status()
    assert status.version.startswith("3.")
    assert status.has_leader
    assert status.db_bytes > 0
