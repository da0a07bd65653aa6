"""A small OTLP receiver over gRPC: what the demo and the tests send their spans to. It keeps them in memory."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

SPANS_MAX = 100_000
"""What comes after these is counted and dropped."""
THREADS = 4
_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")


@dataclass(frozen=True)
class Seen:
    """One span as it came; ids in hex, times in wall nanoseconds. `links` are (trace id, span id)."""

    name: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    links: tuple[tuple[str, str], ...]
    failed: bool

    @property
    def ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Listens on a free loopback port when constructed. Thread-safe; a context manager. `_changed` guards the spans."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._spans: list[Seen] = []
        self.dropped = 0
        pool = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="collector")
        self._pool = pool
        self._server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        self._server.start()

    def environment(self, **more: str) -> dict[str, str]:
        """The variables that make a process send its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100", **more}

    def Export(self, request: Any, context: Any) -> Any:
        """OTLP's one method."""
        found = [
            _seen(span, dict(_attributes(of_service.resource.attributes)))
            for of_service in request.resource_spans
            for scope in of_service.scope_spans
            for span in scope.spans
        ]
        with self._changed:
            room = max(0, SPANS_MAX - len(self._spans))
            self._spans += found[:room]
            self.dropped += len(found) - min(room, len(found))
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self, trace_id: str | None = None) -> list[Seen]:
        """What has come, of one trace where it is named; by start."""
        with self._changed:
            return _sorted(self._spans, trace_id)

    def wait(self, enough: Callable[[Sequence[Seen]], Any], timeout_s: float, trace_id: str | None = None) -> bool:
        """Until `enough(spans)`; False after `timeout_s`. Spans come in any order, parents after their children."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(enough(_sorted(self._spans, trace_id))), timeout_s)

    def close(self) -> None:
        self._server.stop(0.2).wait()
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _sorted(spans: Sequence[Seen], trace_id: str | None) -> list[Seen]:
    return sorted((one for one in spans if trace_id in (None, one.trace_id)), key=lambda one: one.start_ns)


def _seen(span: Any, resource: dict[str, Any]) -> Seen:
    return Seen(
        name=span.name,
        service=str(resource.get("service.instance.id", resource.get("service.name", "?"))),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=_KINDS[span.kind],
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=dict(_attributes(span.attributes)),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        failed=span.status.code == 2,
    )


def _attributes(pairs: Any) -> list[tuple[str, Any]]:
    return [(pair.key, getattr(pair.value, str(pair.value.WhichOneof("value")), None)) for pair in pairs]


def tree(spans: Sequence[Seen]) -> list[str]:
    """The spans of one trace as lines: indented under their parents, with duration, service and what they are about.

    Batches that are linked to a span stand under it too, marked with `~`.
    """
    ids = {span.span_id for span in spans}
    lines: list[str] = []

    def add(span: Seen, depth: int, linked: bool) -> None:
        mark = "~ " if linked else ""
        label = "  " * depth + mark + span.name
        lines.append(f"{label:<58} {span.ms:>9.3f} ms  {span.service:<16} {_about(span)}".rstrip())
        for child in spans:
            if child.parent_id == span.span_id:
                add(child, depth + 1, False)
            elif any(link[1] == span.span_id for link in child.links):
                add(child, depth + 1, True)

    for span in spans:
        if span.parent_id not in ids and not any(link[1] in ids for link in span.links):
            add(span, 0, False)
    return lines


_SHOWN = (
    "db.operation.batch.size", "db.response.returned_rows", "proxist.query.plan", "proxist.query.mode",
    "proxist.rows.hot", "proxist.rows.cold", "proxist.hot.path", "proxist.durability", "error.type",
)  # fmt: skip


def _about(span: Seen) -> str:
    return " ".join(f"{name.rpartition('.')[2]}={span.attributes[name]}" for name in _SHOWN if name in span.attributes)
