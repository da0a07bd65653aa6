"""`proxist up`: a whole local cluster under one supervisor, on loopback; with `--tls` nobody enters without identity."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxist.cli import parts
from proxist.cli.supervisor import Supervisor
from proxist.errors import PortTaken, ProxistError
from proxist.rpc.run_dir import prepare_run_dir
from proxist.rpc.status import TABLE, exit_code
from proxist.wal.lock import DirectoryLock

if TYPE_CHECKING:
    from proxist.cli.cluster_tls import ClusterTls

Status = Mapping[str, Mapping[str, Any]]

PORT_TRIES = 3
"""With free ports: between choosing one and listening on it, another program may have taken it."""
PORT_TAKEN_CODE = TABLE[PortTaken].exit_code


def up(
    data_dir: Path,
    port_base: int | None,
    ingest: int,
    query: int,
    as_json: bool,
    log_level: str,
    with_tls: bool = False,
) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code. What a user reads is on stdout, the rest on stderr.

    With `as_json` stdout carries exactly one line, when all is ready. `with_tls`: see `cluster_tls`.
    """

    def on_ready(status: Status) -> None:
        if tls is not None:
            tls.admit(status)
        if as_json:
            print(json.dumps(endpoints(status, tls)), flush=True)
        else:
            _print_table(status, data_dir, tls)

    try:
        data_dir = data_dir.resolve()
        with DirectoryLock(data_dir):
            run_dir = prepare_run_dir(data_dir)
            tls = _tls_of(data_dir, with_tls)
            probing = None if tls is None else tls.parts  # the stores let nobody else in
            for tries_left in reversed(range(PORT_TRIES if port_base == 0 else 1)):
                ports = parts.choose_ports(port_base, ingest, query)
                planned = parts.plan(data_dir, run_dir, ports, ingest, query, log_level, tls)
                supervisor = Supervisor(planned, data_dir / "logs", run_dir, _say, probing)
                try:
                    supervisor.run(on_ready)
                    return 0
                except ProxistError as error:
                    if not tries_left or error.details.get("exit_code") != PORT_TAKEN_CODE:
                        raise
                    _say(f"{error.message.splitlines()[0]} A port was taken meanwhile; starting again on others.")
        return 0
    except ProxistError as error:
        _say(f"error: {error.message}")
        part_code = error.details.get("exit_code")  # of the part that could not start
        return part_code if isinstance(part_code, int) and part_code > 0 else exit_code(error)


def _tls_of(data_dir: Path, with_tls: bool) -> ClusterTls | None:
    """None where the cluster has none; says so where it had some at an earlier start."""
    if not with_tls:
        if (data_dir / "tls").exists():
            _say(
                f"{data_dir} was run with --tls before: without it, whoever is on this machine reads and writes its data"
            )
        return None
    from proxist.cli.cluster_tls import prepare  # here: a cluster without TLS does not load cryptography

    return prepare(data_dir)


def endpoints(status: Status, tls: ClusterTls | None = None) -> dict[str, Any]:
    """The JSON of `--json` from the supervisor's status; with TLS the files that a client needs beside it."""

    def doors(part: Mapping[str, Any]) -> dict[str, str]:
        return {door: part[door] for door in ("flight", "flight_unix", "grpc", "http", "attach") if door in part}

    def of_role(role: str) -> list[dict[str, str]]:
        return [doors(part) for part in status.values() if part["role"] == role]

    return {
        "query": of_role("query"),
        "ingest": of_role("ingest"),
        "persister": of_role("persister")[0],
        "controlplane": of_role("controlplane")[0],
        "etcd": status["etcd"]["grpc"],
        "clickhouse": status["clickhouse"]["http"],
        "pids": {name: part["pid"] for name, part in status.items()},
        **({"tls": tls.files()} if tls is not None else {}),
    }


def _print_table(status: Status, data_dir: Path, tls: ClusterTls | None) -> None:
    from rich.console import Console
    from rich.table import Table

    print("Proxist is up", end="\n\n")
    table = Table("part", "pid", "Flight", "gRPC", "HTTP", box=None, pad_edge=False)
    for name, part in sorted(status.items()):
        # Without schemes, so that the whole address fits into 80 columns.
        doors = (part.get(door, "").rpartition("//")[2] for door in ("flight", "grpc", "http"))
        table.add_row(name, str(part["pid"]), *doors)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table, highlight=False)
    query = next(part for part in status.values() if part["role"] == "query")
    if tls is not None:
        print("\nIts doors ask for a certificate and a token. For programs of this user:")
        print("\n".join(f"  export {line}" for line in tls.exports()))
    console.print(
        f'\nConnect with proxist.connect("{query["flight"]}"); data and logs are in {data_dir}.\nCtrl-C ends everything.',
        highlight=False,
        soft_wrap=True,
    )
    sys.stdout.flush()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def end(code: int) -> None:
    """Leave at once: nothing is left to clean up, and importers may have left threads behind."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
