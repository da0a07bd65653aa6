"""Runs the parts of a local cluster: starts them, restarts the ones that die, stops them in order.

Everything happens on the main thread, in one loop over signals, the parts' output and due times: PR_SET_PDEATHSIG,
which ends the parts when this process is killed, follows the thread that spawned them.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from proxist.cli.pages import opener
from proxist.cli.parts import Part
from proxist.errors import ConfigError, ProxistError, Unavailable
from proxist.rpc.child import command as ending_with_parent
from proxist.rpc.service import parse_ready_line
from proxist.rpc.tls import Tls

START_S_MAX = 60.0
STOP_S_MAX = 8.0
"""Per stage; a service's own grace is 5 s."""
PROBE_EVERY_S = 0.02
PROBE_S_MAX = 0.5
"""The loop waits meanwhile, and restarts nothing; a TLS handshake on a busy machine takes a part of it."""
HOLD_EVERY_S = 0.05
LOG_TAIL_LINES = 15
PARTS_FILE = "parts.json"
HOLD_DIRECTORY = "hold"


def restart_delay_s(deaths_before_ready: int) -> float:
    """At once after a life that was ready; then slower, for a part that dies at start, but always within 2 s."""
    return 0.0 if deaths_before_ready == 0 else min(1.5, 0.1 * 2**deaths_before_ready)


class _Life:
    """One part and its present process."""

    def __init__(self, part: Part, log: Path) -> None:
        self.part = part
        self.log = log
        self.log_start = 0  # bytes that earlier lives wrote
        self.process: subprocess.Popen[bytes] | None = None
        self.endpoints: dict[str, str] | None = None  # None until ready
        self.was_ready = False
        self.died_at = 0.0
        self.start_at: float | None = None  # when to start it next; None while it runs
        self.deaths_before_ready = 0
        self.tail = b""

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None


