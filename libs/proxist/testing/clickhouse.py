"""A real ClickHouse engine for tests: the embedded server as a process that can be killed, frozen and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from proxist.clickhouse import ClickHouse
from proxist.rpc.tls import Tls
from proxist.testing.process import freeze

START_TIMEOUT_S = 60.0


class LocalClickHouse:
    """A context manager. `url` stays the same over `kill`, `start` and `pause`; the data survive `kill`."""

    def __init__(self, data_dir: Path | None = None, *, tls: Tls | None = None) -> None:
        """`tls`: what it serves with; with a `ca` it demands a certificate."""
        self._tls = tls
        self._own_dir = tempfile.TemporaryDirectory(prefix="proxist-clickhouse-") if data_dir is None else None
        self.data_dir = Path(self._own_dir.name) if self._own_dir is not None else data_dir or Path()
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    def __enter__(self) -> LocalClickHouse:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._own_dir is not None:
            self._own_dir.cleanup()

    @property
    def url(self) -> str:
        """Known from the first start on."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "ClickHouse was not started"
        return self._process.pid

    def start(self) -> LocalClickHouse:
        """Start the process, on the port of the last time; returns once it is ready."""
        path = str(self.data_dir / "clickhouse")
        argv = [sys.executable, "-m", "proxist.clickhouse.embedded", "--path", path, "--port", str(self._port)]
        if self._tls is not None:
            files = {"--tls-cert": self._tls.cert, "--tls-key": self._tls.key, "--tls-ca": self._tls.ca}
            argv += [word for flag, path in files.items() if path for word in (flag, str(path))]
        with (self.data_dir / "clickhouse.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("ready "):
            self.kill()
            raise RuntimeError(f"ClickHouse did not start: {(self.data_dir / 'clickhouse.log').read_text()[-2000:]}")
        self._port = int(line.split(" http=")[1].split()[0].rpartition(":")[2])
        return self

    def client(self) -> ClickHouse:
        return ClickHouse(self.url, tls=self._tls)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int | None:
        """SIGTERM; its exit code, None where it was not running."""
        return self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze the process: connections stay open and nothing answers. On return every thread of it stands still."""
        freeze(self.pid)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(how)
        code = process.wait(timeout=START_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()
        return code
