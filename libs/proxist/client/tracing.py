"""The SDK in its caller's trace: a CLIENT span per query and per batch written, where the program has a tracer provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxist.rpc.tracing import address_of
from proxist.telemetry import tracing
from proxist.telemetry.tracing import OFF, Span

_VERBS = ("last_by", "first_by", "scan", "asof", "window", "bars", "sql")


def query_span(query: Mapping[str, Any], uri: str) -> Span:
    """Around one query. Its name is the verb and the table, never a key."""
    if not tracing.on():
        return OFF
    verb = next((one for one in _VERBS if one in query), "query")
    body = query.get(verb)
    table = body.get("right" if verb == "asof" else "table") if isinstance(body, Mapping) else None
    return _span(verb, table, uri)


def write_span(table: str, row_count: int) -> Span:
    """Of one batch from its submission to its ack; ended on the ack's thread."""
    if not tracing.on():
        return OFF
    span = _span("write", table, None)
    span.set("db.operation.batch.size", row_count)
    return span


def _span(verb: str, table: Any, uri: str | None) -> Span:
    named = isinstance(table, str)
    span = tracing.call(f"{verb} {table}" if named else verb)
    if span.recording:
        span.set("db.system.name", "proxist")
        span.set("db.operation.name", verb)
        span.set("db.collection.name", table if named else None)
        if uri is not None:
            host, port = address_of(uri)
            span.set("server.address", host)
            span.set("server.port", port)
    return span