class Supervisor:
    """`parts` under one roof. `say` takes one line for the operator; `probing` is what probes of https:// addresses show
    and trust."""

    def __init__(
        self,
        parts: Sequence[Part],
        log_dir: Path,
        run_dir: Path,
        say: Callable[[str], None],
        probing: Tls | None = None,
    ) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        self._lives = [_Life(part, log_dir / f"{part.name}.log") for part in parts]
        self._run_dir = run_dir
        self._say = say
        self._probing = probing
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._environment = {key: value for key, value in os.environ.items() if not _is_setting(key)}

    def run(self, on_ready: Callable[[Mapping[str, Mapping[str, Any]]], None]) -> None:
        """Start all parts, call `on_ready(status)`, watch until SIGINT or SIGTERM, stop all parts.

        Raises Unavailable, with the part's `exit_code` in its details, where one ends before the whole was ready
        once. On return, and when it raises, no part runs any more.
        """
        with self._signals_to_loop():
            try:
                self._start()
                if not self._signals:
                    on_ready(self.status())
                self._watch()
            finally:
                self._stop()

    def status(self) -> dict[str, dict[str, Any]]:
        """{part: {"role", "pid", "state", endpoints…}}; state is "ready" or "starting"."""
        return {
            life.part.name: {
                "role": life.part.role,
                "pid": life.pid,
                "state": "ready" if life.endpoints is not None else "starting",
                **(life.endpoints or {}),
            }
            for life in self._lives
        }

    def _start(self) -> None:
        deadline = time.monotonic() + START_S_MAX
        for life in self._lives:
            if life.part.first:
                self._spawn(life)
        while not self._signals:
            first_ready = all(life.endpoints is not None for life in self._lives if life.part.first)
            for life in self._lives:
                if life.process is None and first_ready:
                    self._spawn(life)
            waiting = [life for life in self._lives if life.endpoints is None]
            if not waiting:
                return
            for life in waiting:
                if life.process is not None and not life.running:
                    raise _failed(life, f"ended with {_how(life)} while it started")
            if time.monotonic() > deadline:
                raise _failed(waiting[0], f"was not ready within {START_S_MAX:.0f} s")
            self._turn()

    def _watch(self) -> None:
        while not self._signals:
            for life in self._lives:
                if life.start_at is None and not life.running:
                    self._bury(life)
                elif life.start_at is not None and time.monotonic() >= life.start_at:
                    self._revive(life)
            self._turn()

    def _bury(self, life: _Life) -> None:
        if life.endpoints is None:
            life.deaths_before_ready += 1
        else:
            life.deaths_before_ready = 0
            life.died_at = time.monotonic()
        life.endpoints = None
        life.start_at = time.monotonic() + restart_delay_s(life.deaths_before_ready)
        self._say(f"{life.part.name} (pid {life.pid}) ended with {_how(life)}; starting it again on the same ports")
        for line in _tail(life) if life.deaths_before_ready == 1 else ():
            self._say(f"  {life.part.name}: {line}")
        self._publish()

    def _revive(self, life: _Life) -> None:
        if (self._run_dir / HOLD_DIRECTORY / life.part.name).exists():
            life.start_at = time.monotonic() + HOLD_EVERY_S
        else:
            self._spawn(life)

    def _spawn(self, life: _Life) -> None:
        life.start_at = None
        life.tail = b""
        with life.log.open("ab") as log:
            life.log_start = log.tell()
            life.process = subprocess.Popen(
                ending_with_parent(life.part.command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                process_group=0,  # Ctrl-C goes to this process alone, which then stops the parts in order
            )
        assert life.process.stdout is not None
        os.set_blocking(life.process.stdout.fileno(), False)
        self._selector.register(life.process.stdout, selectors.EVENT_READ, life)

    def _turn(self) -> None:
        """Wait for the next event, at most until the next due time, and take in what came."""
        for key, _ in self._selector.select(self._patience_s()):
            if isinstance(key.data, _Life):
                self._read(key.data, key.fileobj)  # type: ignore[arg-type]
            else:
                key.fileobj.recv(4096)  # type: ignore[union-attr]
        for life in self._lives:
            if life.process is not None:
                life.process.poll()
            waiting = life.running and life.endpoints is None
            if waiting and life.part.probe and _answers(life.part.probe, self._probing):
                self._now_ready(life, dict(life.part.endpoints or {}))

    def _patience_s(self) -> float:
        if any(life.running and life.endpoints is None and life.part.probe for life in self._lives):
            return PROBE_EVERY_S
        due = [life.start_at for life in self._lives if life.start_at is not None]
        return min(1.0, max(0.0, min(due) - time.monotonic())) if due else 1.0

    def _read(self, life: _Life, output: IO[bytes]) -> None:
        text = output.read()
        if text is None:  # nothing there after all
            return
        if not text:  # its end
            self._selector.unregister(output)
            output.close()
            return
        with life.log.open("ab") as log:
            log.write(text)
        *lines, life.tail = (life.tail + text).split(b"\n")
        for line in lines:
            fields = parse_ready_line(line.decode(errors="replace"))
            if fields is not None and life.endpoints is None:
                self._now_ready(life, {k: v for k, v in fields.items() if k not in ("role", "name", "pid")})

    def _now_ready(self, life: _Life, endpoints: dict[str, str]) -> None:
        life.endpoints = endpoints
        if life.was_ready:
            self._say(f"{life.part.name} is back after {time.monotonic() - life.died_at:.1f} s (pid {life.pid})")
        life.was_ready = True
        life.deaths_before_ready = 0
        self._publish()

    def _publish(self) -> None:
        """`parts.json` in the run directory: who runs now, for the control plane's status. Written whole or not at all."""
        fresh = self._run_dir / f"{PARTS_FILE}.new"
        fresh.write_text(json.dumps({"supervisor": os.getpid(), "parts": self.status()}))
        fresh.replace(self._run_dir / PARTS_FILE)

    def _stop(self) -> None:
        """Stage by stage: SIGTERM, then SIGKILL for what is still there. A second signal skips the waiting."""
        asked = len(self._signals)
        for stage in sorted({life.part.stop_stage for life in self._lives}):
            lives = [life for life in self._lives if life.part.stop_stage == stage and life.running]
            for life in lives:
                _signal(life, signal.SIGTERM)
            deadline = time.monotonic() + STOP_S_MAX
            while any(life.running for life in lives) and time.monotonic() < deadline and len(self._signals) == asked:
                self._turn()
            for life in lives:
                if life.running:
                    if len(self._signals) == asked:
                        self._say(f"{life.part.name} (pid {life.pid}) did not stop within {STOP_S_MAX:.0f} s: killed")
                    _signal(life, signal.SIGKILL)
                    assert life.process is not None
                    life.process.wait()
        for life in self._lives:
            if life.process is not None and life.process.stdout is not None:
                life.process.stdout.close()
        (self._run_dir / PARTS_FILE).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _signals_to_loop(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGCHLD wake the loop; the first two end it."""
        near, far = socket.socketpair()
        far.setblocking(False)
        near.setblocking(False)
        before = {
            signal.SIGINT: signal.signal(signal.SIGINT, lambda number, _: self._signals.append(number)),
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: self._signals.append(number)),
            signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda *_: None),
        }
        wakeup_before = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        self._selector.register(near, selectors.EVENT_READ, None)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            near.close()
            far.close()


_FOR_ALL = ("PROXIST_TEST_", "PROXIST_FAILPOINTS", "PROXIST_ETCD_BINARY", "PROXIST_AUTH", "PROXIST_CLUSTER_SECRET_FILE")
"""Variables that every part gets; auth is of the whole cluster or of none of it."""


def _is_setting(variable: str) -> bool:
    """The parts' settings stand on their command lines; the user's own variables must not change one part only."""
    return variable.startswith("PROXIST_") and not variable.startswith(_FOR_ALL)


def _signal(life: _Life, number: signal.Signals) -> None:
    if life.process is not None:
        life.process.send_signal(number)


def _answers(url: str, probing: Tls | None) -> bool:
    try:
        # The files of now: a part that starts again may have a renewed certificate.
        with opener(probing).open(url, timeout=PROBE_S_MAX) as response:
            return bool(response.status == 200)
    except (OSError, ConfigError):  # files that are just being replaced do not fit each other
        return False


def _how(life: _Life) -> str:
    code = life.process.returncode if life.process is not None else None
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _tail(life: _Life) -> list[str]:
    """The last lines that the part wrote in this life."""
    try:
        with life.log.open("rb") as log:
            log.seek(life.log_start)
            return log.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    except OSError:
        return []


def _failed(life: _Life, what: str) -> ProxistError:
    code = life.process.returncode if life.process is not None else None
    lines = "\n".join(f"  {line}" for line in _tail(life))
    return Unavailable(f"{life.part.name} {what}. The end of {life.log}:\n{lines}", exit_code=code)
