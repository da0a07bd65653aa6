"""What the code counts with, and how a scrape turns it into text.

In: integers and histograms that the code keeps for itself. Out: the families of one scrape. Nothing here runs on the
write path but `Histogram.observe`; counters are plain integers of their owners, read when /metrics is asked for.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxist.telemetry import metrics  # the declarations, which `specs_of` lists
from proxist.telemetry.spec import Spec, specs_of


class Histogram:
    """Counts by bucket, for any number of threads: about half a microsecond per observation.

    prometheus_client's own costs several microseconds with its labels looked up, too much for something that a batch
    passes. `_lock` guards both fields.
    """

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: the buckets' upper ends, ascending, closed; what is above the last falls into +Inf."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value

    def include(self, other: Histogram) -> None:
        """Add what `other`, of the same bounds, has seen."""
        with other._lock:
            counts, total = list(other._counts), other._sum
        with self._lock:
            self._counts = [mine + its for mine, its in zip(self._counts, counts, strict=True)]
            self._sum += total

    @property
    def count(self) -> int:
        """Observations so far."""
        with self._lock:
            return sum(self._counts)

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """((upper end, observations at or below it) …, the last "+Inf"), and the sum of all values."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        seen, out = 0, []
        for bound, count in zip((*map(str, map(float, self._bounds)), "+Inf"), counts, strict=True):
            seen += count
            out.append((bound, float(seen)))
        return out, total


class Scrape:
    """The families of one scrape of a role: every metric of the catalogue is on the page, with samples or without."""

    def __init__(self, role: str) -> None:
        assert role in metrics.ROLES, role
        self._families: dict[str, Metric] = {spec.name: _family(spec) for spec in specs_of(role)}

    def add(self, spec: Spec, value: float, *labels: object) -> None:
        """One sample of a counter or a gauge; `labels` in the order of `spec.labels`."""
        family = self._families[spec.name]
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        family.add_metric([str(label) for label in labels], float(value))

    def histogram(self, spec: Spec, histogram: Histogram, *labels: object) -> None:
        """All buckets of one histogram."""
        family = self._families[spec.name]
        assert isinstance(family, HistogramMetricFamily)
        buckets, total = histogram.read()
        family.add_metric([str(label) for label in labels], buckets, total)

    def families(self) -> Iterator[Metric]:
        return iter(self._families.values())


Source = Callable[[Scrape], None]
"""Adds one part's samples to a scrape; called on the thread that serves /metrics."""


class _Role(Collector):
    def __init__(self, role: str, sources: Sequence[Source]) -> None:
        self._role = role
        self._sources = sources

    def describe(self) -> list[Metric]:
        return []  # else registering would scrape, before there is anything to read

    def collect(self) -> Iterator[Metric]:
        scrape = Scrape(self._role)
        for source in self._sources:
            source(scrape)
        return scrape.families()


def registry_of(role: str, *sources: Source) -> CollectorRegistry:
    """A registry of its own (tests run several services in one process) with the role's metrics and the process'."""
    registry = CollectorRegistry()
    registry.register(_Role(role, sources))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _family(spec: Spec) -> Metric:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    return kinds[spec.kind](spec.name, spec.help, labels=spec.labels)
