"""What the files of a log are, for operators: read from the directory and the files' headers, while they are written."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from proxist.model.ids import Offset
from proxist.wal._walk import header_of
from proxist.wal.chain import list_segments
from proxist.wal.writer import LogWriter


class Segment(NamedTuple):
    """`first`: offset of its first row, None where it has no sound header. `synced`: every row in it is on disk."""

    number: int
    first: Offset | None
    bytes: int
    open: bool
    synced: bool


def segments(log_dir: Path, writer: LogWriter | None = None) -> list[Segment]:
    """The log's segments, oldest first; one that is deleted meanwhile is none. `writer`: of a log that is open."""
    found = list_segments(log_dir)
    mark = None if writer is None else (writer.synced_mark, writer.end)
    listed = []
    for number, path in found:
        with contextlib.suppress(OSError):
            is_open = mark is not None and number == found[-1][0]
            synced = mark is None or number < mark[0].segment or (is_open and mark[0].end == mark[1])
            listed.append(Segment(number, first_offset(number, path), path.stat().st_size, is_open, synced))
    return listed


def first_offset(number: int, path: Path) -> Offset | None:
    """Where the segment begins; None where its header cannot be read, or is of the file's earlier life."""
    header = header_of(number, path)
    return None if header is None else Offset(header.first)
