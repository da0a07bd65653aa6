"""How long acks and queries took between two looks at the nodes' /metrics: quantiles of the growth of histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxist.errors import ProxistError

QUANTILES = (0.5, 0.99)
SOURCES = {
    "ingest": ("proxist_ingest_ack_seconds", ("tenant", "table", "level")),
    "query": ("proxist_query_seconds", ("verb",)),
}
"""By role: the histogram, and what stays apart of its labels; the others are summed."""

Labels = tuple[str, ...]
Buckets = Mapping[float, float]
"""Upper end (+Inf the last) -> observations at or below it, since the process began."""


@dataclass(frozen=True)
class Look:
    """One look at every node: {node: {labels: buckets}}, and why the others did not show theirs."""

    nodes: Mapping[str, Mapping[Labels, Buckets]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def look(nodes: Iterable[Mapping[str, Any]], page: Callable[[str], str]) -> Look:
    """Ask each ingest and query node of `nodes` (`control.node_row`) by `page(url)`, which gives the text of a page."""
    found, missing = {}, {}
    for node in nodes:
        if node["role"] not in SOURCES or not node["http"]:
            continue
        try:
            found[node["name"]] = histograms(page(f"{node['http']}/metrics"), *SOURCES[node["role"]])
        except (ProxistError, OSError, ValueError) as error:
            missing[node["name"]] = error.message if isinstance(error, ProxistError) else str(error)
    return Look(found, missing)


def histograms(page: str, name: str, kept: Labels) -> dict[Labels, Buckets]:
    """The histogram `name` of a page, summed over the labels that are not `kept`. Raises ValueError for a page that is
    none."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[Labels, dict[float, float]] = {}
    for family in text_string_to_metric_families(page):
        if family.name != name:
            continue
        for sample in family.samples:
            if sample.name == f"{name}_bucket":
                buckets = found.setdefault(tuple(sample.labels[label] for label in kept), {})
                end = float(sample.labels["le"])
                buckets[end] = buckets.get(end, 0.0) + sample.value
    return dict(found)


def rows(before: Look, now: Look, elapsed_s: float, table: str = "") -> list[dict[str, Any]]:
    """One row per node and operation that was seen between the looks: how many per second, p50 and p99 in milliseconds.

    `table`: acks of that one alone. What a node that began anew has counted since counts from zero.
    """
    shown = []
    for node, current in sorted(now.nodes.items()):
        for labels, buckets in sorted(current.items()):
            if table and len(labels) == 3 and labels[1] != table:
                continue
            grown = _growth(before.nodes.get(node, {}).get(labels, {}) if node in before.nodes else buckets, buckets)
            count = max(grown.values(), default=0.0)
            if count <= 0:
                continue
            names = {"tenant": labels[0], "table": labels[1]} if len(labels) == 3 else {}
            what = f"ack {labels[2]}" if names else f"query {labels[0]}"
            timed = {f"p{q * 100:.0f}_ms": _ms(quantile(grown, q)) for q in QUANTILES}
            shown.append(
                {"node": node, "what": what, **names, "per_s": round(count / max(1e-9, elapsed_s), 1), **timed}
            )
    return shown


def quantile(buckets: Buckets, q: float) -> float | None:
    """Prometheus' histogram_quantile: linear inside the bucket; None where nothing was seen, the last finite end where
    it lies above."""
    ends = sorted(buckets)
    total = buckets[ends[-1]] if ends else 0.0
    if total <= 0:
        return None
    wanted, low, below = q * total, 0.0, 0.0
    for end in ends:
        if buckets[end] >= wanted:
            if math.isinf(end):
                return low
            inside = buckets[end] - below
            return low + (end - low) * ((wanted - below) / inside if inside else 1.0)
        low, below = end, buckets[end]
    return low


def _growth(before: Buckets, now: Buckets) -> Buckets:
    grown = {end: count - before.get(end, 0.0) for end, count in now.items()}
    return now if min(grown.values(), default=0.0) < 0 else grown


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
