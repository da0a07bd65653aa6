"""The catalogue of metrics: what every name, sentence and label keeps to, and that the pages made from it are current."""

from __future__ import annotations

import re
import threading

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxist.monitoring.generate import ROOT, stale
from proxist.monitoring.page import metrics_page
from proxist.telemetry import metrics as m
from proxist.telemetry.figures import Histogram, Scrape, registry_of
from proxist.telemetry.spec import Spec, all_specs

UNITS = (
    "seconds", "bytes", "rows", "batches", "offset", "shards", "ratio", "info",
    # what is counted, where the thing itself is the unit
    "blocks", "keys", "segments", "acks", "repeats", "retries", "inserts", "failures", "statements", "queries", "answers",
    "gains", "losses", "resyncs", "evictions", "attaches", "running", "tables", "nodes", "snapshots",
)  # fmt: skip
STATES = {"proxist_insecure", "proxist_lease_held", "proxist_etcd_synced"}
LABELS = {
    "tenant", "table", "shard", "code", "level", "outcome", "state", "verb", "plan", "mode", "tier", "role", "name",
    "version",
}  # fmt: skip
SPECS = all_specs()


def by_name(spec: Spec) -> str:
    return spec.name


@pytest.mark.parametrize("spec", SPECS, ids=by_name)
def test_a_metric_has_a_unit_a_sentence_and_bounded_labels(spec: Spec) -> None:
    assert re.fullmatch(r"proxist(_[a-z]+)+", spec.name)
    if spec.name not in STATES and not spec.name.endswith(
        ("_state", "_epoch", "_shards_unowned", "_shards_unpersisted")
    ):
        assert spec.name.rpartition("_")[2] in UNITS, "the name ends with its base unit"
    assert re.match(r"[A-Z1]", spec.help), "a sentence begins with a capital"
    assert spec.help.endswith("."), "a sentence ends"
    assert len(spec.help.split()) >= 4, "a sentence says something"
    assert set(spec.labels) <= LABELS, "a label that is new here: is it bounded?"
    assert set(spec.roles) <= set(m.ROLES)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.kind == "histogram"], ids=by_name)
def test_buckets_ascend_and_latencies_have_some_below_a_millisecond(spec: Spec) -> None:
    assert list(spec.buckets) == sorted(set(spec.buckets))
    if spec.name.endswith("_seconds"):
        assert spec.buckets[0] < 0.001


def test_the_page_is_what_the_code_says() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == metrics_page()


def test_generated_files_are_current() -> None:
    assert not stale(), "run `python -m proxist.monitoring` and commit the result"


def test_every_metric_is_on_the_page() -> None:
    page = metrics_page()
    assert all(page.count(f"| `{spec.page_name}` |") == 1 for spec in SPECS)


def test_a_histogram_counts_each_value_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram((0.001, 0.01, 1.0))
    for value in (0.0005, 0.001, 0.002, 5.0):
        histogram.observe(value)
    assert histogram.read() == ([("0.001", 2.0), ("0.01", 3.0), ("1.0", 3.0), ("+Inf", 4.0)], pytest.approx(5.0035))
    other = Histogram((0.001, 0.01, 1.0))
    other.include(histogram)
    other.observe(0.5)
    assert other.count == 5
    assert histogram.count == 4


def test_a_histogram_loses_nothing_where_threads_meet() -> None:
    histogram, begin = Histogram(m.LATENCY_S), threading.Barrier(4)

    def observe() -> None:
        begin.wait()
        for _ in range(5_000):
            histogram.observe(0.0004)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert histogram.count == 20_000


@pytest.mark.parametrize("role", m.ROLES)
def test_a_page_has_every_metric_of_its_role_before_anything_happened(role: str) -> None:
    text = generate_latest(registry_of(role)).decode()
    shown = {family.name for family in text_string_to_metric_families(text)}
    assert {spec.name for spec in SPECS if role in spec.roles} <= shown
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "python_info"} <= shown


def test_a_source_that_adds_what_its_role_has_not_is_refused() -> None:
    with pytest.raises(KeyError):
        Scrape(m.QUERY).add(m.INGEST_ROWS, 1, "default", "trades", 1)
