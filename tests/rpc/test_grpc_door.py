"""The gRPC door and its channels over real sockets: reflection, health, typed errors, taken ports."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from proxist import errors
from proxist.pb import ingest_pb2 as pb
from proxist.pb import ingest_pb2_grpc as ingest
from proxist.pb import query_pb2, query_pb2_grpc
from proxist.rpc.grpc_client import connect
from proxist.rpc.grpc_server import GrpcDoor, GrpcService
from proxist.rpc.status import METADATA_KEY

T = 10.0
INGEST, QUERY = "proxist.ingest.v1.IngestService", "proxist.query.v1.QueryService"


class Ingest(ingest.IngestServiceServicer):
    def __init__(self) -> None:
        self.release = threading.Event()

    def Status(self, request: Any, context: Any) -> pb.StatusResponse:
        return pb.StatusResponse(name="ingest-0")

    def Flush(self, request: Any, context: Any) -> pb.FlushResponse:
        raise errors.Paused(f"Table {request.table!r} is paused. Run `pxctl persist resume`.", table=request.table)

    def ListLogs(self, request: Any, context: Any) -> pb.ListLogsResponse:
        raise KeyError("secret")

    def Watermarks(self, request: Any, context: Any) -> pb.WatermarksResponse:
        self.release.wait(T)
        return pb.WatermarksResponse()


class Query(query_pb2_grpc.QueryServiceServicer):
    def Query(self, request: Any, context: Any) -> Iterator[query_pb2.Answer]:
        yield query_pb2.Answer()
        if request.sql == "fail":
            raise errors.Stale("The token was not reached within 2,000 ms.", retry_after_s=0.5)
        yield query_pb2.Answer()


@pytest.fixture
def servicer() -> Ingest:
    return Ingest()


@pytest.fixture
def door(servicer: Ingest) -> Iterator[GrpcDoor]:
    services = [
        GrpcService(INGEST, ingest.add_IngestServiceServicer_to_server, servicer),
        GrpcService(QUERY, query_pb2_grpc.add_QueryServiceServicer_to_server, Query()),
    ]
    door = GrpcDoor(services, "127.0.0.1", 0)
    door.start()
    yield door
    servicer.release.set()
    assert door.stop(T) == []


@pytest.fixture
def channel(door: GrpcDoor) -> Iterator[grpc.Channel]:
    with connect(door.address, timeout_s=T) as channel:
        yield channel


def test_reflection_lists_the_services_and_describes_them(door: GrpcDoor) -> None:
    with grpc.insecure_channel(door.address) as plain:
        database = ProtoReflectionDescriptorDatabase(plain)
        assert {INGEST, QUERY, "grpc.health.v1.Health"} <= set(database.get_services())
        service = DescriptorPool(database).FindServiceByName(INGEST)
        assert "Flush" in service.methods_by_name


def test_health_follows_readiness_for_the_server_and_each_service(door: GrpcDoor, channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for serving, expected in ((False, "NOT_SERVING"), (True, "SERVING")):
        door.set_serving(serving)
        for name in ("", INGEST, QUERY):
            status = health.Check(health_pb2.HealthCheckRequest(service=name)).status
            assert health_pb2.HealthCheckResponse.ServingStatus.Name(status) == expected


def test_health_watchers_leave_threads_for_calls(servicer: Ingest) -> None:
    service = GrpcService(INGEST, ingest.add_IngestServiceServicer_to_server, servicer)
    door = GrpcDoor([service], "127.0.0.1", 0, workers=4)
    door.start()
    with connect(door.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        first = health.Watch(health_pb2.HealthCheckRequest())
        assert next(first).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(errors.Overloaded, match="Use Check"):
            next(health.Watch(health_pb2.HealthCheckRequest()))
        assert ingest.IngestServiceStub(channel).Status(pb.StatusRequest()).name == "ingest-0"
        door.set_serving(True)
        assert next(first).status == health_pb2.HealthCheckResponse.SERVING
        first.cancel()
    assert door.stop(T) == []


def test_a_stub_raises_the_class_that_the_servicer_raised(channel: grpc.Channel) -> None:
    with pytest.raises(errors.Paused, match="Table 'trades' is paused") as raised:
        ingest.IngestServiceStub(channel).Flush(pb.FlushRequest(table="trades"))
    assert raised.value.details == {"table": "trades"}


def test_a_plain_client_sees_status_message_and_the_json(door: GrpcDoor) -> None:
    with grpc.insecure_channel(door.address) as plain, pytest.raises(grpc.RpcError) as raised:
        ingest.IngestServiceStub(plain).Flush(pb.FlushRequest(table="trades"), timeout=T)
    error: Any = raised.value
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details().startswith("Table 'trades' is paused")
    assert METADATA_KEY in dict(error.trailing_metadata())


def test_a_bug_shows_an_id_and_no_traceback(channel: grpc.Channel, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(errors.InternalError) as raised:
        ingest.IngestServiceStub(channel).ListLogs(pb.ListLogsRequest())
    assert "secret" not in str(raised.value.to_json())
    log = capsys.readouterr().err
    assert raised.value.details["error_id"] in log
    assert "KeyError: 'secret'" in log


def test_a_stream_fails_typed_after_its_first_messages(channel: grpc.Channel) -> None:
    stub = query_pb2_grpc.QueryServiceStub(channel)
    assert len(list(stub.Query(query_pb2.Query(sql="SELECT 1")))) == 2
    answers = stub.Query(query_pb2.Query(sql="fail"))
    next(answers)
    with pytest.raises(errors.Stale) as raised:
        next(answers)
    assert raised.value.retry_after_s == 0.5


def test_a_method_that_is_not_served_says_so_and_is_no_failure_in_the_log(
    channel: grpc.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(errors.InvalidArgument, match="does not serve the method"):
        ingest.IngestServiceStub(channel).Evict(pb.EvictRequest())
    assert not caplog.records


def test_every_call_has_a_deadline(door: GrpcDoor) -> None:
    with connect(door.address, timeout_s=0.2) as channel, pytest.raises(errors.DeadlineExceeded):
        ingest.IngestServiceStub(channel).Watermarks(pb.WatermarksRequest())
    with connect(door.address) as channel, pytest.raises(errors.DeadlineExceeded):
        ingest.IngestServiceStub(channel).Watermarks(pb.WatermarksRequest(), timeout=0.2)


def test_no_server_is_unavailable(free_ports: Any) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with connect(address) as channel, pytest.raises(errors.Unavailable, match=f"{address} does not answer"):
        ingest.IngestServiceStub(channel).Status(pb.StatusRequest())


def test_a_taken_port_is_refused_not_shared(door: GrpcDoor) -> None:
    with pytest.raises(errors.PortTaken, match=rf"Port {door.port} on 127.0.0.1 \(`grpc_port`\) is taken"):
        GrpcDoor([], "127.0.0.1", door.port)


def test_stop_cancels_what_does_not_end_in_time(servicer: Ingest) -> None:
    service = GrpcService(INGEST, ingest.add_IngestServiceServicer_to_server, servicer)
    door = GrpcDoor([service], "127.0.0.1", 0)
    door.start()
    outcome: list[BaseException] = []

    def call() -> None:
        try:
            with connect(door.address) as channel:
                ingest.IngestServiceStub(channel).Watermarks(pb.WatermarksRequest())
        except errors.ProxistError as error:
            outcome.append(error)

    with connect(door.address) as channel:
        ingest.IngestServiceStub(channel).Status(pb.StatusRequest())
    caller = threading.Thread(target=call)
    caller.start()
    pending = door.stop(0.2)
    servicer.release.set()
    caller.join(T)
    assert isinstance(outcome[0], errors.Unavailable)
    assert pending in ([], ["gRPC calls"])
