"""Trace context on the way out: the current span in Flight's headers and gRPC's metadata, and a span per call.

Imported by the SDK too, so it needs nothing that a client has not; the doors' side is `server_tracing`.
"""

from __future__ import annotations

from typing import Any

from proxist.telemetry import tracing
from proxist.telemetry.tracing import Span

FLIGHT_SERVICE = "arrow.flight.protocol.FlightService"


def flight_headers() -> list[tuple[bytes, bytes]]:
    """The current span for a client's call options."""
    return [(name.encode(), value.encode()) for name, value in tracing.headers().items()]


def flight_outgoing(method: str, uri: str, action: str | None = None) -> Span:
    """A CLIENT span around a call to another Flight door, inside the current span."""
    span = tracing.outgoing(f"{FLIGHT_SERVICE}/{method}")
    if span.recording:
        _describe(span, f"{FLIGHT_SERVICE}/{method}", *address_of(uri))
        span.set("proxist.flight.action", action)
    return span


def grpc_outgoing(method: str, address: str) -> Span:
    """A CLIENT span around a unary call, inside the current span."""
    span = tracing.outgoing(method.lstrip("/"))
    if span.recording:
        _describe(span, method.lstrip("/"), *address_of(address))
    return span


def grpc_metadata(metadata: Any) -> Any:
    """The call's metadata with the current span."""
    carrier = tracing.headers()
    return metadata if not carrier else [*(metadata or ()), *carrier.items()]


def rpc_attributes(method: str) -> dict[str, str]:
    return {"rpc.system.name": "grpc", "rpc.method": method}


def _describe(span: Span, method: str, host: str, port: int | None) -> None:
    for name, value in rpc_attributes(method).items():
        span.set(name, value)
    span.set("server.address", host)
    span.set("server.port", port)


def address_of(uri: str) -> tuple[str, int | None]:
    """Host and port of `grpc://host:port` or `host:port`; a unix socket is this host, its path is nobody's business."""
    scheme, found, rest = uri.rpartition("://")
    if found and scheme.endswith("unix"):
        return "localhost", None
    host, _, port = rest.rpartition(":")
    return host, int(port) if port.isdigit() else None


def carrier_of(message: dict[str, Any]) -> dict[str, str] | None:
    """Takes the trace context out of a message of a stream that carries many callers' calls."""
    carried = message.pop(tracing.TRACEPARENT, None)
    return {tracing.TRACEPARENT: carried} if isinstance(carried, str) else None
