"""A real etcd for tests: a process of its own, on free ports, that can be killed, frozen and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from proxist.errors import InternalError, ProxistError
from proxist.etcd.client import EtcdClient
from proxist.etcd.local import etcd_command
from proxist.rpc.ports import free_ports
from proxist.rpc.tls import Tls
from proxist.testing.process import freeze

START_TIMEOUT_S = 30.0


class LocalEtcd:
    """A context manager. `address` stays the same over `kill`, `start` and `pause`; the data survives `kill`.

    Without `fsync` a kill of the process loses nothing either (only a crash of the machine would), and it is faster.
    """

    def __init__(self, data_dir: Path | None = None, *, fsync: bool = False, tls: Tls | None = None) -> None:
        """`tls`: what it serves with; it then demands a certificate, and `address` begins with https://."""
        self._own_dir = Path(tempfile.mkdtemp(prefix="proxist-etcd-")) if data_dir is None else None
        self.data_dir = data_dir or self._own_dir or Path()
        self._ports = free_ports(2)
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None
        self._tls = tls
        self.address = f"{'https://' if tls else ''}127.0.0.1:{self._ports[0]}"

    def __enter__(self) -> LocalEtcd:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "etcd was not started"
        return self._process.pid

    @property
    def peer_port(self) -> int:
        return self._ports[1]

    def start(self, *, wait: bool = True) -> LocalEtcd:
        """Start the process; with `wait` return once it answers."""
        command = etcd_command(self.data_dir / "etcd", *self._ports, tls=self._tls)
        log = (self.data_dir / "etcd.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                command if self._fsync else [*command, "--unsafe-no-fsync"], stdout=log, stderr=log
            )
        if wait:
            try:
                with EtcdClient([self.address], tls=self._tls) as client:
                    client.wait_ready(START_TIMEOUT_S)
            except ProxistError as error:
                self.kill()
                said = (self.data_dir / "etcd.log").read_text()[-2000:]
                raise InternalError(f"etcd did not start: {error.message} Its log ends:\n{said}") from None
        return self

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the process: connections stay open and nothing answers. On return every thread of it stands still."""
        freeze(self.pid)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        self._end(signal.SIGKILL)
        if self._own_dir is not None:
            shutil.rmtree(self._own_dir, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None
