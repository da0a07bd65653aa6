"""kill -9 of each part in turn in the middle of a replay: every trade id once, by every way of counting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import clickhouse_connect
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from control import Control
from doors import by_get

from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

VICTIMS = ("ingest-0", "persister-0", "query-0", "controlplane-0", "clickhouse", "etcd")


def ids_by_symbol(table: pa.Table) -> dict[str, tuple[int, int, int, int]]:
    """count, distinct, min, max of the trade ids."""
    aggregates = [("trade_id", f) for f in ("count", "count_distinct", "min", "max")]
    rows = table.group_by("symbol").aggregate(aggregates).to_pylist()
    return {r["symbol"]: tuple(r[f"trade_id_{f}"] for _, f in aggregates) for r in rows}  # type: ignore[misc]


def assert_each_id_once(found: dict[str, tuple[int, int, int, int]], way: str) -> None:
    assert len(found) == 6, way
    for symbol, (count, distinct, low, high) in found.items():
        assert count == distinct == high - low + 1, (
            f"{way}: {symbol} has {count} rows, {distinct} ids in [{low}, {high}]"
        )


def clickhouse_door(cluster: LocalCluster) -> dict[str, Any]:
    interface, _, address = cluster.endpoints["clickhouse"].partition("://")
    host, _, port = address.partition(":")
    door = {"interface": interface, "host": host, "port": int(port)}
    if not cluster.tls:
        return door
    shown = cluster.service_tls
    return {
        **door,
        "ca_cert": str(shown.ca),
        "client_cert": str(shown.cert),
        "client_cert_key": str(shown.key),
        "tls_mode": "strict",
    }


def test_every_trade_id_once_after_kill_of_each_part(tmp_path: Path, data_dir: Path) -> None:
    files = sorted(p for p in data_dir.glob("*.gz") if not p.name.startswith("hyperliquid"))
    with LocalCluster(tmp_path) as cluster:
        control = Control(cluster.endpoints)
        to = cluster.endpoints["ingest"][0]["flight"]
        command = [sys.executable, "-m", "proxist.cli.proxist", "replay", "--to", to, *map(str, files)]
        with (tmp_path / "replay.log").open("w+") as log:
            replay = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            try:
                for number, victim in enumerate(VICTIMS, 1):
                    rows = 6_000 * number
                    control.until(lambda n=rows: control.end("trades") >= n, f"{rows} trades accepted")
                    assert replay.poll() is None, "the replay ended before the last kill"
                    cluster.kill(victim)
                assert replay.wait(200) == 0, (log.seek(0), log.read()[-4000:])[1]
            finally:
                replay.kill()
                replay.wait()
        for victim in VICTIMS:
            cluster.wait_ready(victim)
        control.until(lambda: control.flush("trades") is None, "everything persisted")
        ask = by_get(cluster.endpoints["query"][0]["flight"], "auto")
        scan = ask({"scan": {"table": "trades", "columns": ["symbol", "trade_id"]}})
        assert_each_id_once(ids_by_symbol(scan), "scan")
        sql = ask(
            {
                "sql": "SELECT symbol, count() AS n, uniqExact(trade_id) AS d, min(trade_id) AS a, max(trade_id) AS b "
                "FROM trades GROUP BY symbol"
            }
        )
        assert_each_id_once({r["symbol"]: (r["n"], r["d"], r["a"], r["b"]) for r in sql.to_pylist()}, "sql")
        client = clickhouse_connect.get_client(**clickhouse_door(cluster), autogenerate_session_id=False)
        direct = client.query_arrow("SELECT toString(symbol) AS symbol, trade_id FROM default.trades", use_strings=True)
        client.close()
        assert_each_id_once(ids_by_symbol(direct), "ClickHouse")
        assert pc.sum(scan["trade_id"]).as_py() == pc.sum(direct["trade_id"]).as_py()
        control.close()
