"""An upgrade keeps what Kubernetes lets nobody change, compared with the chart's first version."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_chart import CHART, VALUES, Document, of_kind, render

GOLDEN = Path(__file__).parent / "golden" / "first-version.json"
"""Immutable fields as version 0.1.0 rendered them. Never regenerate it: releases of that version are out there."""


def immutable(found: list[Document]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for document in of_kind(found, "StatefulSet", "Deployment", "Service"):
        spec, kind = document["spec"], document["kind"]
        fields = {
            "StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"),
            "Deployment": ("selector",),
            "Service": ("clusterIP",),
        }[kind]
        kept[f"{kind}/{document['metadata']['name']}"] = {name: spec[name] for name in fields if name in spec}
    return kept


@pytest.mark.parametrize("case", VALUES)
def test_immutable_fields_are_those_of_the_first_version(case: str) -> None:
    first = json.loads(GOLDEN.read_text())[case]
    now = immutable(render(VALUES[case], upgrade=True))
    assert {name: now.get(name) for name in first} == first


@pytest.mark.parametrize("case", VALUES)
def test_a_new_version_with_other_settings_keeps_immutable_fields(case: str, tmp_path: Path) -> None:
    chart = tmp_path / "proxist"
    shutil.copytree(CHART, chart)
    meta = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump({**meta, "version": "7.8.9", "appVersion": "7.8.9"}))
    values = copy.deepcopy(VALUES[case])
    values.setdefault("image", {}).update(tag="7.8.9", digest="")
    values["commonLabels"] = {"changed": "yes"}
    values["commonAnnotations"] = {"changed": "yes"}
    for role in ("ingest", "query", "persister", "controlplane"):
        values.setdefault(role, {})["config"] = {"log_level": "debug", "stop_grace_s": 33}
        values[role]["podLabels"] = {"changed": "yes"}
    values["ingest"]["replicas"] = 5
    first = json.loads(GOLDEN.read_text())[case]
    now = immutable(render(values, chart, upgrade=True))
    assert {name: now.get(name) for name in first} == first


def test_pods_are_selected_by_what_never_changes() -> None:
    for case in VALUES:
        for document in of_kind(render(VALUES[case]), "StatefulSet", "Deployment"):
            wanted = document["spec"]["selector"]["matchLabels"].items()
            assert wanted <= document["spec"]["template"]["metadata"]["labels"].items()
            assert not {"app.kubernetes.io/version", "helm.sh/chart"} & set(dict(wanted))


def test_selectors_of_different_owners_do_not_meet() -> None:
    found = of_kind(render(VALUES["production"]), "StatefulSet", "Deployment")
    for one in found:
        for other in found:
            if one is not other:
                labels = other["spec"]["template"]["metadata"]["labels"].items()
                assert not one["spec"]["selector"]["matchLabels"].items() <= labels
