"""Many short lives of one service: real processes, forked from one that has imported the program already.

A start that imports and loads kernels takes seconds; forked, the same program is ready in some tenths of a second, which
is what makes a thousand kills affordable. A life is a process of its own with its own pid, files, threads and signals:
nothing but the imported modules is shared.

    with Nursery("proxist_ingest") as nursery:
        life = nursery.start(["--name=ingest-0", …], tmp_path / "ingest-0.log", {"PROXIST_FAILPOINTS": "wal.sync.after=kill"})
        endpoints = life.ready()
        life.kill()

Run as `python -m proxist.testing.nursery MODULE FD` it is the process that forks.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

from proxist.rpc.child import die_with_parent
from proxist.rpc.service import parse_ready_line

WAIT_S = 60.0
LOG_TAIL_BYTES = 4_000


class Life:
    """One process. Its log is a file; its ready line is waited for with `ready`."""

    def __init__(self, pid: int, output: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self._output = output
        self._ended = threading.Event()
        self._status = 0

    def ready(self, timeout_s: float = WAIT_S) -> dict[str, str] | None:
        """The fields of the ready line; None where the process ends before it. Raises TimeoutError. Ask once."""
        deadline, text = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while b"\n" not in text:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"process {self.pid} is not ready after {timeout_s:g} s\n{self.tail()}")
                more = os.read(self._output, 65536)
                if not more:
                    return None
                text += more
        return parse_ready_line(text.decode())

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    def kill(self) -> None:
        """kill -9, and wait until it is gone; one that has ended already is left alone."""
        self.send(signal.SIGKILL)
        self.wait()

    def send(self, number: signal.Signals) -> None:
        """A signal; nothing happens where the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, number)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Its exit code, negative for a signal, as subprocess tells it. Raises TimeoutError."""
        if not self._ended.wait(timeout_s):
            raise TimeoutError(f"process {self.pid} still runs after {timeout_s:g} s\n{self.tail()}")
        return os.waitstatus_to_exitcode(self._status)

    def tail(self) -> str:
        """The end of its log."""
        with self.log.open("rb") as opened:
            opened.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            return opened.read().decode(errors="replace")

    def _end(self, status: int) -> None:
        self._status = status
        self._ended.set()


class Nursery:
    """A context manager: forks lives of `python -m MODULE`; on leaving all of them are killed."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()  # one request at a time
        self._answered = threading.Condition()  # guards _lives, _born and _over
        self._lives: dict[int, Life] = {}
        self._born: int | None = None
        self._over = False

    def __enter__(self) -> Self:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "proxist.testing.nursery", self._module, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self._thread = threading.Thread(target=self._read, name="nursery", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_WR)  # it kills its children, waits for them, and ends
        try:
            self._process.wait(WAIT_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._thread.join()
            self._socket.close()
            for life in self._lives.values():
                os.close(life._output)

    def start(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Life:
        """Fork one, which begins at once. `argv`: without the program's name; `env`: added to this process' own
        variables, of which those that begin with PROXIST_ are left out; `log`: where stderr goes, appended."""
        variables = {key: value for key, value in os.environ.items() if not key.startswith("PROXIST_")}
        request = {"argv": list(argv), "env": {**variables, **(env or {})}}
        ours, theirs = os.pipe()
        with self._lock, log.open("ab") as errors:
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], [theirs, errors.fileno()])
            finally:
                os.close(theirs)
            with self._answered:
                if not self._answered.wait_for(lambda: self._born is not None or self._over, WAIT_S) or self._over:
                    raise RuntimeError(f"the nursery of {self._module} does not answer: its stderr says why")
                assert self._born is not None
                life, self._born = Life(self._born, ours, log), None
                self._lives[life.pid] = life
                self._answered.notify_all()
        return life

    def _read(self) -> None:
        while packet := self._socket.recv(4096):
            said = json.loads(packet)
            with self._answered:
                if "born" in said:
                    self._born = said["born"]
                    self._answered.notify_all()
                    # The next packet may tell its end: `start` has put it into the list before that is read.
                    self._answered.wait_for(lambda: self._born is None, WAIT_S)
                else:
                    self._lives[said["ended"]]._end(said["status"])
        with self._answered:
            self._over = True
            self._answered.notify_all()


def _serve(module: str, channel: socket.socket) -> None:
    """Fork what is asked for and tell which ended, until the asker closes its end."""
    importlib.import_module(f"{module}.__main__")
    wake_read, wake_write = os.pipe()
    for fd in (wake_read, wake_write):
        os.set_blocking(fd, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    children: set[int] = set()
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        open_for_more = True
        while open_for_more or children:
            for key, _ in selector.select():
                if key.fileobj is channel:
                    packet, fds, _, _ = socket.recv_fds(channel, 1 << 17, 2)
                    if packet:
                        children.add(_fork(module, json.loads(packet), fds, channel))
                        continue
                    open_for_more = False
                    selector.unregister(channel)
                    for pid in children:
                        os.kill(pid, signal.SIGKILL)
                else:
                    os.read(wake_read, 4096)
            _bury(children, channel)


def _bury(children: set[int], channel: socket.socket) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            children.remove(pid)
            channel.send(json.dumps({"ended": pid, "status": status}).encode())


def _fork(module: str, request: dict[str, Any], fds: list[int], channel: socket.socket) -> int:
    nursery = os.getpid()
    pid = os.fork()
    if pid == 0:
        _live(module, request, fds, channel, nursery)
    for fd in fds:
        os.close(fd)
    channel.send(json.dumps({"born": pid}).encode())
    return pid


def _live(module: str, request: dict[str, Any], fds: list[int], channel: socket.socket, nursery: int) -> NoReturn:
    """The child: as if the program had been started by itself."""
    try:
        die_with_parent(nursery)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        channel.close()
        os.dup2(fds[0], 1)
        os.dup2(fds[1], 2)
        for fd in fds:
            os.close(fd)
        os.environ.clear()
        os.environ.update(request["env"])
        random.seed()  # forked processes would draw the same numbers
        sys.argv = [module, *request["argv"]]
        del sys.modules[f"{module}.__main__"]  # it is run again, now as the program
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        os._exit(70)


if __name__ == "__main__":
    die_with_parent(os.getppid())
    _serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
