"""The chart through Helm's own engine: rendering, and the parts of what it rendered."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "proxist"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
sys.path.insert(0, str(CHART.parent))

import chart_schema  # noqa: E402, F401 (deploy/helm is no package)
import generate  # noqa: E402, F401

Document = dict[str, Any]
VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    **{path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text()) for path in CI},
}
RELEASE, NAMESPACE = "rel", "prod"
ROLES = ("ingest", "query", "persister", "controlplane")


@functools.cache
def loaded(path: Path = CHART) -> helm_python.Chart:
    return helm_python.Chart.load(str(path))


def render(values: dict[str, Any], chart: Path = CHART, *, upgrade: bool = False) -> list[Document]:
    """Every resource, hooks included; the notes are left out. Raises HelmError."""
    return _render(json.dumps(values, sort_keys=True), chart, upgrade)


@functools.cache
def _render(values: str, chart: Path, upgrade: bool) -> list[Document]:
    files = loaded(chart).render(
        json.loads(values), name=RELEASE, namespace=NAMESPACE, is_upgrade=upgrade, is_install=not upgrade
    )
    return list(documents(text for name, text in sorted(files.items()) if not name.endswith(".txt")))


def documents(texts: Iterator[str]) -> Iterator[Document]:
    for text in texts:
        yield from (document for document in yaml.safe_load_all(text) if document)


def of_kind(found: list[Document], *kinds: str) -> list[Document]:
    return [document for document in found if document["kind"] in kinds]


def named(found: list[Document], kind: str, name: str) -> Document:
    return next(d for d in of_kind(found, kind) if d["metadata"]["name"] == f"{RELEASE}-proxist-{name}")


def pods(found: list[Document]) -> list[tuple[str, Document]]:
    """(name of the owner, pod spec) of everything that runs containers."""
    owners = of_kind(found, "Deployment", "StatefulSet")
    listed = [(d["metadata"]["name"], d["spec"]["template"]["spec"]) for d in owners]
    return listed + [(d["metadata"]["name"], d["spec"]) for d in of_kind(found, "Pod")]


def services(found: list[Document]) -> Iterator[tuple[str, str, Document, Document]]:
    """(owner, role, pod spec, container) of every container that runs a Proxist service."""
    for owner, pod in pods(found):
        for container in pod["containers"]:
            if container.get("command", [""])[0] == "proxist":
                yield owner, container["command"][1], pod, container


def environment(container: Document) -> dict[str, str]:
    """A container's variables with literal values, of pod 0; those from secrets are left out."""
    given = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    return {name: value.replace("$(POD_NAME)", f"{RELEASE}-pod-0") for name, value in given.items()}
