"""Servers for these tests: the embedded one, and a real one where `PROXIST_TEST_CLICKHOUSE` or a container gives it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.tls import DevCerts

REAL_IMAGE = "clickhouse/clickhouse-server:25.8"


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClickHouse]:
    with LocalClickHouse(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> DevCerts:
    return DevCerts(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def tls_embedded(tmp_path_factory: pytest.TempPathFactory, certs: DevCerts) -> Iterator[LocalClickHouse]:
    """One that demands a certificate; nobody stops it."""
    with LocalClickHouse(tmp_path_factory.mktemp("clickhouse-tls"), tls=certs.server) as server:
        yield server


@pytest.fixture(scope="session")
def real_url() -> Iterator[str]:
    """A ClickHouse server's URL; the test is skipped where there is none."""
    if named := os.environ.get("PROXIST_TEST_CLICKHOUSE"):
        yield named if "://" in named else f"http://{named}"
        return
    if not _container_engine():
        pytest.skip("no real ClickHouse: set PROXIST_TEST_CLICKHOUSE=host:port, or start a container engine")
    from testcontainers.clickhouse import ClickHouseContainer

    with ClickHouseContainer(REAL_IMAGE, port=8123, username="proxist", password="proxist") as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(8123)
        yield f"http://proxist:proxist@{host}:{port}"


def _container_engine() -> bool:
    """Whether something listens where a container engine would."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(address.removeprefix("unix://")) == 0
