"""Reading a log in order, sealed or still open, up to a mark that its owner vouches for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from proxist.errors import LogCorrupt
from proxist.model.ids import Offset
from proxist.wal._format import Damage
from proxist.wal._walk import CHUNK_BYTES, Walker
from proxist.wal.mark import LogMark
from proxist.wal.record import Record

__all__ = ["CHUNK_BYTES", "LogReader"]


class LogReader:
    """Reads one log forward. For one thread; any number of readers may follow one writer, in its process or another.

    `from_offset` may be any offset: reading begins with the record that holds it (its rows below `from_offset` are the
    caller's to drop), and with records without rows that stand at it. Memory: one chunk of `CHUNK_BYTES`, or the
    longest record where that is more; the operating system's page cache is the buffer.
    """

    def __init__(self, log_dir: Path | str, from_offset: Offset) -> None:
        """Opens at the segment that holds `from_offset`. Raises LogCorrupt where the log cannot be opened, or begins
        above `from_offset`."""
        self.log_dir = Path(log_dir)
        self._from = from_offset
        try:
            self._walker = Walker(self.log_dir, from_offset)
        except Damage as damage:
            raise corrupt(damage, from_offset, None) from None
        if self._walker.segment > 0 and self._walker.offset > from_offset:
            begin = self._walker.offset
            self.close()
            missing = Damage(str(self.log_dir), 0, f"the segments below offset {begin} are not there")
            raise corrupt(missing, from_offset, begin)

    @property
    def next_offset(self) -> Offset:
        """Offset at which the next record begins."""
        return max(self._walker.offset, self._from)

    def read(self, until: LogMark) -> Iterator[Record]:
        """The records from the current position up to `until`: `writer.synced_mark` of an open log (a follower calls
        again with the next mark), `recovered.mark` of a sealed one. Stopping the iteration early loses nothing: the
        next call goes on with the record after the last one that was yielded.

        Only bytes below the mark are read, so a writer may append meanwhile. Raises LogCorrupt where they are not
        what was written.
        """
        walker = self._walker
        while walker.records < until.records:
            try:
                record, _ = walker.next(until)
            except Damage as damage:
                raise corrupt(damage, walker.offset, until.end) from None
            if record is None:
                continue
            if record.end > self._from or (record.rows == 0 and record.first >= self._from):
                yield record

    def close(self) -> None:
        self._walker.close()

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def corrupt(damage: Damage, lost_first: int | None, lost_end: int | None) -> LogCorrupt:
    """The operator's error for damage that recovery may not cut; offsets in `[lost_first, lost_end)`, None: unknown."""
    return LogCorrupt(
        f"Log file {damage.path} is damaged at byte {damage.position}: {damage.cause}. {_extent(lost_first, lost_end)} "
        "Nothing was changed; restore the file from a copy.",
        path=damage.path,
        position=damage.position,
        cause=damage.cause,
        lost_first=None if lost_first is None else int(lost_first),
        lost_end=None if lost_end is None else int(lost_end),
    )


def _extent(first: int | None, end: int | None) -> str:
    if first is None:
        return "Which offsets it held is unknown."
    if first == end:
        return f"Records without rows at offset {first} were promised and cannot be read."
    until = "on" if end is None else f"up to {end} (exclusive)"
    return f"Rows from offset {first} {until} were promised and cannot be read."
