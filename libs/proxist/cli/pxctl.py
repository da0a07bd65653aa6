"""`pxctl`: an operator's commands, over the control plane's gRPC.

Everything that takes time to import is imported inside the commands, so that `pxctl --help` answers in well under 200 ms.
Exit codes: 0, 3 where no answer came within --timeout, otherwise those of sysexits.h by class of error.
"""

from __future__ import annotations

import proxist.rpc.env  # noqa: F401  # before pyarrow and grpc are loaded

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxist.cli.pxctl_auth import Tenant, auth
from proxist.cli.pxctl_certs import certs
from proxist.cli.pxctl_verify import repair, verify
from proxist.cli.pxctl_wal import wal

if TYPE_CHECKING:
    from proxist.cli.control import ControlPlane

DEFAULT_ADDRESS = "127.0.0.1:7441"
EXIT_TIMEOUT = 3

app = typer.Typer(
    help="Commands for the operator of a Proxist cluster.",
    epilog="The options may stand before or after the command.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
persist = typer.Typer(help="Pause and resume the persister of a table.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(persist, name="persist")
app.add_typer(auth, name="auth")
app.add_typer(certs, name="certs")
app.add_typer(wal, name="wal")
diagnostics = typer.Typer(help="What helps to understand a cluster.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(diagnostics, name="diagnostics")

TableName = Annotated[str, typer.Argument(metavar="TABLE", help="The table's name.")]
OneTable = Annotated[str, typer.Argument(metavar="TABLE", help="Only of this table.")]


@dataclass
class _Options:
    address: str = DEFAULT_ADDRESS
    timeout_s: float = 10.0
    output: str = "table"


@app.callback()
def options(
    context: typer.Context,
    controlplane: Annotated[
        str, typer.Option(envvar="PROXIST_CONTROLPLANE", metavar="HOST:PORT", help="Address of the control plane.")
    ] = DEFAULT_ADDRESS,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, help="Give up after this long, with code 3.")
    ] = 10.0,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FORMAT", help="table, json or yaml.")] = "table",
    token: Annotated[
        str, typer.Option(envvar="PROXIST_TOKEN", metavar="TOKEN", help="Who calls; the variable shows in no `ps`.")
    ] = "",
    cluster_secret_file: Annotated[
        str,
        typer.Option(envvar="PROXIST_CLUSTER_SECRET_FILE", metavar="FILE", help="Instead of a token: may everything."),
    ] = "",
    tls_ca: Annotated[
        str, typer.Option(envvar="PROXIST_TLS_CA", metavar="FILE", help="Whom to trust; with it the calls are TLS.")
    ] = "",
    tls_cert: Annotated[
        str, typer.Option(envvar="PROXIST_TLS_CERT", metavar="FILE", help="What to show, where a certificate is asked.")
    ] = "",
    tls_key: Annotated[str, typer.Option(envvar="PROXIST_TLS_KEY", metavar="FILE", help="Its key.")] = "",
) -> None:
    from proxist.cli.output import FORMATS

    if output not in FORMATS:
        raise typer.BadParameter(f"{output!r} is not a format. Use one of {', '.join(FORMATS)}.", param_hint="-o")
    from proxist.auth import outgoing
    from proxist.cli.pxctl_auth import credential
    from proxist.errors import ProxistError
    from proxist.rpc import tls

    try:
        outgoing.present(credential(token, cluster_secret_file))
        tls.present(tls.of_files(tls_cert, tls_key, tls_ca))
    except ProxistError as error:
        print(f"error: {error.message}", file=sys.stderr)
        raise SystemExit(78) from None
    context.obj = _Options(controlplane, timeout, output)


@app.command()
def status(context: typer.Context) -> None:
    """Nodes and shards, and how far each shard is persisted."""
    from proxist.cli.control import node_row, watermark_row
    from proxist.pb import controlplane_pb2 as pb

    with _calling(context) as (control, show):
        answer = control.call("Status", pb.StatusRequest())
        nodes = [node_row(node) for node in answer.nodes]
        shards = [watermark_row(mark, lag=True) for mark in answer.shards]
        silent = _silent_shards(control, {mark.shard for mark in answer.shards})
        tables = {"nodes": [_brief(node) for node in nodes], "\nshards": [_readable(row) for row in shards]}
        if silent:
            tables["\nshards whose owner does not answer"] = silent
        show({"nodes": nodes, "shards": shards, "silent": silent}, tables)


@app.command()
def tables(context: typer.Context, tenant: Tenant = "") -> None:
    """Every table, its settings, whether it is paused. Whole specs with -o json."""
    from proxist.cli.control import table_row
    from proxist.pb import controlplane_pb2 as pb

    with _calling(context) as (control, show):
        rows = [table_row(table) for table in control.call("ListTables", pb.ListTablesRequest(tenant=tenant)).tables]
        brief = ("tenant", "name", "shards", "durability", "hot_window", "hot_bytes", "state", "paused")
        show(rows, {"": [{name: row[name] for name in brief if name in row} for row in rows]})


@app.command("create-table")
def create_table(
    context: typer.Context,
    spec: Annotated[
        Path, typer.Argument(metavar="SPEC", help="A file with the table's spec, JSON or YAML; - is stdin.")
    ],
    tenant: Tenant = "",
) -> None:
    """Create a table from its spec. Returns when every shard accepts rows; an equal spec again succeeds."""
    from proxist.cli.control import table_row
    from proxist.model.table import parse_spec
    from proxist.pb import controlplane_pb2 as pb
    from proxist.rpc.actions import spec_message

    with _calling(context) as (control, show):
        parsed = parse_spec(_read_spec(spec))
        answer = control.call("CreateTable", pb.CreateTableRequest(tenant=tenant, spec=spec_message(parsed)))
        count = len(answer.table.shard_ids)
        show(table_row(answer.table), text=f"Table {parsed.name!r} is there; {count} shard(s) accept rows.")


@app.command("drop-table")
def drop_table(context: typer.Context, table: TableName, tenant: Tenant = "") -> None:
    """Drop a table with its rows, hot and cold. Returns when the name is free."""
    from proxist.pb import controlplane_pb2 as pb

    with _calling(context) as (control, show):
        control.call("DropTable", pb.DropTableRequest(tenant=tenant, table=table))
        show({"table": table}, text=f"Table {table!r} is dropped.")


@app.command()
def shards(context: typer.Context, table: OneTable = "", tenant: Tenant = "") -> None:
    """Which node owns which shard."""
    from proxist.cli.control import shard_row
    from proxist.pb import controlplane_pb2 as pb

    with _calling(context) as (control, show):
        rows = [
            shard_row(shard)
            for shard in control.call("ListShards", pb.ListShardsRequest(tenant=tenant, table=table)).shards
        ]
        show(rows, {"": rows})


@app.command()
def watermarks(context: typer.Context, table: OneTable = "", tenant: Tenant = "") -> None:
    """Floor, persisted and end of each shard. Asked of the owners now."""
    from proxist.cli.control import watermark_row
    from proxist.pb import controlplane_pb2 as pb

    with _calling(context) as (control, show):
        answer = control.call("Watermarks", pb.WatermarksRequest(tenant=tenant, table=table))
        rows = [watermark_row(mark) for mark in answer.watermarks]
        show(rows, {"": [_readable(row) for row in rows]})


@app.command()
def flush(context: typer.Context, table: TableName, tenant: Tenant = "") -> None:
    """Wait until what was acknowledged is in ClickHouse. Fails at once on a paused table."""
    from proxist.pb import controlplane_pb2 as pb

    with _calling(context) as (control, show):
        # A little less than what is left here, so that the control plane's own message says what it waited for.
        timeout_ms = max(1, int(control.left_s * 950))
        control.call("Flush", pb.FlushRequest(tenant=tenant, table=table, timeout_ms=timeout_ms))
        show({"table": table}, text=f"Everything acknowledged of table {table!r} is persisted.")


@app.command()
def evict(
    context: typer.Context,
    table: TableName,
    before: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Rows earlier than TIME, up to the first later one: RFC 3339 or ns."),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All that are persisted.")] = False,
    rows: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="All that are persisted but the newest N of each shard.")
    ] = None,
    tenant: Tenant = "",
) -> None:
    """Let rows go from memory, never ones not yet persisted. Moves the floor of the table's shards up."""
    from proxist.cli.control import watermark_row
    from proxist.model.units import parse_time_ns
    from proxist.pb import controlplane_pb2 as pb

    if (before is not None) + all + (rows is not None) != 1:
        raise typer.BadParameter("Say how far with exactly one of --before TIME, --all and --rows N.")
    with _calling(context) as (control, show):
        request = pb.EvictRequest(tenant=tenant, table=table)
        if before is not None:
            request.before_ns = parse_time_ns(int(before) if before.lstrip("-").isdigit() else before, "--before")
        elif rows is not None:
            request.rows = rows
        else:
            request.all = True
        marks = [watermark_row(mark) for mark in control.call("Evict", request).watermarks]
        show(marks, {"": [_readable(row) for row in marks]})


