"""Trace context at the doors: Flight headers, gRPC metadata, HTTP headers; one SERVER span per call.

Nothing of this is installed, or runs, while tracing is off. A DoPut or DoExchange stream without trace context has no
span of its own: its batches and queries have theirs (their messages may carry `traceparent`), and a stream may be days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import grpc
from pyarrow import flight
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxist.auth.rules import RULES
from proxist.errors import ProxistError
from proxist.rpc.status import status_of
from proxist.rpc.tracing import FLIGHT_SERVICE, rpc_attributes
from proxist.telemetry import tracing
from proxist.telemetry.tracing import Span

MIDDLEWARE = "proxist-trace"
_END = object()


# ---- Flight -----------------------------------------------------------------------------------------------------------


class _Context(flight.ServerMiddleware):
    """One call's headers, and the span that ends when the last byte of the answer is sent."""

    def __init__(self, carrier: dict[str, str]) -> None:
        super().__init__()
        self.carrier = carrier
        self.span: Span | None = None

    def call_completed(self, exception: BaseException | None) -> None:
        span, self.span = self.span, None
        if span is not None:
            span.end()


class _Contexts(flight.ServerMiddlewareFactory):
    def start_call(self, info: Any, headers: Mapping[str, list[Any]]) -> _Context:
        return _Context(_carrier(headers.items()))


def flight_middleware() -> dict[str, flight.ServerMiddlewareFactory]:
    """What a Flight server is constructed with; nothing while tracing is off."""
    return {MIDDLEWARE: _Contexts()} if tracing.on() else {}


def flight_call(context: Any, name: str, local: bool) -> FlightCall | tracing.Span:
    """A context manager around the handler of the call `name`, "DoGet" or "DoAction flush"."""
    if not tracing.on():
        return tracing.OFF
    middleware = context.get_middleware(MIDDLEWARE)
    carrier = {} if middleware is None else middleware.carrier
    method, _, action = name.partition(" ")
    if method in ("DoPut", "DoExchange") and tracing.TRACEPARENT not in carrier:
        return tracing.OFF
    span = tracing.serve(f"{FLIGHT_SERVICE}/{method}", carrier, rpc_attributes(f"{FLIGHT_SERVICE}/{method}"))
    span.set("network.transport", "unix" if local else "tcp")
    span.set("proxist.flight.action", action if f"flight/DoAction:{action}" in RULES else None)
    return FlightCall(span, middleware if method == "DoGet" else None)


class FlightCall:
    """The handler's part of a call's span. A DoGet answer is sent after its handler has returned."""

    def __init__(self, span: Span, ends_later: _Context | None) -> None:
        self._span = span
        self._ends_later = ends_later
        self._current = span.current()

    def __enter__(self) -> FlightCall:
        self._current.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._current.__exit__(kind, error, at)
        _finish(self._span, error)
        if self._ends_later is None or error is not None:
            self._span.end()
        else:
            self._ends_later.span = self._span


# ---- gRPC -------------------------------------------------------------------------------------------------------------


class GrpcTracing(grpc.ServerInterceptor):
    """A SERVER span per call of our services; outermost, so that it sees the status that the others set."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        name = details.method.lstrip("/")
        if handler is None or not tracing.on() or not name.startswith("proxist."):
            return handler
        carrier = _carrier(details.invocation_metadata or ())
        if handler.response_streaming:
            method = handler.stream_stream if handler.request_streaming else handler.unary_stream
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(_streaming(method, name, carrier), handler.request_deserializer, handler.response_serializer)
        method = handler.stream_unary if handler.request_streaming else handler.unary_unary
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(_single(method, name, carrier), handler.request_deserializer, handler.response_serializer)


def _single(method: Any, name: str, carrier: dict[str, str]) -> Callable[[Any, Any], Any]:
    def call(request: Any, context: Any) -> Any:
        span = tracing.serve(name, carrier, rpc_attributes(name))
        try:
            with span.current():
                return method(request, context)
        finally:
            _grpc_status(span, context)
            span.end()

    return call


def _streaming(method: Any, name: str, carrier: dict[str, str]) -> Callable[[Any, Any], Iterator[Any]]:
    def call(request: Any, context: Any) -> Iterator[Any]:
        span = tracing.serve(name, carrier, rpc_attributes(name))
        try:
            with span.current():
                answers = iter(method(request, context))
            while True:
                with span.current():  # message by message: between them the thread may work for somebody else
                    answer = next(answers, _END)
                if answer is _END:
                    break
                yield answer
        finally:
            _grpc_status(span, context)
            span.end()

    return call


def _grpc_status(span: Span, context: Any) -> None:
    code = context.code() or grpc.StatusCode.OK
    span.set("rpc.response.status_code", code.name)
    if code is not grpc.StatusCode.OK:
        span.fail(code.name)


# ---- HTTP -------------------------------------------------------------------------------------------------------------


class HttpTracing:
    """ASGI middleware: a SERVER span for each request that carries trace context. Probes and scrapes carry none, and
    would fill a store with nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        carrier = _carrier(scope.get("headers") or ()) if scope["type"] == "http" and tracing.on() else {}
        if tracing.TRACEPARENT not in carrier:
            await self._app(scope, receive, send)
            return
        path = scope["path"] if f"http{scope['path']}" in RULES else None  # any other one may hold anything
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        name = method if method in _METHODS else "HTTP"
        with tracing.serve(name, carrier, {"http.request.method": method, "url.scheme": "http"}) as span:

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set("http.response.status_code", message["status"])
                    span.set("http.route", path)
                    span.set("url.path", path)
                    if message["status"] >= 500:
                        span.fail(str(message["status"]))
                await send(message)

            await self._app(scope, receive, sending)


# ---- words ------------------------------------------------------------------------------------------------------------


def _carrier(headers: Any) -> dict[str, str]:
    """The headers that propagators may want, in lower case, each as one text."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = (name.decode("latin-1") if isinstance(name, bytes) else str(name)).lower()
        if key in _PROPAGATED or key.startswith(("x-b3-", "uber")):
            one = value[0] if isinstance(value, list) and value else value
            found[key] = one.decode("latin-1") if isinstance(one, bytes) else str(one)
    return found


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"})
_PROPAGATED = frozenset({tracing.TRACEPARENT, "tracestate", "baggage", "b3"})


def _finish(span: Span, error: BaseException | None) -> None:
    if not span.recording:
        return
    if error is None:
        span.set("rpc.response.status_code", "OK")
        return
    span.set("rpc.response.status_code", status_of(error).grpc if isinstance(error, ProxistError) else "INTERNAL")
    span.fail(error)
