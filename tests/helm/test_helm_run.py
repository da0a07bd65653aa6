"""Parts of the chart that run outside of Kubernetes too: the test hook's script, and etcd's command line."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helm_chart import CHART, RELEASE, VALUES, environment, named, of_kind, render, services

from proxist.etcd import EtcdClient
from proxist.etcd.local import etcd_command
from proxist.rpc.ports import free_ports
from proxist.testing.cluster import LocalCluster


def test_the_hook_runs_the_script_as_the_services_run() -> None:
    found = render({})
    (pod,) = of_kind(found, "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    script = named(found, "ConfigMap", "test")["data"]["roundtrip.py"]
    assert script.strip() == (CHART / "files" / "roundtrip.py").read_text().strip()


@pytest.mark.cluster
def test_the_hooks_script_writes_a_row_and_reads_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tokens, as the hook's pod does it; the notes' command then makes the first token."""
    secret = tmp_path / "cluster-secret"
    secret.write_bytes(base64.b64decode(named(render({}), "Secret", "auth")["data"]["cluster-secret"]))
    secret.chmod(0o600)
    monkeypatch.setenv("PROXIST_AUTH", "tokens")
    monkeypatch.setenv("PROXIST_CLUSTER_SECRET_FILE", str(secret))
    with LocalCluster(tmp_path / "data") as cluster:
        uri = cluster.endpoints["query"][0]["flight"]
        run = _run(str(CHART / "files" / "roundtrip.py"), uri)
        assert "read back" in run
        notes = (CHART / "templates" / "NOTES.txt").read_text()
        (arguments,) = re.findall("-- pxctl (auth create-token .*)", notes)
        monkeypatch.setenv("PROXIST_CONTROLPLANE", cluster.endpoints["controlplane"]["grpc"])
        token = _run("-m", "proxist.cli.pxctl", *arguments.split()).strip()
        monkeypatch.delenv("PROXIST_CLUSTER_SECRET_FILE")
        monkeypatch.setenv("PROXIST_TOKEN", token)
        assert "read back" in _run(str(CHART / "files" / "roundtrip.py"), uri)


def _run(*arguments: str) -> str:
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_etcd_and_an_owner_start_as_the_chart_starts_them(tmp_path: Path) -> None:
    """Addresses and paths become this machine's; every other argument and setting is the chart's."""
    stateful = named(render(VALUES["insecure-dev"]), "StatefulSet", "etcd")
    _, *arguments = stateful["spec"]["template"]["spec"]["containers"][0]["command"]
    client, peer, metrics = free_ports(3)
    name = f"{RELEASE}-proxist-etcd-0"
    text = json.dumps(arguments).replace("$(POD_NAME)", name).replace("/var/lib/etcd", str(tmp_path))
    text = re.sub(r"(?<=//)[^:\",]+(?=:23)", "127.0.0.1", text)
    for fixed, port in ((2379, client), (2380, peer), (2381, metrics)):
        text = text.replace(f":{fixed}", f":{port}")
    binary = etcd_command(tmp_path, client, peer)[0]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([binary, *json.loads(text)], stdout=log, stderr=log)
        try:
            with EtcdClient([f"127.0.0.1:{client}"]) as etcd:
                _wait_for(etcd, process, tmp_path / "log")
                _an_owner_starts_with_the_charts_config(tmp_path, client)
                (node,) = etcd.range("/proxist/v1/nodes/")[0]
                told = json.loads(node.value)
                assert told["flight"].startswith("grpc://localhost:")
                assert told["insecure"] is True
        finally:
            process.terminate()
            process.wait(10)


def _an_owner_starts_with_the_charts_config(root: Path, etcd_port: int) -> None:
    """Returns when the owner said that it is ready; it is killed, so its record stays until the lease ends."""
    found = render(VALUES["insecure-dev"])
    (container,) = (c for owner, role, _, c in services(found) if owner.endswith("-ingest") and role == "ingest")
    text = named(found, "ConfigMap", "ingest")["data"]["config.yaml"]
    config = yaml.safe_load(text.replace("/var/lib/proxist", str(root)).replace("/run/proxist", str(root / "run")))
    config |= {"etcd": f"127.0.0.1:{etcd_port}", "flight_port": 0, "grpc_port": 0, "http_port": 0}
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    variables = {**environment(container), "PROXIST_CONFIG": str(root / "config.yaml")}
    variables["PROXIST_ADVERTISE_HOST"] = "localhost"  # the pod's name means nothing here
    command = [sys.executable, "-m", "proxist.cli.proxist", *container["command"][1:]]
    with subprocess.Popen(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if line.startswith("ready "))
        finally:
            process.kill()
    assert " name=rel-pod-0 " in line
    assert "flight=grpc://localhost:" in line


def _wait_for(etcd: EtcdClient, process: subprocess.Popen[bytes], log: Path) -> None:
    import threading
    import time

    from proxist.errors import ProxistError

    deadline = time.monotonic() + 20
    while True:
        try:
            etcd.get("/a")
            return
        except ProxistError:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            threading.Event().wait(0.1)
