"""What ClickHouse has of a shard: which rows of an insert are missing, and which stored rows no log explains. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import OperatorError
from proxist.etcd import LogRecord
from proxist.model.ids import Epoch, LogId, Offset, ShardId, log_id
from proxist.model.table import Table

Offsets = npt.NDArray[np.uint64]
TWICE = "stored twice"


class Stored:
    """The rows of a shard in an offset range, as read back: what `ClickHouse.offsets_present` answers."""

    def __init__(self, present: pa.Table) -> None:
        logs, offsets = present["_log"].to_numpy(), present["_offset"].to_numpy()
        self.end = Offset(int(offsets.max()) + 1 if len(offsets) else 0)
        """Above every row that was read back; 0 where there was none."""
        copied = present["copies"].to_numpy() > 1
        self.twice: Offsets = np.unique(offsets[copied])
        """Offsets that are stored more than once."""
        self._copied = {LogId(int(log)): np.sort(offsets[copied & (logs == log)]) for log in np.unique(logs[copied])}
        self._by_log: dict[LogId, Offsets] = {LogId(int(log)): np.sort(offsets[logs == log]) for log in np.unique(logs)}

    @classmethod
    def of_rows(cls, rows: pa.Table) -> Stored:
        """Of `ClickHouse.rows_present`: all rows, in the order of (offset, log)."""
        logs, offsets = rows["_log"].to_numpy(), rows["_offset"].to_numpy()
        differs = (logs[1:] != logs[:-1]) | (offsets[1:] != offsets[:-1])
        starts = np.flatnonzero(np.concatenate(([len(logs) > 0], differs)))
        copies = np.diff(np.append(starts, len(logs)))
        return cls(pa.table({"_log": logs[starts], "_offset": offsets[starts], "copies": copies}))

    def missing(self, log: LogId, offsets: Offsets) -> npt.NDArray[np.bool_]:
        """Per offset of `offsets`, whether that row of the log is not stored."""
        stored = self._by_log.get(log)
        return np.ones(len(offsets), np.bool_) if stored is None else ~np.isin(offsets, stored, assume_unique=True)

    def twice_of(self, log: LogId) -> Offsets:
        """Offsets of the log that are stored more than once."""
        return self._copied.get(log, np.array([], np.uint64))

    def of_log(self, log: LogId) -> Offsets:
        return self._by_log.get(log, np.array([], np.uint64))

    @property
    def logs(self) -> Iterable[LogId]:
        return self._by_log


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Stored rows that should not be: `cause`, and the first and last offset of them under `log`."""

    cause: str
    log: LogId
    first: Offset
    last: Offset


def anomaly(stored: Stored, shard: ShardId, logs: Iterable[LogRecord], epoch: Epoch, end: Offset) -> Anomaly | None:
    """The first finding among the stored rows, or None.

    A row is explained by a log of its id that begins at or below it and, unless abandoned, ends above it; the owner's
    open log (of `epoch`) ends at `end`. The tail of an abandoned log is explained: readers know that it was lost.
    """
    known = {log_id(shard, log.epoch): log for log in logs}
    for log in sorted(stored.logs):
        offsets = stored.of_log(log)
        record = known.get(log)
        if record is None:
            return Anomaly("no log of this id", log, Offset(int(offsets[0])), Offset(int(offsets[-1])))
        outside = offsets < np.uint64(record.start)
        if record.state != "abandoned":
            log_end = end if record.epoch == epoch else record.end
            if log_end is not None:
                outside |= offsets >= np.uint64(log_end)
        if outside.any():
            found = offsets[outside]
            return Anomaly("outside of its log", log, Offset(int(found[0])), Offset(int(found[-1])))
    if len(stored.twice):
        first, last = int(stored.twice[0]), int(stored.twice[-1])
        holder = next(log for log in sorted(stored.logs) if np.isin(stored.twice[0], stored.of_log(log)))
        return Anomaly(TWICE, holder, Offset(first), Offset(last))
    return None


def unexplained(table: Table, shard: ShardId, found: Anomaly) -> OperatorError:
    """What an operator is told of an anomaly."""
    remedy = (
        f"`pxctl verify {table.name}` shows them, `pxctl repair {table.name}` removes copies that are equal"
        if found.cause == TWICE
        else f"Find out who wrote them (`pxctl verify {table.name}` lists them) and delete them"
    )
    return OperatorError(
        f"ClickHouse has rows of table {table.name!r} that cannot be explained: {found.cause}, offsets "
        f"{found.first} to {found.last} under _log {found.log}. {remedy}; then run `pxctl persist resume {table.name}`.",
        shard=shard,
        cause=found.cause,
        log=found.log,
        first=found.first,
        last=found.last,
    )
