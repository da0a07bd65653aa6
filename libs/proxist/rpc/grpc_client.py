"""Channels whose stubs raise our errors: `stub = XStub(connect("127.0.0.1:7441"))`, then `stub.Method(request)`.

Every call has a deadline: the one passed as `timeout=`, in seconds, else the channel's `timeout_s`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from proxist.auth.outgoing import Credential, header
from proxist.rpc.status import from_grpc
from proxist.rpc.tls import Tls, own
from proxist.rpc.tls_channel import TlsChannel
from proxist.rpc.tracing import grpc_metadata, grpc_outgoing

TIMEOUT_S = 10.0
MESSAGE_BYTES_MAX = 16 << 20
"""Of both directions: gRPC's default of 4 MB is small for a status of many shards; bulk travels over Flight."""


_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),
    # keepalive_timeout alone left a frozen peer unnoticed for 65 s; ping_timeout is what counts
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy of the environment is for the web: it would read tokens, and need not reach the cluster.
    ("grpc.enable_http_proxy", 0),
]


def connect(
    address: str, *, timeout_s: float = TIMEOUT_S, credential: Credential | None = None, tls: Tls | None = None
) -> grpc.Channel:
    """A lazy channel to `host:port`; close it. A frozen peer is noticed after about 15 s, a dead one at once.

    With TLS where `tls`, by default the process' own, has a file; renewed files count from the next call
    on. Raises ConfigError where they cannot be used.
    """
    shown = tls or own()
    secure = shown.asked
    channel = TlsChannel(address, shown, _OPTIONS) if secure else grpc.insecure_channel(address, options=_OPTIONS)
    return grpc.intercept_channel(channel, _TypedErrors(address, timeout_s, credential, secure))


class _Details(grpc.ClientCallDetails):
    """The caller's details with a deadline."""

    def __init__(self, details: Any, timeout_s: float, credential: Credential | None) -> None:
        self.method = details.method
        self.timeout = timeout_s if details.timeout is None else details.timeout
        self.metadata = grpc_metadata(details.metadata)
        if auth := header(credential):
            self.metadata = [*(self.metadata or ()), *auth]
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


class _TypedErrors(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, address: str, timeout_s: float, credential: Credential | None, secure: bool) -> None:
        self._address = address
        self._secure = secure
        self._credential = credential
        self._timeout_s = timeout_s

    def _unary(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        with grpc_outgoing(details.method, self._address):
            call = continuation(_Details(details, self._timeout_s, self._credential), request)
            error = call.exception()
            if error is not None:
                raise from_grpc(error, self._address, secure=self._secure) from None
            return call

    def _stream(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        call = continuation(_Details(details, self._timeout_s, self._credential), request)
        return TypedStream(call, self._address, self._secure)

    intercept_unary_unary = _unary
    intercept_stream_unary = _unary
    intercept_unary_stream = _stream
    intercept_stream_stream = _stream


class TypedStream:
    """A response stream: iterate for messages, `cancel` from any thread. Everything else is the gRPC call's."""

    def __init__(self, call: Any, address: str, secure: bool) -> None:
        self._call = call
        self._address = address
        self._secure = secure

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise from_grpc(error, self._address, secure=self._secure) from None

    def cancel(self) -> None:
        self._call.cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)
