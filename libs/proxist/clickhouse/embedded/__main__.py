"""`python -m proxist.clickhouse.embedded --path DIR --port N`: the local ClickHouse, until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from proxist.clickhouse.embedded.engine import Engine
from proxist.clickhouse.embedded.server import EmbeddedServer
from proxist.config import is_loopback
from proxist.errors import ConfigError, OperatorError
from proxist.rpc.status import exit_code
from proxist.rpc.tls import Tls, of_files

DRAIN_TIMEOUT_S = 10.0


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal; prints one ready line on stdout. Returns the exit code; 0 after a clean end."""
    args = _arguments(argv)
    logging.basicConfig(level=args.log_level.upper(), stream=sys.stderr)
    signals = _signals()
    try:
        tls = _tls(args)
        with Engine(args.path) as engine:
            server = EmbeddedServer(engine, args.host, args.port, tls)
            server.start()
            print(f"ready role=clickhouse name={args.name} http={server.url} pid={os.getpid()}", flush=True)
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


def _tls(args: argparse.Namespace) -> Tls:
    """Raises ConfigError for half of it, for files that cannot be used, and for a door that anybody could enter."""
    found = of_files(args.tls_cert, args.tls_key, args.tls_ca)
    if found.ca is not None and not found.serves:
        raise ConfigError("--tls-ca is given without --tls-cert and --tls-key. Give all three, or none.")
    found.check()
    if not (is_loopback(args.host) or found.ca or args.insecure):
        raise ConfigError(
            f"--host is {args.host}, which other machines can reach, and there are no users here: whoever comes may read "
            "and write everything. Give --tls-cert, --tls-key and --tls-ca, listen on 127.0.0.1, or say --insecure if the "
            "network is trusted."
        )
    return replace(found, clients="certificate" if found.ca else "token")


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
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; off loopback it wants all of --tls-*")
    parser.add_argument(
        "--insecure", action="store_true", help="anybody may come from other machines: there are no users"
    )
    parser.add_argument("--tls-cert", type=Path, help="PEM certificate; with --tls-key it speaks HTTPS")
    parser.add_argument("--tls-key", type=Path, help="PEM key of --tls-cert, without a password")
    parser.add_argument(
        "--tls-ca", type=Path, help="PEM authority: demand a certificate of every client that it signed"
    )
    parser.add_argument("--name", default="clickhouse-0")
    parser.add_argument("--log-level", default="warning")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
