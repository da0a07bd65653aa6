"""What telemetry costs: acks and last-by with it off, with metrics scraped, with traces sampled at 1 % and at 100 %."""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from benchmarks.calls import calls, loaded
from benchmarks.floors import BATCH_ROWS
from benchmarks.paired import Variant, compare
from benchmarks.report import Latency, Report, latency
from benchmarks.rows import Rows
from proxist.cli.demo_cluster import demo_cluster
from proxist.model.ids import Offset
from proxist.telemetry import setup, tracing
from proxist.telemetry.collector import Collector
from proxist.telemetry.spans import Api
from proxist_ingest.counts import Counts

SCRAPE_S = 1.0
"""Of the turns with it: fifteen times as often as a Prometheus does by default here (`interval: 15s` of the chart)."""
SHARES = {"tracing at 1 %": "0.01", "tracing at 100 %": "1.0"}
"""With tracing the metrics are scraped too."""


def measure(report: Report, rows: Rows) -> None:
    """Three clusters at a time, of which the ones that are not asked rest: one without tracing, scraped or not, and one
    per share of traces, for a service decides that at its start."""
    _alone(report)
    with ExitStack() as running:
        plain = running.enter_context(demo_cluster())
        parts = {"off": plain, "metrics only": plain}
        parts |= {mode: running.enter_context(_traced(share)) for mode, share in SHARES.items()}
        made = {id(one): running.enter_context(_calls(one, rows)) for one in parts.values()}
        for what in made[id(plain)]:
            variants = {}
            for mode, endpoints in parts.items():
                pages = [] if mode == "off" else _pages(endpoints)  # its turns are as the others', with nothing to read
                variants[mode] = Variant(made[id(endpoints)][what], Scraper(pages).turn)
            found = compare(variants)
            report.section(f"telemetry's price: {what} (ratio: to off; median of paired differences, 95 % bounds)")
            for mode, one in found.items():
                report.timed(mode, one.typical, found["off"].typical.p50_s, "" if mode == "off" else str(one))


@contextmanager
def _calls(endpoints: dict[str, Any], rows: Rows) -> Iterator[dict[str, Callable[[], object]]]:
    with loaded(endpoints, rows) as connection, calls(connection, rows) as found:
        yield found


def _alone(report: Report) -> None:
    """Every place where a traced write or query would make a span, while tracing is off; and what an ack counts."""
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
    report.timed("what an owner counts of one write", _counts_of_a_write())


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


def _counts_of_a_write() -> Latency:
    """In this process: the integers and histograms of one acked batch that is a group of its own."""
    counts, repeat = Counts(), 1_000

    def write() -> None:
        counts.rows += BATCH_ROWS
        counts.bytes += BATCH_ROWS
        counts.batches += 1
        counts.arrivals.note(Offset(counts.rows), time.monotonic_ns())
        counts.group_batches.observe(1)
        counts.sync_seconds.observe(0.0005)
        counts.ack_seconds["disk"].observe(0.0008)
        counts.arrivals.persisted(Offset(counts.rows))

    found = latency(lambda: [write() for _ in range(repeat)], for_s=0.3)
    return Latency(found.p50_s / repeat, found.p99_s / repeat, found.count * repeat)


@contextmanager
def _traced(share: str) -> Iterator[dict[str, Any]]:
    with _tracing(share), demo_cluster() as endpoints:
        yield endpoints


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


def _pages(endpoints: dict[str, Any]) -> list[str]:
    """Every service's /metrics."""
    parts = [*endpoints["query"], *endpoints["ingest"], endpoints["persister"], endpoints["controlplane"]]
    return [f"{part['http']}/metrics" for part in parts]


class Scraper:
    """Every page once in SCRAPE_S of turns, at the side of the calls, as Prometheus would."""

    def __init__(self, pages: Sequence[str]) -> None:
        self._pages = pages
        self._turned_s = SCRAPE_S

    @contextmanager
    def turn(self) -> Iterator[None]:
        """What is measured with metrics read; a scrape that began is over on return."""
        began_s = time.monotonic()
        scrape = threading.Thread(target=self._scrape if self._turned_s >= SCRAPE_S else lambda: None, name="scrape")
        self._turned_s %= SCRAPE_S
        scrape.start()
        try:
            yield
        finally:
            scrape.join()
            self._turned_s += time.monotonic() - began_s

    def _scrape(self) -> None:
        for url in self._pages:
            urllib.request.urlopen(url, timeout=10).read()
