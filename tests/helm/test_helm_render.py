"""Every values file of the chart renders, lints strictly, and every document is one that Kubernetes takes."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml
from helm_chart import CHART, CI, NAMESPACE, RELEASE, ROLES, VALUES, documents, generate, loaded, named, of_kind, render

SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json")}
KUBERNETES = ("1.30", "1.37")
HELM = shutil.which("helm")
cases = pytest.mark.parametrize("case", VALUES)


@cases
def test_strict_lint_finds_nothing(case: str) -> None:
    report = helm_python.lint(str(CHART), VALUES[case], strict=True, namespace=NAMESPACE)
    assert [message for message in report["messages"] if message["severity"] > 1] == []
    assert report["errors"] == []


@cases
def test_every_document_is_valid(case: str) -> None:
    for document in render(VALUES[case]):
        kind = document["kind"].lower()
        if kind in SCHEMAS:
            jsonschema.validate(document, SCHEMAS[kind])
        else:
            _validated(json.dumps(document, sort_keys=True))


@functools.cache
def _validated(document: str) -> None:
    """Raises where one of the versions does not take it. Most documents are the same in several cases."""
    for version in KUBERNETES:
        kubernetes_validate.validate(json.loads(document), version, strict=True)


@cases
def test_no_two_documents_have_one_name(case: str) -> None:
    names = [(d["kind"], d["metadata"]["name"]) for d in render(VALUES[case])]
    assert len(names) == len(set(names))
    assert all(d["metadata"]["namespace"] == NAMESPACE for d in render(VALUES[case]))


@cases
def test_notes_say_the_next_command(case: str) -> None:
    (notes,) = (t for n, t in _files(VALUES[case]).items() if n.endswith("NOTES.txt"))
    for command in (f"rollout status statefulset/{RELEASE}-proxist-ingest", f"helm -n {NAMESPACE} test {RELEASE}"):
        assert command in notes
    assert ("WARNING" in notes) == VALUES[case].get("insecure", False)
    assert ("pxctl auth create-token" in notes) != VALUES[case].get("insecure", False)


def test_every_ci_case_is_there() -> None:
    assert {path.stem for path in CI} >= {
        "minimal-values",
        "production-values",
        "external-stores-values",
        "insecure-dev-values",
    }


def test_the_production_case_has_every_optional_kind() -> None:
    kinds = {d["kind"] for d in render(VALUES["production"])}
    assert kinds >= {"ServiceMonitor", "PrometheusRule", "Certificate", "NetworkPolicy", "PodDisruptionBudget"}


@pytest.mark.parametrize("clients", ["token", "certificate"])
def test_prometheus_shows_what_the_services_ask_for(clients: str) -> None:
    values = VALUES["production"]
    named = {"tlsSecret": "prometheus-tls" if clients == "certificate" else ""}
    metrics = {"serviceMonitor": {**values["metrics"]["serviceMonitor"], **named}}
    found = render({**values, "tls": {**values["tls"], "clients": clients}, "metrics": metrics})
    for monitor in of_kind(found, "ServiceMonitor"):
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["scheme"] == "https"
            shown = {key: endpoint["tlsConfig"].get(key) for key in ("cert", "keySecret")}
            assert shown == (
                {
                    "cert": {"secret": {"name": "prometheus-tls", "key": "tls.crt"}},
                    "keySecret": {"name": "prometheus-tls", "key": "tls.key"},
                }
                if clients == "certificate"
                else {"cert": None, "keySecret": None}
            )
            assert endpoint["authorization"]["credentials"]["name"] == "proxist-metrics"


def test_prometheus_has_a_token_for_every_page_that_asks_for_one() -> None:
    named = {"metrics": {"serviceMonitor": {"enabled": True, "tokenSecret": "scraper", "tokenKey": "bearer"}}}
    monitors = of_kind(render(named), "ServiceMonitor")
    endpoints = [endpoint for monitor in monitors for endpoint in monitor["spec"]["endpoints"]]
    assert len(monitors) == len(ROLES)
    for endpoint in endpoints:
        credentials = {"name": "scraper", "key": "bearer"}
        assert endpoint["authorization"] == {"type": "Bearer", "credentials": credentials}
    open_doors = {"insecure": True, "tls": {"source": "none"}, "metrics": {"serviceMonitor": {"enabled": True}}}
    for monitor in of_kind(render(open_doors), "ServiceMonitor"):
        assert all("authorization" not in endpoint for endpoint in monitor["spec"]["endpoints"])


@pytest.mark.parametrize(
    ("base", "beginning"), [("", ""), ("https://h/p", "https://h/p/"), ("https://h/p/", "https://h/p/")]
)
def test_every_alert_names_its_runbook_below_the_base_address(base: str, beginning: str) -> None:
    (rule,) = of_kind(
        render({"metrics": {"prometheusRule": {"enabled": True, "runbookBaseUrl": base}}}), "PrometheusRule"
    )
    alerts = [one for group in rule["spec"]["groups"] for one in group["rules"] if "alert" in one]
    assert len(alerts) > 5
    for alert in alerts:
        path = f"docs/operations/runbooks/{alert['alert']}.md"
        assert alert["annotations"]["runbook_url"] == beginning + path
        assert (CHART.parents[2] / path).exists()


def test_dashboards_and_rules_are_those_of_the_repository() -> None:
    found = render(VALUES["production"])
    deploy = CHART.parents[1]
    boards = {
        name: text for d in of_kind(found, "ConfigMap") for name, text in d["data"].items() if name.endswith(".json")
    }
    assert {name: json.loads(text) for name, text in boards.items()} == {
        path.name: json.loads(path.read_text()) for path in (deploy / "grafana").glob("*.json")
    }
    (rule,) = of_kind(found, "PrometheusRule")
    ours = [yaml.safe_load(path.read_text()) for path in sorted((CHART / "files" / "rules").glob("*"))]
    assert rule["spec"]["groups"] == [group for file in ours for group in file["groups"]]
    assert boards
    assert rule["spec"]["groups"]


def test_generated_files_are_up_to_date() -> None:
    assert generate.stale() == [], "run python deploy/helm/generate.py"


def test_the_packaged_chart_renders_like_the_folder(tmp_path: Path) -> None:
    archive = helm_python.package(str(CHART), destination=str(tmp_path))
    packed = render(VALUES["external-stores"], Path(archive))
    assert packed == render(VALUES["external-stores"])


@pytest.mark.skipif(HELM is None, reason="no helm on the PATH: the same engine ran inside helm-python-sdk")
@cases
def test_the_helm_binary_agrees(case: str, tmp_path: Path) -> None:
    assert HELM is not None
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES[case]))
    subprocess.run([HELM, "lint", "--strict", str(CHART), "-f", str(values)], check=True, capture_output=True)
    command = [HELM, "template", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(values), "--kube-version", "1.34.0"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert _comparable(list(documents(iter([text])))) == _comparable(render(VALUES[case]))


def test_the_bundled_clickhouse_has_one_user_with_a_password() -> None:
    found = render({})
    (users,) = (d["data"]["users.xml"] for d in of_kind(found, "ConfigMap") if "users.xml" in d["data"])
    assert '<default remove="remove"/>' in users
    assert 'from_env="CLICKHOUSE_PASSWORD"' in users
    secret = named(found, "Secret", "clickhouse")["data"]
    assert set(secret) == {"password", "url"}


def _files(values: dict[str, Any]) -> dict[str, str]:
    return loaded().render(values, name=RELEASE, namespace=NAMESPACE)


def _comparable(found: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """By kind and name; what is generated anew at each rendering is left out."""
    return {
        (d["kind"], d["metadata"]["name"]): {k: v for k, v in d.items() if d["kind"] != "Secret" or k != "data"}
        for d in found
    }
