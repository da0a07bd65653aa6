"""`OTEL=1 make demo`: one write and one query of the demo as traces, each a tree with durations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from proxist.cli.feeds.tables import TRADES
from proxist.client.connection import Connection
from proxist.telemetry.collector import Collector, Seen, tree

SWITCH = "OTEL"
ARRIVE_S_MAX = 10.0


def wanted() -> bool:
    """Whether the demo is to show traces."""
    return os.environ.get(SWITCH, "").strip().lower() in ("1", "true", "yes", "on")


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that processes started inside send their spans to, of traces that the demo itself begins: the other
    thousands of calls cost, and show, nothing."""
    with Collector() as collector:
        before = dict(os.environ)
        os.environ.update(collector.environment(OTEL_TRACES_SAMPLER="parentbased_always_off"))
        try:
            yield collector
        finally:
            os.environ.clear()
            os.environ.update(before)


def show(connection: Connection, collector: Collector, rows: Any, say: Callable[[str], None]) -> None:
    """Write `rows` of trades, flush, and scan one symbol, whose older half is history, each under a span of ours; say the trees."""
    with _tracer(collector) as tracer:
        with tracer.start_as_current_span("one write") as written:
            connection.table(TRADES.name).write(rows)
        connection.flush(TRADES.name)
        with tracer.start_as_current_span("one query") as asked:
            connection.table(TRADES.name).scan([str(rows[TRADES.key][0])], ["price", "size"])
    write_id, query_id = (f"{span.get_span_context().trace_id:032x}" for span in (written, asked))
    collector.wait(lambda spans: _complete(spans, write_id), ARRIVE_S_MAX)
    collector.wait(lambda spans: any(span.name == "query.run" for span in spans), ARRIVE_S_MAX, query_id)
    spans = collector.spans()
    say("One write, from the client to ClickHouse (~ is the persister's batch that carried it):")
    for line in tree(_with_linked(spans, write_id)):
        say(f"  {line}")
    say("One query:")
    for line in tree([span for span in spans if span.trace_id == query_id]):
        say(f"  {line}")


@contextmanager
def _tracer(collector: Collector) -> Iterator[Any]:
    """The demo as a program that traces: its provider is switched on for these calls alone."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    from proxist.telemetry import setup, tracing
    from proxist.telemetry.spans import Api

    provider = setup.provider("demo", "demo")
    provider.sampler = ALWAYS_ON
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector.endpoint, insecure=True)))
    tracer = provider.get_tracer(tracing.SCOPE)
    tracing.decide(Api(tracer))
    try:
        yield tracer
    finally:
        tracing.decide(None)
        provider.shutdown()


def _complete(spans: Sequence[Seen], trace_id: str) -> bool:
    names = {span.name for span in _with_linked(spans, trace_id)}
    return {"ingest.batch", "hot.apply", "persist.batch"} <= names


def _with_linked(spans: Sequence[Seen], trace_id: str) -> list[Seen]:
    """The spans of a trace, and of the traces that are linked to it."""
    ids = {trace_id, *(span.trace_id for span in spans if any(link[0] == trace_id for link in span.links))}
    return [span for span in spans if span.trace_id in ids]
