"""What telemetry costs: acks and last-by with it off, with metrics scraped, with traces sampled at 1 % and at 100 %."""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from benchmarks.calls import ROUNDS, Figures, figures, loaded, merge, percent
from benchmarks.report import Latency, Report, latency
from benchmarks.rows import Rows
from proxist.cli.demo_cluster import demo_cluster
from proxist.telemetry import setup, tracing
from proxist.telemetry.collector import Collector
from proxist.telemetry.spans import Api

SCRAPE_S = 1.0
SHARES = {"tracing at 1 %": "0.01", "tracing at 100 %": "1.0"}
"""With tracing the metrics are scraped too."""


def measure(report: Report, rows: Rows) -> None:
    """A cluster for off and scraped, turn by turn, and one per share of traces: a service decides that at its start."""
    _switched_off(report)
    off, scraped = _scraped_or_not(rows)
    found = {
        "off": off,
        "metrics only": scraped,
        **{mode: _traced(share, rows) for mode, share in SHARES.items()},
    }
    for what in off:
        report.section(f"telemetry's price: {what} (ratio: to off)")
        for mode, of_mode in found.items():
            one = of_mode[what]
            report.timed(mode, one, off[what].p50_s, percent(one.p50_s, off[what].p50_s))


def _switched_off(report: Report) -> None:
    """Every place where a traced write or query would make a span, while tracing is off."""
    tracing.decide(None)

    def places() -> None:
        with tracing.serve("door", None), tracing.span("query.run") as span:
            span.set("a", 1)
            with tracing.span("hot.read"), tracing.outgoing("SELECT"):
                tracing.headers()
        tracing.traceparent()
        tracing.on()

    repeat = 1_000
    found = latency(lambda: [places() for _ in range(repeat)], for_s=0.3)
    tracing.undecide()
    report.section("tracing by itself, switched off and on")
    each = Latency(found.p50_s / repeat, found.p99_s / repeat, found.count * repeat)
    report.timed("all places of a call together (target < 2 µs)", each)
    for what, sampler in (("not sampled", ALWAYS_OFF), ("sampled", ALWAYS_ON)):
        report.timed(f"an owner's spans of one write, {what}, unexported", _spans_of_a_write(sampler))


def _spans_of_a_write(sampler: Sampler) -> Latency:
    """In this process: the batch's span and the five steps of its group, or the decision that there are none."""
    provider = setup.provider("bench", "bench")
    provider.sampler = sampler
    tracing.decide(Api(provider.get_tracer("bench")))

    def write() -> None:
        batch = tracing.serve("ingest.batch", None)
        if batch.recording:
            stages = tracing.Stages([batch], time.time_ns)
            for step in ("ingest.validate", "ingest.dedup", "wal.write", "wal.flush", "hot.apply"):
                stages.reached(step)
            batch.end()
            stages.tell()

    found = latency(write, for_s=0.3)
    tracing.undecide()
    provider.shutdown()
    return found


def _scraped_or_not(rows: Rows) -> tuple[Figures, Figures]:
    """Metrics are counted in any case; what they cost beside that is the scrape."""
    off: Figures = {}
    scraped: Figures = {}
    with demo_cluster() as endpoints, loaded(endpoints, rows) as connection:
        for _ in range(ROUNDS):
            merge(off, figures(connection, rows, rounds=1))
            with _scraping(endpoints):
                merge(scraped, figures(connection, rows, rounds=1))
    return off, scraped


def _traced(share: str, rows: Rows) -> Figures:
    with _tracing(share), demo_cluster() as endpoints, loaded(endpoints, rows) as connection, _scraping(endpoints):
        return figures(connection, rows)


@contextmanager
def _tracing(share: str) -> Iterator[None]:
    """What the cluster's processes are started with, and the collector that they send to."""
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": share}
    before = dict(os.environ)
    with Collector() as collector:
        os.environ.update({**sampler, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint})
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def _scraping(endpoints: dict[str, Any]) -> Iterator[None]:
    """Every service's /metrics each second, as Prometheus would."""
    parts = [*endpoints["query"], *endpoints["ingest"], endpoints["persister"], endpoints["controlplane"]]
    ended = threading.Event()

    def scrape() -> None:
        while not ended.is_set():
            began = time.monotonic()
            for part in parts:
                urllib.request.urlopen(f"{part['http']}/metrics", timeout=10).read()
            ended.wait(max(0.0, SCRAPE_S - (time.monotonic() - began)))

    thread = threading.Thread(target=scrape, name="scrape")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
