"""Alerts: each has a runbook, and a promtool unit test in which it fires and in which it does not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from proxist.monitoring.alerts import ALERTS, RUNBOOKS, Alert
from proxist.monitoring.generate import PROMETHEUS, ROOT

CASES = Path(__file__).parent / "alerts"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on the PATH: apt-get install prometheus")


def by_name(alert: Alert) -> str:
    return alert.name


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([str(PROMTOOL), *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    promtool("check", "rules", *sorted((ROOT / PROMETHEUS).glob("*.yaml")))


@needs_promtool
@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_an_alert_fires_when_it_should_and_only_then(alert: Alert) -> None:
    promtool("test", "rules", CASES / f"{alert.name}.yaml")


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_an_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not(alert: Alert) -> None:
    cases = yaml.safe_load((CASES / f"{alert.name}.yaml").read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    assert {check["alertname"] for check in checks} == {alert.name}
    assert any(check["exp_alerts"] for check in checks)
    assert any(not check["exp_alerts"] for check in checks)


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_an_alert_has_its_runbook(alert: Alert) -> None:
    page = (ROOT / alert.runbook).read_text()
    assert page.startswith(f"# {alert.name}\n")
    assert all(f"**{part}" in page for part in ("Means.", "Look."))
    assert "**Do.**" in page or "**Then.**" in page
    links = re.findall(r"\]\(([\w./-]+\.md)\)", page)
    assert all(((ROOT / alert.runbook).parent / link).exists() for link in links)


def test_no_runbook_and_no_case_is_left_of_an_alert_that_is_gone() -> None:
    names = {alert.name for alert in ALERTS}
    assert {page.stem for page in (ROOT / RUNBOOKS).glob("*.md")} - {"README"} == names
    assert {case.stem for case in CASES.glob("*.yaml")} == names
    index = (ROOT / RUNBOOKS / "README.md").read_text()
    assert all(f"[{alert.name}]({alert.name}.md) | {alert.severity} |" in index for alert in ALERTS)
