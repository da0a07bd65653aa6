"""`pxctl top`: rows per second, marks and lag of each shard, live."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer

Key = tuple[str, str, int]
"""Tenant, table, shard."""


@dataclass(frozen=True)
class Sample:
    """The marks of every shard at `at_s` (monotonic)."""

    at_s: float
    marks: Mapping[Key, Mapping[str, Any]]


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


def top(context: typer.Context, table: str, once: bool, interval_s: float) -> None:
    """Show until Ctrl-C; with `once` one interval, in the chosen format."""
    from proxist.cli.output import show

    before = _sample(context, table)
    if once:
        time.sleep(interval_s)
        rows = rates(before, _sample(context, table))
        show(context.obj.output, rows, {"": rows})
        return
    from rich.live import Live

    with Live(_table(rates(before, before)), screen=False, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(interval_s)
                now = _sample(context, table)
                live.update(_table(rates(before, now)), refresh=True)
                before = now
        except KeyboardInterrupt:
            return


def _sample(context: typer.Context, table: str) -> Sample:
    from proxist.cli.control import watermark_row
    from proxist.cli.pxctl import calling
    from proxist.pb import controlplane_pb2 as pb

    with calling(context) as (control, _):
        answer = control.call("Watermarks", pb.WatermarksRequest(table=table))
    marks = {(m.tenant, m.table, m.shard): watermark_row(m) for m in answer.watermarks}
    return Sample(time.monotonic(), marks)


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in dict.fromkeys(name for row in rows for name in row) or ["no shards"]:
        shown.add_column(name, justify="left" if name in ("tenant", "table") else "right")
    for row in rows:
        shown.add_row(*("-" if v is None else f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    return shown
