"""What the pages show is true: Python and shell examples run on a cluster, the settings are those of the models."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import settings_table
import typer.main
import yaml

import proxist
from proxist import config
from proxist.cli import proxist as program
from proxist.cli.parts import DEFAULT_PORTS
from proxist.clickhouse.embedded.__main__ import _arguments
from proxist.model.table import parse_spec
from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ["README.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").glob("*.md")))]
BIN = Path(sys.executable).parent


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def shell_lines() -> list[str]:
    return [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("docs")) as running:
        yield running


def here(text: str, cluster: LocalCluster) -> str:
    """`text` with the default ports replaced by those of the cluster."""
    for (role, door), port in DEFAULT_PORTS.items():
        found: Any = cluster.endpoints.get(role)
        found = found[0] if isinstance(found, list) else found
        found = found[door] if isinstance(found, dict) else found
        if found and door != "peer":
            text = re.sub(rf"\b{port}\b", found.rpartition(":")[2], text)
    return text


def without_tables(cluster: LocalCluster) -> None:
    with proxist.connect(cluster.endpoints["query"][0]["flight"]) as connection:
        for spec in connection.tables():
            connection.drop_table(spec.name)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_examples_of_a_page_run_one_after_the_other(
    page: str, cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_tables(cluster)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    try:
        for block in blocks(page, "python"):
            exec(compile(here(block, cluster), page, "exec"), names)
        answer = names["answer"] if "answer" in names else names["trades"].scan()
        assert answer.num_rows > 0
    finally:
        if isinstance(connection := names.get("connection"), proxist.Connection):
            connection.close()


def test_the_spec_of_a_page_is_a_table(cluster: LocalCluster) -> None:
    specs = [yaml.safe_load(block) for page in PAGES for kind in ("json", "yaml") for block in blocks(page, kind)]
    shown = [parse_spec(spec) for spec in specs if "columns" in spec]
    assert len(shown) >= 2
    for spec in shown:
        without_tables(cluster)
        with proxist.connect(cluster.endpoints["query"][0]["flight"]) as connection:
            assert connection.create_table(spec.to_json()).spec == spec


def test_the_operators_commands_run(cluster: LocalCluster, tmp_path: Path) -> None:
    without_tables(cluster)
    spec = tmp_path / "spec.yaml"
    spec.write_text(blocks("docs/pxctl.md", "yaml")[0])
    lines = [line for line in shell_lines() if line.startswith(("pxctl ", "curl "))]
    assert len(lines) >= 10
    environment = {
        **os.environ,
        "PROXIST_CONTROLPLANE": cluster.endpoints["controlplane"]["grpc"],
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    for line in [f"pxctl create-table {spec}", *lines]:
        words = shlex.split(here(line, cluster).replace("curl -s", "curl -sf"))
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), line
        assert done.stdout, line


def test_the_programs_that_stay_take_the_flags_that_the_pages_show() -> None:
    """They take the default ports, which a test must not."""
    seen = set()
    for line in shell_lines():
        first, role, *flags = [*shlex.split(line.rstrip("& ")), ""][:-1] or ["", ""]
        if first != "proxist":
            continue
        seen.add(role)
        if role in settings_table.SERVICES:
            cls, defaults = settings_table.SERVICES[role]
            config.load(cls, flags, env={}, defaults=defaults)
        elif role == "clickhouse":
            _arguments(flags)
        else:
            typer.main.get_command(program.app).commands[role].make_context(role, flags)  # type: ignore[attr-defined]
    assert {"up", "clickhouse", *settings_table.SERVICES} <= seen


def test_every_setting_stands_in_operations_with_its_default_and_meaning() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    begin, end = re.search(r"<!-- settings:begin .*-->\n", text), text.index("<!-- settings:end -->")
    assert begin is not None
    assert text[begin.end() : end].strip() == settings_table.page(), "run python tests/house/settings_table.py"


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in [*PAGES, "CONTRIBUTING.md", *(f"docs/formats/{p.name}" for p in (ROOT / "docs/formats").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"
