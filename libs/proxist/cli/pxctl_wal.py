"""`pxctl wal`: the logs of a data directory, without a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from proxist.wal.verify import LogReport

EXIT_LOSS = 1

wal = typer.Typer(help="The logs of a data directory; needs no cluster.", no_args_is_help=True, rich_markup_mode=None)

DataDir = Annotated[Path, typer.Argument(metavar="DATA_DIR", help="`data_dir` of the ingest node.")]


@wal.command()
def verify(
    context: typer.Context,
    data_dir: DataDir,
    as_json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
) -> None:
    """Read every log of a stopped node, and say what recovery would find. Changes nothing.

    Exit code 1 where rows are lost that were promised. A torn tail is no loss: nobody was told that it is there.
    """
    from proxist.cli.output import show
    from proxist.cli.wal_files import explain, json_of, lost_snapshots, reports_of, row_of
    from proxist.wal import DirectoryLock, list_shards

    with _errors():
        _require(data_dir)
        with DirectoryLock(data_dir):
            reports = list(reports_of(data_dir))
            missing = [
                found for shard in list_shards(data_dir) if (found := lost_snapshots(data_dir, shard)) is not None
            ]
        lines = [line for found in missing for line in found.explain()]
        lines += [line for report in reports for line in explain(report)]
        lines += [_remedy(report) for report in reports if report.error is not None]
        output = "json" if as_json else context.obj.output
        show(output, [json_of(report) for report in reports], {"": [row_of(one) for one in reports]}, "\n".join(lines))
    if missing or any(report.error is not None for report in reports):
        raise SystemExit(EXIT_LOSS)


@wal.command()
def repair(
    data_dir: DataDir,
    shard: Annotated[int, typer.Option(metavar="N", help="The shard whose log is damaged.")],
    epoch: Annotated[int | None, typer.Option(metavar="E", help="Which of its logs; needed where several are.")] = None,
    expected_end: Annotated[
        int | None, typer.Option(metavar="OFFSET", help="As the node's error says: rows below it were promised.")
    ] = None,
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Go on without what is lost.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Say exactly what a damaged log lost, and with --accept-loss go on without it.

    Writes a decision beside the log and changes no segment. A running node takes the shard into service within seconds.
    """
    from proxist.cli.wal_files import explain, lost_snapshots
    from proxist.model.ids import ShardId
    from proxist.wal import OsFiles, write_durably
    from proxist.wal.files import make_directories
    from proxist.wal.verify import accept_loss as write_acceptance

    with _errors(), _alone(data_dir):
        missing = lost_snapshots(data_dir, ShardId(shard))
        if missing is not None:
            _decide(missing.explain(), accept_loss, yes)
            make_directories(missing.decision.parent, OsFiles())
            write_durably(OsFiles(), missing.decision, b"")
            print(f"Accepted. Shard {shard} goes on with the rows from offset {missing.first} on.")
            return
        report = _damaged(data_dir, shard, epoch, expected_end)
        if report is None:
            print(f"The logs of shard {shard} have lost nothing that is not accepted. There is nothing to do.")
            return
        if report.found is None:
            print("\n".join(explain(report)))
            raise SystemExit(EXIT_LOSS)
        _decide(explain(report), accept_loss, yes)
        write_acceptance(report, OsFiles())
        print(f"Accepted. Log {report.epoch} of shard {shard} ends at {report.found.end}; its files are as they were.")


def _decide(told: list[str], accept_loss: bool, yes: bool) -> None:
    """Returns where the operator goes on without what `told` says is lost; ends with EXIT_LOSS otherwise."""
    print("\n".join(told))
    if not accept_loss:
        print("Nothing was changed. To go on without what is lost: the same command with --accept-loss.")
        raise SystemExit(EXIT_LOSS)
    if not yes and not typer.confirm("Go on without it, for ever?"):
        print("Nothing was changed.")
        raise SystemExit(EXIT_LOSS)


def _damaged(data_dir: Path, shard: int, epoch: int | None, expected_end: int | None) -> LogReport | None:
    """The one report with an error. Raises InvalidArgument where there are several to choose from, or no such log."""
    from proxist.cli.wal_files import reports_of_shard
    from proxist.errors import InvalidArgument
    from proxist.model.ids import Offset, ShardId

    end = None if expected_end is None else Offset(expected_end)
    reports = list(reports_of_shard(data_dir, ShardId(shard), expected_end=end))
    if not reports or (epoch is not None and epoch not in [report.epoch for report in reports]):
        what = f"shard {shard}" if epoch is None else f"shard {shard}, epoch {epoch}"
        raise InvalidArgument(f"Data directory {str(data_dir)!r} has no log of {what}. `pxctl wal verify` lists them.")
    damaged = [one for one in reports if one.error is not None and epoch in (None, one.epoch)]
    if len(damaged) > 1:
        epochs = ", ".join(str(report.epoch) for report in damaged)
        raise InvalidArgument(f"Logs {epochs} of shard {shard} are damaged. Choose one with --epoch.")
    return damaged[0] if damaged else None


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """With the directory's lock, or beside the node that holds it: a log that it refused is read by nobody else, and one
    that it writes has lost nothing."""
    from proxist.errors import DirectoryLocked
    from proxist.wal import DirectoryLock

    _require(data_dir)
    try:
        lock = DirectoryLock(data_dir)
    except DirectoryLocked:
        yield
        return
    with lock:
        yield


def _remedy(report: LogReport) -> str:
    command = report.error.details.get("command") if report.error is not None else None
    return f"Restore the file from a copy, or: {command}" if command else "Restore the file from a copy."


def _require(data_dir: Path) -> None:
    from proxist.errors import InvalidArgument

    if not (data_dir / "wal").is_dir():
        raise InvalidArgument(f"{str(data_dir)!r} is not the data directory of an ingest node: it has no `wal`.")


@contextmanager
def _errors() -> Iterator[None]:
    from proxist.errors import ProxistError
    from proxist.rpc.status import exit_code

    try:
        yield
    except ProxistError as error:
        print(f"error: {error.message}", file=sys.stderr)
        raise SystemExit(exit_code(error)) from None
