"""The program: `python -m proxist_controlplane`, its ready line, its doors, its end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from proxist.etcd import EtcdClient, layout
from proxist.rpc.service import parse_ready_line
from proxist.testing.etcd import LocalEtcd

SERVICE = "proxist.controlplane.v1.ControlPlaneService"


def run(tmp_path: Path, etcd: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "proxist_controlplane", "--etcd", etcd, "--grpc-port", "0", "--http-port", "0"]
    return subprocess.Popen(
        [*command, "--run-dir", str(tmp_path), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def process(etcd: LocalEtcd, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = run(tmp_path, etcd.address)
    yield process
    process.kill()
    process.communicate()


def test_it_is_ready_answers_on_every_door_and_leaves_nothing(process: subprocess.Popen[str], etcd: LocalEtcd) -> None:
    assert process.stdout is not None
    ready = parse_ready_line(process.stdout.readline())
    assert ready is not None
    assert (ready["role"], ready["name"], ready["pid"]) == ("controlplane", "controlplane-0", str(process.pid))
    with EtcdClient([etcd.address]) as client:
        kv = client.get(layout.node_key("controlplane-0"))
        assert kv is not None
        assert json.loads(kv.value)["pid"] == process.pid
        with grpc.insecure_channel(ready["grpc"]) as channel:
            ask = reflection_pb2.ServerReflectionRequest(list_services="")
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            (answer,) = stub.ServerReflectionInfo(iter([ask]))
            assert SERVICE in [s.name for s in answer.list_services_response.service]
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        pages = {}
        for page in ("readyz", "livez", "health", "metrics"):
            with urllib.request.urlopen(f"{ready['http']}/{page}", timeout=10) as response:
                assert response.status == 200
                pages[page] = response.read().decode()
        assert json.loads(pages["health"])["state"] == "ready"
        assert "proxist_etcd_synced 1.0" in pages["metrics"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert client.get(layout.node_key("controlplane-0")) is None


def test_a_taken_port_is_named(etcd: LocalEtcd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = run(tmp_path, etcd.address, "--grpc-port", str(port))
        _, said = process.communicate(timeout=60)
    assert process.returncode == 71
    assert f"Port {port}" in said
    assert "Traceback" not in said
