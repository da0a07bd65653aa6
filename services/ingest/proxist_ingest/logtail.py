"""What of a shard's log ClickHouse does not have: how far rows may leave memory, and how many bytes that may hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proxist.model.ids import Offset
from proxist.wal import Segment, list_logs, segments

WAL_BYTES_MAX = 64 * 2**30


@dataclass(frozen=True, slots=True)
class LogTail:
    """The log files of one shard, seen from its persisted mark. For any thread."""

    shard_dir: Path
    synced: Callable[[], Offset]
    """Every row below it is on disk in the log."""
    bytes_max: int | None = None
    """What rows that ClickHouse does not have may take; None: no bound."""

    def reach(self, persisted: Offset) -> Offset:
        """Up to where the floor may go: the synced end, or `persisted` where the files are at their bound."""
        full = self.bytes_max is not None and self.bytes_from(persisted) >= self.bytes_max
        return persisted if full else self.synced()

    def bytes_from(self, offset: Offset, end: Offset | None = None) -> int:
        """Bytes of the segments that hold rows in [offset, end), or from `offset` on."""
        listed = [one for log in list_logs(self.shard_dir) for one in segments(log.path)]
        total = 0
        for one, following in zip(listed, [*listed[1:], None], strict=True):
            if _is_above(one, end):
                break
            if following is None or following.first is None or following.first > offset:
                total += one.bytes
        return total


def _is_above(segment: Segment, end: Offset | None) -> bool:
    return end is not None and segment.first is not None and segment.first >= end
