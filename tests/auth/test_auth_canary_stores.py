"""Canary: the password in ClickHouse's address reaches no answer, error, health page, metric, log line or span."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from auth_cluster import TABLE, rows, spec

import proxist
from proxist.cli import diagnostics
from proxist.cli.control import control_plane
from proxist.errors import ProxistError
from proxist.pb import controlplane_pb2 as pb
from proxist.rpc import child
from proxist.rpc.service import parse_ready_line
from proxist.telemetry import scrub
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.etcd import LocalEtcd

USER, PASSWORD = "store-user", "CNRYPW-4711-9c2e"
ROLES = ("controlplane", "ingest", "persister", "query")
WORD = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
"""The form of it that goes over the wire to ClickHouse."""
TIMEOUT_S = 60.0


class Services:
    """One of each, with the password in their address of ClickHouse; all that they write is kept in files."""

    def __init__(self, root: Path, etcd: LocalEtcd, clickhouse: LocalClickHouse) -> None:
        self._root, self._etcd, self._clickhouse = root, etcd, clickhouse
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ready: dict[str, dict[str, str]] = {}

    def start(self) -> Services:
        host = self._clickhouse.url.partition("//")[2]
        address = f"http://{USER}:{PASSWORD}@{host}"
        for role in ROLES:
            words = ["--name", f"{role}-0", "--etcd", self._etcd.address, "--clickhouse", address]
            words += [
                "--data-dir",
                str(self._root / role),
                "--run-dir",
                str(self._root / "run"),
                "--log-level",
                "debug",
            ]
            words += [word for door in ("flight", "grpc", "http") for word in (f"--{door}-port", "0")]
            command = child.command([sys.executable, "-m", f"proxist_{role}", *words])
            kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROXIST_", "OTEL_"))}
            with (self._root / f"{role}.log").open("wb") as log, (self._root / f"{role}.spans").open("wb") as spans:
                self._processes[role] = subprocess.Popen(
                    command, env={**kept, "OTEL_TRACES_EXPORTER": "console"}, stdout=spans, stderr=log
                )
        for role, process in self._processes.items():
            self.ready[role] = self._ready(role, process)
        return self

    def stop(self) -> dict[str, str]:
        """What each wrote, from first to last."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(TIMEOUT_S)
        return {f"{kind} of {role}": self._said(role, kind) for role in self._processes for kind in ("log", "spans")}

    def _ready(self, role: str, process: subprocess.Popen[bytes]) -> dict[str, str]:
        deadline = time.monotonic() + TIMEOUT_S
        tick = threading.Event()
        while process.poll() is None and time.monotonic() < deadline:
            for line in self._said(role, "spans").splitlines():
                if (found := parse_ready_line(line)) is not None:
                    return found
            tick.wait(0.05)
        raise AssertionError(f"{role} is not ready\n{self._said(role, 'log')}")

    def _said(self, role: str, kind: str) -> str:
        return (self._root / f"{role}.{kind}").read_text()


@pytest.fixture
def services(tmp_path: Path, clickhouse: LocalClickHouse) -> Iterator[Services]:
    with ExitStack() as stack:
        etcd = stack.enter_context(LocalEtcd(tmp_path))
        services = Services(tmp_path, etcd, clickhouse)
        stack.callback(services.stop)
        yield services.start()


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[LocalClickHouse]:
    with LocalClickHouse(tmp_path) as clickhouse:
        yield clickhouse


def page(services: Services, role: str, path: str) -> str:
    with urllib.request.urlopen(services.ready[role]["http"] + path, timeout=TIMEOUT_S) as answer:
        return str(answer.read().decode())


def failed(call: Any) -> str:
    with pytest.raises(ProxistError) as caught:
        call()
    return json.dumps(caught.value.to_json())


@pytest.mark.cluster
def test_a_password_in_the_address_of_clickhouse_is_told_to_nobody(
    services: Services, clickhouse: LocalClickHouse, tmp_path: Path
) -> None:
    told: dict[str, str] = {}
    host = clickhouse.url.partition("//")[2]
    with control_plane(services.ready["controlplane"]["grpc"], TIMEOUT_S) as control:

        def clickhouse_node() -> pb.Node:
            return next(n for n in control.call("Status", pb.StatusRequest()).nodes if n.role == "clickhouse")

        with proxist.connect(services.ready["query"]["flight"]) as connection:
            connection.create_table(spec(TABLE))
            connection.table(TABLE).write(rows("A"))
            connection.flush(TABLE)
            node = clickhouse_node()
            assert (node.http, node.state) == (clickhouse.url, "ready")
            control.call("Evict", pb.EvictRequest(table=TABLE, all=True))
            clickhouse.kill()
            told["node"] = str(clickhouse_node())
            assert 'state: "down"' in told["node"]
            connection.table(TABLE).write(rows("B"))
            told["query"] = failed(lambda: connection.sql(f"SELECT count() FROM {TABLE}").table())
            told["flush"] = failed(lambda: control.call("Flush", pb.FlushRequest(table=TABLE, timeout_ms=2_000)))
        found = diagnostics.collect(control, tmp_path / "d.tar.gz", None, [])
        with tarfile.open(found["archive"]) as archive:
            for name in archive.getnames():
                opened = archive.extractfile(name)
                assert opened is not None
                told[name] = opened.read().decode()
    for role in ROLES:
        told |= {f"{path} of {role}": page(services, role, path) for path in ("/health", "/metrics")}
    told |= services.stop()
    for where, text in told.items():
        for canary in (PASSWORD, WORD, USER):
            assert canary not in text, f"{where}: {text[max(0, text.index(canary) - 200) :][:400]}"
    for where in ("query", "flush", "log of persister"):  # the ways by which it could have come out were walked
        assert host in told[where], f"{where} does not speak of ClickHouse: {told[where][-2000:]}"
    assert '"db.system.name": "clickhouse"' in told["spans of persister"]


@pytest.mark.parametrize("password", [PASSWORD, f"a:{PASSWORD}", f"a@{PASSWORD}", f"{PASSWORD}@"])
def test_a_log_line_shows_an_address_without_its_password(password: str) -> None:
    line = scrub.own().text(f"from https://{USER}:{password}@h:8443/a, then more")
    assert line == f"from https://{USER}:***@h:8443/a, then more"
