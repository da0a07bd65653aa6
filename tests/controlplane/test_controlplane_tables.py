"""Tables come and go: created once, equal specs welcome, names free again after a drop; at every fault in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from controlplane_fakes import FakeIngest, FakePersister

from proxist.errors import AlreadyExists, DeadlineExceeded, NotFound, ProxistError, Unavailable
from proxist.etcd import EtcdClient, layout
from proxist.pb import controlplane_pb2 as pb
from proxist.testing.etcd import LocalEtcd


def spec(name: str = "trades", **fields: Any) -> pb.TableSpec:
    columns = [
        pb.Column(name="ts", type="timestamp[ns, tz=UTC]"),
        pb.Column(name="symbol", type="string"),
        pb.Column(name="price", type="double"),
    ]
    return pb.TableSpec(name=name, time="ts", key="symbol", columns=columns, **fields)


def create(control: Any, name: str = "trades", timeout_s: float = 20, **fields: Any) -> pb.Table:
    answer = control.CreateTable(pb.CreateTableRequest(spec=spec(name, **fields)), timeout=timeout_s)
    table: pb.Table = answer.table
    return table


def drop(control: Any, name: str = "trades", timeout_s: float = 20) -> None:
    control.DropTable(pb.DropTableRequest(table=name), timeout=timeout_s)


def test_a_created_table_is_described_listed_and_owned(control: Any, etcd: LocalEtcd) -> None:
    with FakeIngest(etcd.address, "ingest-0"), FakeIngest(etcd.address, "ingest-1"):
        table = create(control, shards=4, hot_window="90m")
        assert (table.id, table.tenant, list(table.shard_ids), table.state) == (1, "default", [1, 2, 3, 4], "active")
        assert (table.spec.hot_window, table.spec.durability, table.spec.flush.age) == ("90m", "disk", "20ms")
        assert control.DescribeTable(pb.DescribeTableRequest(table="trades")).table == table
        assert list(control.ListTables(pb.ListTablesRequest()).tables) == [table]
        shards = control.ListShards(pb.ListShardsRequest(table="trades")).shards
        assert [(s.shard, s.slot, s.epoch, s.state) for s in shards] == [(i + 1, i, 1, "owned") for i in range(4)]
        assert sorted(s.node for s in shards) == ["ingest-0", "ingest-0", "ingest-1", "ingest-1"]


def test_an_equal_spec_succeeds_and_another_is_refused_by_field(control: Any, etcd: LocalEtcd) -> None:
    with FakeIngest(etcd.address, "ingest-0"):
        first = create(control, hot_window="60m")
        assert create(control, hot_window="1h") == first
        with pytest.raises(AlreadyExists, match=r"'trades' exists with another spec: `shards` is 1 there and 2 here"):
            create(control, hot_window="1h", shards=2)


def test_racing_creators_get_one_table(control: Any, start: Callable[..., Any], etcd: LocalEtcd) -> None:
    others = [control, start(name="controlplane-1")]
    tables: list[pb.Table | ProxistError] = []

    def race(i: int) -> None:
        try:
            tables.append(create(others[i % 2], name="same" if i < 4 else f"own_{i}", shards=2))
        except ProxistError as error:
            tables.append(error)

    with FakeIngest(etcd.address, "ingest-0"):
        threads = [threading.Thread(target=race, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    made = [t for t in tables if isinstance(t, pb.Table)]
    assert len(made) == 8, tables
    distinct = {t.id: t for t in made}
    assert len(distinct) == 5
    shards = [shard for t in distinct.values() for shard in t.shard_ids]
    assert len(set(shards)) == 10


def test_a_table_of_a_thousand_shards_is_one_transaction(control: Any, etcd: LocalEtcd) -> None:
    with FakeIngest(etcd.address, "ingest-0", opens=False), pytest.raises(DeadlineExceeded, match="'trades' exists"):
        create(control, shards=1024, timeout_s=2.0)
    with EtcdClient([etcd.address]) as client:
        assert len(client.range(layout.SHARDS)[0]) == 1024


def test_a_name_that_is_unknown_is_told_with_those_that_are_known(control: Any, etcd: LocalEtcd) -> None:
    with pytest.raises(NotFound, match=r"no table 'trdes'\. Tables are: none yet"):
        control.DescribeTable(pb.DescribeTableRequest(table="trdes"))
    with FakeIngest(etcd.address, "ingest-0"):
        create(control)
    for call in (
        lambda: control.DescribeTable(pb.DescribeTableRequest(table="trdes")),
        lambda: control.ListShards(pb.ListShardsRequest(table="trdes")),
        lambda: control.Watermarks(pb.WatermarksRequest(table="trdes")),
        lambda: control.Flush(pb.FlushRequest(table="trdes")),
        lambda: control.Evict(pb.EvictRequest(table="trdes", all=True)),
        lambda: control.PausePersist(pb.PausePersistRequest(table="trdes")),
        lambda: control.ResumePersist(pb.ResumePersistRequest(table="trdes")),
        lambda: drop(control, "trdes"),
    ):
        with pytest.raises(NotFound, match=r"no table 'trdes'\. Tables are: trades"):
            call()


def test_without_ingest_nodes_nothing_is_created(control: Any) -> None:
    with pytest.raises(Unavailable, match="No ingest node is alive"):
        create(control, timeout_s=1.0)
    assert not control.ListTables(pb.ListTablesRequest()).tables


def test_a_table_waits_for_a_node_that_does_not_open_it_and_can_be_waited_for_again(
    control: Any, etcd: LocalEtcd
) -> None:
    with FakeIngest(etcd.address, "ingest-0", opens=False) as ingest:
        with pytest.raises(DeadlineExceeded, match="1 on ingest-0"):
            create(control, timeout_s=1.0)
        (shard,) = control.ListShards(pb.ListShardsRequest()).shards
        assert (shard.state, shard.node, shard.epoch) == ("unowned", "ingest-0", 0)
        ingest.opens = True
        ingest._work()
        assert list(create(control).shard_ids) == [1]


def test_a_shard_that_was_never_opened_moves_off_a_dead_node(start: Callable[..., Any], etcd: LocalEtcd) -> None:
    control = start(replace_after_s=0.1)
    with FakeIngest(etcd.address, "ingest-0", opens=False), pytest.raises(DeadlineExceeded):
        create(control, timeout_s=1.0)
    with FakeIngest(etcd.address, "ingest-1"):
        create(control)
        (shard,) = control.ListShards(pb.ListShardsRequest()).shards
        assert (shard.node, shard.state) == ("ingest-1", "owned")


def test_a_dropped_name_is_free_and_its_ids_are_not_used_again(control: Any, etcd: LocalEtcd) -> None:
    with FakeIngest(etcd.address, "ingest-0") as ingest, FakePersister(etcd.address, "persister-0"):
        old = create(control, shards=2)
        drop(control)
        assert ingest.shards == {}
        assert not control.ListTables(pb.ListTablesRequest()).tables
        with EtcdClient([etcd.address]) as client:
            assert client.range(layout.SHARDS)[0] == client.range(layout.OWNERS)[0] == []
        new = create(control, shards=1)
        assert (new.id, list(new.shard_ids)) == (old.id + 1, [3])


def test_a_drop_that_cannot_end_says_what_it_waits_for_and_ends_later(control: Any, etcd: LocalEtcd) -> None:
    with FakeIngest(etcd.address, "ingest-0") as ingest:
        create(control)
        ingest.opens = False
        with pytest.raises(DeadlineExceeded, match="still release shards 1 on ingest-0"):
            drop(control, timeout_s=1.0)
        with pytest.raises(Unavailable, match="still being dropped"):
            create(control)
        ingest.opens = True
        ingest._work()
        with pytest.raises(DeadlineExceeded, match="ClickHouse is not dropped yet"):
            drop(control, timeout_s=1.0)
        with FakePersister(etcd.address, "persister-0"):
            drop_or_gone(control)
        create(control)


def drop_or_gone(control: Any) -> None:
    """The drop goes on by itself: by now the name may be free already."""
    try:
        drop(control)
    except NotFound:
        return
