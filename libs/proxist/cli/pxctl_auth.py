"""`pxctl auth`: service tokens and what they may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from proxist.auth.outgoing import Credential

auth = typer.Typer(help="Service tokens: make, list and revoke them; ask what one may.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(metavar="TENANT", help="Only with a token of tenant * or the cluster's secret.")]
_NAME = "pxctl"


def credential(token: str | None, cluster_secret_file: str | None) -> Credential | None:
    """What this run presents: the token, else what the cluster's secret signs. Raises ConfigError."""
    from proxist.auth.outgoing import fixed

    if token or not cluster_secret_file:
        return fixed(token or None)
    from pathlib import Path

    from proxist.auth.cluster import ClusterSecret

    return ClusterSecret.read(Path(cluster_secret_file)).credential(_NAME)


@auth.command("create-token")
def create_token(
    context: typer.Context,
    grant: Annotated[
        list[str],
        typer.Option(metavar="ROLE[:TABLES]", help="reader, writer, operator or admin, and a pattern; repeatable."),
    ],
    tenant: Tenant = "",
    expires: Annotated[str, typer.Option(metavar="DURATION", help="90d, 12h; 0 is never.")] = "90d",
    note: Annotated[str, typer.Option(metavar="TEXT", help="Whose it is, and what for.")] = "",
) -> None:
    """Make a token and print it: only now, for only a hash is kept."""
    from proxist.auth.identity import parse_grant
    from proxist.cli.pxctl import calling
    from proxist.pb import auth_pb2 as pb

    with calling(context) as (control, show):
        grants = [pb.Grant(role=g.role, tables=g.tables) for g in map(parse_grant, grant)]
        request = pb.CreateTokenRequest(tenant=tenant, grants=grants, expires_in=expires, note=note)
        answer = control.call_auth("CreateToken", request)
        show({"token": answer.secret_token, **_row(answer.token)}, text=answer.secret_token)


@auth.command("list")
def list_tokens(context: typer.Context, tenant: Tenant = "") -> None:
    """Every token of the tenant, ended ones included; never its text."""
    from proxist.cli.pxctl import calling
    from proxist.pb import auth_pb2 as pb

    with calling(context) as (control, show):
        rows = [_row(token) for token in control.call_auth("ListTokens", pb.ListTokensRequest(tenant=tenant)).tokens]
        show(rows, {"": [{**row, "grants": " ".join(row["grants"])} for row in rows]})


@auth.command()
def revoke(
    context: typer.Context, id: Annotated[str, typer.Argument(metavar="ID", help="px_<id>, as listed.")]
) -> None:
    """End a token. Calls that are open go on to their end; new ones are refused within milliseconds."""
    from proxist.cli.pxctl import calling
    from proxist.pb import auth_pb2 as pb

    with calling(context) as (control, show):
        # Only the id leaves this machine, also where a whole token was pasted.
        answer = control.call_auth("RevokeToken", pb.RevokeTokenRequest(id=id.removeprefix("px_").split("_")[0]))
        show(_row(answer.token), text=f"Token px_{answer.token.id} is revoked.")


@auth.command("can-i")
def can_i(
    context: typer.Context,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="read, write, operate or admin.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A table's name; without it: all tables.")] = "",
    tenant: Tenant = "",
) -> None:
    """Say whether the token that is used may do this; exit code 0 for yes, 1 for no."""
    from proxist.cli.pxctl import calling
    from proxist.pb import auth_pb2 as pb

    with calling(context) as (control, show):
        answer = control.call_auth("CanI", pb.CanIRequest(action=action, table=table, tenant=tenant))
        value = {
            "allowed": answer.allowed,
            "caller": answer.caller,
            "tenant": answer.tenant,
            "grants": [f"{g.role}:{g.tables}" for g in answer.grants],
        }
        show(value, text="yes" if answer.allowed else "no")
    if not answer.allowed:
        raise SystemExit(1)


def _row(token: Any) -> dict[str, Any]:
    from proxist.model.units import format_time_ns

    def time(ns: int) -> str | None:
        return format_time_ns(ns) if ns else None

    return {
        "id": f"px_{token.id}",
        "tenant": token.tenant,
        "grants": [f"{g.role}:{g.tables}" for g in token.grants],
        "state": token.state,
        "created": time(token.created_ns),
        "expires": time(token.expires_ns),
        "revoked": time(token.revoked_ns),
        "created_by": token.created_by,
        "note": token.note,
    }
