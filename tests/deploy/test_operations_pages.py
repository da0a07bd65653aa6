"""Every command of the operator's pages: run on a local cluster, or, where that cannot be, compared with what it names."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main
from operator_pages import OPERATIONS, run_page
from shell_blocks import Shell, blocks

import proxist
from proxist.cli import pxctl
from proxist.testing.cluster import LocalCluster

pytestmark = pytest.mark.cluster

ROTATE = OPERATIONS / "rotate.md"
"""Run in a test of its own, on a cluster with TLS; here it is only read."""
PLAIN = [OPERATIONS / f"{name}.md" for name in ("install", "size", "upgrade", "verify", "damaged-log", "alerts")]
RUNBOOKS = sorted((OPERATIONS / "runbooks").glob("Proxist*.md"))
OTHERS = {"README.md", "grpcurl.md", "tracing.md"}
"""Without commands, or with a test of their own."""
SPEC = {
    "name": "trades",
    "time": "ts",
    "key": "symbol",
    "columns": [{"name": "symbol", "type": "string"}, {"name": "ts", "type": "timestamp[ns, tz=UTC]"}],
}


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """With the table `trades` and a row in it. Its parts are restarted by a page."""
    with LocalCluster(tmp_path_factory.mktemp("operations"), tls=False) as running:
        fill(running)
        yield running


@pytest.fixture(scope="module")
def shell(own_cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("operator"), own_cluster)


def fill(cluster: LocalCluster) -> None:
    with proxist.connect(cluster.endpoints["query"][0]["flight"]) as connection:
        connection.create_table(SPEC).write([{"symbol": "BTCUSDT", "ts": 1_723_161_600_000_000_000}])


@pytest.mark.parametrize("page", PLAIN, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_from_top_to_bottom(
    page: Path, shell: Shell, own_cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that stands in several pages is run once."""
    run_page(page, shell, own_cluster, capsys, again=False)


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.stem)
def test_the_commands_of_a_runbook_run(
    page: Path, shell: Shell, own_cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert blocks(page), "a runbook says what to type"
    run_page(page, shell, own_cluster, capsys, again=False)


def test_no_page_is_left_out() -> None:
    found = set(OPERATIONS.glob("*.md")) | set((OPERATIONS / "runbooks").glob("*.md"))
    assert {page.name for page in found - {*PLAIN, *RUNBOOKS, ROTATE}} == OTHERS


def test_every_page_stands_in_the_index() -> None:
    index = (OPERATIONS / "README.md").read_text()
    assert [page.name for page in OPERATIONS.glob("*.md") if f"]({page.name})" not in index] == ["README.md"]


def test_the_blocks_about_rotation_are_shell() -> None:
    for block in blocks(ROTATE):
        done = subprocess.run(["/bin/bash", "-n"], input=block.text, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), block.place


SERVICES_ALONE = re.compile(r"/etc/proxist/(tls/\S+\.key|cluster\.secret|\S+\.env)|> */etc/")
"""What install.md makes readable for the services' user alone, or writable for root alone."""


@pytest.mark.parametrize("page", [*PLAIN, *RUNBOOKS, ROTATE], ids=lambda page: page.stem)
def test_what_only_services_may_read_is_opened_with_sudo(page: Path) -> None:
    """Here pages run as root, to whom nothing is closed."""
    for block in blocks(page):
        for command in re.split(r" \| | && |\n", block.text):
            assert not SERVICES_ALONE.search(command) or re.match(r"\s*(sudo |SHOWN=)", command), (block.place, command)


def test_the_authority_is_readable_for_everybody_who_calls() -> None:
    text = (OPERATIONS / "install.md").read_text()
    assert re.search(r"^sudo install -d -m 0755 /etc/proxist /etc/proxist/tls$", text, re.M)
    assert re.search(r"^sudo install -m 0644 tls.crt ca.crt /etc/proxist/tls$", text, re.M)


@pytest.mark.parametrize("page", [*PLAIN, *RUNBOOKS, ROTATE], ids=lambda page: page.stem)
def test_a_command_in_the_middle_of_a_sentence_is_one_too(page: Path) -> None:
    for line in re.findall(r"`pxctl ([a-z][^`]*)`", page.read_text()):
        command, words = typer.main.get_command(pxctl.app), pxctl.hoist(line.split())
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context("pxctl", words)
