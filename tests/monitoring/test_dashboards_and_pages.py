"""A running cluster's /metrics: every page is the catalogue, and dashboards and rules name only what is on them."""

from __future__ import annotations

import contextlib
import json
from urllib.request import urlopen

import pyarrow as pa
import pytest
from expressions import labels_in, series_in, variable
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from pyarrow import flight

import proxist
from proxist.monitoring.alerts import ALERTS, RECORDING
from proxist.monitoring.generate import GRAFANA, ROOT
from proxist.telemetry import metrics as m
from proxist.telemetry.spec import all_specs, specs_of
from proxist.testing.cluster import LocalCluster

ADDED_BY_PROMETHEUS = {"instance", "job", "le"}
DASHBOARDS = ("overview", "ingest", "persist", "query")
SPECS = {series: spec for spec in all_specs() for series in spec.series}
KEYS = ("monitored:BTCUSDT", "monitored:ETHUSDT")
Pages = dict[str, dict[str, Metric]]


@pytest.fixture(scope="module")
def pages(cluster: LocalCluster) -> Pages:
    """role -> family name -> family, after a write that reached ClickHouse and reads of every kind."""
    spec = {
        "name": "monitored",
        "time": "ts",
        "key": "symbol",
        "durability": "disk",
        "columns": [
            {"name": "symbol", "type": "string"},
            {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
            {"name": "price", "type": "double"},
        ],
    }
    with proxist.connect(cluster.endpoints["query"][0]["flight"]) as connection:
        table = connection.create_table(spec)
        times = pa.array([1_700_000_000_000_000_000 + i for i in range(2)]).cast(pa.timestamp("ns", "UTC"))
        table.write(pa.table({"symbol": list(KEYS), "ts": times, "price": [1.0, 2.0]}))
        table.flush()
        table.last_by(list(KEYS))
        connection.sql("SELECT count() AS n FROM monitored")
    send_without_a_column(cluster.endpoints["ingest"][0]["flight"])
    return {role: scrape(cluster, role) for role in m.ROLES}


def send_without_a_column(uri: str) -> None:
    """Past the SDK, which would refuse it before it is sent."""
    rows = pa.record_batch({"symbol": [KEYS[0]], "price": [1.0]})
    with flight.connect(uri) as client:
        writer, acks = client.do_put(flight.FlightDescriptor.for_path("monitored"), rows.schema)
        writer.write_batch(rows)
        writer.done_writing()
        with contextlib.suppress(pa.ArrowException):
            acks.read()
        with pytest.raises(pa.ArrowException):
            writer.close()


def scrape(cluster: LocalCluster, role: str) -> dict[str, Metric]:
    part = next(fields for fields in cluster.status().values() if fields["role"] == role)
    with urlopen(part["http"] + "/metrics", timeout=10) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def value(pages: Pages, page: str, series: str, **labels: str) -> float:
    """The sum of the samples with these labels."""
    samples = [sample for family in pages[page].values() for sample in family.samples if sample.name == series]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def expressions(name: str) -> list[str]:
    """Every expression of a dashboard's file."""
    dashboard = json.loads((ROOT / GRAFANA / f"{name}.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


@pytest.mark.parametrize("role", m.ROLES)
def test_a_page_is_the_catalogue(pages: Pages, role: str) -> None:
    shown = pages[role]
    ours = {name: family for name, family in shown.items() if name.startswith("proxist_")}
    assert set(ours) == {spec.name for spec in specs_of(role)}
    for spec in specs_of(role):
        assert ours[spec.name].documentation == spec.help
        assert ours[spec.name].type == spec.kind
        for sample in ours[spec.name].samples:
            assert sample.labels.keys() - {"le"} == set(spec.labels)


def test_what_was_done_is_counted(pages: Pages) -> None:
    assert value(pages, "ingest", "proxist_ingest_rows_total", table="monitored") == 2
    assert value(pages, "ingest", "proxist_ingest_bytes_total", table="monitored") > 0
    assert value(pages, "ingest", "proxist_ingest_refused_rows_total", table="monitored") == 0
    assert value(pages, "ingest", "proxist_ingest_invalid_batches_total", code="SCHEMA_MISMATCH") == 1
    assert value(pages, "ingest", "proxist_ingest_ack_seconds_count", table="monitored", level="disk") == 1
    assert value(pages, "ingest", "proxist_ingest_group_batches_count", table="monitored") == 1
    assert value(pages, "ingest", "proxist_ingest_sync_seconds_count", table="monitored") >= 1
    assert value(pages, "ingest", "proxist_ingest_wal_bytes", table="monitored") > 0
    assert value(pages, "ingest", "proxist_ingest_unpersisted_rows", table="monitored") == 0
    assert value(pages, "ingest", "proxist_ingest_persist_lag_seconds", table="monitored") == 0
    assert value(pages, "ingest", "proxist_hot_rows", table="monitored") == 2
    assert value(pages, "ingest", "proxist_hot_keys", table="monitored") == 2
    assert value(pages, "ingest", "proxist_hot_attaches_total", table="monitored") >= 1
    assert value(pages, "persister", "proxist_persister_rows_total", table="monitored") == 2
    assert value(pages, "persister", "proxist_persister_shard_state", table="monitored", state="FOLLOWING") >= 1
    assert value(pages, "persister", "proxist_persister_insert_seconds_count", outcome="ok") >= 1
    assert value(pages, "query", "proxist_query_seconds_count", verb="lastby", plan="operator") >= 1
    assert value(pages, "query", "proxist_query_seconds_count", verb="sql") >= 1
    assert value(pages, "query", "proxist_query_rows_total", tier="hot") >= 2
    assert value(pages, "query", "proxist_query_running") == 0
    assert value(pages, "controlplane", "proxist_controlplane_shard_epoch", table="monitored") == 1
    for role in m.ROLES:
        assert value(pages, role, "proxist_lease_held") == 1
        assert value(pages, role, "proxist_etcd_synced") == 1
        assert value(pages, role, "proxist_build_info", role=role) == 1


def test_no_label_holds_a_symbol_or_a_path(pages: Pages, cluster: LocalCluster) -> None:
    said = {
        text
        for page in pages.values()
        for family in page.values()
        for sample in family.samples
        for text in sample.labels.values()
    }
    assert not {text for text in said if any(key in text for key in KEYS)}
    assert not {text for text in said if str(cluster.data_dir) in text or "/" in text}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_names_only_what_exists(pages: Pages, name: str) -> None:
    said = expressions(name)
    assert said
    for expression in said:
        check(pages, expression)
    dashboard = json.loads((ROOT / GRAFANA / f"{name}.json").read_text())
    for entry in dashboard["templating"]["list"]:
        if entry["type"] == "query":
            series, label = variable(entry["query"])
            assert label in SPECS[series].labels


@pytest.mark.parametrize("expression", [*RECORDING.values(), *(alert.expr for alert in ALERTS)])
def test_a_rule_names_only_what_exists(pages: Pages, expression: str) -> None:
    check(pages, expression)


def test_every_recorded_name_is_used() -> None:
    used = {name for board in DASHBOARDS for expression in expressions(board) for name in series_in(expression)}
    used |= {name for alert in ALERTS for name in series_in(alert.expr)}
    assert set(RECORDING) <= used


def check(pages: Pages, expression: str) -> None:
    """Every series of it is on a page, or recorded; and has the labels that it is asked for."""
    shown = {sample.name for page in pages.values() for family in page.values() for sample in family.samples}
    families = {name for page in pages.values() for name in page}
    labels = set(ADDED_BY_PROMETHEUS)
    for series in series_in(expression):
        spec = SPECS.get(series)
        assert series in shown or series in RECORDING or (spec is not None and spec.name in families), series
        labels |= set(spec.labels) if spec is not None else labels_in(RECORDING.get(series, ""))
    assert labels_in(expression) <= labels, expression
