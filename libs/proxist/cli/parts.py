"""What a local cluster consists of: each part's name, ports, command line, and how one knows that it is ready.

Ports, for `--port-base N` (in this order, so that a newcomer can guess them):

    +0..2   query-0: Flight, gRPC, HTTP           +10,11  etcd: client, peer
    +3..5   ingest-0: Flight, gRPC, HTTP          +12     clickhouse: HTTP
    +6,7    persister-0: gRPC, HTTP               +13..   ingest-1 to ingest-4, three each
    +8,9    controlplane-0: gRPC, HTTP            +25..   query-1 to query-5, three each

`--port-base 0` takes free ports. Without it the documented defaults are used: 8815, 8816, 74xx, 2379, 2380, 8123.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxist.errors import ConfigError
from proxist.etcd.local import etcd_command
from proxist.rpc.ports import bind_error, free_ports, is_free

if TYPE_CHECKING:
    from proxist.cli.cluster_tls import ClusterTls

HOST = "127.0.0.1"
INGEST_MAX, QUERY_MAX = 5, 6
PORT_SPAN = 40
"""`--port-base N` uses N to N + 39."""

Ports = Mapping[tuple[str, str], int]
"""(part, door) -> port."""


@dataclass(frozen=True)
class Part:
    """One process. `probe` is a URL that answers 200 when the part is ready; None where the part says so itself."""

    name: str
    role: str
    command: list[str]
    stop_stage: int
    """Parts stop in the order of their stages, those of one stage together."""
    probe: str | None = None
    endpoints: Mapping[str, str] | None = None
    """Of a part that prints no ready line."""
    first: bool = False
    """The others start when this one is ready."""


def doors(ingest: int, query: int) -> list[tuple[str, str]]:
    """Every (part, door) of a cluster, in the order of `--port-base`."""
    _check_count("--ingest", ingest, INGEST_MAX)
    _check_count("--query", query, QUERY_MAX)
    listed = [("query-0", door) for door in ("flight", "grpc", "http")]
    listed += [("ingest-0", door) for door in ("flight", "grpc", "http")]
    listed += [(name, door) for name in ("persister-0", "controlplane-0") for door in ("grpc", "http")]
    listed += [("etcd", "client"), ("etcd", "peer"), ("clickhouse", "http")]
    listed += [(f"ingest-{i}", door) for i in range(1, ingest) for door in ("flight", "grpc", "http")]
    listed += [(f"query-{i}", door) for i in range(1, query) for door in ("flight", "grpc", "http")]
    return listed


def choose_ports(port_base: int | None, ingest: int, query: int) -> Ports:
    """The port of each door. Raises PortTaken, naming the first one that is not free, and ConfigError."""
    listed = doors(ingest, query)
    if port_base == 0:
        return dict(zip(listed, free_ports(len(listed), HOST), strict=True))
    if port_base is not None and not 1 <= port_base <= 65_535 - PORT_SPAN:
        raise ConfigError(
            f"`--port-base` is {port_base}, but must be from 1 to {65_535 - PORT_SPAN}, or 0 for free ports. "
            "Choose for example --port-base 18000."
        )
    ports = {door: _default_port(*door) if port_base is None else port_base + _place(*door) for door in listed}
    for port in ports.values():
        if not is_free(HOST, port):
            raise bind_error(HOST, port, "--port-base")
    return ports


def plan(
    data_dir: Path,
    run_dir: Path,
    ports: Ports,
    ingest: int,
    query: int,
    log_level: str = "info",
    tls: ClusterTls | None = None,
) -> list[Part]:
    """The parts of a cluster whose state is under `data_dir` and whose sockets are under `run_dir`.

    With `tls` every part speaks TLS alone and asks its callers for a certificate, the services for a token too.
    """
    http = "http" if tls is None else "https"
    etcd_address = f"{HOST}:{ports['etcd', 'client']}"
    etcd = etcd_address if tls is None else f"https://{etcd_address}"
    clickhouse = f"{http}://{HOST}:{ports['clickhouse', 'http']}"

    def service(name: str, stop_stage: int) -> Part:
        role = name.rpartition("-")[0]
        command = [sys.executable, "-m", f"proxist_{role}", "--name", name, "--host", HOST]
        for door in ("flight", "grpc", "http"):
            if (name, door) in ports:
                command += [f"--{door}-port", str(ports[name, door])]
        command += ["--data-dir", str(data_dir / name), "--run-dir", str(run_dir)]
        command += ["--etcd", etcd, "--clickhouse", clickhouse, "--log-level", log_level]
        command += tls.service_flags() if tls is not None else []
        return Part(name, role, command, stop_stage)

    return [
        Part(
            "etcd",
            "etcd",
            etcd_command(
                data_dir / "etcd",
                ports["etcd", "client"],
                ports["etcd", "peer"],
                host=HOST,
                tls=None if tls is None else tls.parts,
            ),
            stop_stage=3,
            probe=f"{http}://{etcd_address}/health",
            endpoints={"grpc": etcd},
            first=True,
        ),
        Part(
            "clickhouse",
            "clickhouse",
            [
                *(sys.executable, "-m", "proxist.clickhouse.embedded"),
                *("--path", str(data_dir / "clickhouse"), "--port", str(ports["clickhouse", "http"])),
                *(tls.part_flags() if tls is not None else ()),
            ],
            stop_stage=2,
            probe=f"{clickhouse}/ping",
            endpoints={"http": clickhouse},
        ),
        # Readers and the persister stop before the owners that they read from, and the stores after everybody.
        service("controlplane-0", 1),
        *(service(f"ingest-{i}", 1) for i in range(ingest)),
        service("persister-0", 0),
        *(service(f"query-{i}", 0) for i in range(query)),
    ]


def _place(name: str, door: str) -> int:
    """The offset from `--port-base` that this page's table promises."""
    role, _, number = name.rpartition("-")
    at = {"flight": 0, "grpc": 1, "http": 2}.get(door, 0)
    if name == "etcd":
        return 10 if door == "client" else 11
    if name == "clickhouse":
        return 12
    if role in ("persister", "controlplane"):
        return (6 if role == "persister" else 8) + at - 1
    if number == "0":
        return at if role == "query" else 3 + at
    return (13 if role == "ingest" else 25) + 3 * (int(number) - 1) + at


DEFAULT_PORTS = {
    ("query", "flight"): 8815,
    ("query", "grpc"): 7421,
    ("query", "http"): 7422,
    ("ingest", "flight"): 8816,
    ("ingest", "grpc"): 7411,
    ("ingest", "http"): 7412,
    ("persister", "grpc"): 7431,
    ("persister", "http"): 7432,
    ("controlplane", "grpc"): 7441,
    ("controlplane", "http"): 7442,
    ("etcd", "client"): 2379,
    ("etcd", "peer"): 2380,
    ("clickhouse", "http"): 8123,
}


def _default_port(name: str, door: str) -> int:
    """The documented port for the first of a role; each further one is ten above its predecessor."""
    role, dash, number = name.rpartition("-")
    return DEFAULT_PORTS[role if dash else name, door] + (
        10 * int(number) * (1 if door == "flight" else 10) if dash else 0
    )


def _check_count(flag: str, value: int, limit: int) -> None:
    if not 1 <= value <= limit:
        raise ConfigError(
            f"`{flag}` is {value}, but must be from 1 to {limit} on one machine. Choose a number in between."
        )
