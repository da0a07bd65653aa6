"""S5: rows per second through the SDK by level and batch size, acks, and where an owner's time goes."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.bench import Bench
from benchmarks.cluster import connect, running, scrape, scratch
from benchmarks.feeder import live, pump
from benchmarks.floors import BATCH_ROWS, Floors
from benchmarks.report import at_least, at_most
from benchmarks.rows import SPEC
from benchmarks.timing import Run, in_turns
from proxist.client.connection import Connection
from proxist.telemetry.collector import Collector
from proxist.testing.cluster import LocalCluster

US = 1e-6
LEVELS = ("os", "disk")
ACK_LINES = {"os": at_most(100 * US), "disk": at_most(50 * US, floors=1)}
BUDGETS = {("disk", 1_000): at_least(3e6), ("disk", 10_000): at_least(4.5e6)}
ACK_METRIC, LABEL = "proxist_ingest_ack_seconds_bucket{", re.compile(r'(\w+)="([^"]*)"')
STEPS = ("ingest.validate", "ingest.dedup", "wal.write", "wal.flush", "hot.apply")
SPANS_S = 20.0
_names = itertools.count()


def measure(bench: Bench, floor: Floors, cluster: LocalCluster) -> None:
    report = bench.report
    with connect(cluster) as connection:
        connection.flush(SPEC.name)  # what was written before is not persisted beside the acks
        report.section(f"lone acks of {BATCH_ROWS:,} rows")
        for level in LEVELS:
            _acks(bench, floor, cluster, connection, level)
        report.section("ingest through the SDK, one shard, client on the same cores (floor: a null DoPut)")
        for level in LEVELS:
            for batch_rows in bench.size.ingest_rows:
                _rate(bench, floor, connection, level, batch_rows)
    for owners in bench.size.owners:
        if owners > 1:
            _owners(bench, owners)


def _rate(bench: Bench, floor: Floors, connection: Connection, level: str, batch_rows: int) -> None:
    runs, fresh = [], []
    for _ in range(bench.size.runs):
        null = floor.put_rate(batch_rows)
        first, then = written(bench, connection, level, batch_rows)
        runs.append(Run(then, floor=null))
        fresh.append(Run(first, floor=null))
    what, id = f"{level}, {batch_rows:,} rows per batch", f"s5.ingest_{level}_{batch_rows}"
    budget = BUDGETS.get((level, batch_rows))
    bench.report.add(id, what, runs, unit="rows/s", floor_name="null DoPut", budget=budget)
    if budget is not None:
        bench.report.add(f"{id}_fresh", f"{what}, first rows of a table", fresh, unit="rows/s", floor_name="null DoPut")


def written(bench: Bench, connection: Connection, level: str, batch_rows: int, **settings: Any) -> tuple[float, float]:
    """Rows per second into a table of its own: at first, when each key's first rows come, and from then on."""
    table = connection.create_table(scratch(f"ingest_{next(_names)}", level, **settings))
    rates = []
    try:
        batches = live(bench.size.keys, batch_rows)
        next(batches)
        with table.writer() as writer:
            for _ in range(2):
                rows, took_s = pump(writer, batches, batch_rows, _after(bench.size.ingest_s))
                rates.append(rows / took_s)
    finally:
        table.drop()
    return rates[0], rates[1]


def _after(for_s: float) -> Callable[[], bool]:
    """True once `for_s` seconds from now are over."""
    until = time.perf_counter() + for_s
    return lambda: time.perf_counter() > until


