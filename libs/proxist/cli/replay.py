"""`proxist replay`: files to a cluster, with a progress bar; a file that was sent in half is resumed."""

from __future__ import annotations

import proxist.rpc.env  # noqa: F401  # before pyarrow and grpc are loaded

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def replay(
    files: Annotated[list[Path], typer.Argument(help="Files, plain or gzip.", metavar="FILE")],
    to: Annotated[
        str, typer.Option(metavar="URI", help="Any Flight endpoint of the cluster, say grpc://127.0.0.1:8816.")
    ],
    format: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="binance-raw, csv, parquet or arrow; without it, what the file shows."),
    ] = None,
    table: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where rows of csv, parquet and arrow files go.")
    ] = None,
    venue: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Before the symbol; without it, the part of the file's name before `__`."),
    ] = None,
    speed: Annotated[
        str, typer.Option(metavar="SPEED", help="max, or a factor of the feed's own pace: 1x, 10x.")
    ] = "max",
) -> None:
    """Send files of rows to a cluster; returns when every row is acknowledged.

    binance-raw fills the tables trades, quotes and depth, and creates those that are missing. The producer's name is the
    file's name and content hash: run the same command again after a break, and only what is missing is sent.
    """
    from proxist.errors import ProxistError
    from proxist.rpc.status import exit_code

    try:
        _replay(files, to, format, table, venue, speed)
    except KeyboardInterrupt:
        _say("Stopped. Run the same command to go on where it stopped.")
        raise SystemExit(130) from None
    except ProxistError as error:
        _say(f"error: {error.message}")
        raise SystemExit(exit_code(error)) from None


def _replay(files: list[Path], to: str, format: str | None, table: str | None, venue: str | None, speed: str) -> None:
    from proxist.cli.feeds.player import Player, parse_speed
    from proxist.client.connection import connect

    factor = parse_speed(speed)
    sent: Counter[str] = Counter()
    known: Counter[str] = Counter()
    started_s = time.monotonic()
    with connect(to) as connection, _progress() as progress:
        for path in files:
            progress.begin(path)
            report = Player(connection, speed=factor, on_progress=progress.advance).play(path, format, venue, table)
            sent.update(report.sent)
            known.update(report.known)
            progress.end(path, sum(report.sent.values()), sum(report.known.values()))
    _summary(sent, known, time.monotonic() - started_s)


def _summary(sent: Counter[str], known: Counter[str], took_s: float) -> None:
    for name in sorted(sent | known):
        already = f", {known[name]:,} were there already" if known[name] else ""
        print(f"{name}: {sent[name]:,} rows acknowledged{already}")
    print(f"{sent.total():,} rows in {took_s:.1f} s ({sent.total() / max(took_s, 1e-9):,.0f} rows/s)")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Progress(Protocol):
    def begin(self, path: Path) -> None: ...
    def advance(self, position: int, rows: int) -> None: ...
    def end(self, path: Path, sent: int, known: int) -> None: ...


@contextmanager
def _progress() -> Iterator[_Progress]:
    """A bar where a person looks on, one line per file otherwise; on stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    rows = TextColumn("{task.fields[rows]:>12,} rows")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), rows, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar)


class _Lines:
    def begin(self, path: Path) -> None:
        _say(f"{path.name}: begins")

    def advance(self, position: int, rows: int) -> None:
        pass

    def end(self, path: Path, sent: int, known: int) -> None:
        _say(f"{path.name}: {sent:,} rows acknowledged, {known:,} were there already")


class _Bar:
    def __init__(self, bar: object) -> None:
        from rich.progress import Progress, TaskID

        assert isinstance(bar, Progress)
        self._bar = bar
        self._task = TaskID(0)
        self._rows = 0

    def begin(self, path: Path) -> None:
        self._rows = 0
        self._task = self._bar.add_task(path.name, total=path.stat().st_size if path.is_file() else None, rows=0)

    def advance(self, position: int, rows: int) -> None:
        self._rows += rows
        self._bar.update(self._task, completed=position, rows=self._rows)

    def end(self, path: Path, sent: int, known: int) -> None:
        self._bar.update(self._task, completed=path.stat().st_size, rows=sent)


def main(argv: list[str] | None = None) -> None:
    app(args=argv, prog_name="proxist replay")


if __name__ == "__main__":
    main()
