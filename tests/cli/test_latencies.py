"""Latencies between two looks at pages of metrics."""

from __future__ import annotations

import math

import pytest

from proxist.cli.latencies import Look, histograms, look, quantile, rows
from proxist.errors import PermissionDenied

ACK, KEPT = "proxist_ingest_ack_seconds", ("tenant", "table", "level")
INF = math.inf


def page(name: str, labels: str, *counts: tuple[str, int]) -> str:
    lines = [f'{name}_bucket{{{labels},le="{end}"}} {count}' for end, count in counts]
    return f"# HELP {name} Time.\n# TYPE {name} histogram\n" + "\n".join(lines) + f"\n{name}_count{{{labels}}} 1\n"


def test_a_page_is_summed_over_the_labels_that_are_not_kept() -> None:
    name = "proxist_query_seconds"
    text = page(name, 'verb="sql",plan="operator"', ("0.1", 1), ("+Inf", 2))
    text += "".join(page(name, 'verb="sql",plan="none"', ("0.1", 3), ("+Inf", 3)).splitlines(True)[2:])
    assert histograms(text, name, ("verb",)) == {("sql",): {0.1: 4.0, INF: 5.0}}
    assert histograms(text, ACK, KEPT) == {}


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ({1.0: 0.0, INF: 0.0}, 0.5, None),
        ({}, 0.5, None),
        ({1.0: 10.0, INF: 10.0}, 0.5, 0.5),
        ({1.0: 0.0, 2.0: 4.0, 4.0: 8.0, INF: 8.0}, 0.75, 3.0),
        ({1.0: 1.0, INF: 10.0}, 0.99, 1.0),
    ],
)
def test_a_quantile_is_prometheus_histogram_quantile(
    buckets: dict[float, float], q: float, expected: float | None
) -> None:
    assert quantile(buckets, q) == expected


def test_only_what_was_seen_between_the_looks_counts() -> None:
    labels = ("acme", "trades", "disk")
    before = Look({"ingest-0": {labels: {0.001: 100.0, 0.002: 100.0, INF: 100.0}}})
    now = Look({"ingest-0": {labels: {0.001: 100.0, 0.002: 120.0, INF: 120.0}}})
    (row,) = rows(before, now, 2.0)
    assert row == {
        "node": "ingest-0", "what": "ack disk", "tenant": "acme", "table": "trades", "per_s": 10.0, "p50_ms": 1.5,
        "p99_ms": 1.99,
    }  # fmt: skip
    assert rows(now, now, 2.0) == []
    assert rows(before, now, 2.0, "quotes") == []


def test_a_node_that_began_anew_is_counted_from_zero_and_a_new_one_not_at_all() -> None:
    labels = ("sql",)
    old, new = Look({"q": {labels: {1.0: 50.0, INF: 60.0}}}), Look({"q": {labels: {1.0: 4.0, INF: 4.0}}})
    assert [row["per_s"] for row in rows(old, new, 1.0)] == [4.0]
    assert rows(Look(), new, 1.0) == []


def test_a_node_that_shows_no_page_is_named_with_the_reason() -> None:
    def refuse(url: str) -> str:
        raise PermissionDenied(f"Not you at {url}.")

    nodes = [
        {"name": "query-0", "role": "query", "http": "http://h:1"},
        {"name": "p", "role": "persister", "http": "x"},
    ]
    found = look(nodes, refuse)
    assert (found.nodes, found.missing) == ({}, {"query-0": "Not you at http://h:1/metrics."})
