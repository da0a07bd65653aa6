"""The demo's screen: a live page on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxist.cli.demo_stats import Latency, Snapshot

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

LIVE_S = 0.25
LINES_S = 5.0


def watch(snapshot: Callable[[], Snapshot], ended: threading.Event) -> None:
    """Show snapshots until `ended`; on return the last one is on the screen."""
    if sys.stdout.isatty():
        _watch_live(snapshot, ended)
        return
    while not ended.wait(LINES_S):
        print(line(snapshot()), flush=True)
    print(line(snapshot()), flush=True)


def line(now: Snapshot) -> str:
    """One snapshot as one line of plain text."""
    tables = ", ".join(f"{name} {rows:,} ({now.rows_per_s[name]:,.0f}/s)" for name, rows in sorted(now.acked.items()))
    queries = ", ".join(f"{name} {_ms(latency)}" for name, latency in sorted(now.queries.items()))
    marks = ", ".join(f"{m['table']}/{m['shard']} {m['floor']:,}/{m['persisted']:,}/{m['end']:,}" for m in now.marks)
    parts = [f"{now.elapsed_s:4.0f} s", f"acked {tables or 'nothing yet'}", f"ack {_ms(now.ack)}"]
    parts += [text for text in (queries and f"queries {queries}", marks and f"floor/persisted/end {marks}") if text]
    if now.problem:
        parts.append(f"waiting: {now.problem}")
    return " | ".join(parts)


def _watch_live(snapshot: Callable[[], Snapshot], ended: threading.Event) -> None:
    from rich.live import Live

    with Live(page(snapshot()), auto_refresh=False) as live:
        while not ended.wait(LIVE_S):
            live.update(page(snapshot()), refresh=True)
        live.update(page(snapshot()), refresh=True)


def page(now: Snapshot) -> RenderableType:
    """The whole screen."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.text import Text

    head = Text(f"Proxist demo, {now.elapsed_s:.0f} s", style="bold")
    if now.late_rows:
        head.append(f"   {now.late_rows:,} rows came late", style="dim")
    if now.problem:
        head.append(f"   waiting: {now.problem}", style="yellow")
    return Group(head, Columns([_tables(now), _latencies(now)], padding=(0, 4)), _marks(now), _prices(now))


def _grid(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold cyan", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("table", "what", "symbol") else "right", style="")
    return table


def _tables(now: Snapshot) -> Table:
    grid = _grid("\nrows", "table", "acked", "rows/s")
    for name, rows in sorted(now.acked.items()):
        grid.add_row(name, f"{rows:,}", f"{now.rows_per_s[name]:,.0f}")
    return grid


def _latencies(now: Snapshot) -> Table:
    grid = _grid("\nlatency", "what", "calls", "p50 ms", "p99 ms")
    for name, latency in (("ack of a batch", now.ack), *sorted(now.queries.items())):
        grid.add_row(name, f"{latency.count:,}", _number(latency.p50_ms), _number(latency.p99_ms))
    return grid


def _marks(now: Snapshot) -> Table:
    grid = _grid("\nshards", "table", "shard", "epoch", "floor", "persisted", "end", "in RAM", "lag")
    for mark in now.marks:
        numbers = [mark[name] for name in ("shard", "epoch", "floor", "persisted", "end")]
        grid.add_row(
            mark["table"], *(f"{n:,}" for n in (*numbers, mark["end"] - mark["floor"], mark["end"] - mark["persisted"]))
        )
    return grid


def _prices(now: Snapshot) -> Table:
    grid = _grid("\nlast prices", "symbol", "last", "VWAP", "trades")
    for row in now.prices:
        grid.add_row(str(row["symbol"]), _number(row.get("price")), _number(row.get("vwap")), _count(row.get("trades")))
    return grid


def _count(value: Any) -> str:
    return "-" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _ms(latency: Latency) -> str:
    return "-" if latency.p50_ms is None else f"p50 {latency.p50_ms:.1f} ms p99 {latency.p99_ms:.1f} ms"
