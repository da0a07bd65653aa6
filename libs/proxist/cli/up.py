"""`proxist up`: a whole local cluster under one supervisor, on loopback, without passwords."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxist.cli import parts
from proxist.cli.supervisor import Supervisor
from proxist.errors import PortTaken, ProxistError
from proxist.rpc.run_dir import prepare_run_dir
from proxist.rpc.status import TABLE, exit_code
from proxist.wal.lock import DirectoryLock

Status = Mapping[str, Mapping[str, Any]]

PORT_TRIES = 3
"""With free ports: between choosing one and listening on it, another program may have taken it."""
PORT_TAKEN_CODE = TABLE[PortTaken].exit_code


def up(data_dir: Path, port_base: int | None, ingest: int, query: int, as_json: bool, log_level: str) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code. What a user reads is on stdout, the rest on stderr.

    With `as_json` stdout carries exactly one line, when all is ready.
    """
    try:
        data_dir = data_dir.resolve()
        with DirectoryLock(data_dir):
            run_dir = prepare_run_dir(data_dir)
            for tries_left in reversed(range(PORT_TRIES if port_base == 0 else 1)):
                ports = parts.choose_ports(port_base, ingest, query)
                planned = parts.plan(data_dir, run_dir, ports, ingest, query, log_level)
                supervisor = Supervisor(planned, data_dir / "logs", run_dir, _say)
                try:
                    supervisor.run(_print_json if as_json else lambda status: _print_table(status, data_dir))
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


def endpoints(status: Status) -> dict[str, Any]:
    """The JSON of `--json` from the supervisor's status."""

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
    }


def _print_json(status: Status) -> None:
    print(json.dumps(endpoints(status)), flush=True)


def _print_table(status: Status, data_dir: Path) -> None:
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
