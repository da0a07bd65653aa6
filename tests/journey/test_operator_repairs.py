"""A whole cluster whose rows in ClickHouse somebody changed by hand: `pxctl verify` says what, `pxctl repair` what now."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from control import TRADES, Control, operators_environment
from doors import action, by_get, put
from test_errors import rows

from proxist.clickhouse import ClickHouse
from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

ROWS = 1000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Without TLS: the operator's hands at ClickHouse have none."""
    with LocalCluster(tmp_path_factory.mktemp("repairs"), tls=False) as running:
        action(running.endpoints["query"][0]["flight"], "create_table", {**TRADES, "shards": 2})
        for first in range(0, ROWS, 100):
            put(running.endpoints["ingest"][0]["flight"], "trades", rows(100, first))
        control = Control(running.endpoints)
        control.flush("trades")
        control.close()
        yield running


def pxctl(cluster: LocalCluster, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "proxist.cli.pxctl", "--controlplane", cluster.endpoints["controlplane"]["grpc"]]
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=90, check=False, env=operators_environment(cluster)
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def all_rows(cluster: LocalCluster) -> pa.Table:
    """From ClickHouse, as users read them."""
    control = Control(cluster.endpoints)
    control.evict("trades", all=True)
    control.close()
    ask = by_get(cluster.endpoints["query"][0]["flight"], "auto")
    table = ask({"scan": {"table": "trades", "columns": ["trade_id", "price"]}})
    return table.sort_by("trade_id")


def test_an_operator_finds_and_repairs_what_was_done_by_hand(cluster: LocalCluster) -> None:
    assert pxctl(cluster, "verify")[0] == 0
    before = all_rows(cluster)
    assert before.num_rows == ROWS
    clickhouse = ClickHouse(cluster.endpoints["clickhouse"])
    done = {"mutations_sync": 2, "lightweight_deletes_sync": 2}
    clickhouse.command("INSERT INTO default.trades SELECT * FROM default.trades WHERE trade_id < 50")
    clickhouse.command("DELETE FROM default.trades WHERE trade_id >= 900 AND trade_id < 930", done)
    clickhouse.command("ALTER TABLE default.trades UPDATE price = 99 WHERE trade_id IN (500, 501)", done)

    code, text = pxctl(cluster, "verify", "trades")
    assert code == 1
    for words in ("pxctl repair trades", "in price", "DELETE FROM default.trades WHERE _log ="):
        assert words in text

    wrong = {"altered": 2, "copies": 50, "gap": 30}
    for yes, left in ((), wrong), (("--yes",), {"altered": 2}):
        code, text = pxctl(cluster, "repair", "trades", *yes, "--json")
        said: dict[str, Any] = json.loads(text)
        assert code == 1, "what the operator has to decide is left"
        assert _sums(said["findings"]) == left
        assert said["taken"] == (len(said["steps"]) if yes else 0)

    clickhouse.command("DELETE FROM default.trades WHERE trade_id IN (500, 501)", done)
    code, text = pxctl(cluster, "repair", "trades", "--yes", "--json")
    said = json.loads(text)
    assert (code, said["findings"]) == (0, [])
    assert said["taken"] == len(said["steps"]) >= 1
    assert pxctl(cluster, "verify")[0] == 0
    assert all_rows(cluster).equals(before)
    clickhouse.close()


def test_a_table_that_is_not_there_is_named(cluster: LocalCluster) -> None:
    command = [sys.executable, "-m", "proxist.cli.pxctl", "--controlplane", cluster.endpoints["controlplane"]["grpc"]]
    done = subprocess.run([*command, "repair", "nothing"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 66
    assert "nothing" in done.stderr


def _sums(findings: list[dict[str, Any]]) -> dict[str, int]:
    """Rows by kind of finding."""
    return {kind: sum(f["rows"] for f in findings if f["kind"] == kind) for kind in {f["kind"] for f in findings}}
