"""How a service process starts, says that it is ready, and stops.

    import proxist.rpc.env  # first line of __main__
    …
    def build(config: IngestConfig, lifeline: Lifeline) -> Service: …
    if __name__ == "__main__":
        service.main("ingest", IngestConfig, build, defaults={"name": "ingest-0", "flight_port": 8816, …})

`main` reads the settings, sets up logging, builds and starts the service, and writes one line on stdout:

    ready role=ingest name=ingest-0 pid=4711 flight=grpc://127.0.0.1:8816 grpc=127.0.0.1:7411 http=http://127.0.0.1:7412

SIGTERM or SIGINT then stops it in order, within `stop_grace_s`, exit code 0; calls that are still open after that end
with the process. An error at start, or one given to `Lifeline.fail`, is written on stderr as one line and ends the
process with the exit code of `proxist.rpc.status`.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeVar

import structlog

from proxist import config as settings
from proxist import failpoints
from proxist.config import ServiceConfig
from proxist.errors import ConfigError, ProxistError, Unavailable
from proxist.rpc import tls
from proxist.rpc.status import exit_code, to_proxist
from proxist.telemetry import logs, scrub, setup

SIGNAL_LOOK_S = 0.5
WAIT_LOOK_S = 0.25
PROGRESS_S = 2.0
"""How often a start that waits says what for."""

C = TypeVar("C", bound=ServiceConfig)
log = structlog.get_logger("proxist.service")


class Service(Protocol):
    """What `build` returns. It has done nothing yet that needs stopping. A start that waits, for etcd say, looks at
    `Lifeline.ended` and raises where that is set."""

    def start(self) -> Mapping[str, str]:
        """Ready on return; the endpoints for the ready line (`flight`, `flight_unix`, `grpc`, `http`, `attach`).

        When it raises it has already stopped what it started.
        """

    def stop(self, grace_s: float) -> list[str]:
        """Stop in order: refuse new work, finish what was accepted, close. Names what is pending after `grace_s`."""


class Lifeline:
    """How any thread of a service ends its process. The first reason counts."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        """Set when the process is to stop, for whichever reason."""
        self.error: ProxistError | None = None
        self._lock = threading.Lock()  # guards error

    def stop(self) -> None:
        """Ask for an ordered stop, exit code 0."""
        self.ended.set()

    def fail(self, error: BaseException) -> None:
        """Ask for an ordered stop with this error's exit code; for a thread that cannot go on."""
        with self._lock:
            if self.error is None:
                self.error = to_proxist(error)
        self.ended.set()

    def wait(self, what: str, arrived: Callable[[float], bool], **fields: Any) -> None:
        """Wait until `arrived(seconds)`, which waits that long itself, is true; logs `what` and `fields` meanwhile.

        Raises the error that ended the process, or Unavailable, where that comes first.
        """
        began_s = said_s = time.monotonic()
        while not arrived(WAIT_LOOK_S):
            if self.ended.is_set():
                raise self.error or Unavailable(f"Stopped while waiting for {what}.")
            now_s = time.monotonic()
            if now_s - said_s >= PROGRESS_S:
                log.info(f"waiting for {what}", seconds=round(now_s - began_s), **fields)
                said_s = now_s


def main(
    role: str,
    config_class: type[C],
    build: Callable[[C, Lifeline], Service],
    *,
    defaults: Mapping[str, Any] | None = None,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """The whole life of a service process; never returns. Must run on the main thread."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if "--help" in arguments or "-h" in arguments:
        print(f"proxist {role}: one {role} service. Settings:\n{settings.usage(config_class, defaults)}")
        sys.exit(0)
    try:
        config = settings.load(config_class, arguments, defaults=defaults)
        hide = {"data_dir": config.data_dir, "run_dir": config.run_dir}
        logs.configure(config.log_level, hide=hide, role=role, name=config.name)
        setup.configure(role, config.name, trust_callers=config.trace_callers)
        _arm_failpoints()
    except ProxistError as error:
        end(role, error)
    run(role, config, build)


def run(role: str, config: C, build: Callable[[C, Lifeline], Service]) -> NoReturn:
    """`main` for settings that are already there."""
    lifeline = Lifeline()
    _stop_on_signals(lifeline)
    try:
        shown = tls.of(config)
        shown.check()
        tls.present(shown)
        service = build(config, lifeline)
        endpoints = service.start()
    except Exception as error:
        if lifeline.ended.is_set() and lifeline.error is None:  # told to stop while it waited for something
            end(config.name, None)
        end(config.name, to_proxist(error))
    print(_ready_line(role, config.name, endpoints), flush=True)
    log.info("ready", insecure=config.insecure, **endpoints)
    if config.insecure:
        log.warning("insecure: whoever reaches this node's doors needs no TLS and no token", host=config.host)
    for sentence in config.warnings():
        log.warning(sentence)
    # Polled: a signal that the kernel gives to a thread of gRPC or Arrow is handled only when this thread wakes up.
    while not lifeline.ended.wait(SIGNAL_LOOK_S):
        pass
    log.info("stopping", error=lifeline.error and lifeline.error.message)
    try:
        pending = service.stop(config.stop_grace_s)
    except Exception as error:
        end(config.name, to_proxist(error))
    if pending:
        log.warning("stopped with calls open", pending=pending)
    end(config.name, lifeline.error)


def _arm_failpoints() -> None:
    try:
        points = failpoints.arm_from_environment()
    except ValueError as error:
        raise ConfigError(f"{error} (environment {failpoints.ENVIRONMENT})") from None
    if points:
        log.warning("failpoints are armed: this process fails on purpose", points=points)


def _stop_on_signals(lifeline: Lifeline) -> None:
    """SIGTERM and SIGINT become `lifeline.stop()`, called by a thread that lives as long as the process.

    Not by the handlers: they run on the main thread between any two of its instructions, also while it holds the lock
    inside `ended.wait()`, which `ended.set()` takes. `SimpleQueue.put` is made for that place.
    """
    came: queue.SimpleQueue[int] = queue.SimpleQueue()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        came.put(number)

    def follow() -> None:
        came.get()
        lifeline.stop()

    threading.Thread(target=follow, name="signals", daemon=True).start()
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def end(name: str, error: ProxistError | None) -> NoReturn:
    """End the process now, without waiting for threads: one that a client blocks would never be joined."""
    setup.flush()
    if error is not None:
        print(scrub.own().text(f"error {name}: {error.message}"), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if error is None else exit_code(error))


def _ready_line(role: str, name: str, endpoints: Mapping[str, str]) -> str:
    fields = {"role": role, "name": name, "pid": os.getpid(), **endpoints}
    return "ready " + " ".join(f"{key}={value}" for key, value in fields.items())


def parse_ready_line(line: str) -> dict[str, str] | None:
    """The fields of a ready line; None for any other line."""
    word, _, rest = line.strip().partition(" ")
    if word != "ready":
        return None
    return dict(field.split("=", 1) for field in rest.split(" ") if "=" in field)
