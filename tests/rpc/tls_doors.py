"""The three kinds of door behind one interface: serve with some certificates, call with others."""

from __future__ import annotations

import contextlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxist.errors import Unavailable
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.flight_server import Call, FlightDoor, FlightHandler
from proxist.rpc.grpc_client import connect
from proxist.rpc.grpc_server import GrpcDoor
from proxist.rpc.http import HttpDoor
from proxist.rpc.tls import PLAIN, Tls

T = 10.0
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Kind:
    """`serve(tls, port, host)` gives the port while the door is open; `call(port, tls, host)` returns where the call was
    answered and raises what a caller gets otherwise. Each call makes a connection of its own, PLAIN one without TLS."""

    serve: Callable[..., AbstractContextManager[int]]
    call: Callable[..., None]


class Handler(FlightHandler):
    def do_action(self, call: Call, name: str, body: bytes) -> list[bytes]:
        return [b"{}"]


@contextlib.contextmanager
def _flight(tls: Tls, port: int = 0, host: str = HOST) -> Iterator[int]:
    door = FlightDoor(Handler(), host, port, tls=tls)
    yield door.port
    assert door.stop(T) == []


@contextlib.contextmanager
def flight_calls(port: int, tls: Tls, host: str = HOST) -> Iterator[Callable[[], object]]:
    """Calls of one peer."""
    scheme = "grpc" if tls is PLAIN else "grpc+tls"
    with FlightPeer(f"{scheme}://{host}:{port}", tls=tls) as peer:
        yield lambda: peer.do_action("anything", timeout_s=T)


def _call_flight(port: int, tls: Tls, host: str = HOST) -> None:
    with flight_calls(port, tls, host) as call:
        assert call() == [{}]


@contextlib.contextmanager
def _grpc(tls: Tls, port: int = 0, host: str = HOST) -> Iterator[int]:
    door = GrpcDoor([], host, port, tls=tls)
    door.start()
    yield door.port
    assert door.stop(T) == []


@contextlib.contextmanager
def checks(port: int, tls: Tls, host: str = HOST) -> Iterator[Callable[[], object]]:
    """Health checks over one connection."""
    with connect(f"{host}:{port}", timeout_s=T, tls=tls) as channel:
        yield lambda: health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


def _call_grpc(port: int, tls: Tls, host: str = HOST) -> None:
    with checks(port, tls, host) as check:
        check()


@contextlib.contextmanager
def http_door(tls: Tls, port: int = 0, host: str = HOST) -> Iterator[int]:
    door = HttpDoor(host, port, lambda: {"state": "ready"}, tls=tls)
    door.start()
    yield door.port
    assert door.stop(T) == []


def get(port: int, tls: Tls, path: str, host: str = HOST) -> int:
    """The status; raises URLError or OSError where no connection comes to be."""
    context = None if tls is PLAIN else tls.http_client()
    scheme = "http" if tls is PLAIN else "https"
    try:
        with urllib.request.urlopen(f"{scheme}://{host}:{port}{path}", timeout=T, context=context) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def _call_http(port: int, tls: Tls, host: str = HOST) -> None:
    assert get(port, tls, "/health", host) == 200


FLIGHT = Kind(_flight, _call_flight)
GRPC = Kind(_grpc, _call_grpc)
HTTP = Kind(http_door, _call_http)
KINDS = {"flight": FLIGHT, "grpc": GRPC, "http": HTTP}


def is_refused(kind: Kind, port: int, tls: Tls) -> bool:
    """Whether the handshake fails, or the door hangs up on it."""
    try:
        kind.call(port, tls)
    except Unavailable as error:
        return error.details.get("reason") == "handshake"
    except (urllib.error.URLError, ssl.SSLError, ConnectionError):
        return True
    return False
