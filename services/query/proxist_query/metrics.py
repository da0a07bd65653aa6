"""What /metrics says about queries; labels are verbs, outcomes and tiers, never symbols."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxist.model.receipt import Receipt

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 300)


class Metrics:
    """Counters of one query node, in a registry of their own."""

    def __init__(self, statements: Callable[[], int], attached: Callable[[], int]) -> None:
        """`statements`: ClickHouse statements sent so far; `attached`: shards that are mapped now."""
        self.registry = CollectorRegistry()
        self._queries = Counter(
            "proxist_query_queries", "Queries by verb and outcome.", ["verb", "outcome"], registry=self.registry
        )
        self._seconds = Histogram(
            "proxist_query_seconds", "Time of a query in this node.", ["verb"], buckets=_SECONDS, registry=self.registry
        )
        self._rows = Counter("proxist_query_rows", "Rows taken from each tier.", ["tier"], registry=self.registry)
        self._answers = Counter(
            "proxist_query_answers", "Answers by plan and freshness mode.", ["plan", "mode"], registry=self.registry
        )
        self.registry.register(_Live(statements, attached))

    def finished(self, verb: str, outcome: str, seconds: float) -> None:
        self._queries.labels(verb, outcome).inc()
        self._seconds.labels(verb).observe(seconds)

    def answered(self, receipt: Receipt) -> None:
        self._rows.labels("hot").inc(receipt.rows_hot)
        self._rows.labels("cold").inc(receipt.rows_cold)
        self._answers.labels(receipt.plan, receipt.mode).inc()


class _Live:
    """Figures that are read when they are asked for."""

    def __init__(self, statements: Callable[[], int], attached: Callable[[], int]) -> None:
        self._statements = statements
        self._attached = attached

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "proxist_clickhouse_statements", "Statements sent to ClickHouse.", value=self._statements()
        )
        yield GaugeMetricFamily("proxist_query_attached_shards", "Shards mapped into memory.", value=self._attached())
