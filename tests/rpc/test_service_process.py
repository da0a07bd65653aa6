"""The life of a service process: ready line, ordered and bounded stop, exit codes, the end of its parent."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_service
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxist import errors
from proxist.rpc import child, status
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.grpc_client import connect
from proxist.rpc.service import parse_ready_line
from proxist.testing.tls import DevCerts

T = 30.0


class Running:
    """One fake service process and the endpoints of its ready line."""

    def __init__(self, root: Path, *argv: str, role: str = "ingest") -> None:
        self.data_dir = root / "data"
        environment = {**os.environ, "PYTHONPATH": str(root / "packages")}
        if not (root / "packages").exists():
            fake_service.package(root / "packages")
        command = [
            sys.executable,
            "-m",
            f"proxist_{role}",
            "--data-dir",
            str(self.data_dir),
            "--run-dir",
            str(root / "run"),
        ]
        self.process = subprocess.Popen(
            [*command, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def ready(self) -> dict[str, str]:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(T), "no ready line"
        fields = parse_ready_line(self.process.stdout.readline())
        assert fields is not None
        return fields

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """(exit code, stderr)."""
        if number is not None:
            self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=T)
        return self.process.returncode, stderr


def tls_flags(certs: DevCerts) -> list[str]:
    files = {"cert": "tls.crt", "key": "tls.key", "ca": "ca.crt"}
    return [f"--tls-{name}={certs.directory / file}" for name, file in files.items()]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*argv: str, role: str = "ingest") -> Running:
        started.append(Running(tmp_path, *argv, role=role))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_the_ready_line_names_what_listens(run: Callable[..., Running]) -> None:
    service = run()
    fields = service.ready()
    assert (fields["role"], fields["name"], fields["pid"]) == ("ingest", "ingest-0", str(service.process.pid))
    for uri in (fields["flight"], fields["flight_unix"]):
        with FlightPeer(uri) as peer:
            assert peer.do_action("anything", timeout_s=T) == [{}]


def test_with_tls_every_address_says_so_and_wants_the_certificate(run: Callable[..., Running], tmp_path: Path) -> None:
    certs = DevCerts(tmp_path / "certs")
    fields = run(*tls_flags(certs), "--tls-clients=certificate").ready()
    assert (fields["flight"][:11], fields["http"][:8]) == ("grpc+tls://", "https://")
    with FlightPeer(fields["flight"], tls=certs.client) as peer:
        assert peer.do_action("anything", timeout_s=T) == [{}]
    with FlightPeer(fields["flight"], tls=certs.nameless) as peer, pytest.raises(errors.Unavailable, match="handshake"):
        peer.do_action("anything", timeout_s=T)
    with connect(fields["grpc"], tls=certs.client) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


def test_a_node_that_dies_in_a_call_over_tls_is_no_failed_handshake(
    run: Callable[..., Running], tmp_path: Path
) -> None:
    certs = DevCerts(tmp_path / "certs")
    fields = run(*tls_flags(certs)).ready()
    with FlightPeer(fields["flight"], tls=certs.client) as peer:
        peer.do_action("anything", timeout_s=T)
        with pytest.raises(errors.Unavailable, match="does not answer") as raised:
            peer.do_action("crash", timeout_s=T)
    assert raised.value.details == {}


def test_an_insecure_start_is_a_warning_in_the_log(run: Callable[..., Running]) -> None:
    insecure, plain = run("--insecure", "--host", "0.0.0.0"), run()
    for service, warns in ((insecure, 1), (plain, 0)):
        service.ready()
        code, stderr = service.end(signal.SIGTERM)
        lines = [json.loads(line) for line in stderr.splitlines()]
        assert (code, sum(line["level"] == "warning" and "insecure" in line["event"] for line in lines)) == (0, warns)


def test_a_start_warns_of_what_goes_around_tls(run: Callable[..., Running], tmp_path: Path) -> None:
    service = run(*tls_flags(DevCerts(tmp_path / "certs")), "--etcd", "etcd-0.example.com:2379")
    service.ready()
    _, stderr = service.end(signal.SIGTERM)
    said = [line["event"] for line in map(json.loads, stderr.splitlines()) if line["level"] == "warning"]
    assert [event for event in said if event.startswith("`etcd` is on another machine and called without TLS")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order_with_exit_code_0(run: Callable[..., Running], number: signal.Signals) -> None:
    service = run()
    service.ready()
    code, stderr = service.end(number)
    assert code == 0
    assert (service.data_dir / "stopped").read_text() == "[]"
    assert "Traceback" not in stderr


def test_a_signal_at_any_moment_of_the_wait_is_heard() -> None:
    """A handler that took the lock of the event on which the main thread waits would stop for ever."""
    program = """
        import os, signal, threading
        from proxist.rpc import service
        lifeline = service.Lifeline()
        service._stop_on_signals(lifeline)
        def pelt():
            for _ in range(500):
                os.kill(os.getpid(), signal.SIGTERM)
        pelting = threading.Thread(target=pelt)
        pelting.start()
        while pelting.is_alive():
            lifeline.ended.wait(0.0001)
        lifeline.ended.wait()
    """
    for _ in range(5):
        subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=T)


def test_an_unread_stream_does_not_hold_the_process(run: Callable[..., Running]) -> None:
    service = run()
    peer = FlightPeer(service.ready()["flight"])
    stream = peer.stream({"want": "endless"}, timeout_s=60.0)
    next(stream)
    code, stderr = service.end(signal.SIGTERM)
    assert code == 0
    assert "stopping" in stderr
    stream.cancel()
    peer.close()


def test_a_thread_that_cannot_go_on_ends_the_process_with_its_error(run: Callable[..., Running]) -> None:
    service = run()
    with FlightPeer(service.ready()["flight"]) as peer:
        peer.do_action("fail", timeout_s=T)
    code, stderr = service.end()
    assert code == status.exit_code(errors.LogCorrupt("")) == 74
    assert stderr.splitlines()[-1] == "error ingest-0: The disk refused an fsync."
    assert (service.data_dir / "stopped").exists(), "it stopped in order"


def test_a_failed_start_is_one_line_and_an_exit_code(run: Callable[..., Running], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corrupt").touch()
    code, stderr = run().end()
    assert code == 74
    assert stderr == "error ingest-0: The log is damaged at byte 17. Run `proxist repair`.\n"


def test_a_signal_ends_a_start_that_waits(run: Callable[..., Running], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "wait").touch()
    service = run()
    _until(lambda: (tmp_path / "data" / "waiting").exists())
    code, stderr = service.end(signal.SIGTERM)
    assert (code, stderr) == (0, "")


@pytest.mark.parametrize("door", ["flight", "grpc", "http"])
def test_a_taken_port_names_port_and_setting(run: Callable[..., Running], door: str) -> None:
    fields = run().ready()
    port = fields[door].rpartition(":")[2]
    code, stderr = run(f"--{door}-port", port, "--name", "ingest-1").end()
    assert code == 71
    assert f"Port {port} on 127.0.0.1 (`{door}_port`) is taken" in stderr
    assert "Traceback" not in stderr


def test_a_wrong_setting_is_one_line_and_an_exit_code(run: Callable[..., Running]) -> None:
    code, stderr = run("--grpc-prot", "1").end()
    assert code == 78
    assert stderr.startswith("error ingest: '--grpc-prot' is not a flag of this service.")
    assert len(stderr.splitlines()) == 1


def test_help_names_the_settings(run: Callable[..., Running]) -> None:
    service = run("--help")
    assert service.process.stdout is not None
    text = service.process.stdout.read()
    assert service.end()[0] == 0
    assert "--flight-port (PROXIST_FLIGHT_PORT)" in text


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """kill -9 of the parent; the child, an exec'd program, knows nothing of it."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import subprocess, sys, time
            from proxist.rpc import child
            one = subprocess.Popen(child.command(["sleep", "600"]))
            print(one.pid, flush=True)
            one.wait()
            """
        )
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    _until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0])
    parent.kill()
    parent.communicate()
    _until(lambda: not _runs(pid))


def test_the_wrapper_ends_where_its_parent_is_already_gone() -> None:
    command = child.command(["true"])
    command[command.index(str(os.getpid()))] = "1"  # another parent than the one it has
    assert subprocess.run(command, check=False).returncode == 1
    assert subprocess.run(child.command(["true"]), check=False).returncode == 0


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + T
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
