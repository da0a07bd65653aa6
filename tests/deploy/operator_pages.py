"""Runs a page, checks what it does elsewhere, and says which of its blocks were only read."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from elsewhere import Elsewhere
from shell_blocks import ROOT, Shell, blocks

from proxist.testing.cluster import LocalCluster

OPERATIONS = ROOT / "docs" / "operations"


def run_page(
    page: Path, shell: Shell, cluster: LocalCluster, capsys: pytest.CaptureFixture[str], *, again: bool = True
) -> None:
    """Run the page, see `Shell.run`; check what it does elsewhere, and say which of its blocks were only read."""
    noted = shell.run(page, again=again)
    elsewhere = Elsewhere(shell.home, lambda statement: clickhouse_parses(statement, cluster))
    for command in noted:
        try:
            elsewhere.check(command.words)
        except (AssertionError, ValueError, KeyError, IndexError) as error:
            pytest.fail(f"{command.place}: {' '.join(command.words)}\n{error}")
    quiet = [block.place for block in blocks(page) if block.tag == "sh elsewhere"]
    missing = set(quiet) - {command.place for command in noted}
    assert not missing, f"no command of these blocks was seen: {missing}"
    if quiet:
        programs = Counter(command.words[0] for command in noted)
        with capsys.disabled():
            print(f"\nonly read, not run here: {', '.join(quiet)} ({dict(programs)})")


def clickhouse_parses(statement: str, cluster: LocalCluster) -> bool:
    quoted = statement.replace("\\", "\\\\").replace("'", "\\'")
    request = urllib.request.Request(cluster.endpoints["clickhouse"], f"SELECT formatQuery('{quoted}')".encode())
    context = cluster.service_tls.http_client() if cluster.tls else None
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return bool(answer.read())
    except urllib.error.HTTPError as error:
        pytest.fail(error.read().decode())
