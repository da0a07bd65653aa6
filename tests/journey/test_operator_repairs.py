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


def found(cluster: LocalCluster, *words: str) -> tuple[int, list[tuple[str, int]]]:
    """The exit code, and each finding's kind and rows."""
    code, said = pxctl(cluster, "verify", *words, "--json")
    return code, sorted((f["kind"], f["rows"]) for one in json.loads(said) for f in one["findings"])


def all_rows(cluster: LocalCluster) -> pa.Table:
    """From ClickHouse, as users read them."""
    control = Control(cluster.endpoints)
    control.evict("trades", all=True)
    control.close()
    ask = by_get(cluster.endpoints["query"][0]["flight"], "auto")
    table = ask({"scan": {"table": "trades", "columns": ["trade_id", "price"]}})
    return table.sort_by("trade_id")


def test_an_operator_finds_and_repairs_what_was_done_by_hand(cluster: LocalCluster) -> None:
    assert found(cluster) == (0, [])
    before = all_rows(cluster)
    assert before.num_rows == ROWS
    clickhouse = ClickHouse(cluster.endpoints["clickhouse"])
    done = {"mutations_sync": 2, "lightweight_deletes_sync": 2}
    clickhouse.command("INSERT INTO default.trades SELECT * FROM default.trades WHERE trade_id < 50")
    clickhouse.command("DELETE FROM default.trades WHERE trade_id >= 900 AND trade_id < 930", done)
    clickhouse.command("ALTER TABLE default.trades UPDATE price = 99 WHERE trade_id IN (500, 501)", done)

    code, wrong = found(cluster, "trades")
    assert code == 1
    assert _sums(wrong) == {"altered": 2, "copies": 50, "gap": 30}
    code, text = pxctl(cluster, "verify")
    assert code == 1
    for words in ("pxctl repair trades", "in price", "DELETE FROM default.trades WHERE _log ="):
        assert words in text

    code, text = pxctl(cluster, "repair", "trades")
    assert code == 1
    assert "Nothing was changed: `--yes` takes these steps." in text
    assert _sums(found(cluster)[1]) == {"altered": 2, "copies": 50, "gap": 30}

    code, text = pxctl(cluster, "repair", "trades", "--yes")
    assert code == 1, "what the operator has to decide is left"
    assert _sums(found(cluster)[1]) == {"altered": 2}

    clickhouse.command("DELETE FROM default.trades WHERE trade_id IN (500, 501)", done)
    code, text = pxctl(cluster, "repair", "trades", "--yes", "--json")
    said: dict[str, Any] = json.loads(text)
    assert (code, said["findings"]) == (0, [])
    assert said["taken"] == len(said["steps"]) >= 1
    assert found(cluster) == (0, [])
    assert all_rows(cluster).equals(before)
    clickhouse.close()


def test_a_table_that_is_not_there_is_named(cluster: LocalCluster) -> None:
    command = [sys.executable, "-m", "proxist.cli.pxctl", "--controlplane", cluster.endpoints["controlplane"]["grpc"]]
    done = subprocess.run([*command, "repair", "nothing"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 66
    assert "nothing" in done.stderr


def _sums(wrong: list[tuple[str, int]]) -> dict[str, int]:
    return {kind: sum(rows for one, rows in wrong if one == kind) for kind, _ in wrong}
