"""etcd for these tests: `PROXIST_TEST_ETCD=host:port` names one that runs, else one is started for the directory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxist.etcd import EtcdClient
from proxist.testing.etcd import LocalEtcd
from proxist.testing.tls import DevCerts


@pytest.fixture(scope="session", autouse=True)
def etcd_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """autouse: started by whichever module comes first, before that module counts the processes that it finds."""
    if named := os.environ.get("PROXIST_TEST_ETCD"):
        yield named
        return
    with LocalEtcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd.address


@pytest.fixture
def client(etcd_address: str) -> Iterator[EtcdClient]:
    with EtcdClient([etcd_address]) as client:
        yield client


@pytest.fixture
def prefix() -> str:
    """A part of the key space that no other test, and no other run, uses."""
    return f"/proxist-test/{uuid.uuid4().hex}/"


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[LocalEtcd]:
    """One that the test may kill, freeze and start again."""
    with LocalEtcd(tmp_path) as etcd:
        yield etcd


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> DevCerts:
    return DevCerts(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def tls_etcd(tmp_path_factory: pytest.TempPathFactory, certs: DevCerts) -> Iterator[LocalEtcd]:
    """One that demands a certificate; nobody stops it."""
    with LocalEtcd(tmp_path_factory.mktemp("etcd-tls"), tls=certs.server) as etcd:
        yield etcd
