"""An insert that lands after its successor's, and rows that vanish behind a token: with the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clickhouse_faults import check_exact, settings
from stub_owner import StubOwner, make_table, put_table
from test_persister_worker import offsets, until

from proxist.clickhouse import ClickHouse, table_name
from proxist.etcd import EtcdClient
from proxist.model.ids import Offset
from proxist.pb import persister_pb2 as pb
from proxist.pb import persister_pb2_grpc as pb_grpc
from proxist.rpc.grpc_client import connect
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.clickhouse_proxy import ClickHouseProxy, Fault
from proxist.testing.etcd import LocalEtcd
from proxist_persister import doubts
from proxist_persister.config import PersisterConfig
from proxist_persister.doubts import DOUBTS_MAX, LOOKS_S, Doubts
from proxist_persister.service import Persister

S = 10**9


class Stage:
    """A table, its owner, a persister that stalls behind the proxy, and its successor, which goes to the server."""

    def __init__(self, etcd: LocalEtcd, url: str, data_dir: Path, name: str, shard: int) -> None:
        self.shard = shard
        config = settings(name, etcd.address, url, data_dir) | {"insert_timeout_s": 2}
        self.service = Persister(PersisterConfig(**config))
        self._channel = connect(self.service.start()["grpc"])
        self._stub = pb_grpc.PersisterServiceStub(self._channel)

    def status(self) -> pb.ShardStatus:
        shards = self._stub.Status(pb.StatusRequest()).shards
        return next((s for s in shards if s.shard == self.shard), pb.ShardStatus())

    def close(self) -> None:
        self._channel.close()
        assert self.service.stop(10.0) == []


@contextmanager
def failed_over(
    etcd: LocalEtcd, server: LocalClickHouse, proxy: ClickHouseProxy, owner: StubOwner, data_dir: Path
) -> Iterator[Stage]:
    """A persister's insert is held on its way, its lease ends, and a successor has persisted the same batch."""
    stalled = Persister(
        PersisterConfig(**settings("persister-0", etcd.address, proxy.url, data_dir) | {"insert_timeout_s": 60})
    )
    stalled.start()
    owner.cut(10)
    owner.wait_persisted(10)
    proxy.inject("insert", Fault.STALL)
    owner.cut(20, 1)
    proxy.wait_stalled(1)
    assert stalled.stop(1.0) == [f"insert of shard {owner.shard}"]  # the HTTP door looks ten times a second
    successor = Stage(etcd, server.url, data_dir, "persister-1", owner.shard)
    try:
        owner.wait_persisted(30)
        yield successor
    finally:
        successor.close()


@pytest.fixture
def proxy(clickhouse_server: LocalClickHouse) -> Iterator[ClickHouseProxy]:
    with ClickHouseProxy(clickhouse_server.url) as proxy:
        yield proxy


def land(proxy: ClickHouseProxy) -> None:
    """The held insert goes on to the server."""
    before = proxy.applied["insert"]
    proxy.release()
    proxy.wait_applied("insert", before + 1)


def test_a_late_insert_is_dropped_by_its_token(
    etcd: LocalEtcd,
    clickhouse_server: LocalClickHouse,
    client: EtcdClient,
    clickhouse: ClickHouse,
    proxy: ClickHouseProxy,
    name: str,
    tmp_path: Path,
) -> None:
    table = make_table(name, (51,))
    put_table(client, table)
    with (
        StubOwner(client, table, 51) as owner,
        failed_over(etcd, clickhouse_server, proxy, owner, tmp_path) as successor,
    ):
        land(proxy)
        owner.cut(5)
        owner.wait_persisted(35)
        assert successor.status().state == "FOLLOWING"
    check_exact(clickhouse, table, 51, [(0, 10, 1), (10, 30, 1), (30, 35, 1)])


@pytest.mark.parametrize("window", [0, 2])
def test_a_late_insert_that_no_token_stops_is_found(
    etcd: LocalEtcd,
    clickhouse_server: LocalClickHouse,
    client: EtcdClient,
    clickhouse: ClickHouse,
    proxy: ClickHouseProxy,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    window: int,
) -> None:
    """The table's window is switched off, or the successor's inserts have pushed the token out of it."""
    monkeypatch.setattr(doubts, "LOOKS_S", (0.2,) * 200)
    table = make_table(name, (52,))
    clickhouse.create_table(table)
    clickhouse.command(f"ALTER TABLE {table_name(table)} MODIFY SETTING non_replicated_deduplication_window = {window}")
    put_table(client, table)
    with (
        StubOwner(client, table, 52) as owner,
        failed_over(etcd, clickhouse_server, proxy, owner, tmp_path) as successor,
    ):
        for _ in range(window + 1):
            owner.cut(5)
        owner.wait_persisted(owner.end)
        land(proxy)
        until(lambda: successor.status().state == "STOPPED")
        said = successor.status().last_error
        assert "stored twice, offsets 10 to 29" in said
        assert f"pxctl repair {name}" in said


def test_rows_deleted_behind_their_token_are_inserted_again(
    etcd: LocalEtcd,
    clickhouse_server: LocalClickHouse,
    client: EtcdClient,
    clickhouse: ClickHouse,
    proxy: ClickHouseProxy,
    name: str,
    tmp_path: Path,
) -> None:
    """ClickHouse remembers the token of rows that were deleted, and answers OK to an insert that it then drops."""
    table = make_table(name, (53,))
    put_table(client, table)
    with StubOwner(client, table, 53) as owner:
        proxy.inject("insert", None)
        proxy.inject("select", None, Fault.TIMEOUT_BEFORE_APPLY)  # silence at the first look at the batch
        persister = Stage(etcd, proxy.url, tmp_path, "persister-0", 53)
        owner.cut(20)
        until(lambda: proxy.faults["select", Fault.TIMEOUT_BEFORE_APPLY] == 1)
        clickhouse.command(f"DELETE FROM {table_name(table)} WHERE _offset < 15")
        clickhouse.command(f"DELETE FROM {table_name(table)} WHERE 1")
        owner.wait_persisted(20)
        assert persister.status().verified == 20
        persister.close()
    assert offsets(clickhouse, table) == list(range(20))
    check_exact(clickhouse, table, 53, [(0, 20, 1)])


def test_a_batch_in_doubt_is_looked_at_until_nothing_can_come() -> None:
    found = Doubts()
    found.add(Offset(0), Offset(10), now_ns=0)
    assert found.due(int(LOOKS_S[0] * S) - 1) is None
    looks = [at for at in range(0, 100 * S, S // 2) if found.due(at) is not None]
    assert [at / S for at in looks] == list(LOOKS_S)


def test_doubts_are_bounded_and_the_oldest_go() -> None:
    found = Doubts()
    for n in range(2 * DOUBTS_MAX):
        found.add(Offset(n), Offset(n + 1), now_ns=n)
    given = []
    while (due := found.due(10**18)) is not None:
        given.append(due[0])
    assert len(given) == DOUBTS_MAX * len(LOOKS_S)
    assert given.count(Offset(2 * DOUBTS_MAX - 1)) == len(LOOKS_S)
