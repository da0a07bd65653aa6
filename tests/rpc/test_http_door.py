"""The HTTP door: what probes and Prometheus see."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from proxist.errors import PortTaken
from proxist.rpc.http import HttpDoor

T = 10.0


class Node:
    def __init__(self) -> None:
        self.state = "starting"

    def health(self) -> dict[str, object]:
        return {"name": "ingest-0", "role": "ingest", "state": self.state, "insecure": False}


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def door(node: Node) -> Iterator[HttpDoor]:
    registry = CollectorRegistry()
    Counter("proxist_things", "Things.", registry=registry).inc(3)
    door = HttpDoor("127.0.0.1", 0, node.health, registry=registry)
    door.start()
    yield door
    assert door.stop(T) == []


def get(door: HttpDoor, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{door.url}{path}", timeout=T) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_ready_follows_the_state_and_live_does_not(door: HttpDoor, node: Node) -> None:
    assert get(door, "/readyz") == (503, "starting\n")
    assert get(door, "/livez") == (200, "ok\n")
    node.state = "ready"
    assert get(door, "/readyz") == (200, "ready\n")
    node.state = "fenced"
    assert get(door, "/readyz") == (503, "fenced\n")
    assert get(door, "/livez")[0] == 200


def test_health_is_the_nodes_own_json(door: HttpDoor) -> None:
    status, body = get(door, "/health")
    assert status == 200
    assert json.loads(body) == {"name": "ingest-0", "role": "ingest", "state": "starting", "insecure": False}


def test_metrics_are_in_prometheus_text_form(door: HttpDoor) -> None:
    status, body = get(door, "/metrics")
    assert status == 200
    assert "\nproxist_things_total 3.0\n" in body


def test_an_unknown_path_is_404(door: HttpDoor) -> None:
    assert get(door, "/nothing")[0] == 404


def test_a_taken_port_is_named(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"Port {port} on 127.0.0.1 \(`http_port`\) is taken"):
            HttpDoor("127.0.0.1", port, node.health)


def test_the_port_is_free_after_stop(node: Node) -> None:
    port = 0
    for _ in range(2):
        door = HttpDoor("127.0.0.1", port, node.health)
        door.start()
        port = door.port
        assert get(door, "/livez")[0] == 200
        assert door.stop(T) == []
