"""Every class of the tree crosses both wires and comes out as itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from proxist import errors
from proxist.pb import ingest_pb2 as pb
from proxist.pb import ingest_pb2_grpc as ingest
from proxist.rpc import status
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.flight_server import Call, FlightDoor, FlightHandler
from proxist.rpc.grpc_client import connect
from proxist.rpc.grpc_server import GrpcDoor, GrpcService

T = 10.0
raised: list[BaseException] = []


class Raising(FlightHandler, ingest.IngestServiceServicer):
    def do_get(self, call: Call, ticket: bytes) -> Any:
        raise raised[-1]

    def Status(self, request: Any, context: Any) -> Any:
        raise raised[-1]


@pytest.fixture(scope="module")
def peer() -> Iterator[FlightPeer]:
    door = FlightDoor(Raising(), "127.0.0.1", 0)
    with FlightPeer(door.uri) as peer:
        yield peer
    assert door.stop(T) == []


@pytest.fixture(scope="module")
def stub() -> Iterator[Any]:
    service = GrpcService("proxist.ingest.v1.IngestService", ingest.add_IngestServiceServicer_to_server, Raising())
    door = GrpcDoor([service], "127.0.0.1", 0)
    door.start()
    with connect(door.address) as channel:
        yield ingest.IngestServiceStub(channel)
    assert door.stop(T) == []


def over(wire: str, peer: FlightPeer, stub: Any, error: BaseException) -> errors.ProxistError:
    """What the client raises when the server raises `error`."""
    raised.append(error)
    with pytest.raises(errors.ProxistError) as caught:
        peer.do_get({}, timeout_s=T) if wire == "flight" else stub.Status(pb.StatusRequest())
    return caught.value


@pytest.mark.parametrize("wire", ["flight", "grpc"])
@pytest.mark.parametrize("code", errors.error_classes())
def test_every_class_comes_out_as_itself(wire: str, code: str, peer: FlightPeer, stub: Any) -> None:
    sent = errors.error_classes()[code](
        "Größe „x“ is 3, but must be 4. Set --x 4.", retry_after_s=1.5, shard=7, names=["a", "ü"]
    )
    got = over(wire, peer, stub, sent)
    assert type(got) is type(sent)
    assert got.to_json() == sent.to_json()


@pytest.mark.parametrize("wire", ["flight", "grpc"])
@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 100_000])
def test_a_long_message_is_cut_and_large_details_stay_behind(wire: str, text: str, peer: FlightPeer, stub: Any) -> None:
    got = over(wire, peer, stub, errors.NotFound(text, names=[text] * 3))
    assert isinstance(got, errors.NotFound)
    assert got.message == text[: status.MESSAGE_CHARS_MAX - 1] + "…"
    assert got.details == {}


@pytest.mark.parametrize("wire", ["flight", "grpc"])
def test_what_json_cannot_carry_is_written_as_text(wire: str, peer: FlightPeer, stub: Any) -> None:
    got = over(wire, peer, stub, errors.NotFound("No file.", key=b"raw"))
    assert got.details == {"key": "b'raw'"}


@pytest.mark.parametrize("wire", ["flight", "grpc"])
def test_out_of_memory_is_an_overload(wire: str, peer: FlightPeer, stub: Any) -> None:
    assert isinstance(over(wire, peer, stub, MemoryError()), errors.Overloaded)


def test_a_code_from_a_newer_server_becomes_internal() -> None:
    got = status.decode(b'{"code": "FROM_THE_FUTURE", "message": "m"}')
    assert isinstance(got, errors.InternalError)
    assert got.message == "m"


@pytest.mark.parametrize("wire", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_foreign_bytes_are_not_taken_for_an_error(wire: bytes) -> None:
    assert status.decode(wire) is None