@persist.command()
def pause(context: typer.Context, table: TableName, tenant: Tenant = "") -> None:
    """Stop inserting a table; returns when the insert in flight is confirmed. Holds across restarts."""
    from proxist.pb import controlplane_pb2 as pb

    with _calling(context) as (control, show):
        control.call("PausePersist", pb.PausePersistRequest(tenant=tenant, table=table))
        show(
            {"table": table, "paused": True},
            text=f"Table {table!r} is not persisted until `pxctl persist resume {table}`.",
        )


@persist.command()
def resume(context: typer.Context, table: TableName, tenant: Tenant = "") -> None:
    """Let the persister of a paused table go on."""
    from proxist.pb import controlplane_pb2 as pb

    with _calling(context) as (control, show):
        control.call("ResumePersist", pb.ResumePersistRequest(tenant=tenant, table=table))
        show({"table": table, "paused": False}, text=f"Table {table!r} is persisted again.")


@app.command()
def top(
    context: typer.Context,
    table: OneTable = "",
    tenant: Tenant = "",
    once: Annotated[bool, typer.Option("--once", help="One interval, then end: for scripts.")] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Between two readings.")] = 1.0,
) -> None:
    """Rows per second, marks and lag of each shard, latencies of each node; live until q or Ctrl-C."""
    from proxist.cli import pxctl_top

    pxctl_top.top(context, tenant, table, once, interval)


