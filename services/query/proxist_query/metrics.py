"""What /metrics says about queries; labels are verbs, plans, outcomes and tiers, never symbols."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict

from proxist.clickhouse import ClickHouse
from proxist.model.receipt import Receipt
from proxist.rpc.attached import Attached
from proxist.telemetry import metrics as m
from proxist.telemetry.figures import Histogram, Scrape


class Metrics:
    """Counters of one query node. Thread-safe; `_lock` guards all of them."""

    def __init__(self, attached: Attached, clickhouse: ClickHouse) -> None:
        self._attached = attached
        self._clickhouse = clickhouse
        self._lock = threading.Lock()
        self._running = 0
        self._queries: Counter[tuple[str, str]] = Counter()
        self._answers: Counter[tuple[str, str]] = Counter()
        self._rows = Counter({"hot": 0, "cold": 0})
        self._seconds: defaultdict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(m.QUERY_S))

    def began(self) -> None:
        """`finished` follows."""
        with self._lock:
            self._running += 1

    def finished(self, verb: str, plan: str, outcome: str, seconds: float) -> None:
        with self._lock:
            self._running -= 1
            self._queries[verb, outcome] += 1
            histogram = self._seconds[verb, plan]
        histogram.observe(seconds)

    def answered(self, receipt: Receipt) -> None:
        with self._lock:
            self._rows["hot"] += receipt.rows_hot
            self._rows["cold"] += receipt.rows_cold
            self._answers[receipt.plan, receipt.mode] += 1

    def answered_quickly(self, verb: str, row_count: int, seconds: float) -> None:
        """One query as `began`, `answered` and `finished` count it, from RAM alone."""
        with self._lock:
            self._rows["hot"] += row_count
            self._answers["operator", "hot"] += 1
            self._queries[verb, "ok"] += 1
            histogram = self._seconds[verb, "operator"]
        histogram.observe(seconds)

    def figures(self, scrape: Scrape) -> None:
        """The source for /metrics."""
        with self._lock:
            running, queries, answers = self._running, dict(self._queries), dict(self._answers)
            rows, seconds = dict(self._rows), dict(self._seconds)
        scrape.add(m.QUERY_RUNNING, running)
        for labels, count in queries.items():
            scrape.add(m.QUERIES, count, *labels)
        for labels, count in answers.items():
            scrape.add(m.QUERY_ANSWERS, count, *labels)
        for tier, count in rows.items():
            scrape.add(m.QUERY_ROWS, count, tier)
        for labels, histogram in seconds.items():
            scrape.histogram(m.QUERY_SECONDS, histogram, *labels)
        scrape.add(m.QUERY_ATTACHED, len(self._attached.shards()))
        scrape.add(m.QUERY_RETRIES, self._attached.retry_count)
        scrape.add(m.CLICKHOUSE_STATEMENTS, self._clickhouse.statements)
        scrape.histogram(m.CLICKHOUSE_SECONDS, self._clickhouse.statement_seconds)
        for outcome, count in self._clickhouse.failures.items():
            scrape.add(m.CLICKHOUSE_FAILURES, count, outcome)
