"""The gRPC door of a service: reflection, health, a bounded pool, and one interceptor that types every error."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from proxist.auth.guard import Guard, open_guard
from proxist.errors import Overloaded
from proxist.rpc import ports
from proxist.rpc.credentials import admit_grpc
from proxist.rpc.grpc_client import MESSAGE_BYTES_MAX
from proxist.rpc.server_tracing import GrpcTracing
from proxist.rpc.status import grpc_status
from proxist.rpc.tls import PLAIN, Tls
from proxist.telemetry import tracing

WORKERS = 16
"""Threads for calls. A call that waits (Flush) holds one, so there are more than cores."""
QUEUED_MAX = 64
"""Calls beyond the pool that may wait for a thread; more are refused with RESOURCE_EXHAUSTED by gRPC itself."""


@dataclass(frozen=True)
class GrpcService:
    """One service: its full name, the generated `add_…_to_server`, and the servicer."""

    name: str
    add: Callable[[Any, Any], None]
    servicer: Any


class GrpcDoor:
    """Listens on `host:port` (0: a free port, see `port`) when constructed; serves after `start`.

    Raises PortTaken or ConfigError, naming `grpc_port` or the file of `tls` that cannot be used. Servicers raise any
    ProxistError; callers made with `proxist.rpc.grpc_client.connect` raise the same class.
    """

    def __init__(
        self,
        services: Sequence[GrpcService],
        host: str,
        port: int,
        *,
        workers: int = WORKERS,
        guard: Guard | None = None,
        tls: Tls = PLAIN,
    ) -> None:
        errors = _Errors(guard or open_guard())
        self._pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="grpc")
        self._server = grpc.server(
            self._pool,
            interceptors=[GrpcTracing(), errors] if tracing.on() else [errors],
            maximum_concurrent_rpcs=workers + QUEUED_MAX,
            options=[
                ("grpc.so_reuseport", 0),  # on, a second server would share the port silently
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        self._names = [service.name for service in services]
        self._health = _Health(watchers_max=max(1, workers // 4))
        for service in services:
            service.add(service.servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self.host = host
        try:
            self.port: int = self._listen(f"{host}:{port}", tls)
        except RuntimeError:
            self._pool.shutdown(wait=False)
            raise ports.bind_error(host, port, "grpc_port") from None

    def _listen(self, address: str, tls: Tls) -> int:
        if tls.serves:
            return int(self._server.add_secure_port(address, tls.grpc_server()))
        return int(self._server.add_insecure_port(address))

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Calls are answered from now on; health says NOT_SERVING until `set_serving`."""
        self.set_serving(False)
        self._server.start()

    def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 answers, for the server and for each of its services."""
        served = health_pb2.HealthCheckResponse
        for name in ["", *self._names]:
            self._health.set(name, served.SERVING if serving else served.NOT_SERVING)

    def stop(self, grace_s: float) -> list[str]:
        """Close; open calls get `grace_s` and are then cancelled. Names what is still running afterwards."""
        self._health.enter_graceful_shutdown()
        stopped = self._server.stop(grace_s)
        ended = stopped.wait(grace_s + 1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)
        return [] if ended else ["gRPC calls"]


class _Health(health.HealthServicer):
    """grpc.health.v1, where no more than `watchers_max` Watch streams hold a thread of the pool.

    The library's own way without threads deadlocks: `set` sends under the lock that a client's cancel waits for.
    """

    def __init__(self, watchers_max: int) -> None:
        self._watchers = threading.BoundedSemaphore(watchers_max)
        super().__init__(experimental_non_blocking=False)

    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> Any:
        if not self._watchers.acquire(blocking=False):
            raise Overloaded("As many health watchers as this node takes are there. Use Check, or watch another node.")
        if not context.add_callback(self._watchers.release):
            self._watchers.release()
        return super().Watch(request, context, send_response_callback)


class _Errors(grpc.ServerInterceptor):
    """The guard before every method, and: whatever a servicer raises leaves as a status of the table, with the error's JSON in the trailing metadata."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None:
            return None
        if handler.response_streaming:
            method = handler.stream_stream if handler.request_streaming else handler.unary_stream
            wrapped = _stream(method, self._guard, details.method)
        else:
            method = handler.stream_unary if handler.request_streaming else handler.unary_unary
            wrapped = _unary(method, self._guard, details.method)
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return make(wrapped, handler.request_deserializer, handler.response_serializer)


def _unary(method: Callable[[Any, Any], Any], guard: Guard, name: str) -> Callable[[Any, Any], Any]:
    def call(request: Any, context: Any) -> Any:
        try:
            caller = admit_grpc(guard, context, name)
            answer = method(request, context)
            caller.check_asked()
            return answer
        except Exception as error:
            _abort(context, error)

    return call


def _stream(
    method: Callable[[Any, Any], Iterator[Any]], guard: Guard, name: str
) -> Callable[[Any, Any], Iterator[Any]]:
    def call(request: Any, context: Any) -> Iterator[Any]:
        try:
            admit_grpc(guard, context, name)
            yield from method(request, context)
        except Exception as error:
            if isinstance(error, grpc.RpcError) and not context.is_active():
                raise  # the caller went away while its requests were read, as grpcurl does after reflection
            _abort(context, error)

    return call


def _abort(context: Any, error: Exception) -> NoReturn:
    # What the generated base class raises for a method that its servicer leaves out, as the library's health does with List.
    if isinstance(error, NotImplementedError):
        text = "This server does not serve the method. Its reflection names the others."
        context.abort(grpc.StatusCode.UNIMPLEMENTED, text)
    if context.code() is not None:  # the servicer aborted by itself; its status stands
        raise error
    code, message, metadata = grpc_status(error)
    context.set_trailing_metadata(metadata)
    context.abort(code, message)
    raise AssertionError("abort raises")
