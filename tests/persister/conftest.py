"""What the persister's tests run against: real etcd, the real embedded engine, a stub for the owner."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxist.clickhouse import ClickHouse
from proxist.etcd import EtcdClient, layout
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.etcd import LocalEtcd

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEtcd]:
    with LocalEtcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@pytest.fixture
def client(etcd: LocalEtcd) -> Iterator[EtcdClient]:
    """On an etcd that is empty."""
    with EtcdClient([etcd.address]) as client:
        client.delete(layout.PREFIX, prefix=True)
        yield client
        client.delete(layout.PREFIX, prefix=True)


@pytest.fixture(scope="session")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClickHouse]:
    with LocalClickHouse(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def clickhouse(clickhouse_server: LocalClickHouse) -> Iterator[ClickHouse]:
    client = clickhouse_server.client()
    yield client
    client.close()


@pytest.fixture
def name() -> str:
    """A table's name that no other test uses."""
    return f"t_{uuid.uuid4().hex[:12]}"