app.command()(verify)
app.command()(repair)


@diagnostics.command()
def collect(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: proxist-diagnostics-<time>.tar.gz, here.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="Of a local cluster: its logs and settings too.")
    ] = None,
    config: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A config file; repeatable.")] = None,
) -> None:
    """Status, marks, logs' segments, metrics, settings and versions as one archive, without secrets."""
    import time

    from proxist.cli import diagnostics as bundle
    from proxist.errors import InvalidArgument

    path = out or Path(time.strftime("proxist-diagnostics-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime()))
    with _calling(context) as (control, show):
        try:
            found = bundle.collect(control, path, data_dir, config or [])
        except OSError as error:
            raise InvalidArgument(f"{str(path)!r} cannot be written: {error.strerror}. Name another --out.") from None
        missing = "".join(f"\nmissing: {name}: {why}" for name, why in found["errors"].items())
        show(found, text=f"{len(found['files'])} files are in {path}.{missing}")


@contextmanager
def _calling(context: typer.Context) -> Iterator[tuple[ControlPlane, Callable[..., None]]]:
    """The control plane, and `output.show` for the chosen format; an error becomes one line and an exit code."""
    from functools import partial

    from proxist.cli.control import control_plane
    from proxist.cli.output import show
    from proxist.errors import DeadlineExceeded, ProxistError
    from proxist.rpc.status import exit_code

    given: _Options = context.obj
    try:
        with control_plane(given.address, given.timeout_s) as control:
            yield control, partial(show, given.output)
    except ProxistError as error:
        print(f"error: {error.message}", file=sys.stderr)
        raise SystemExit(EXIT_TIMEOUT if isinstance(error, DeadlineExceeded) else exit_code(error)) from None


calling = _calling
"""For commands in other files."""


def _brief(node: dict[str, Any]) -> dict[str, Any]:
    """What fits into 80 columns: addresses without schemes, and no role: names say it (-o json has all)."""
    addresses = {door: node[door].rpartition("//")[2] for door in ("flight", "grpc", "http")}
    return {name: value for name, value in {**node, **addresses}.items() if name != "role"}


def _silent_shards(control: ControlPlane, answering: set[int]) -> list[dict[str, Any]]:
    """The shards there are besides those `answering`; none where etcd is down, and nobody knows."""
    from proxist.cli.control import shard_row
    from proxist.errors import Unavailable
    from proxist.pb import controlplane_pb2 as pb

    try:
        shards = control.call("ListShards", pb.ListShardsRequest()).shards
    except Unavailable:
        return []
    return [shard_row(shard) for shard in shards if shard.shard not in answering]


def _read_spec(path: Path) -> Any:
    """JSON is YAML too. Raises InvalidArgument that names the file."""
    import yaml

    from proxist.errors import InvalidArgument

    try:
        return yaml.safe_load(sys.stdin.read() if str(path) == "-" else path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON or YAML"
        raise InvalidArgument(
            f"The spec {str(path)!r} cannot be read: {reason}. Name a file with a table's spec."
        ) from None


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    from proxist.model.units import format_time_ns

    t_persisted = row["t_persisted"]
    return {**row, "t_persisted": None if t_persisted is None else format_time_ns(t_persisted)}


_VALUED = (
    *("--controlplane", "--timeout", "-o", "--output", "--token", "--cluster-secret-file"),
    *("--tls-ca", "--tls-cert", "--tls-key"),
)


def hoist(argv: list[str]) -> list[str]:
    """The arguments with the common options moved to the front: `pxctl status -o json` is `pxctl -o json status`."""
    common: list[str] = []
    rest: list[str] = []
    left = iter(argv)
    for word in left:
        if word == "--":
            rest += [word, *left]
        elif word in _VALUED:
            common += [word, *(value for value in [next(left, None)] if value is not None)]
        elif word.startswith(tuple(f"{name}=" for name in _VALUED)) or (word.startswith("-o") and len(word) > 2):
            common.append(word)
        else:
            rest.append(word)
    return common + rest


def main(argv: list[str] | None = None) -> None:
    """The console script."""
    app(args=hoist(sys.argv[1:] if argv is None else argv), prog_name="pxctl")


if __name__ == "__main__":
    main()
