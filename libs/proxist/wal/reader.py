"""Reading a log in order, sealed or still open, up to a mark that its owner vouches for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from proxist.errors import Unavailable
from proxist.model.ids import Offset
from proxist.wal._format import Damage
from proxist.wal._loss import corrupt
from proxist.wal._walk import CHUNK_BYTES, MissingSegments, Walker
from proxist.wal.mark import LogBegin, LogMark
from proxist.wal.record import Record

__all__ = ["CHUNK_BYTES", "LogReader"]


class LogReader:
    """Reads one log forward. For one thread; any number of readers may follow one writer, in its process or another.

    `from_offset` may be any offset: reading begins with the record that holds it (its rows below `from_offset` are the
    caller's to drop), and with records without rows that stand at it. Memory: one chunk of `CHUNK_BYTES`, or the
    longest record where that is more; the operating system's page cache is the buffer.
    """

    def __init__(self, log_dir: Path | str, from_offset: Offset, *, oldest: int = 0) -> None:
        """Opens at the segment that holds `from_offset`; those with a number below `oldest` are not looked at. Raises
        LogCorrupt where the log cannot be opened, or begins above `from_offset`; Unavailable where truncation takes the
        segment away that is being opened."""
        self.log_dir = Path(log_dir)
        self._from = from_offset
        try:
            self._walker = Walker(self.log_dir, LogBegin(from_offset, None), oldest=oldest)
        except MissingSegments as missing:
            raise corrupt(self.log_dir, missing, from_offset, missing.header.first) from None
        except Damage as damage:
            raise corrupt(self.log_dir, damage, from_offset, None) from None
        except FileNotFoundError:
            raise _removed(self.log_dir, from_offset) from None

    @property
    def next_offset(self) -> Offset:
        """Offset at which the next record begins."""
        return max(self._walker.offset, self._from)

    def read(self, until: LogMark) -> Iterator[Record]:
        """The records from the current position up to `until`: `writer.synced_mark` of an open log (a follower calls
        again with the next mark), `recovered.mark` of a sealed one. Stopping the iteration early loses nothing: the
        next call goes on with the record after the last one that was yielded.

        Only bytes below the mark are read, so a writer may append meanwhile. Raises LogCorrupt where they are not
        what was written, Unavailable where truncation took the segment away that was being read.
        """
        walker = self._walker
        while walker.records < until.records:
            try:
                record, _ = walker.next(until)
            except Damage as damage:
                if not walker.file.is_in_place():
                    raise _removed(self.log_dir, walker.offset) from None
                raise corrupt(self.log_dir, damage, walker.offset, until.end) from None
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


def _removed(log_dir: Path, offset: Offset) -> Unavailable:
    return Unavailable(
        f"Log {log_dir} was truncated past offset {offset} while it was read: those rows are in ClickHouse. "
        "Open the log again, at a later offset.",
        retry_after_s=0.1,
        path=str(log_dir),
        cause="truncated",
    )
