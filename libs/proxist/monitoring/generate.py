"""Writes docs/metrics.md, deploy/grafana/*.json and deploy/prometheus/*.yaml; `--check` compares and names stale files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from proxist.monitoring.alerts import alert_rules, recording_rules
from proxist.monitoring.dashboards import dashboards
from proxist.monitoring.page import metrics_page

ROOT = Path(__file__).resolve().parents[3]
PROMETHEUS = Path("deploy/prometheus")
GRAFANA = Path("deploy/grafana")
HEADER = "# Generated from libs/proxist/monitoring/alerts.py by `python -m proxist.monitoring`. Do not edit.\n"


def files() -> dict[Path, str]:
    """Every generated file by its path in the repository."""
    out = {Path("docs/metrics.md"): metrics_page()}
    for name, dashboard in dashboards().items():
        out[GRAFANA / f"{name}.json"] = json.dumps(dashboard, indent=1) + "\n"
    out[PROMETHEUS / "recording.yaml"] = _rules("proxist-recording", recording_rules())
    out[PROMETHEUS / "alerts.yaml"] = _rules("proxist-alerts", alert_rules())
    return out


def stale(root: Path = ROOT) -> list[str]:
    """The files under `root` that are missing, or differ from what the code says; and ones that it no longer writes."""
    fresh = {root / path: text for path, text in files().items()}
    there = {*(root / GRAFANA).glob("*.json"), *(root / PROMETHEUS).glob("*.yaml")}
    differ = {path for path, text in fresh.items() if not path.exists() or path.read_text() != text}
    return sorted(str(path.relative_to(root)) for path in differ | (there - fresh.keys()))


def main() -> None:
    if "--check" in sys.argv[1:]:
        if found := stale():
            raise SystemExit(f"Generated files are stale: {', '.join(found)}. Run `python -m proxist.monitoring`.")
        return
    for path, text in files().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)


def _rules(name: str, rules: list[dict[str, Any]]) -> str:
    groups = {"groups": [{"name": name, "interval": "15s", "rules": rules}]}
    return HEADER + yaml.safe_dump(groups, sort_keys=False, width=120, allow_unicode=True)
