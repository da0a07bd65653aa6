"""Each fault of a ClickHouse server and of the way to it, over and over: every row arrives, once, as it was sent."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clickhouse_faults import FAULTS, check_exact, meet, settings
from stub_owner import StubOwner, make_table, put_table

from proxist.clickhouse import ClickHouse
from proxist.etcd import EtcdClient
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.clickhouse_proxy import ClickHouseProxy, Fault, Kind
from proxist.testing.etcd import LocalEtcd
from proxist_persister.config import PersisterConfig
from proxist_persister.service import Persister

SLICE = 5
COUNT = int(os.environ.get("PROXIST_TEST_FAULTS", "200"))


@contextmanager
def persisting(etcd: LocalEtcd, url: str, data_dir: Path, name: str = "persister-0") -> Iterator[Persister]:
    service = Persister(PersisterConfig(**settings(name, etcd.address, url, data_dir)))
    service.start()
    try:
        yield service
    finally:
        assert service.stop(10.0) == []


@pytest.fixture
def proxy(clickhouse_server: LocalClickHouse) -> Iterator[ClickHouseProxy]:
    with ClickHouseProxy(clickhouse_server.url) as proxy:
        yield proxy


def test_every_fault_a_few_times_in_any_order(
    etcd: LocalEtcd,
    client: EtcdClient,
    clickhouse: ClickHouse,
    proxy: ClickHouseProxy,
    name: str,
    tmp_path: Path,
    rng: random.Random,
) -> None:
    plan = list(FAULTS) * SLICE
    rng.shuffle(plan)
    table = make_table(name, (41,))
    put_table(client, table)
    with StubOwner(client, table, 41) as owner, persisting(etcd, proxy.url, tmp_path):
        owner.cut(1)
        owner.wait_persisted(1)
        cuts = [(0, 1, 1), *meet(proxy, owner, plan, rng)]
        assert {fault: proxy.faults[fault] for fault in FAULTS} == dict.fromkeys(FAULTS, SLICE)
    check_exact(clickhouse, table, 41, cuts)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_one_fault_many_times(
    etcd: LocalEtcd,
    client: EtcdClient,
    clickhouse: ClickHouse,
    proxy: ClickHouseProxy,
    name: str,
    tmp_path: Path,
    rng: random.Random,
    kind: Kind,
    fault: Fault,
) -> None:
    table = make_table(name, (42,))
    put_table(client, table)
    with StubOwner(client, table, 42) as owner, persisting(etcd, proxy.url, tmp_path):
        owner.cut(1)
        owner.wait_persisted(1)
        cuts = [(0, 1, 1), *meet(proxy, owner, [(kind, fault)] * COUNT, rng)]
    assert proxy.faults[kind, fault] == COUNT
    check_exact(clickhouse, table, 42, cuts)
    print(f"{kind}: {fault}: {COUNT} times: {cuts[-1][1]} rows, no duplicate, no gap")
