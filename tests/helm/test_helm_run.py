"""Parts of the chart that run outside of Kubernetes too: the test hook's script, and etcd's command line."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from helm_chart import CHART, NAMESPACE, RELEASE, VALUES, Document, environment, named, of_kind, render, services

from proxist.etcd import EtcdClient
from proxist.etcd.local import etcd_command
from proxist.rpc.ports import free_ports
from proxist.rpc.service import parse_ready_line
from proxist.rpc.tls import Tls
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


@pytest.mark.parametrize("case", ["insecure-dev", "minimal"])
def test_etcd_and_an_owner_start_as_the_chart_starts_them(case: str, tmp_path: Path) -> None:
    """Addresses and paths become this machine's; every other argument and setting is the chart's, certificates too."""
    found = render(VALUES[case])
    tls = _secrets(found, tmp_path)
    stateful = named(found, "StatefulSet", "etcd")
    _, *arguments = stateful["spec"]["template"]["spec"]["containers"][0]["command"]
    known = f"{RELEASE}-proxist-etcd.{NAMESPACE}.svc.cluster.local"
    for whom in ("client", "peer"):
        assert (f"--{whom}-cert-allowed-hostname={known}" in arguments) is (tls is not None)
    client, peer, metrics = free_ports(3)
    name = f"{RELEASE}-proxist-etcd-0"
    text = json.dumps(arguments).replace("$(POD_NAME)", name).replace("/var/lib/etcd", str(tmp_path))
    text = text.replace("/etc/etcd/tls", str(tmp_path / "tls"))
    text = re.sub(r"(?<=//)[^:\",]+(?=:23)", "127.0.0.1", text)
    for fixed, port in ((2379, client), (2380, peer), (2381, metrics)):
        text = text.replace(f":{fixed}", f":{port}")
    address = f"{'https://' if tls else ''}127.0.0.1:{client}"
    binary = etcd_command(tmp_path, client, peer)[0]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([binary, *json.loads(text)], stdout=log, stderr=log)
        try:
            with EtcdClient([address], tls=tls) as etcd:
                _wait_for(etcd, process, tmp_path / "log")
                _an_owner_starts_with_the_charts_config(found, tmp_path, address, tls)
                (node,) = etcd.range("/proxist/v1/nodes/")[0]
                told = json.loads(node.value)
                assert told["flight"].startswith("grpc+tls://localhost:" if tls else "grpc://localhost:")
                assert told["insecure"] is (tls is None)
        finally:
            process.terminate()
            process.wait(10)


def _secrets(found: list[Document], root: Path) -> Tls | None:
    """Write what the chart generates to `root`/tls and `root`/auth; None where it generates nothing."""
    kinds = {secret["metadata"]["name"]: secret["data"] for secret in of_kind(found, "Secret")}
    for name in ("tls", "auth"):
        for key, value in kinds.get(f"{RELEASE}-proxist-{name}", {}).items():
            (root / name).mkdir(exist_ok=True)
            (root / name / key).write_bytes(base64.b64decode(value))
            (root / name / key).chmod(0o600)
    tls = root / "tls"
    return Tls(tls / "tls.crt", tls / "tls.key", tls / "ca.crt") if tls.exists() else None


def _an_owner_starts_with_the_charts_config(found: list[Document], root: Path, etcd: str, tls: Tls | None) -> None:
    """Returns when the owner said that it is ready and its probes answered without a certificate; it is killed, so its
    record stays until the lease ends."""
    (container,) = (c for owner, role, _, c in services(found) if owner.endswith("-ingest") and role == "ingest")
    text = named(found, "ConfigMap", "ingest")["data"]["config.yaml"]
    config = yaml.safe_load(text.replace("/var/lib/proxist", str(root)).replace("/run/proxist", str(root / "run")))
    config |= {"etcd": etcd, "flight_port": 0, "grpc_port": 0, "http_port": 0}
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    variables = {name: value.replace("/etc/proxist", str(root)) for name, value in environment(container).items()}
    variables["PROXIST_CONFIG"] = str(root / "config.yaml")
    variables["PROXIST_ADVERTISE_HOST"] = "localhost"  # the pod's name means nothing here
    command = [sys.executable, "-m", "proxist.cli.proxist", *container["command"][1:]]
    with subprocess.Popen(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if line.startswith("ready "))
            ready = parse_ready_line(line) or {}
            context = Tls(ca=tls.ca).http_client() if tls else None
            with urllib.request.urlopen(f"{ready['http']}/readyz", timeout=10, context=context) as probed:
                assert probed.status == 200
        finally:
            process.kill()
    assert ready["name"] == "rel-pod-0"
    assert ready["flight"].startswith("grpc+tls://localhost:" if tls else "grpc://localhost:")


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
