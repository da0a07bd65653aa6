"""What is in a log, and what is lost of it, for operators: reads every byte that recovery would, and changes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from proxist.errors import LogCorrupt
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.wal._loss import Range
from proxist.wal.chain import list_segments, log_of_path
from proxist.wal.decision import AcceptedLoss, read_decision, write_decision
from proxist.wal.files import Files
from proxist.wal.mark import LogBegin
from proxist.wal.recover import RecoveredLog, TornTail, recover_log


@dataclass(frozen=True)
class LogReport:
    """One log of a data directory."""

    log_dir: Path
    shard: ShardId
    epoch: Epoch
    segments: tuple[int, ...]
    bytes: int
    found: RecoveredLog | None
    """What recovery would make of it with every loss accepted; None where not even that is possible."""
    error: LogCorrupt | None
    """What stops recovery; None where nothing does, or the loss was accepted."""
    accepted: AcceptedLoss | None
    beyond: Range | None = None
    """Rows that the shard gives up with this loss, as only the shard's other files tell; None: what the log itself tells."""

    @property
    def cut(self) -> TornTail | None:
        """A torn tail, which was never promised to anybody."""
        return None if self.found is None or self.found.lost else self.found.cut

    @property
    def lost(self) -> tuple[Range, ...]:
        """Ranges `[first, end)` of promised rows that cannot be read; one that is empty stands for records without rows."""
        return () if self.found is None else self.found.lost

    @property
    def given_up(self) -> Range | None:
        """The rows that are nowhere any more once the loss is accepted, those that can be read included; None: none."""
        if self.beyond is not None:
            return self.beyond
        found = self.found
        if found is None or not found.lost or found.promised <= found.seal_at:
            return None
        return found.seal_at, found.promised


def verify_log(log_dir: Path, *, begin: LogBegin | None = None, expected_end: Offset | None = None) -> LogReport:
    """Read a log whose writer is gone. `begin`: what is needed of it. `expected_end`: rows below it were promised, as
    somebody else knows. A log that is still written may only seem to have a torn tail."""
    found, error = None, None
    try:
        recover_log(log_dir, begin=begin, sealed_end=expected_end, flush=False)
    except LogCorrupt as stopped:
        error = stopped
    try:
        found = recover_log(log_dir, begin=begin, sealed_end=expected_end, flush=False, accept_loss=True)
    except LogCorrupt as stopped:
        error = stopped
    log = log_of_path(log_dir)
    segments = list_segments(log_dir)
    return LogReport(
        log_dir,
        ShardId(0 if log is None else int(log_dir.parent.name)),
        Epoch(0 if log is None else int(log_dir.name)),
        tuple(number for number, _ in segments),
        sum(path.stat().st_size for _, path in segments),
        found,
        error,
        read_decision(log_dir),
    )


def accept_loss(report: LogReport, files: Files) -> AcceptedLoss:
    """Write down that an operator goes on without what `report` says is lost; on disk on return. No segment is changed.

    The report must have an error and a `found`. Raises OSError.
    """
    found = report.found
    assert found is not None
    # A log that has lost its beginning is accepted as a whole: nothing sound is left to hold it to.
    whole = not found.mark.records or (bool(found.lost) and found.lost[0][0] < found.start)
    accepted = AcceptedLoss(
        Offset(0) if whole else found.end,
        0 if whole else found.mark.records,
        found.lost if report.beyond is None else (*found.lost, report.beyond),
        time.time_ns(),
    )
    write_decision(report.log_dir, accepted, files)
    return accepted
