"""What a node tells the others about where it listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxist.config import ServiceConfig, load
from proxist.errors import ConfigError
from proxist.hot.host import this_host_id

ENDPOINTS = {
    "flight": "grpc://0.0.0.0:8815",
    "flight_unix": "grpc+unix:///run/0.0.0.0.flight",
    "grpc": "0.0.0.0:7421",
    "http": "http://0.0.0.0:7422",
    "attach": "/run/ingest-0.attach",
}


def config(**values: object) -> ServiceConfig:
    return load(ServiceConfig, env={}, defaults={"name": "n", "host": "0.0.0.0", "insecure": True, **values})


def test_peers_are_told_the_advertised_host_and_sockets_stay() -> None:
    told = config(advertise_host="ingest-0.ingest.prod.svc").advertised(ENDPOINTS)
    assert told == {
        **ENDPOINTS,
        "flight": "grpc://ingest-0.ingest.prod.svc:8815",
        "grpc": "ingest-0.ingest.prod.svc:7421",
        "http": "http://ingest-0.ingest.prod.svc:7422",
    }


def test_without_an_advertised_host_peers_are_told_where_the_doors_listen() -> None:
    assert config().advertised(ENDPOINTS) == ENDPOINTS


def test_an_advertised_host_is_one_word() -> None:
    with pytest.raises(ConfigError, match="advertise_host"):
        config(advertise_host="a b")


def test_processes_of_another_pid_namespace_are_on_another_host() -> None:
    """Two pods of one machine share its kernel, but neither directories nor pids."""
    assert this_host_id().endswith(str(Path("/proc/self/ns/pid").readlink()))
