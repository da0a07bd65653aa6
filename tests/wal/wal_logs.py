"""Logs of eight batches to be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from wal_support import append_rows, extents, open_log

from proxist.model.ids import Offset
from proxist.wal import persisted_record

SEGMENT_BYTES = 10_240
START, ROWS, COUNT = 100, 10, 8


class Log(NamedTuple):
    path: Path
    extents: list  # type: ignore[type-arg]

    def record(self, number: int) -> tuple[Path, int, int]:
        """File, position, length of record `number` (0 is the carried state, record n holds the n-th batch)."""
        path, position, length, _ = self.extents[number]
        return path, position, length


def build(
    data: Path, sync_after: int | None, *, segment_bytes: int = SEGMENT_BYTES, persisted: int | None = None
) -> Log:
    """Eight batches of ten rows from offset 100. A sync after batch `sync_after` is named by all batches behind it."""
    with open_log(data, start=START, segment_bytes=segment_bytes) as log:
        for number in range(1, COUNT + 1):
            append_rows(log, ROWS, number=number)
            if number == sync_after:
                log.sync()
        if persisted is not None:
            log.append([persisted_record(Offset(persisted))])
    return Log(log.log_dir, extents(log.log_dir))
