"""What /metrics says: read from the shards when it is asked for, so that the write path only counts integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxist_ingest.shard import Shard

_COUNTERS = {
    "rows": "Rows accepted since this owner's start.",
    "batches": "Batches accepted, parts of one slot each.",
    "repeats": "Batches that a producer sent again.",
    "refused": "Batches that were refused after validation.",
    "groups": "Group commits.",
    "syncs": "fdatasync calls.",
}
_GAUGES = {
    "floor": "Every row at or above this offset is in memory.",
    "persisted": "Every row below this offset is in ClickHouse.",
    "end": "First offset not yet assigned.",
    "key_count": "Keys in memory.",
}


class ShardMetrics:
    """A collector over the shards that `shards` names at the time."""

    def __init__(self, shards: Callable[[], list[Shard]]) -> None:
        self._shards = shards

    def collect(self) -> Iterator[Metric]:
        shards = self._shards()
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"proxist_ingest_{name}", text, labels=["table", "shard"])
            for shard in shards:
                counter.add_metric([shard.table.name, str(shard.id)], getattr(shard.counts, name))
            yield counter
        seconds = CounterMetricFamily("proxist_ingest_sync_seconds", "Time in fdatasync.", labels=["table", "shard"])
        used = GaugeMetricFamily("proxist_ingest_hot_bytes", "Memory in use, of hot_bytes.", labels=["table", "shard"])
        waiting = GaugeMetricFamily(
            "proxist_ingest_waiting_acks", "Acks that wait for a higher level.", labels=["table", "shard"]
        )
        for shard in shards:
            labels = [shard.table.name, str(shard.id)]
            seconds.add_metric(labels, shard.counts.sync_ns / 1e9)
            used.add_metric(labels, shard.used_bytes)
            waiting.add_metric(labels, shard.waiting_acks())
        yield from (seconds, used, waiting)
        marks = [(shard, shard.marks()) for shard in shards]
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"proxist_ingest_{name}", text, labels=["table", "shard"])
            for shard, mark in marks:
                gauge.add_metric([shard.table.name, str(shard.id)], getattr(mark, name))
            yield gauge


def registry(shards: Callable[[], list[Shard]]) -> CollectorRegistry:
    """A registry with the shards' figures."""
    made = CollectorRegistry()
    made.register(ShardMetrics(shards))
    return made
