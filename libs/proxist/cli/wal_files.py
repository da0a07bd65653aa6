"""The logs of a data directory as `pxctl wal` sees them: which of their rows a recovery needs, and what it finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proxist.hot.needed import accepted_without, ends_before, gives_up, is_overtaken, needed_of, promised_of
from proxist.hot.snapshots import BadSnapshot, Manifest, list_snapshots, read_snapshot, snapshot_directory
from proxist.model.ids import Offset, ShardId
from proxist.wal import list_logs, list_segments, list_shards, shard_directory
from proxist.wal.chain import log_directory
from proxist.wal.mark import LogBegin
from proxist.wal.segments import first_offset
from proxist.wal.verify import LogReport, verify_log


def reports_of(data_dir: Path) -> Iterator[LogReport]:
    """Every log of the directory that a recovery needs, by shard, oldest first."""
    for shard in list_shards(data_dir):
        yield from reports_of_shard(data_dir, shard)


def reports_of_shard(data_dir: Path, shard: ShardId, *, expected_end: Offset | None = None) -> Iterator[LogReport]:
    """The logs of one shard, oldest first; `expected_end` is of the newest. What the newest good snapshot covers is not
    needed, so it is not looked at. A report has the error with which the node refuses the shard."""
    logs = list_logs(shard_directory(data_dir, shard))
    manifests = list(_manifests(data_dir, shard))
    manifest = next((one for one in manifests if not _overtaken(data_dir, one)), None)
    # Without a snapshot that covers what was given up: told by `lost_snapshots`, and no damage of the log.
    first = None if manifest is not None else _shortened_first(data_dir, shard)
    ends = [*(_start_of(log.path) for log in logs[1:]), expected_end][: len(logs)]
    reports = []
    for log, end in zip(logs, ends, strict=True):
        begin = None if manifest is None else needed_of(manifest, log.epoch, end)
        if manifest is not None and begin is None:
            continue
        if first is not None and log == logs[0]:
            begin = LogBegin(first, None)
        reports.append((verify_log(log.path, begin=begin, expected_end=end), end))
    persisted = max((one.found.persisted for one, _ in reports if one.found is not None), default=Offset(0))
    persisted = max([persisted, *(one.persisted for one in manifests)])
    shard_end = next((one.found.seal_at for one, _ in reversed(reports) if one.found is not None), Offset(0))
    for report, end in reports:
        if report.log_dir != logs[-1].path and end is not None:
            report = _with_hole(report, persisted, end)
        if manifest is not None and report.epoch == manifest.position.epoch:
            report = _held_to(report, manifest, shard_end)
        yield report


def _with_hole(report: LogReport, persisted: Offset, end: Offset) -> LogReport:
    """A later log goes on at `end`: with a loss below that, all that is not persisted is given up."""
    found = report.found
    if found is None or not found.lost or found.end >= end or persisted >= end:
        return report
    error = report.error or gives_up(report.log_dir, persisted, end)
    return replace(report, error=error, beyond=(persisted, end))


def _held_to(report: LogReport, manifest: Manifest, shard_end: Offset) -> LogReport:
    """The log that a snapshot was taken in must reach it."""
    found, promised = report.found, promised_of(manifest)
    if found is None or (found.mark.records >= manifest.position.records and shard_end >= promised):
        return report
    error = report.error or ends_before(report.log_dir, manifest, found.mark.records, shard_end)
    gone = max(promised, found.promised)
    return replace(report, error=error, beyond=(shard_end, gone) if gone > shard_end else report.beyond)


def row_of(report: LogReport) -> dict[str, Any]:
    """A report as one line of a table; offsets of ranges are `[first, end)`."""
    found = report.found
    numbers = report.segments
    segments = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else "".join(map(str, numbers))
    if len(numbers) > 1 and numbers[-1] - numbers[0] + 1 != len(numbers):
        segments += f" ({len(numbers)} files)"
    told = {} if found is None else {"start": found.start, "end": found.end, "persisted": found.persisted}
    return {
        "shard": report.shard, "epoch": report.epoch, "segments": segments, "bytes": report.bytes, **told,
        "rows": None if found is None else found.end - found.start, "state": state_of(report),
    }  # fmt: skip


def json_of(report: LogReport) -> dict[str, Any]:
    """A report for programs."""
    cut, given_up = report.cut, report.given_up
    return {
        **row_of(report),
        "segments": list(report.segments),
        "ok": report.error is None,
        "torn": None if cut is None else {"path": cut.path, "position": cut.position, "cause": cut.cause},
        "lost": [list(one) for one in report.lost],
        "given_up": None if given_up is None else list(given_up),
        "error": None if report.error is None else report.error.to_json(),
        "accepted": None if report.accepted is None else report.accepted._asdict(),
    }


def state_of(report: LogReport) -> str:
    lost = ", ".join(f"[{first}, {end})" for first, end in report.lost if end > first) or "records without rows"
    if report.error is not None:
        return f"LOST {lost}" if report.found is not None else "UNREADABLE"
    if report.lost:
        return f"lost {lost}, accepted"
    if report.cut is not None:
        return f"torn tail at {report.cut.position} of {Path(report.cut.path).name}"
    return "sealed" if report.found is not None and report.found.sealed else "sound"


def explain(report: LogReport) -> list[str]:
    """What is wrong with a damaged log, and what accepting it would mean; a sentence each."""
    if report.error is None:
        return []
    details = report.error.details
    where = f" at byte {details['position']}" if "position" in details else ""
    lines = [f"Shard {report.shard}, log {report.epoch}: {details['path']}{where}: {details['cause']}."]
    found = report.found
    if found is None:
        return [*lines, report.error.message]
    for first, end in report.lost:
        lines.append(
            f"Rows [{first}, {end}) cannot be read."
            if end > first
            else f"Records without rows at offset {first} are gone."
        )
    goes_on = found.seal_at if report.beyond is None else max(report.beyond[1], found.seal_at)
    lines.append(f"The log would end at {found.end}, and the shard go on at {goes_on}.")
    if found.end < found.persisted:
        lines.append(f"Rows [{found.end}, {found.persisted}) are in ClickHouse: they are not lost.")
    given_up = report.given_up
    if given_up is not None:
        lines.append(
            f"Rows [{given_up[0]}, {given_up[1]}) were acknowledged and would be given up, also those of them that can "
            f"still be read {'before and ' if given_up[0] < found.end else ''}behind the damage."
        )
    return lines


@dataclass(frozen=True)
class LostSnapshots:
    """Logs that were shortened when snapshots covered them, and no good snapshot left that does."""

    shard: ShardId
    first: Offset
    """Where the rows begin that the logs have."""
    decision: Path
    """The file that says that an operator goes on without."""

    def explain(self) -> list[str]:
        return [
            f"Shard {self.shard}: no good snapshot is left, and its logs begin at offset {self.first} only.",
            f"No row is lost: those below {self.first} were verified in ClickHouse before files were given up.",
            "Lost are the last rows of keys that memory had beside them, and older batch numbers of producers: a batch that "
            "was sent long ago could be taken twice.",
        ]


def lost_snapshots(data_dir: Path, shard: ShardId) -> LostSnapshots | None:
    """None where a good snapshot is there or none is needed, and where an operator has decided."""
    usable = [one for one in _manifests(data_dir, shard) if not _overtaken(data_dir, one)]
    first = None if usable else _shortened_first(data_dir, shard)
    if first is None:
        return None
    decision = accepted_without(snapshot_directory(data_dir, shard), first)
    return None if decision.exists() else LostSnapshots(shard, first, decision)


def _shortened_first(data_dir: Path, shard: ShardId) -> Offset | None:
    """Where the rows begin that the logs have; None where nothing was given up below, or that cannot be seen."""
    logs = list_logs(shard_directory(data_dir, shard))
    segments = list_segments(logs[0].path) if logs else []
    first = first_offset(*segments[0]) if segments else None
    had_snapshots = snapshot_directory(data_dir, shard).is_dir()
    return first if segments and (segments[0][0] > 0 or (first and had_snapshots)) else None


def _manifests(data_dir: Path, shard: ShardId) -> Iterator[Manifest]:
    """Of the good snapshots, newest first."""
    for _, path in list_snapshots(snapshot_directory(data_dir, shard)):
        try:
            manifest = read_snapshot(path).manifest
        except BadSnapshot:
            continue
        if manifest.shard == shard:
            yield manifest


def _overtaken(data_dir: Path, manifest: Manifest) -> bool:
    """Whether the node passes the snapshot over, as an operator accepted."""
    log_dir = log_directory(shard_directory(data_dir, manifest.shard), manifest.position.epoch)
    return is_overtaken(log_dir, manifest)


def _start_of(log_dir: Path) -> Offset | None:
    """Where a log begins, which is where its predecessor was sealed; None where its first segment is gone."""
    segments = list_segments(log_dir)
    return first_offset(*segments[0]) if segments and segments[0][0] == 0 else None
