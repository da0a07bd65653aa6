"""docs/metrics.md, from the catalogue."""

from __future__ import annotations

from collections.abc import Iterable

from proxist.telemetry.metrics import ROLES
from proxist.telemetry.spec import Spec, all_specs

_TITLES = {
    "ingest": "Ingest: rows, log, hot set (`proxist_ingest_…`, `proxist_hot_…`)",
    "query": "Query (`proxist_query_…`)",
    "persister": "Persister (`proxist_persister_…`)",
    "controlplane": "Control plane (`proxist_controlplane_…`)",
}
_HEAD = """# Metrics

<!-- Generated from libs/proxist/telemetry/metrics.py by `python -m proxist.monitoring`. Do not edit. -->

Every program serves `/metrics` on its HTTP port in Prometheus' text form. Names end with their base unit (seconds,
bytes, rows); counters end with `_total` and begin at 0 when a process, or a shard's owner, starts. A metric is on its
page from the start, with samples as soon as there is something to count.

Labels are bounded: `tenant`, `table` and `shard` of tables that exist, verbs, plans, levels, states, error codes. A key
(a symbol) is never one, nor is the text of a query or a path. The page names tables of all tenants: it is for operators.

Counters and gauges are read when the page is asked for, so they cost the write path an integer each; histograms cost half
a microsecond per observation. Dashboards are in `deploy/grafana`, rules in `deploy/prometheus`, and what to
do about an alert in [operations/runbooks](operations/runbooks/).
"""
_PROCESS = """
## The process itself

As the Prometheus client library names them: `process_cpu_seconds_total`, `process_resident_memory_bytes` (shared memory
that was touched, so the hot set, is part of it), `process_virtual_memory_bytes`, `process_open_fds`, `process_max_fds`,
`process_start_time_seconds`, `python_info`, `python_gc_collections_total`, `python_gc_objects_collected_total`,
`python_gc_objects_uncollectable_total`.
"""


def metrics_page() -> str:
    """The whole page."""
    specs = all_specs()
    sections = [_section("Every program", (spec for spec in specs if spec.roles == ROLES))]
    for role in ROLES:
        sections.append(_section(_TITLES[role], (spec for spec in specs if spec.roles == (role,))))
    both = (spec for spec in specs if 1 < len(spec.roles) < len(ROLES))
    sections.append(_section("ClickHouse, as query nodes and persisters see it (`proxist_clickhouse_…`)", both))
    return "\n".join([_HEAD, *sections]) + _PROCESS + "\n" + _buckets(specs)


def _section(title: str, specs: Iterable[Spec]) -> str:
    rows = [f"| `{spec.page_name}` | {spec.kind} | {_labels(spec)} | {spec.help} |" for spec in specs]
    return "\n".join([f"## {title}", "", "| name | kind | labels | what it says |", "|---|---|---|---|", *rows, ""])


def _labels(spec: Spec) -> str:
    return ", ".join(f"`{label}`" for label in spec.labels)


def _buckets(specs: list[Spec]) -> str:
    lines = ["## Buckets", "", "Upper ends, each inclusive; `+Inf` follows.", ""]
    by_buckets: dict[tuple[float, ...], list[str]] = {}
    for spec in specs:
        if spec.buckets:
            by_buckets.setdefault(spec.buckets, []).append(f"`{spec.name}`")
    for buckets, names in by_buckets.items():
        lines += [f"- {', '.join(names)}: {', '.join(f'{bound:.10g}' for bound in buckets)}"]
    return "\n".join(lines) + "\n"