def _acks(bench: Bench, floor: Floors, cluster: LocalCluster, connection: Connection, level: str) -> None:
    """As the owner counts them, from the batch's arrival at the door; and as the client sees them."""
    name = f"ack_{level}"
    table = connection.create_table(scratch(name, level))
    batches = live(bench.size.keys, BATCH_ROWS)
    least, floor_name = (floor.put, "null DoPut") if level == "os" else (floor.fdatasync, "fdatasync")
    server: list[Run] = []
    client: list[Run] = []
    with table.writer() as writer:
        for _ in range(bench.size.runs):
            before = ack_buckets(cluster, name, level)
            run = in_turns(lambda: writer.write(next(batches)), least, runs=1, for_s=2 * bench.size.run_s)[0]
            client.append(run)
            server.append(Run(p50_of(before, ack_buckets(cluster, name, level)), floor=run.floor))
    table.drop()
    what = f"{level}: server side, from the owner's histogram"
    bench.report.add(f"s5.ack_{level}", what, server, floor_name=floor_name, budget=ACK_LINES[level])
    bench.report.add(f"s5.ack_{level}_client", f"{level}: at the client", client, floor_name=floor_name)


def ack_buckets(cluster: LocalCluster, table: str, level: str) -> dict[float, float]:
    """Upper bound in seconds -> acks up to it."""
    found: dict[float, float] = {}
    for line in scrape(cluster):
        if not line.startswith(ACK_METRIC):
            continue
        labels = dict(LABEL.findall(line))
        if (labels["level"], labels["table"]) == (level, table):
            bound = float(labels["le"].replace("+Inf", "inf"))
            found[bound] = found.get(bound, 0.0) + float(line.rsplit(" ", 1)[1])
    return found


def p50_of(before: Mapping[float, float], after: Mapping[float, float]) -> float:
    """The median of what was counted in between, linear within its bucket."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    half, lower, below = max(counts.values()) / 2, 0.0, 0.0
    for bound, upto in counts.items():
        if upto >= half and upto > below:
            return lower + (bound - lower) * (half - below) / (upto - below)
        lower, below = bound, upto
    raise ValueError(f"no ack was counted: {counts}")


def _owners(bench: Bench, owners: int) -> None:
    """As many owner processes, with a shard each: the writer routes the keys."""
    bench.report.section(f"ingest into {owners} owner processes")
    with running(ingest=owners) as cluster, ExitStack() as stack:
        connection = stack.enter_context(connect(cluster))
        for batch_rows in bench.size.ingest_rows:
            runs = [
                Run(written(bench, connection, "disk", batch_rows, shards=owners)[1]) for _ in range(bench.size.runs)
            ]
            what = f"disk, {batch_rows:,} rows per batch, {owners} owners"
            bench.report.add(f"s5.ingest_disk_{batch_rows}_owners{owners}", what, runs, unit="rows/s")


def split(bench: Bench) -> None:
    """Where an owner's time goes, from its own spans of every write: shares of the time between arrival and ack."""
    with Collector() as collector, _traced(collector), running() as cluster, connect(cluster) as connection:
        table = connection.create_table(scratch("split"))
        batches = live(bench.size.keys, BATCH_ROWS)
        with table.writer() as writer:
            until = time.perf_counter() + bench.size.ingest_s
            rows, took_s = pump(writer, batches, BATCH_ROWS, lambda: time.perf_counter() > until)
        if not collector.wait(lambda spans: any(one.name in STEPS for one in spans), SPANS_S):
            bench.report.absent("s5.cpu_split", "where an owner's time goes", "no spans of writes arrived")
            return
        spans = [one for one in collector.spans() if one.name in STEPS]
    total = sum(one.ms for one in spans)
    shares = {step: round(sum(one.ms for one in spans if one.name == step) / total, 4) for step in STEPS}
    busy_us = 1e3 * total / len({one.trace_id for one in spans})
    told = ", ".join(f"{step.partition('.')[2]} {share:.0%}" for step, share in shares.items())
    detail = {"shares": shares, "rows_per_s_traced": rows / took_s, "step_us_per_trace": busy_us}
    bench.report.add("s5.cpu_split", f"write path: {told}", [Run(max(shares.values()))], unit="share", detail=detail)


@contextmanager
def _traced(collector: Collector) -> Iterator[None]:
    """The services that start inside send every span to the collector."""
    before = dict(os.environ)
    os.environ.update(collector.environment(OTEL_TRACES_SAMPLER="always_on"))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
