"""Spans: OpenTelemetry where it is switched on, two comparisons where it is not.

A service is switched on by the standard variables (`setup.configure`), a program that uses the SDK by setting a tracer
provider of its own. Until then every function here answers OFF, whose methods do nothing: less than a microsecond.

    with tracing.span("hot.read") as span:       # a step: child of the thread's current span, nothing without one
        span.set("proxist.shard.id", 7)

    with tracing.serve("…/DoGet", headers):      # a door: continues the caller's trace, or begins one
    with tracing.call("last_by trades"):         # a client's call: child of the current span, or begins one

A step whose parent was not sampled costs nothing either. Attributes never hold a symbol, a row, a secret, a path or a
statement's text; of an error a span says the code, not the message.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, Self

from proxist.errors import ProxistError

LINKS_MAX = 64
"""Links of one span; OpenTelemetry's own default limit is 128."""
TRACEPARENT = "traceparent"
SCOPE = "proxist"

Attributes = Mapping[str, Any]


class Span(Protocol):
    """One operation. As a context manager it is the thread's current span inside, and ends with the block."""

    recording: bool
    """False: nobody will see it, so nothing need be found out for it."""

    @property
    def traceparent(self) -> str | None:
        """The W3C value that makes somebody else's span a child of this one; None while tracing is off."""

    def set(self, name: str, value: Any) -> None:
        """An attribute; None sets none."""

    def fail(self, error: BaseException | str) -> None:
        """The operation failed: `error.type` says as what, a text as it is and an error by its code."""

    def step(self, name: str, start_ns: int, end_ns: int, attributes: Attributes | None = None) -> None:
        """A child that is over already; wall time."""

    def end(self) -> None:
        """Once, where it is no context manager."""

    def current(self) -> Span:
        """A context manager that makes this the thread's current span, and leaves its end to somebody else."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: Any) -> None: ...


class _Off:
    """Tracing is off, or this span is in no trace."""

    __slots__ = ()
    recording = False
    traceparent: str | None = None

    def set(self, name: str, value: Any) -> None:
        pass

    def fail(self, error: BaseException | str) -> None:
        pass

    def step(self, name: str, start_ns: int, end_ns: int, attributes: Attributes | None = None) -> None:
        pass

    def end(self) -> None:
        pass

    def current(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, at: object) -> None:
        pass


OFF = _Off()
_api: Any = None
"""`proxist.telemetry.spans` once tracing is on."""
_decided = False
"""A service decides at its start; a client program is looked at again and again, for it may set its provider later."""


def on() -> bool:
    """Whether spans are made in this process."""
    return _api is not None or (not _decided and _adopt())


def span(name: str, attributes: Attributes | None = None) -> Span:
    """A step inside the current span."""
    return OFF if _api is None else _api.inner(name, "internal", attributes)


def outgoing(name: str, attributes: Attributes | None = None) -> Span:
    """A call to another process (kind CLIENT), inside the current span."""
    return OFF if _api is None else _api.inner(name, "client", attributes)


def call(name: str, attributes: Attributes | None = None) -> Span:
    """A client program's call (kind CLIENT): inside its current span, or a trace of its own. Not yet current, so it may
    also be ended on another thread."""
    return _api.entry(name, "client", None, attributes) if on() else OFF


def serve(name: str, carrier: Mapping[str, str] | None, attributes: Attributes | None = None) -> Span:
    """A door's call (kind SERVER). `carrier` has the caller's headers in lower case; without any, the current span or a
    new trace."""
    return OFF if _api is None else _api.entry(name, "server", carrier, attributes)


def linked(name: str, links: Iterable[str], attributes: Attributes | None = None) -> Span:
    """A trace of its own (kind CONSUMER) that is linked to the spans with these traceparents; OFF where there are none."""
    return OFF if _api is None else _api.linked(name, links, attributes)


def headers() -> dict[str, str]:
    """What carries the current span to another process, {} where there is none; lower-case names."""
    return {} if _api is None else _api.headers()


def traceparent() -> str | None:
    """The current span's, None where there is none."""
    return None if _api is None else _api.traceparent()


def log_ids() -> tuple[str, str] | None:
    """(trace id, span id) of the current span, in hex."""
    return None if _api is None else _api.log_ids()


def error_type(error: BaseException) -> str:
    """The low-cardinality name of an error: its public code, else its class."""
    return error.code if isinstance(error, ProxistError) else type(error).__name__


def decide(api: Any) -> None:
    """Tracing is on with `api`, or off for good with None: the process will not be looked at again."""
    global _api, _decided
    _api, _decided = api, True


def undecide() -> None:
    """Back to the state of a process that has decided nothing; for tests."""
    global _api, _decided
    _api, _decided = None, False


def _adopt() -> bool:
    """Take part where the program set a tracer provider; it can be set once only, so a found one stays."""
    module = sys.modules.get("opentelemetry.trace")
    if module is None or getattr(module, "_TRACER_PROVIDER", None) is None:
        return False
    from proxist.telemetry import spans

    global _api
    _api = spans.Api(module.get_tracer(SCOPE))
    return True


class Stages:
    """The steps that several operations go through together: each gets them all as children."""

    __slots__ = ("_at_ns", "_clock", "_spans", "_steps")

    def __init__(self, spans: list[Span], clock: Any) -> None:
        """`clock()` is wall time in nanoseconds."""
        self._spans = spans
        self._clock = clock
        self._at_ns: int = clock()
        self._steps: list[tuple[str, int, int]] = []

    def reached(self, name: str) -> None:
        """The step `name` is over; the next one begins now."""
        now_ns = self._clock()
        self._steps.append((name, self._at_ns, now_ns))
        self._at_ns = now_ns

    def tell(self) -> None:
        """Make the spans; after whoever waits has been answered."""
        for span in self._spans:
            for name, start_ns, end_ns in self._steps:
                span.step(name, start_ns, end_ns, {"proxist.group.batches": len(self._spans)})
