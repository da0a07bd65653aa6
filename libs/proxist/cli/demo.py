"""`proxist demo`: a whole cluster, a simulated exchange (or files), a live view, and a check at the end."""

from __future__ import annotations

import proxist.rpc.env  # noqa: F401  # before pyarrow and grpc are loaded

import os
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def demo(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Play these captures at 10x instead of the simulation.")
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="S", min=1.0, help="How long rows flow.")] = 40.0,
    rows_per_s: Annotated[
        int, typer.Option(metavar="N", min=100, help="Of the simulated exchange, trades and quotes together.")
    ] = 20_000,
) -> None:
    """Run a whole cluster for about a minute: rows flow in, queries run, and at the end every row is counted.

    Ends by itself, or with Ctrl-C. With OTEL=1 it shows one write's and one query's trace at its end. Nothing is left behind. Exit code 0: the closing check holds.
    """
    from proxist.errors import ProxistError
    from proxist.rpc.status import exit_code

    try:
        held = run(files or [], seconds, rows_per_s)
    except KeyboardInterrupt:
        print("\nStopped; the cluster is down and its data removed.", flush=True)
        raise SystemExit(130) from None
    except ProxistError as error:
        print(f"error: {error.message}", file=sys.stderr)
        raise SystemExit(exit_code(error)) from None
    raise SystemExit(0 if held else 1)


def run(files: list[Path], seconds: float, rows_per_s: int) -> bool:
    """True where the closing check holds for each table."""
    from proxist.cli.demo_cluster import demo_cluster

    _say("Starting etcd, ClickHouse and the four services …")
    started_s = time.monotonic()
    with _collecting() as collector, demo_cluster() as endpoints:
        _say(f"Up after {time.monotonic() - started_s:.1f} s; query at {endpoints['query'][0]['flight']}.")
        held = _play(endpoints, files, seconds, rows_per_s)
        if collector is not None:
            _show_traces(endpoints, collector)
        _say("Stopping the cluster …")
    return held


def _play(endpoints: dict[str, Any], files: list[Path], seconds: float, rows_per_s: int) -> bool:
    from proxist.cli.demo_check import check
    from proxist.cli.demo_load import Load
    from proxist.cli.demo_stats import Stats
    from proxist.cli.feeds.tables import QUOTES, TRADES
    from proxist.client.connection import connect

    with connect(endpoints["query"][0]["flight"]) as connection:
        for spec in (TRADES, QUOTES):
            connection.create_table(spec)
        stats = Stats()
        load = Load(endpoints, stats, files, rows_per_s)
        try:
            load.start(connection)
            _watch(stats, load.fed, seconds)
        finally:
            load.stop()
        if load.error is not None:
            raise load.error
        _say("Rows have stopped. Persisting everything, evicting the older half, and counting …")
        counts = check(endpoints, connection, stats.acked_rows(), ids=not files)
    for count in counts:
        _say(f"  {count}")
    held = bool(counts) and all(count.holds for count in counts)
    _say("hot + cold = acknowledged, for each table." if held else "The check FAILED: see the counts above.")
    return held


def _collecting() -> AbstractContextManager[Any]:
    """A collector of spans with `OTEL=1`, else nothing."""
    if os.environ.get("OTEL"):
        from proxist.cli import demo_traces

        if demo_traces.wanted():
            return demo_traces.collecting()
    return nullcontext()


def _show_traces(endpoints: dict[str, Any], collector: Any) -> None:
    from proxist.cli.demo_traces import show
    from proxist.cli.feeds.exchange import SimulatedExchange
    from proxist.cli.feeds.tables import TRADES
    from proxist.client.connection import connect

    exchange = SimulatedExchange(rows_per_s=1_000_000)
    rows = exchange.step(time.time_ns(), 10_000_000)[TRADES.name]
    with connect(endpoints["query"][0]["flight"]) as connection:
        show(connection, collector, rows, _say)


def _watch(stats: Any, fed: threading.Event, seconds: float) -> None:
    """The live view, until `seconds` have passed or there is nothing more to send."""
    from proxist.cli.demo_view import watch

    ended = threading.Event()
    view = threading.Thread(target=watch, args=(stats.snapshot, ended), name="demo-view", daemon=True)
    view.start()
    try:
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s and not fed.wait(0.2):
            pass
    finally:
        ended.set()
        view.join()


def _say(text: str) -> None:
    print(text, flush=True)


def main(argv: list[str] | None = None) -> None:
    app(args=argv, prog_name="proxist demo")


if __name__ == "__main__":
    main()
