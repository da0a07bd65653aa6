"""Shards change hands in one transaction each: exactly one owner per epoch, chains without holes."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxist.errors import LogCorrupt, NotFound, NotOwner, Unavailable
from proxist.etcd import (
    Catalog,
    EtcdClient,
    LogRecord,
    Mirror,
    OwnerRecord,
    PersisterRecord,
    ShardRecord,
    TableRecord,
    WatermarkRecord,
    layout,
)
from proxist.etcd.ops import Compare, Op, TxnResult
from proxist.etcd.records import encode
from proxist.etcd.shards import (
    change_table,
    open_shard,
    put_watermarks,
    read_claim,
    release_persister,
    seal_shard,
    take_persister,
)
from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.model.table import Table, parse_spec

DEADLINE_S = 30.0
SPEC = {
    "name": "trades",
    "time": "ts",
    "key": "symbol",
    "columns": [{"name": "ts", "type": "timestamp[ns, tz=UTC]"}, {"name": "symbol", "type": "string"}],
}


@pytest.fixture
def shard(client: EtcdClient) -> Iterator[ShardId]:
    shard = ShardId(uuid.uuid4().int % 2**39)
    record = ShardRecord(shard, "default", "trades", TableId(1), 0, "ingest-0")
    client.put(layout.shard_key(shard), encode(record.to_json()))
    yield shard
    for key in (layout.shard_key(shard), layout.owner_key(shard), layout.watermark_key(shard)):
        client.delete(key)


@pytest.fixture
def lease(client: EtcdClient) -> Iterator[int]:
    lease, _ = client.lease_grant(600)
    yield lease
    client.lease_revoke(lease)


def test_each_opening_takes_the_next_epoch_and_seals_the_one_before(client: EtcdClient, shard: ShardId) -> None:
    predecessor = None
    for epoch, start in ((1, 0), (2, 100), (3, 100), (4, 250)):
        lease, _ = client.lease_grant(600)
        claim = read_claim(client, shard, node="ingest-0")
        assert claim.epoch == epoch
        record = open_shard(client, claim, start=Offset(start), predecessor=predecessor, lease=lease)
        kv = client.get(layout.owner_key(shard))
        assert kv is not None
        assert (kv.value, kv.lease) == (encode(OwnerRecord("ingest-0", Epoch(epoch)).to_json()), lease)
        client.lease_revoke(lease)  # the owner dies
        predecessor = record.epoch
    assert record.logs == (
        LogRecord(Epoch(1), Offset(0), Offset(100), "sealed"),
        LogRecord(Epoch(2), Offset(100), Offset(100), "sealed"),
        LogRecord(Epoch(3), Offset(100), Offset(250), "sealed"),
        LogRecord(Epoch(4), Offset(250), None, "open"),
    )


def test_of_many_openers_one_wins_and_the_others_are_told(client: EtcdClient, shard: ShardId, lease: int) -> None:
    barrier = threading.Barrier(6)
    results: list[Epoch | NotOwner] = []

    def race() -> None:
        claim = read_claim(client, shard, node="ingest-0")
        barrier.wait()
        try:
            results.append(open_shard(client, claim, start=Offset(0), predecessor=None, lease=lease).epoch)
        except NotOwner as error:
            results.append(error)

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r for r in results if not isinstance(r, NotOwner)] == [1]
    assert read_claim(client, shard, node="ingest-0").record.epoch == 1


def test_a_shard_with_a_living_owner_is_not_taken(client: EtcdClient, shard: ShardId, lease: int) -> None:
    record = open_shard(
        client, read_claim(client, shard, node="ingest-0"), start=Offset(0), predecessor=None, lease=lease
    )
    claim = read_claim(client, shard, node="ingest-0")
    with pytest.raises(NotOwner, match="'ingest-0' owns it under epoch 1"):
        open_shard(client, claim, start=Offset(0), predecessor=record.epoch, lease=lease)


def test_a_shard_of_another_node_and_one_that_is_gone_are_refused(client: EtcdClient, shard: ShardId) -> None:
    with pytest.raises(NotOwner, match="placed on node 'ingest-0', not on 'ingest-1'"):
        read_claim(client, shard, node="ingest-1")
    client.delete(layout.shard_key(shard))
    with pytest.raises(NotFound, match=str(shard)):
        read_claim(client, shard, node="ingest-0")


@pytest.mark.parametrize("here", [None, Epoch(1)])
def test_a_shard_is_not_opened_without_its_newest_log(
    client: EtcdClient, shard: ShardId, lease: int, here: Epoch | None
) -> None:
    record = ShardRecord(shard, "default", "trades", TableId(1), 0, "ingest-0").opened(Offset(0)).opened(Offset(10))
    client.put(layout.shard_key(shard), encode(record.to_json()))
    with pytest.raises(LogCorrupt, match="log of epoch 2, but the newest log here is"):
        open_shard(client, read_claim(client, shard, node="ingest-0"), start=Offset(0), predecessor=here, lease=lease)
    assert client.get(layout.owner_key(shard)) is None


def test_an_expired_lease_opens_nothing(client: EtcdClient, shard: ShardId) -> None:
    lease, _ = client.lease_grant(600)
    client.lease_revoke(lease)
    with pytest.raises(NotFound, match="lease"):
        open_shard(client, read_claim(client, shard, node="ingest-0"), start=Offset(0), predecessor=None, lease=lease)
    assert read_claim(client, shard, node="ingest-0").record.epoch == 0


class LosesAnswers(EtcdClient):
    """The answer to its first transaction is lost, before or after it was applied; it may also arrive late."""

    applied = True
    late: tuple[Sequence[Compare], Sequence[Op]] | None = None

    def txn(self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        if self.late is not None:
            return super().txn(compares, then, otherwise)
        self.late = compares, then
        if self.applied:
            super().txn(compares, then, otherwise)
        raise Unavailable("lost", outcome="unknown")


@pytest.mark.parametrize("applied", [True, False])
def test_a_lost_answer_is_looked_up(etcd_address: str, shard: ShardId, lease: int, applied: bool) -> None:
    client = LosesAnswers([etcd_address])
    client.applied = applied
    with client:
        claim = read_claim(client, shard, node="ingest-0")
        if applied:
            assert open_shard(client, claim, start=Offset(0), predecessor=None, lease=lease).epoch == 1
            return
        with pytest.raises(NotOwner):
            open_shard(client, claim, start=Offset(0), predecessor=None, lease=lease)
        assert client.late is not None
        assert not client.txn(*client.late).succeeded  # the request was still on its way: it must not open now
        assert client.get(layout.owner_key(shard)) is None


def test_a_persister_whose_answer_was_lost_takes_the_shard_again(etcd_address: str, shard: ShardId, lease: int) -> None:
    with LosesAnswers([etcd_address]) as client:
        with pytest.raises(Unavailable):
            take_persister(client, shard, node="persister-0", lease=lease)
        assert take_persister(client, shard, node="persister-0", lease=lease)


def test_sealing_ends_ownership_and_opens_again_where_it_ended(client: EtcdClient, shard: ShardId, lease: int) -> None:
    record = open_shard(
        client, read_claim(client, shard, node="ingest-0"), start=Offset(0), predecessor=None, lease=lease
    )
    sealed = seal_shard(client, record, end=Offset(42), lease=lease)
    assert sealed.logs == (LogRecord(Epoch(1), Offset(0), Offset(42), "sealed"),)
    assert client.get(layout.owner_key(shard)) is None
    with pytest.raises(NotOwner):
        seal_shard(client, record, end=Offset(43), lease=lease)
    claim = read_claim(client, shard, node="ingest-0")
    assert claim.record == sealed
    assert open_shard(client, claim, start=Offset(42), predecessor=Epoch(1), lease=lease).logs[0] == sealed.logs[0]


def test_one_persister_per_shard(client: EtcdClient, shard: ShardId, lease: int) -> None:
    other, _ = client.lease_grant(600)
    assert take_persister(client, shard, node="persister-0", lease=lease)
    assert not take_persister(client, shard, node="persister-1", lease=other)
    release_persister(client, shard, lease=other)  # not theirs: nothing happens
    assert not take_persister(client, shard, node="persister-1", lease=other)
    release_persister(client, shard, lease=lease)
    assert take_persister(client, shard, node="persister-1", lease=other)
    client.lease_revoke(other)


def test_the_catalog_shows_what_was_written(client: EtcdClient, shard: ShardId, lease: int) -> None:
    tenant = f"t{shard}"
    table = Table(TableId(1), tenant, parse_spec(SPEC), (shard,))
    client.put(layout.table_key(tenant, "trades"), encode(TableRecord(table).to_json()))
    client.put(
        layout.shard_key(shard), encode(ShardRecord(shard, tenant, "trades", TableId(1), 0, "ingest-0").to_json())
    )
    record = open_shard(
        client, read_claim(client, shard, node="ingest-0"), start=Offset(0), predecessor=None, lease=lease
    )
    take_persister(client, shard, node="persister-0", lease=lease)
    put_watermarks(client, {shard: WatermarkRecord(Epoch(1), Offset(7))})
    catalog = Catalog.start(client)
    assert catalog.wait_until(lambda c: c.watermark(shard) is not None, DEADLINE_S)
    assert catalog.table(tenant, "trades") == TableRecord(table) == catalog.table_of(shard)
    assert catalog.tables(tenant) == [TableRecord(table)]
    assert catalog.shard(shard) == record
    assert catalog.shards(tenant, "trades") == [record]
    assert catalog.owner(shard) == OwnerRecord("ingest-0", Epoch(1))
    assert catalog.watermark(shard) == WatermarkRecord(Epoch(1), Offset(7))
    assert catalog.persister(shard) == PersisterRecord("persister-0")
    with pytest.raises(NotFound, match=r"no table 'trdes'\. Tables are: trades"):
        catalog.table(tenant, "trdes")
    changed = change_table(client, tenant, "trades", paused=True)
    assert changed == change_table(client, tenant, "trades", paused=True) == TableRecord(table, paused=True)
    assert catalog.wait_until(lambda c: c.table(tenant, "trades").paused, DEADLINE_S)
    client.delete(layout.table_key(tenant, "trades"))
    assert catalog.wait_until(lambda c: not c.tables(tenant), DEADLINE_S)
    with pytest.raises(NotFound):
        change_table(client, tenant, "trades", state="dropping")
    catalog.close()


def test_a_table_is_unknown_only_if_etcd_says_so(
    client: EtcdClient, shard: ShardId, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, table = f"t{shard}", Table(TableId(1), f"t{shard}", parse_spec(SPEC), (shard,))
    client.put(layout.table_key(tenant, "trades"), encode(TableRecord(table).to_json()))
    mirror = Mirror(client, layout.PREFIX)  # not started yet: as far behind as one can be
    catalog = Catalog(mirror)
    with pytest.raises(NotFound, match="There is no table 'nowhere'"):
        catalog.known_table(tenant, "nowhere")
    monkeypatch.setattr("proxist.etcd.catalog.CATCH_UP_S_MAX", 0.0)
    with pytest.raises(Unavailable, match="copy of etcd is behind"):
        catalog.known_table(tenant, "trades")
    monkeypatch.setattr("proxist.etcd.catalog.CATCH_UP_S_MAX", DEADLINE_S)
    mirror.start()
    try:
        assert catalog.known_table(tenant, "trades") == TableRecord(table)
    finally:
        catalog.close()
        client.delete(layout.table_key(tenant, "trades"))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), max_size=12))
@settings(max_examples=60)
def test_a_chain_of_logs_never_has_a_hole(steps: list[tuple[bool, int]]) -> None:
    record, end = ShardRecord(ShardId(1), "default", "trades", TableId(1), 0, "ingest-0"), 0
    for seals, rows in steps:
        record = record.opened(Offset(end))
        end += rows
        if seals:
            record = record.sealed(Offset(end))
    assert [log.epoch for log in record.logs] == list(range(1, len(steps) + 1))
    for older, newer in zip(record.logs, record.logs[1:], strict=False):
        assert (older.state, older.end) == ("sealed", newer.start)
    assert ShardRecord.from_json(record.to_json()) == record
    assert replace(record, node="other").logs == record.logs
