"""Fixtures of a node with a shard in each of two tables, so that one may fail and the other go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ingest_nodes import create_table
from ingest_rows import TRADES

from proxist.etcd import Catalog, EtcdClient
from proxist.model.ids import ShardId
from proxist.model.table import Table
from proxist.testing.etcd import LocalEtcd

FIRST, SECOND = ShardId(1), ShardId(2)
"""Of table `trades` and of table `quotes`."""


@pytest.fixture
def etcd() -> Iterator[LocalEtcd]:
    with LocalEtcd() as running:
        yield running


@pytest.fixture
def client(etcd: LocalEtcd) -> Iterator[EtcdClient]:
    with EtcdClient([etcd.address]) as connected:
        yield connected


@pytest.fixture
def catalog(client: EtcdClient) -> Iterator[Catalog]:
    started = Catalog.start(client)
    yield started
    started.close()


@pytest.fixture
def tables(client: EtcdClient) -> list[Table]:
    return [
        create_table(client, {**TRADES, "name": name}, ["ingest-0"], first_id=shard)
        for name, shard in (("trades", FIRST), ("quotes", SECOND))
    ]
