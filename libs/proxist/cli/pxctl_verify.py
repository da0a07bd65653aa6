"""`pxctl verify` and `pxctl repair`: what ClickHouse holds of a table against what it must hold."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxist.cli.pxctl_auth import Tenant

if TYPE_CHECKING:
    from proxist.cli.control import ControlPlane

EXIT_WRONG = 1

Shard = Annotated[int | None, typer.Option(metavar="N", min=0, help="Only this shard.")]
Json = Annotated[bool, typer.Option("--json", help="The same as -o json.")]


@dataclass
class Rounds:
    """What the events of a table have said so far. A shard's later round takes the place of its earlier one."""

    table: str
    findings: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    checked: dict[int, dict[str, Any]] = field(default_factory=dict)
    planned: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0

    def take(self, event: Any) -> None:
        """One VerifyEvent; progress is not kept."""
        kind = event.WhichOneof("event")
        if kind == "finding":
            found = event.finding
            if found.shard in self.checked:  # of a new round
                del self.checked[found.shard]
                self.findings[found.shard] = []
            row = _named(found, "kind", "shard", "log", "first", "last", "rows", "remedy")
            row["columns"] = list(found.columns)
            self.findings.setdefault(found.shard, []).append(row)
        elif kind == "checked":
            one = event.checked
            if one.shard in self.checked:
                self.findings[one.shard] = []
            self.checked[one.shard] = _named(one, "shard", "from", "to", "rows", "compared", "note")
        elif kind == "step" and event.step.done:
            self.done += 1
        elif kind == "step":
            self.planned.append(_named(event.step, "shard", "action", "rows", "rewritten", "what"))

    @property
    def wrong(self) -> list[dict[str, Any]]:
        """The findings of the last rounds."""
        return [found for shard in sorted(self.findings) for found in self.findings[shard]]

    def value(self) -> dict[str, Any]:
        checked = [self.checked[shard] for shard in sorted(self.checked)]
        return {"table": self.table, "findings": self.wrong, "checked": checked}


def _named(message: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names}


def verify(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="[TABLE]", help="Only this table.", show_default=False)] = "",
    shard: Shard = None,
    first: Annotated[int | None, typer.Option("--from", metavar="OFFSET", min=0, help="From this offset on.")] = None,
    end: Annotated[int | None, typer.Option("--to", metavar="OFFSET", min=0, help="Below this offset.")] = None,
    json: Json = False,
    tenant: Tenant = "",
) -> None:
    """Compare what ClickHouse holds with what it must hold: gaps, copies, altered and unknown rows. Changes nothing.

    Exit code 1 where anything is wrong.
    """
    from proxist.cli.pxctl import calling
    from proxist.pb import persister_pb2 as pb

    if json:
        context.obj.output = "json"
    with calling(context) as (control, show):
        rounds = []
        for of, name in _tables(control, table, tenant):
            request = pb.VerifyRequest(tenant=of, table=name, shard=shard, to=end)
            if first is not None:
                setattr(request, "from", first)
            rounds.append(_watched(Rounds(name), control.stream("Verify", request)))
        show([one.value() for one in rounds], text="\n".join(_told(one) for one in rounds) or "There are no tables.")
    if any(one.wrong for one in rounds):
        raise typer.Exit(EXIT_WRONG)


def repair(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table's name.")],
    shard: Shard = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take the steps; without it they are only shown.")] = False,
    json: Json = False,
    tenant: Tenant = "",
) -> None:
    """Show the steps that put a table's rows in ClickHouse right, and take them with --yes. Conflicts are left alone.

    Exit code 1 where anything is wrong, or left.
    """
    from proxist.cli.pxctl import calling
    from proxist.pb import persister_pb2 as pb

    if json:
        context.obj.output = "json"
    with calling(context) as (control, show):
        rounds = Rounds(table)
        for of, name in _tables(control, table, tenant):
            request = pb.RepairRequest(tenant=of, table=name, shard=shard, execute=yes)
            _watched(rounds, control.stream("Repair", request))
        steps = [{"done": yes, **step} for step in rounds.planned]
        said = (
            f"{rounds.done} of {len(steps)} steps were taken; this is what is left."
            if yes
            else "Nothing was changed: `--yes` takes these steps."
            if steps
            else "There is nothing that a repair could do."
        )
        show(
            {**rounds.value(), "steps": steps, "taken": rounds.done},
            {"steps": [{name: value for name, value in step.items() if name != "done"} for step in steps]},
            f"{said}\n{_told(rounds)}",
        )
    if rounds.wrong:
        raise typer.Exit(EXIT_WRONG)


def _tables(control: ControlPlane, table: str, tenant: str) -> list[tuple[str, str]]:
    """(tenant, name) of what is to be looked at. Raises NotFound where the named table is not there."""
    from proxist.pb import controlplane_pb2

    if table:
        found = control.call("DescribeTable", controlplane_pb2.DescribeTableRequest(tenant=tenant, table=table)).table
        return [(found.tenant, table)]
    listed = control.call("ListTables", controlplane_pb2.ListTablesRequest(tenant=tenant)).tables
    return [(one.tenant, one.spec.name) for one in listed if one.state == "active"]


def _watched(rounds: Rounds, events: Iterable[Any]) -> Rounds:
    """All events taken; progress goes to a terminal, on a line that stays one."""
    terminal = sys.stderr.isatty()
    for event in events:
        rounds.take(event)
        if terminal and event.WhichOneof("event") == "progress":
            now = event.progress
            of = f" of {now.of:,}" if now.of else ""
            print(
                f"\r\x1b[K{rounds.table} shard {now.shard}: {now.stage} {now.rows:,}{of}",
                end="",
                file=sys.stderr,
                flush=True,
            )
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return rounds


def _told(rounds: Rounds) -> str:
    """For people: each finding with its remedy, then what was looked at."""
    lines = []
    for one in rounds.wrong:
        offsets = (
            f"offset {one['first']}" if one["first"] == one["last"] else f"offsets {one['first']} to {one['last']}"
        )
        columns = f" in {', '.join(one['columns'])}" if one["columns"] else ""
        lines.append(
            f"{rounds.table} shard {one['shard']}: {one['kind']}: {offsets} of log {one['log']}, {one['rows']:,} "
            f"rows{columns}. {one['remedy']}"
        )
    for shard, one in sorted(rounds.checked.items()):
        wrong = len(rounds.findings.get(shard, []))
        result = f"{wrong} findings" if wrong else "nothing is wrong"
        lines.append(
            f"{rounds.table} shard {shard}: offsets {one['from']} to {one['to']}, {one['rows']:,} rows stored, "
            f"{one['compared']:,} compared with the log: {result}." + (f" {one['note']}" if one["note"] else "")
        )
    return "\n".join(lines)
