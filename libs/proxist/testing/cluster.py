"""A whole cluster for tests: `proxist up` as a process of its own, on free ports."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from proxist.cli.cluster_tls import ClusterTls
from proxist.cli.supervisor import HOLD_DIRECTORY, PARTS_FILE, STOP_S_MAX
from proxist.config import default_run_dir
from proxist.rpc.tls import Tls

START_S_MAX = 90.0
LOG_TAIL_BYTES = 4_000
POLL_S = 0.02

TLS_VARIABLE = "PROXIST_TEST_TLS"
"""With the value 1 every LocalCluster that is not told otherwise has TLS and tokens."""

_live: set[LocalCluster] = set()


class LocalCluster:
    """A context manager. `endpoints` is the line of `proxist up --json` and stays true over restarts of parts, except
    `pids`: those are of the start, `pid(part)` is current.

    Parts are named as in `endpoints["pids"]`: ingest-0, query-0, persister-0, controlplane-0, etcd, clickhouse.

    With `tls` (None: as TLS_VARIABLE says) it is `proxist up --tls`, and from start to stop this process' environment has
    what the SDK and pxctl need for it. Of several such clusters it is the one that started last.
    """

    def __init__(
        self, data_dir: Path, *, ingest: int = 1, query: int = 1, port_base: int = 0, tls: bool | None = None
    ) -> None:
        self.tls = os.environ.get(TLS_VARIABLE) == "1" if tls is None else tls
        self.data_dir = data_dir
        self.run_dir = default_run_dir(data_dir)
        self.endpoints: dict[str, Any] = {}
        self._arguments = ["--ingest", str(ingest), "--query", str(query), "--port-base", str(port_base)]
        self._arguments += ["--tls"] if self.tls else []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """On return every part is ready. Raises AssertionError with the end of every log where that fails."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "proxist.cli.proxist", "up", "--json", "--data-dir", str(self.data_dir)]
        with (self.data_dir / "up.log").open("ab") as log:
            self._process = subprocess.Popen([*command, *self._arguments], stdout=subprocess.PIPE, stderr=log)
        _live.add(self)
        line = _read_line(self._process, START_S_MAX)
        if not line:
            logs = self.logs()
            self.stop()
            raise AssertionError(f"the cluster did not start\n{logs}")
        self.endpoints = json.loads(line)
        if self.tls:
            _variables.enter(self, self.client_environment())
        return self

    def stop(self) -> int:
        """SIGTERM and wait: the exit code of `proxist up`. The data stays, the run directory goes."""
        _live.discard(self)
        _variables.leave(self)
        process = self._process
        if process is None:
            return 0
        process.terminate()
        try:
            code = process.wait(4 * STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        assert process.stdout is not None
        process.stdout.close()
        self._process = None
        shutil.rmtree(self.run_dir, ignore_errors=True)
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def client_environment(self) -> dict[str, str]:
        """The variables by which the SDK and pxctl reach this cluster; none without TLS."""
        if not self.tls:
            return {}
        files = self.endpoints["tls"]
        paths = {f"PROXIST_TLS_{name.upper()}": files[name] for name in ("ca", "cert", "key")}
        return {**paths, "PROXIST_TOKEN": Path(files["token_file"]).read_text().strip()}

    @property
    def service_tls(self) -> Tls:
        """With TLS: what its services show, which alone the stores let in."""
        return ClusterTls(self.data_dir / "tls").parts

    @property
    def cluster_secret(self) -> Path:
        """With TLS: the file by which its services, and whoever runs it, prove themselves."""
        return self.data_dir / "tls" / "cluster.secret"

    @property
    def supervisor_pid(self) -> int:
        assert self._process is not None, "the cluster was not started"
        return self._process.pid

    def status(self) -> dict[str, dict[str, Any]]:
        """{part: {"role", "pid", "state", endpoints…}} at this moment, as the supervisor knows it."""
        return dict(json.loads((self.run_dir / PARTS_FILE).read_text())["parts"])

    def pid(self, part: str) -> int:
        """Of the part's present process."""
        return int(self.status()[part]["pid"])

    def kill(self, part: str) -> int:
        """kill -9 of one part, and wait until the process is gone: its pid. The supervisor starts it again."""
        return self.signal(part, signal.SIGKILL)

    def signal(self, part: str, number: signal.Signals) -> int:
        """Send `number`, which ends the process, to one part: its pid. On return it is gone and the supervisor knows."""
        pid = self.pid(part)
        os.kill(pid, number)

        def seen() -> bool:
            status = self.status()[part]
            return status["pid"] != pid or status["state"] != "ready"

        self.until(seen, f"{part} (pid {pid}) is gone")
        return pid

    def wait_ready(self, part: str, *, other_than: int = 0, timeout_s: float = 60.0) -> int:
        """Wait until the part is ready, in a process other than pid `other_than`: its pid."""

        def ready() -> bool:
            status = self.status()[part]
            return status["state"] == "ready" and status["pid"] != other_than

        self.until(ready, f"{part} is ready", timeout_s)
        return self.pid(part)

    @contextlib.contextmanager
    def stopped(self, part: str) -> Iterator[None]:
        """The part is killed and stays down inside the block; ready again on return."""
        hold = self.run_dir / HOLD_DIRECTORY / part
        hold.parent.mkdir(exist_ok=True)
        hold.touch()
        try:
            pid = self.kill(part)
            yield
        finally:
            hold.unlink()
        self.wait_ready(part, other_than=pid)

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        """Poll until `condition` holds. Raises AssertionError with the logs after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s:.0f} s: {what}\n{self.logs()}")
            time.sleep(POLL_S)

    def logs(self) -> str:
        """The end of every log, by part."""
        files = [self.data_dir / "up.log", *sorted((self.data_dir / "logs").glob("*.log"))]
        return "\n".join(f"--- {file.name}\n{_end_of(file)}" for file in files if file.exists())


def live_clusters() -> list[LocalCluster]:
    """The clusters of this process that run now; a failing test shows their logs."""
    return list(_live)


class _Variables:
    """Variables of this process' environment that the clusters with TLS set, the last one over the others'."""

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}
        self._wanted: dict[LocalCluster, dict[str, str]] = {}

    def enter(self, cluster: LocalCluster, variables: dict[str, str]) -> None:
        self._wanted[cluster] = variables
        for name in variables:
            self._before.setdefault(name, os.environ.get(name))
        self._set()

    def leave(self, cluster: LocalCluster) -> None:
        if self._wanted.pop(cluster, None) is not None:
            self._set()

    def _set(self) -> None:
        """What was there before any cluster, and over it what each of them wants."""
        wanted: dict[str, str | None] = dict(self._before)
        for variables in self._wanted.values():
            wanted.update(variables)
        for name, value in wanted.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if not self._wanted:
            self._before.clear()


_variables = _Variables()


def _end_of(file: Path) -> str:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - LOG_TAIL_BYTES))
        return opened.read().decode(errors="replace")


def _read_line(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """The first line of its stdout; empty where the process ends, or says nothing, before `timeout_s`."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(timeout_s) else b""
