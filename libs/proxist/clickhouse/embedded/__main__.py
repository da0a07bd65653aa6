"""`python -m proxist.clickhouse.embedded --path DIR --port N`: the local ClickHouse, until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from proxist.clickhouse.embedded.engine import Engine
from proxist.clickhouse.embedded.server import EmbeddedServer
from proxist.errors import OperatorError
from proxist.rpc.status import exit_code

DRAIN_TIMEOUT_S = 10.0


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal; prints one ready line on stdout. Returns the exit code; 0 after a clean end."""
    args = _arguments(argv)
    logging.basicConfig(level=args.log_level.upper(), stream=sys.stderr)
    signals = _signals()
    try:
        with Engine(args.path) as engine:
            server = EmbeddedServer(engine, args.host, args.port)
            server.start()
            print(f"ready role=clickhouse name={args.name} http=http://{server.address} pid={os.getpid()}", flush=True)
            os.read(signals, 1)
            if not server.stop(DRAIN_TIMEOUT_S):
                # A statement still runs inside the engine, which cannot be closed under it. What was confirmed is on
                # disk as after a kill, so leaving at once is the bounded end.
                print("clickhouse: statements still run after the drain; leaving", file=sys.stderr, flush=True)
                os._exit(0)
    except OperatorError as error:
        print(f"error {args.name}: {error.message}", file=sys.stderr, flush=True)
        return exit_code(error)
    return 0


def _signals() -> int:
    """A pipe's end that SIGINT and SIGTERM make readable, whichever thread of the engine the kernel gives them to: an
    event that the main thread waits on would be set only once something else wakes the main thread.
    """
    readable, writable = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return readable


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="proxist clickhouse", description=__doc__)
    parser.add_argument("--path", type=Path, required=True, help="data directory; created when missing")
    parser.add_argument("--port", type=int, default=8123, help="HTTP port; 0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (there are no users: keep it loopback)")
    parser.add_argument("--name", default="clickhouse-0")
    parser.add_argument("--log-level", default="warning")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
