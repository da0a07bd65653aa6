"""What /metrics says: read when it is asked for, so that workers only keep their Progress."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxist_persister.keeper import Keeper
from proxist_persister.sink import Sink

_SINK_STATES = ("OK", "DEGRADED", "DOWN")
_SHARD_STATES = ("WAITING", "READING_BACK", "FOLLOWING", "RETRYING", "PAUSED", "STOPPED")
_LABELS = ["table", "shard"]


class PersisterMetrics:
    """A collector over the keeper's workers and their sink."""

    def __init__(self, keeper: Keeper, sink: Sink) -> None:
        self._keeper = keeper
        self._sink = sink

    def collect(self) -> Iterator[Metric]:
        inserts = CounterMetricFamily("proxist_persister_inserts", "Confirmed inserts.", labels=_LABELS)
        rows = CounterMetricFamily("proxist_persister_rows", "Rows of confirmed inserts.", labels=_LABELS)
        lag = GaugeMetricFamily("proxist_persister_lag_rows", "Rows sent by the owner, not persisted.", labels=_LABELS)
        state = GaugeMetricFamily(
            "proxist_persister_shard_state", "1 for the shard's state.", labels=[*_LABELS, "state"]
        )
        for worker in self._keeper.held():
            now, labels = worker.board.progress, [worker.table.name, str(worker.shard)]
            inserts.add_metric(labels, now.inserts)
            rows.add_metric(labels, now.rows)
            lag.add_metric(labels, max(0, now.end - now.persisted))
            for name in _SHARD_STATES:
                state.add_metric([*labels, name], float(now.state == name))
        yield from (inserts, rows, lag, state)
        sink = GaugeMetricFamily("proxist_persister_sink_state", "1 for ClickHouse's state.", labels=["state"])
        for name in _SINK_STATES:
            sink.add_metric([name], float(self._sink.state == name))
        yield sink
        yield _counter("proxist_persister_failures", "Statements that failed.", self._sink.failures)
        yield _counter("proxist_persister_insert_seconds", "Time in confirmed inserts.", self._sink.insert_ns / 1e9)
        yield _counter("proxist_clickhouse_statements", "Statements sent to ClickHouse.", self._sink.statements)


def registry(keeper: Keeper, sink: Sink) -> CollectorRegistry:
    """A registry of its own: tests run several services in one process."""
    made = CollectorRegistry()
    made.register(PersisterMetrics(keeper, sink))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    return made


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)
