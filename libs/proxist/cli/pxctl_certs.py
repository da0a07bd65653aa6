"""`pxctl certs`: certificates for a machine of a developer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

certs = typer.Typer(help="Certificates for trying out TLS.", no_args_is_help=True, rich_markup_mode=None)


@certs.callback()
def group() -> None:
    """Certificates for trying out TLS."""  # without a callback a group of one command would be that command


@certs.command()
def dev(
    context: typer.Context,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go; made where it is missing.")],
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name or address of a service's machine, beside this one; repeatable."),
    ] = None,
    days: Annotated[int, typer.Option(metavar="N", min=1, help="How long they are good.")] = 365,
    force: Annotated[bool, typer.Option("--force", help="Write over those that are there.")] = False,
) -> None:
    """Make a development CA, a certificate for the services and one for clients. Needs no cluster.

    tls.crt and tls.key are what services show, to callers and to each other. They are for localhost, 127.0.0.1, ::1, this
    machine's name and every --host.

    client.crt and client.key are what clients show where the services say `tls_clients: certificate`; beside it they need
    a token, see docs/auth.md.

    ca.crt is what everybody trusts, ca.key makes more certificates. Not for production: take those of your own authority.
    """
    from proxist.cli.certs import FILES, make_dev_certs
    from proxist.cli.output import show
    from proxist.errors import AlreadyExists, ProxistError
    from proxist.rpc.status import exit_code

    try:
        there = [name for name in FILES if (out / name).exists()]
        if there and not force:
            raise AlreadyExists(
                f"{str(out)!r} has {', '.join(there)} already, and whoever trusts them would trust no more. "
                "Name another --out, or write over them with --force."
            )
        make_dev_certs(out, host or (), days)
    except ProxistError as error:
        print(f"error: {error.message}", file=sys.stderr)
        raise SystemExit(exit_code(error)) from None
    out = out.resolve()
    show(context.obj.output, {"out": str(out), "files": list(FILES), "days": days}, text=_next(out))


def _next(out: Path) -> str:
    """What to set with the new files."""
    return f"""\
The certificates are in {out}. What to set:

  every service
    PROXIST_TLS_CERT={out}/tls.crt
    PROXIST_TLS_KEY={out}/tls.key
    PROXIST_TLS_CA={out}/ca.crt
    PROXIST_TLS_CLIENTS=certificate   # callers must show a certificate too
    PROXIST_AUTH=tokens               # with PROXIST_CLUSTER_SECRET_FILE
  SDK and pxctl
    PROXIST_TLS_CERT={out}/client.crt
    PROXIST_TLS_KEY={out}/client.key
    PROXIST_TLS_CA={out}/ca.crt
    PROXIST_TOKEN=px_…                # from `pxctl auth create-token`

Keep ca.key to yourself: whoever has it makes certificates that these services trust."""
