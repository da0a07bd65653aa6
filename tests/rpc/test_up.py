"""`proxist up` with services that are doors only: etcd and ClickHouse are real, so is every process and signal."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_service
import pytest

from proxist.cli import parts
from proxist.cli import up as command
from proxist.errors import ConfigError, PortTaken, Unavailable
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.ports import is_free
from proxist.testing.cluster import LocalCluster

pytestmark = pytest.mark.cluster
T = 60.0
PARTS = {"etcd", "clickhouse", "controlplane-0", "ingest-0", "persister-0", "query-0"}


@pytest.fixture(scope="module", autouse=True)
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(fake_service.package(tmp_path_factory.mktemp("packages"))))
        yield


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("data")) as running:
        yield running


def up(data_dir: Path, *argv: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "proxist.cli.proxist", "up", "--data-dir", str(data_dir), *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(cluster: LocalCluster) -> str:
    return (cluster.data_dir / "up.log").read_text()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_line_is_the_surfaces(cluster: LocalCluster) -> None:
    line = cluster.endpoints
    assert set(line) == {"query", "ingest", "persister", "controlplane", "etcd", "clickhouse", "pids"}
    assert set(line["pids"]) == PARTS
    for door in (*line["query"], *line["ingest"]):
        assert re.fullmatch(r"grpc://127\.0\.0\.1:\d+", door["flight"])
        assert door["flight_unix"].startswith("grpc+unix:///")
        assert re.fullmatch(r"127\.0\.0\.1:\d+", door["grpc"])
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", door["http"])
    assert re.fullmatch(r"127\.0\.0\.1:\d+", line["etcd"])
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", line["clickhouse"])
    for name, pid in line["pids"].items():
        shown = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        assert name.partition("-")[0] in shown, "the command line shows the role"


def test_a_part_that_dies_comes_back_on_the_same_ports_and_up_says_so(cluster: LocalCluster) -> None:
    before = cluster.status()
    for part in sorted(PARTS):
        old = cluster.kill(part)
        new = cluster.wait_ready(part, other_than=old)
        assert new != old
        assert f"{part} (pid {old}) ended with SIGKILL; starting it again on the same ports" in said(cluster)
        assert re.search(rf"{part} is back after \d+\.\d s \(pid {new}\)", said(cluster))
    after = cluster.status()
    for part in PARTS:
        assert {**after[part], "pid": 0} == {**before[part], "pid": 0}
    with FlightPeer(cluster.endpoints["query"][0]["flight_unix"]) as peer:
        assert peer.do_action("anything", timeout_s=T) == [{}]


def test_a_part_that_crashes_by_itself_comes_back(cluster: LocalCluster) -> None:
    old = cluster.pid("query-0")
    with FlightPeer(cluster.endpoints["query"][0]["flight"]) as peer, pytest.raises(Unavailable):
        peer.do_action("crash", timeout_s=T)
    cluster.wait_ready("query-0", other_than=old)
    assert "ended with exit code 9" in said(cluster)


def test_a_part_that_cannot_start_again_is_tried_until_it_can(cluster: LocalCluster) -> None:
    obstacle = cluster.data_dir / "ingest-0" / "corrupt"
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.touch()
    old = cluster.kill("ingest-0")
    cluster.until(lambda: said(cluster).count("ended with exit code 74") >= 2, "tried twice", T)
    assert "The log is damaged at byte 17" in said(cluster), "why it does not start is shown"
    obstacle.unlink()
    cluster.wait_ready("ingest-0", other_than=old)


def test_stopped_holds_a_part_down(cluster: LocalCluster) -> None:
    host, _, port = cluster.endpoints["etcd"].partition(":")
    with cluster.stopped("etcd"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))
        assert cluster.status()["etcd"]["state"] == "starting"
    socket.create_connection((host, int(port))).close()


def test_kill_9_of_the_supervisor_ends_everything(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "data").start()
    try:
        pids = [cluster.pid(part) for part in PARTS]
        os.kill(cluster.supervisor_pid, signal.SIGKILL)
        cluster.until(lambda: not any(runs(pid) for pid in pids), "all parts are gone")
    finally:
        cluster.stop()
    with LocalCluster(tmp_path / "data") as again:
        assert set(again.endpoints["pids"]) == PARTS, "nothing that was left behind is in the way"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_with_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    process = up(tmp_path / "data", "--json", "--port-base", "0")
    assert process.stdout is not None
    pids = json.loads(process.stdout.readline())["pids"]
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=T)
    assert (process.returncode, stdout) == (0, ""), stderr
    assert "killed" not in stderr
    assert not any(runs(pid) for pid in pids.values())
    for part in ("ingest-0", "query-0", "persister-0", "controlplane-0"):
        assert (tmp_path / "data" / part / "stopped").exists(), f"{part} stopped in order"


def test_a_signal_while_it_starts_ends_everything(tmp_path: Path) -> None:
    process = up(tmp_path / "data", "--json", "--port-base", "0")
    log = tmp_path / "data" / "logs" / "etcd.log"
    while not log.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=T)
    assert (process.returncode, stdout) == (0, "")


def test_the_table_is_for_people(tmp_path: Path) -> None:
    process = up(tmp_path / "data", "--port-base", "0", "--ingest", "2", "--query", "2")
    assert process.stdout is not None
    lines: list[str] = []
    while not (lines and lines[-1].startswith("Connect with")):
        lines.append(process.stdout.readline())
        assert lines[-1]
    process.terminate()
    process.communicate(timeout=T)
    text = "".join(lines)
    for part in (*PARTS, "ingest-1", "query-1"):
        assert part in text


def test_a_part_that_cannot_start_is_shown_with_its_log_and_exit_code(tmp_path: Path) -> None:
    obstacle = tmp_path / "data" / "ingest-0" / "corrupt"
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    process = up(tmp_path / "data", "--json", "--port-base", "0")
    stdout, stderr = process.communicate(timeout=T)
    assert (process.returncode, stdout) == (74, "")
    assert "error: ingest-0 ended with exit code 74 while it started" in stderr
    assert "The log is damaged at byte 17. Run `proxist repair`." in stderr
    assert "Traceback" not in stderr


def test_a_data_directory_has_one_cluster(cluster: LocalCluster) -> None:
    process = up(cluster.data_dir, "--json", "--port-base", "0")
    stdout, stderr = process.communicate(timeout=T)
    assert (process.returncode, stdout) == (73, "")
    assert f"is locked by process {cluster.supervisor_pid}" in stderr
    assert len(stderr.splitlines()) == 1


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path, free_ports: Any) -> None:
    base = next(
        port for port in free_ports(200) if all(is_free("127.0.0.1", port + at) for at in range(parts.PORT_SPAN))
    )
    with socket.create_server(("127.0.0.1", base + 12)):
        process = up(tmp_path / "data", "--port-base", str(base))
        _, stderr = process.communicate(timeout=T)
    assert process.returncode == 71
    assert f"Port {base + 12} on 127.0.0.1 (`--port-base`) is taken" in stderr
    assert not (tmp_path / "data" / "etcd").exists()


def test_the_port_order_is_the_documented_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "is_free", lambda *_: True)
    ports = parts.choose_ports(20_000, 5, 6)
    assert ports["query-0", "flight"] == 20_000
    assert ports["ingest-0", "flight"] == 20_003
    assert (ports["persister-0", "grpc"], ports["persister-0", "http"]) == (20_006, 20_007)
    assert (ports["controlplane-0", "grpc"], ports["controlplane-0", "http"]) == (20_008, 20_009)
    assert (ports["etcd", "client"], ports["etcd", "peer"]) == (20_010, 20_011)
    assert ports["clickhouse", "http"] == 20_012
    assert ports["ingest-1", "flight"] == 20_013
    assert ports["query-1", "flight"] == 20_025
    assert ports["query-5", "http"] == 20_039
    assert len(set(ports.values())) == len(ports)
    assert max(ports.values()) == 20_039


def test_the_default_ports_are_the_surfaces_and_never_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "is_free", lambda *_: True)
    ports = parts.choose_ports(None, 5, 6)
    assert (ports["query-0", "flight"], ports["query-0", "grpc"], ports["query-0", "http"]) == (8815, 7421, 7422)
    assert (ports["ingest-0", "flight"], ports["ingest-0", "grpc"], ports["ingest-0", "http"]) == (8816, 7411, 7412)
    assert (ports["persister-0", "grpc"], ports["controlplane-0", "grpc"]) == (7431, 7441)
    assert (ports["etcd", "client"], ports["clickhouse", "http"]) == (2379, 8123)
    assert len(set(ports.values())) == len(ports)


@pytest.mark.parametrize(("ingest", "query", "base"), [(0, 1, 0), (6, 1, 0), (1, 7, 0), (1, 1, -1), (1, 1, 65_500)])
def test_counts_and_bases_out_of_range_are_refused(ingest: int, query: int, base: int) -> None:
    with pytest.raises(ConfigError, match="but must be from 1 to"):
        parts.choose_ports(base, ingest, query)


def test_a_taken_default_port_is_port_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "is_free", lambda _, port: port != 7441)
    with pytest.raises(PortTaken, match="Port 7441"):
        parts.choose_ports(None, 1, 1)


def test_a_port_that_was_taken_meanwhile_makes_up_start_again_on_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Free ports are chosen before they are listened on; asked for by number, they are not exchanged."""
    starts: list[int] = []

    class Collides:
        def __init__(self, *_: object) -> None: ...

        def run(self, _: object) -> None:
            starts.append(1)
            if len(starts) < command.PORT_TRIES:
                raise Unavailable(
                    "query-0 ended with exit code 71 while it started.", exit_code=command.PORT_TAKEN_CODE
                )

    monkeypatch.setattr(command, "Supervisor", Collides)
    assert command.up(tmp_path / "free", 0, 1, 1, True, "info") == 0
    assert len(starts) == command.PORT_TRIES
    assert "starting again on others" in capfd.readouterr().err
    starts.clear()
    assert command.up(tmp_path / "fixed", 31_000, 1, 1, True, "info") == command.PORT_TAKEN_CODE
    assert len(starts) == 1
