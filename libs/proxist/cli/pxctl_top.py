"""`pxctl top`: rows per second, marks and lag of each shard, latencies of each node; live."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import typer

from proxist.cli.latencies import Look
from proxist.cli.latencies import look as look_at
from proxist.cli.latencies import rows as latency_rows

Key = tuple[str, str, int]
"""Tenant, table, shard."""


@dataclass(frozen=True)
class Sample:
    """The marks of every shard, and the latencies' histograms, at `at_s` (monotonic)."""

    at_s: float
    marks: Mapping[Key, Mapping[str, Any]]
    look: Look = field(default_factory=Look)


def rates(before: Sample, now: Sample) -> list[dict[str, Any]]:
    """One row per shard of `now`: rows/s in and persisted between the samples, None where a shard has no earlier one or
    its epoch changed; `lag` is in rows."""
    elapsed_s = max(1e-9, now.at_s - before.at_s)
    rows = []
    for key, mark in sorted(now.marks.items()):
        old = before.marks.get(key)
        known = old if old is not None and old["epoch"] == mark["epoch"] else None
        speed = {
            title: None if known is None else round((mark[name] - known[name]) / elapsed_s)
            for title, name in (("rows_s", "end"), ("persisted_s", "persisted"))
        }
        shown = {name: value for name, value in mark.items() if name != "t_persisted"}
        rows.append({**shown, **speed, "lag": mark["end"] - mark["persisted"]})
    return rows


def top(context: typer.Context, tenant: str, table: str, once: bool, interval_s: float) -> None:
    """Show until q or Ctrl-C; with `once`, and in JSON and YAML, one interval."""
    from proxist.cli.output import show

    before = _sample(context, tenant, table)
    if once or context.obj.output != "table":
        time.sleep(interval_s)
        found = _between(before, _sample(context, tenant, table), table)
        missing = [{"node": node, "why": why} for node, why in found["missing"].items()]
        tables = {"": found["shards"], "\nlatencies": found["latencies"]}
        show(context.obj.output, found, {**tables, **({"\nno latencies of": missing} if missing else {})})
        return
    from rich.live import Live

    with Keys() as keys, Live(_screen(_between(before, before, table)), screen=False, auto_refresh=False) as live:
        try:
            while not keys.quit_within(interval_s):
                now = _sample(context, tenant, table)
                live.update(_screen(_between(before, now, table)), refresh=True)
                before = now
        except KeyboardInterrupt:
            return


class Keys:
    """The keys of the terminal, one by one and not shown; none where stdin is no terminal. A context manager that leaves
    the terminal as it was."""

    def __enter__(self) -> Self:
        self._saved: list[Any] | None = None
        if sys.stdin.isatty():
            import termios
            import tty

            self._saved = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)

    def quit_within(self, seconds: float) -> bool:
        """Wait for `seconds`; True as soon as q was pressed."""
        ends_s = time.monotonic() + seconds
        while (left_s := ends_s - time.monotonic()) > 0:
            if self._saved is None:
                time.sleep(left_s)
            elif select.select([sys.stdin], [], [], left_s)[0]:
                pressed = os.read(sys.stdin.fileno(), 64)
                if not pressed or b"q" in pressed.lower():  # nothing: the terminal is gone
                    return True
        return False


def _between(before: Sample, now: Sample, table: str) -> dict[str, Any]:
    """{"shards": […], "latencies": […], "missing": {node: why}}"""
    latencies = latency_rows(before.look, now.look, now.at_s - before.at_s, table)
    return {"shards": rates(before, now), "latencies": latencies, "missing": dict(now.look.missing)}


def _sample(context: typer.Context, tenant: str, table: str) -> Sample:
    from proxist.cli.control import node_row, watermark_row
    from proxist.cli.diagnostics import page_of
    from proxist.cli.pxctl import calling
    from proxist.pb import controlplane_pb2 as pb

    with calling(context) as (control, _):
        answer = control.call("Watermarks", pb.WatermarksRequest(tenant=tenant, table=table))
        nodes = [node_row(node) for node in control.call("Status", pb.StatusRequest()).nodes]
    marks = {(m.tenant, m.table, m.shard): watermark_row(m) for m in answer.watermarks}
    return Sample(time.monotonic(), marks, look_at(nodes, page_of))


def _screen(found: Mapping[str, Any]) -> Any:
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [_table(found["shards"], "no shards"), Text()]
    parts.append(_table(found["latencies"], "no acks and queries in this interval"))
    parts += [Text(f"no latencies of {node}: {why}") for node, why in found["missing"].items()]
    return Group(*parts, Text(), Text("q or Ctrl-C ends", style="dim"))


def _table(rows: list[dict[str, Any]], none: str) -> Any:
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in dict.fromkeys(name for row in rows for name in row) or [none]:
        shown.add_column(name, justify="left" if name in ("tenant", "table", "node", "what") else "right")
    for row in rows:
        shown.add_row(*("-" if v is None else f"{v:,}" if isinstance(v, int | float) else str(v) for v in row.values()))
    return shown
