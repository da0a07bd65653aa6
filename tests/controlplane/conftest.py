"""One etcd per test, so that every test has a cluster of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from proxist.pb import controlplane_pb2_grpc
from proxist.rpc.grpc_client import connect
from proxist.testing.etcd import LocalEtcd
from proxist_controlplane.config import ControlPlaneConfig
from proxist_controlplane.service import ControlPlane


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[LocalEtcd]:
    with LocalEtcd(tmp_path) as etcd:
        yield etcd


@pytest.fixture
def start(etcd: LocalEtcd, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a control plane with these settings; returns its stub."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Any:
            values = {"name": "controlplane-0", "etcd": etcd.address, "clickhouse": "http://127.0.0.1:1"}
            config = ControlPlaneConfig(run_dir=tmp_path, **{**values, **settings})
            service = ControlPlane(config)
            endpoints = service.start()
            stack.callback(service.stop, 0.5)
            channel = connect(endpoints["grpc"], timeout_s=20)
            stack.callback(channel.close)
            stub: Any = controlplane_pb2_grpc.ControlPlaneServiceStub(channel)
            stub.endpoints = endpoints
            return stub

        yield start


@pytest.fixture
def control(start: Callable[..., Any]) -> Any:
    return start()
