"""The `proxist` command. Each sub-command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from proxist import __version__

app = typer.Typer(
    help="A hot-path time-series proxy: live ticks in shared memory, history in ClickHouse, one exact table.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"proxist {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the sub-command."""


@app.command()
def up(
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where the cluster keeps its data and logs.")] = Path(
        ".proxist"
    ),
    port_base: Annotated[
        int | None,
        typer.Option(metavar="N", help="Use ports N to N + 39; 0: free ports. Without it: the default ports."),
    ] = None,
    ingest: Annotated[
        int, typer.Option(metavar="N", help="How many ingest processes, which own the shards; 1 to 5.")
    ] = 1,
    query: Annotated[int, typer.Option(metavar="N", help="How many query processes; 1 to 6.")] = 1,
    json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON on stdout when all is ready, nothing else.")
    ] = False,
    log_level: Annotated[
        str, typer.Option(metavar="LEVEL", help="Of the services: debug, info, warning or error.")
    ] = "info",
    tls: Annotated[
        bool, typer.Option("--tls", help="TLS between all parts; callers need a certificate and a token, made here.")
    ] = False,
) -> None:
    """Run a whole local cluster until Ctrl-C. It is etcd, the embedded ClickHouse and the four services."""
    from proxist.cli import up as command

    command.end(command.up(data_dir, port_base, ingest, query, json, log_level, tls))


def _service(name: str, module: str, text: str) -> None:
    """A sub-command that becomes `python -m MODULE …`: the library never imports a service."""

    def run(context: typer.Context) -> None:
        os.execv(sys.executable, [sys.executable, "-m", module, *context.args])

    app.command(name, help=text, context_settings=_PASS_ON)(run)


def _program(name: str, module: str, text: str) -> None:
    """A sub-command whose `main(argv)` lives in `module`."""

    def run(context: typer.Context) -> None:
        importlib.import_module(module).main(context.args)

    app.command(name, help=text, context_settings=_PASS_ON)(run)


_service("ingest", "proxist_ingest", "One ingest service: owns shards, takes rows.")
_service("query", "proxist_query", "One query service: answers every read.")
_service("persister", "proxist_persister", "One persister: moves rows to ClickHouse.")
_service("controlplane", "proxist_controlplane", "One control plane: tables, placement, commands.")
_service("clickhouse", "proxist.clickhouse.embedded", "The embedded ClickHouse, over HTTP.")
_program("replay", "proxist.cli.replay", "Send files to a cluster: captures, CSV, Parquet, Arrow.")
_program("demo", "proxist.cli.demo", "A cluster with rows flowing, and a check at the end.")


def main() -> None:
    """The console script."""
    app(prog_name="proxist")


if __name__ == "__main__":
    main()
