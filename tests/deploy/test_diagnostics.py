"""`pxctl diagnostics collect` and `pxctl top` against a running cluster."""

from __future__ import annotations

import json
import shutil
import stat
import tarfile
from pathlib import Path

import pytest

from proxist.cli.masking import mask, mask_arguments, mask_config
from proxist.cli.pxctl import main
from proxist.cli.pxctl_top import Sample, rates
from proxist.testing.cluster import LocalCluster

SPEC = {
    "name": "diagnosed",
    "time": "ts",
    "key": "symbol",
    "columns": [{"name": "symbol", "type": "string"}, {"name": "ts", "type": "timestamp[ns, tz=UTC]"}],
}


def run(cluster: LocalCluster, *words: str) -> int:
    address = cluster.status()["controlplane-0"]["grpc"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--controlplane", address, "--timeout", "30"])
    return int(ended.value.code or 0)


@pytest.fixture
def table(cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(SPEC))
    assert run(cluster, "create-table", str(spec)) == 0
    capsys.readouterr()
    return "diagnosed"


@pytest.mark.cluster
def test_the_archive_has_everything_and_no_secret(cluster: LocalCluster, tmp_path: Path, table: str) -> None:
    config = tmp_path / "query.yaml"
    config.write_text("clickhouse: https://proxist:hunter2canary@db:8443\nname: query-0\n")
    out = tmp_path / "bundle.tar.gz"
    snapshot = cluster.data_dir / "ingest-0" / "snapshots" / "999999" / "3"
    snapshot.mkdir(parents=True)
    (snapshot / "manifest.json").write_text('{"crc32c":1,"manifest":{"floor":17}}')
    words = ["--out", str(out), "--data-dir", str(cluster.data_dir), "--config", str(config)]
    assert run(cluster, "diagnostics", "collect", *words) == 0
    shutil.rmtree(snapshot.parent)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with tarfile.open(out) as archive:
        texts = {m.name.removeprefix("bundle/"): archive.extractfile(m).read().decode() for m in archive}  # type: ignore[union-attr]
    assert json.loads(texts["errors.json"]) == {}
    expected = {
        "status.json",
        "watermarks.json",
        "tables.json",
        "versions.json",
        "config/query.yaml",
        "config/query-0.args",
    }
    expected |= {
        "logs/ingest-0.log",
        "nodes/ingest-0/logs.json",
        "nodes/query-0/status.json",
        "nodes/persister-0/status.json",
    }
    expected |= {f"nodes/{n}-0/metrics.txt" for n in ("ingest", "query", "persister", "controlplane")}
    assert expected <= set(texts)
    assert table in {log["table"] for log in json.loads(texts["nodes/ingest-0/logs.json"])["logs"]}
    (log,) = (log for log in json.loads(texts["nodes/ingest-0/logs.json"])["logs"] if log["table"] == table)
    (file,) = log["files"]
    assert (file["state"], file["synced"], file["first"], file["bytes"]) == ("open", True, "0", log["bytes"])
    assert "proxist_ingest_rows_total" in texts["nodes/ingest-0/metrics.txt"]
    assert json.loads(texts["snapshots/ingest-0/999999-3.json"])["manifest"]["floor"] == 17
    assert "name: query-0" in texts["config/query.yaml"]
    assert not [name for name, text in texts.items() if "hunter2canary" in text]


@pytest.mark.cluster
def test_an_archive_that_exists_is_not_overwritten(cluster: LocalCluster, tmp_path: Path) -> None:
    out = tmp_path / "bundle.tar.gz"
    out.write_text("mine")
    assert run(cluster, "diagnostics", "collect", "--out", str(out)) == 64
    assert out.read_text() == "mine"


@pytest.mark.cluster
def test_top_once_has_a_row_per_shard(cluster: LocalCluster, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cluster, "top", table, "--once", "--interval", "0.1", "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["table"] for row in found["shards"]} == {table}
    assert {(row["rows_s"], row["persisted_s"], row["lag"]) for row in found["shards"]} == {(0, 0, 0)}
    assert found["missing"] == {}
    assert not [row for row in found["latencies"] if row.get("table")], "nobody writes to it"


def test_rates_are_per_second_and_unknown_over_a_change_of_owner() -> None:
    def sample(at_s: float, epoch: int, persisted: int, end: int) -> Sample:
        mark = {"table": "t", "shard": 1, "epoch": epoch, "floor": 0, "persisted": persisted, "end": end}
        return Sample(at_s, {("default", "t", 1): mark})

    (row,) = rates(sample(10.0, 1, 0, 100), sample(12.0, 1, 50, 300))
    assert (row["rows_s"], row["persisted_s"], row["lag"]) == (100, 25, 250)
    (row,) = rates(sample(10.0, 1, 0, 100), sample(12.0, 2, 50, 300))
    assert (row["rows_s"], row["persisted_s"], row["lag"]) == (None, None, 250)


@pytest.mark.parametrize(
    "text",
    [
        "http://user:canary@host:8123/x",
        "http://:canary@host:8123",
        "http://user:p@canary@host",
        "px_ab12_canary",
        "pxi_query-0_6543_canary",
        "authorization: Bearer canary",
        "password: canary",
        '"cluster_secret": "canary"',
        "--token\ncanary",
        "PROXIST_TOKEN=canary",
        'password: "a, b} canary"',
        "password: a, b canary",
        r'{"event": "tried password=\"canary\" again"}',
        "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    assert "canary" not in mask(text)


@pytest.mark.parametrize(
    "text",
    [
        "clickhouse_password: >-\n  line one\n  canary\n",
        "clickhouse_password: [a, canary]",
        "auth: {admin_token: {value: canary}}",
        "env:\n- {value: canary, name: PROXIST_TOKEN}",
        "env:\n- name: CLUSTER_SECRET\n  value: |\n    first\n    canary\n",
        "clickhouse: 'http://user:with / and canary@host:8123'",
        "tls:\n  private_key: canary",
        '{"api-key": "canary"}',
        "password: |\n  canary\n  in a file that is no: YAML: at all",
    ],
)
def test_settings_are_masked_by_their_name_whatever_their_value_is_made_of(text: str) -> None:
    assert "canary" not in mask_config(text)


def test_what_is_no_secret_stays() -> None:
    text = "name: query-0\ncluster_secret_file: keys/cluster\ntls_key: keys/tls\nkey: symbol\ninsecure: false\n"
    assert mask_config(text) == text
    words = [
        "proxist",
        "--clickhouse-password",
        "canary",
        "--token=canary",
        "--etcd",
        "h:1",
        "--clickhouse=http://u:c@h",
    ]
    masked = ["proxist", "--clickhouse-password", "***", "--token=***", "--etcd", "h:1", "--clickhouse=http://u:***@h"]
    assert mask_arguments(words) == masked
