"""Workers and their keeper on real etcd and the real embedded engine; the owner is a stub behind real doors."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from stub_owner import StubOwner, make_rows, make_table, put_table

from proxist.clickhouse import ClickHouse, table_name
from proxist.errors import DeadlineExceeded, NotFound
from proxist.etcd import EtcdClient, WatermarkRecord, layout
from proxist.etcd.records import encode
from proxist.model.ids import Epoch, Offset
from proxist.model.table import Table
from proxist.pb import persister_pb2 as pb
from proxist.pb import persister_pb2_grpc as pb_grpc
from proxist.rpc.grpc_client import connect
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.etcd import LocalEtcd
from proxist_persister.config import PersisterConfig
from proxist_persister.service import Persister


def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Look again and again until it holds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class Running:
    """A persister service in this process, as its callers see it."""

    def __init__(self, etcd: LocalEtcd, server: LocalClickHouse, name: str = "persister-0") -> None:
        config = PersisterConfig(
            name=name,
            etcd=etcd.address,
            clickhouse=server.url,
            lease_ttl_s=2,
            insert_timeout_s=5,
            data_dir=Path("/tmp"),
        )
        self._service = Persister(config)
        self._channel = connect(self._service.start()["grpc"])
        self.stub = pb_grpc.PersisterServiceStub(self._channel)

    def stop(self) -> None:
        self._channel.close()
        assert self._service.stop(10.0) == []

    def shard(self, shard: int) -> pb.ShardStatus:
        return next((s for s in self.stub.Status(pb.StatusRequest()).shards if s.shard == shard), pb.ShardStatus())


@contextmanager
def running(etcd: LocalEtcd, server: LocalClickHouse, name: str = "persister-0") -> Iterator[Running]:
    persister = Running(etcd, server, name)
    try:
        yield persister
    finally:
        persister.stop()


def offsets(clickhouse: ClickHouse, table: Table) -> list[int]:
    answer = clickhouse.query(f"SELECT _offset FROM {table_name(table)} ORDER BY _offset")
    return [int(n) for n in answer["_offset"].to_pylist()]


def insert_directly(clickhouse: ClickHouse, table: Table, epoch: int, first: int, end: int, token: str) -> None:
    rows = pa.Table.from_batches([make_rows(table, table.shard_ids[0], epoch, first, end)])
    clickhouse.insert(table, rows, token)


def test_rows_arrive_once_and_persisted_follows(
    etcd: LocalEtcd, clickhouse_server: LocalClickHouse, client: EtcdClient, clickhouse: ClickHouse, name: str
) -> None:
    table = make_table(name, (11,))
    put_table(client, table)
    with StubOwner(client, table, 11) as owner, running(etcd, clickhouse_server) as persister:
        for rows, days in ((10, 1), (1, 1), (50, 4), (200_000, 2)):
            owner.cut(rows, days)
        owner.wait_persisted(owner.end)
        assert owner.advances == [10, 11, 61, 200_061]
        status = persister.shard(11)
        assert (status.state, status.inserts, status.rows) == ("FOLLOWING", 8, 200_061)
        assert persister.stub.Status(pb.StatusRequest()).state == "OK"
        until(lambda: client.get(layout.watermark_key(table.shard_ids[0])) is not None)
        mark = WatermarkRecord(Epoch(1), Offset(200_061))
        until(lambda: client.get(layout.watermark_key(table.shard_ids[0])).value == encode(mark.to_json()))  # type: ignore[union-attr]
    assert offsets(clickhouse, table) == list(range(200_061))
    answer = clickhouse.query(f"SELECT * FROM {table_name(table)} WHERE _offset < 61 ORDER BY _offset")
    want = pa.concat_tables(
        [
            pa.Table.from_batches([make_rows(table, 11, 1, a, b, d)])
            for a, b, d in ((0, 10, 1), (10, 11, 1), (11, 61, 4))
        ]
    )
    assert answer.cast(want.schema).equals(want)


def test_a_restart_inserts_only_what_is_missing(
    etcd: LocalEtcd, clickhouse_server: LocalClickHouse, client: EtcdClient, clickhouse: ClickHouse, name: str
) -> None:
    """Above persisted there are: a whole batch, half of one under a foreign token, and none of the third."""
    table = make_table(name, (12,))
    put_table(client, table)
    clickhouse.create_table(table)
    insert_directly(clickhouse, table, 1, 0, 20, "whole")
    insert_directly(clickhouse, table, 1, 20, 25, "half")
    with StubOwner(client, table, 12) as owner:
        for _ in range(3):
            owner.cut(20)
        with running(etcd, clickhouse_server) as persister:
            owner.wait_persisted(60)
            until(lambda: persister.shard(12).rows == 35)
    assert offsets(clickhouse, table) == list(range(60))


def test_a_new_owner_is_followed_from_its_persisted(
    etcd: LocalEtcd, clickhouse_server: LocalClickHouse, client: EtcdClient, clickhouse: ClickHouse, name: str
) -> None:
    table = make_table(name, (13,))
    put_table(client, table)
    with running(etcd, clickhouse_server):
        with StubOwner(client, table, 13) as first:
            first.cut(10)
            first.wait_persisted(10)
        # Its PERSISTED record was lost: the next owner begins with an older mark, and the rows are there already.
        with StubOwner(client, table, 13, epoch=2, start=10, persisted=10) as second:
            second.cut(5)
            second.wait_persisted(15)
    assert offsets(clickhouse, table) == list(range(15))


def test_clickhouse_down_at_start_and_in_the_middle(
    etcd: LocalEtcd, client: EtcdClient, name: str, tmp_path: Path
) -> None:
    table = make_table(name, (14,))
    put_table(client, table)
    server = LocalClickHouse(tmp_path).start()
    server.kill()
    with StubOwner(client, table, 14) as owner, running(etcd, server) as persister:
        owner.cut(10)
        until(lambda: persister.shard(14).state == "RETRYING")
        assert "does not answer" in persister.shard(14).last_error
        until(lambda: persister.stub.Status(pb.StatusRequest()).state == "DOWN")
        server.start()
        owner.wait_persisted(10)
        server.kill()
        owner.cut(10)
        until(lambda: persister.shard(14).state == "RETRYING")
        server.start()
        owner.wait_persisted(20)
        assert persister.shard(14).last_error == ""
        assert persister.stub.Status(pb.StatusRequest()).state == "OK"
    clickhouse = server.client()
    assert offsets(clickhouse, table) == list(range(20))
    clickhouse.close()
    server.stop()


def test_an_unknown_outcome_is_read_back(etcd: LocalEtcd, client: EtcdClient, name: str, tmp_path: Path) -> None:
    """ClickHouse freezes with an insert in flight until the persister gives up waiting; the insert happens later."""
    table = make_table(name, (15,))
    put_table(client, table)
    with LocalClickHouse(tmp_path) as server, StubOwner(client, table, 15) as owner:
        with running(etcd, server) as persister:
            owner.cut(10)
            owner.wait_persisted(10)
            server.pause()
            owner.cut(10)
            until(lambda: persister.shard(15).state == "RETRYING")
            server.resume()
            owner.wait_persisted(20)
        clickhouse = server.client()
        assert offsets(clickhouse, table) == list(range(20))
        clickhouse.close()


@pytest.mark.parametrize(("epoch", "first", "cause"), [(9, 0, "no log of this id"), (1, 500, "outside of its log")])
def test_rows_that_no_log_explains_stop_the_shard_alone(
    etcd: LocalEtcd,
    clickhouse_server: LocalClickHouse,
    client: EtcdClient,
    clickhouse: ClickHouse,
    name: str,
    epoch: int,
    first: int,
    cause: str,
) -> None:
    table = make_table(name, (16, 17))
    put_table(client, table)
    clickhouse.create_table(table)
    insert_directly(clickhouse, table, epoch, first, first + 3, "foreign")
    with (
        StubOwner(client, table, 16) as stopped,
        StubOwner(client, table, 17) as healthy,
        running(etcd, clickhouse_server) as persister,
    ):
        stopped.cut(10)
        healthy.cut(10)
        healthy.wait_persisted(10)
        until(lambda: persister.shard(16).state == "STOPPED")
        assert cause in persister.shard(16).last_error
        assert stopped.persisted == 0
        clickhouse.command(f"DELETE FROM {table_name(table)} WHERE _log = {(16 << 24) + epoch}")
        persister.stub.Resume(pb.ResumeRequest(table=name))
        stopped.wait_persisted(10)


def test_a_lost_table_is_not_replaced_by_an_empty_one(
    etcd: LocalEtcd, clickhouse_server: LocalClickHouse, client: EtcdClient, clickhouse: ClickHouse, name: str
) -> None:
    table = make_table(name, (18,))
    put_table(client, table)
    with StubOwner(client, table, 18) as owner, running(etcd, clickhouse_server) as persister:
        owner.cut(10)
        owner.wait_persisted(10)
        clickhouse.drop_table(table)
        owner.cut(10)
        until(lambda: persister.shard(18).state == "STOPPED")
        assert "not in ClickHouse any more" in persister.shard(18).last_error
        with pytest.raises(NotFound):
            offsets(clickhouse, table)


def test_pause_returns_behind_the_insert_and_holds_across_restarts(
    etcd: LocalEtcd, clickhouse_server: LocalClickHouse, client: EtcdClient, clickhouse: ClickHouse, name: str
) -> None:
    table = make_table(name, (19,))
    put_table(client, table)
    with StubOwner(client, table, 19) as owner:
        with running(etcd, clickhouse_server) as persister:
            for _ in range(50):
                owner.cut(100)
            owner.wait_persisted(100)
            persister.stub.Pause(pb.PauseRequest(table=name))
            at = owner.persisted
            assert persister.shard(19).state == "PAUSED"
            owner.cut(100)
            assert offsets(clickhouse, table) == list(range(at))
        with running(etcd, clickhouse_server) as persister:
            until(lambda: persister.shard(19).state == "PAUSED")
            assert owner.persisted == at
            persister.stub.Resume(pb.ResumeRequest(table=name))
            owner.wait_persisted(owner.end)
    assert offsets(clickhouse, table) == list(range(owner.end))


def test_a_pause_that_cannot_be_confirmed_says_so(
    etcd: LocalEtcd, client: EtcdClient, name: str, tmp_path: Path
) -> None:
    table = make_table(name, (20,))
    put_table(client, table)
    with LocalClickHouse(tmp_path) as server, StubOwner(client, table, 20) as owner, running(etcd, server) as persister:
        owner.cut(10)
        owner.wait_persisted(10)
        server.pause()
        owner.cut(10)
        with pytest.raises(DeadlineExceeded, match="pause again"):
            persister.stub.Pause(pb.PauseRequest(table=name), timeout=1.0)
        server.resume()
        persister.stub.Pause(pb.PauseRequest(table=name), timeout=20.0)
        assert persister.shard(20).state == "PAUSED"


def test_unknown_tables_are_named(etcd: LocalEtcd, clickhouse_server: LocalClickHouse, client: EtcdClient) -> None:
    del client
    with running(etcd, clickhouse_server) as persister:
        for call in (persister.stub.Pause, persister.stub.Resume):
            with pytest.raises(NotFound, match="no_such_table"):
                call(pb.PauseRequest(table="no_such_table"))


def test_a_dropped_table_goes_when_its_owners_have_left(
    etcd: LocalEtcd, clickhouse_server: LocalClickHouse, client: EtcdClient, clickhouse: ClickHouse, name: str
) -> None:
    table = make_table(name, (21,))
    put_table(client, table)
    key = layout.table_key("default", name)
    with running(etcd, clickhouse_server), StubOwner(client, table, 21) as owner:
        owner.cut(10)
        owner.wait_persisted(10)
        put_table(client, table, state="dropping")
        until(lambda: client.get(layout.persister_key(table.shard_ids[0])) is None)
        assert offsets(clickhouse, table) == list(range(10))
        owner.leave()
        until(lambda: b'"state":"dropped"' in client.get(key).value)  # type: ignore[union-attr]
        with pytest.raises(NotFound):
            offsets(clickhouse, table)
        until(lambda: client.get(layout.persister_key(table.shard_ids[0])) is None)


def test_a_standby_takes_over(
    etcd: LocalEtcd, clickhouse_server: LocalClickHouse, client: EtcdClient, clickhouse: ClickHouse, name: str
) -> None:
    table = make_table(name, (22,))
    put_table(client, table)
    with StubOwner(client, table, 22) as owner:
        first = Running(etcd, clickhouse_server, "persister-0")
        owner.cut(10)
        owner.wait_persisted(10)
        with running(etcd, clickhouse_server, "persister-1") as standby:
            assert [s.shard for s in standby.stub.Status(pb.StatusRequest()).shards] == []
            first.stop()
            owner.cut(10)
            owner.wait_persisted(20)
            assert standby.shard(22).state == "FOLLOWING"
    assert offsets(clickhouse, table) == list(range(20))


def test_a_lost_lease_stops_inserting_until_it_is_back(
    client: EtcdClient, clickhouse_server: LocalClickHouse, clickhouse: ClickHouse, name: str, tmp_path: Path
) -> None:
    """etcd freezes for longer than the lease lives; rows that are cut meanwhile wait for the next lease."""
    del client
    with LocalEtcd(tmp_path) as etcd, EtcdClient([etcd.address]) as own:
        table = make_table(name, (23,))
        put_table(own, table)
        with StubOwner(own, table, 23) as owner, running(etcd, clickhouse_server) as persister:
            owner.cut(10)
            owner.wait_persisted(10)
            etcd.pause()
            until(lambda: persister.shard(23).state == "WAITING")
            owner.cut(10)
            etcd.resume()
            owner.wait_persisted(20)
    assert offsets(clickhouse, table) == list(range(20))


def test_a_broken_batch_is_never_persisted(
    etcd: LocalEtcd, clickhouse_server: LocalClickHouse, client: EtcdClient, clickhouse: ClickHouse, name: str
) -> None:
    """An owner that sends rows of another log than one batch may hold: the shard stops and says so."""
    table = make_table(name, (24,))
    put_table(client, table)
    with StubOwner(client, table, 24) as owner, running(etcd, clickhouse_server) as persister:
        owner.cut(10)
        owner.wait_persisted(10)
        with owner._changed:
            rows = make_rows(table, 24, 1, 11, 16)
            owner._batches[10] = rows
            owner.end = 15
            owner._changed.notify_all()
        until(lambda: persister.shard(24).state == "STOPPED")
        assert "not those rows" in persister.shard(24).last_error
    assert offsets(clickhouse, table) == list(range(10))


def test_health_and_metrics(etcd: LocalEtcd, clickhouse_server: LocalClickHouse, client: EtcdClient) -> None:
    import urllib.request

    del client
    config = PersisterConfig(
        name="persister-9", etcd=etcd.address, clickhouse=clickhouse_server.url, data_dir=Path(os.devnull)
    )
    service = Persister(config)
    url = service.start()["http"]
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert "proxist_clickhouse_statements_total 0.0" in text
        assert 'proxist_persister_sink_state{state="OK"} 1.0' in text
    finally:
        assert service.stop(10.0) == []
