"""The spans of `proxist.telemetry.tracing` where tracing is on; imported only then, for it needs OpenTelemetry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Self

from opentelemetry import context as otel_context
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from proxist.telemetry.tracing import LINKS_MAX, OFF, Attributes, Span, error_type

_KINDS = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT, "server": SpanKind.SERVER}
_TRACEPARENT = re.compile(r"^(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?$")


class Api:
    """What the functions of `tracing` do while tracing is on."""

    def __init__(self, tracer: Tracer, *, trust_callers: bool = True) -> None:
        """Without `trust_callers` doors begin a new trace whatever a caller sends."""
        self._tracer = tracer
        self._trust_callers = trust_callers

    def inner(self, name: str, kind: str, attributes: Attributes | None) -> Span:
        if not get_current_span().is_recording():
            return OFF  # in no trace, or in one that is not sampled: its context stays the current one
        return Recorded(self._tracer, self._tracer.start_span(name, kind=_KINDS[kind], attributes=attributes))

    def entry(self, name: str, kind: str, carrier: Mapping[str, str] | None, attributes: Attributes | None) -> Span:
        parent = None
        if carrier and self._trust_callers:
            parent = propagate.extract(carrier)
        elif carrier:
            parent = Context()
        return Recorded(self._tracer, self._tracer.start_span(name, parent, _KINDS[kind], attributes))

    def linked(self, name: str, links: Iterable[str], attributes: Attributes | None) -> Span:
        found = [Link(one) for one in map(parse_traceparent, links) if one is not None][:LINKS_MAX]
        if not found:
            return OFF
        started = self._tracer.start_span(name, Context(), SpanKind.CONSUMER, attributes, found)
        return Recorded(self._tracer, started)

    def headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier

    def traceparent(self) -> str | None:
        return _format(get_current_span().get_span_context())

    def log_ids(self) -> tuple[str, str] | None:
        context = get_current_span().get_span_context()
        return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None


class Recorded:
    """A span of OpenTelemetry; one that is not sampled only carries its context on."""

    __slots__ = ("_owned", "_span", "_token", "_tracer", "recording")

    def __init__(self, tracer: Tracer, span: OtelSpan, *, owned: bool = True) -> None:
        self._tracer = tracer
        self._span = span
        self._owned = owned
        self._token: Any = None
        self.recording = span.is_recording()

    @property
    def traceparent(self) -> str | None:
        return _format(self._span.get_span_context())

    def set(self, name: str, value: Any) -> None:
        if self.recording and value is not None:
            self._span.set_attribute(name, value)

    def fail(self, error: BaseException | str) -> None:
        if self.recording:
            self._span.set_attribute("error.type", error if isinstance(error, str) else error_type(error))
            self._span.set_status(StatusCode.ERROR)

    def step(self, name: str, start_ns: int, end_ns: int, attributes: Attributes | None = None) -> None:
        if self.recording:
            inside = set_span_in_context(self._span, Context())
            child = self._tracer.start_span(name, inside, attributes=attributes, start_time=start_ns)
            child.end(end_ns)

    def end(self) -> None:
        if self._owned:
            self._span.end()

    def current(self) -> Recorded:
        return Recorded(self._tracer, self._span, owned=False)

    def __enter__(self) -> Self:
        self._token = otel_context.attach(set_span_in_context(self._span))
        return self

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        otel_context.detach(self._token)
        if self._owned:
            if error is not None:
                self.fail(error)
            self._span.end()


def parse_traceparent(text: str) -> SpanContext | None:
    """The remote span that a traceparent names, None where it is none."""
    found = _TRACEPARENT.match(text)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def _format(context: SpanContext) -> str | None:
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
