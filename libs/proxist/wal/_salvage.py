"""Sound records behind damage. They are never given back as rows; they say what had been promised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from proxist.model.ids import LogId
from proxist.wal._format import (
    ALIGN,
    FORMAT_VERSION,
    RECORD_MAGIC,
    Damage,
    RecordHead,
    SegmentHead,
    check_record,
    parse_head,
)
from proxist.wal._walk import SegmentFile, known_kind, to_record
from proxist.wal.chain import list_segments
from proxist.wal.record import Record

Found = tuple[RecordHead | SegmentHead, Record | None]


class Place(NamedTuple):
    """Where damage begins: sound bytes count if they lie behind it in the file and do not claim to lie before it."""

    log: LogId | None
    segment: int
    position: int
    record_number: int
    offset: int


def sound_after(log_dir: Path, place: Place) -> Iterator[Found]:
    """Every sound header and record of the log behind `place`, in file order.

    The bytes in front of a record may be anything, so its chain cannot be asked; its checksum and its log are.
    """
    for number, path in list_segments(log_dir):
        if number < place.segment:
            continue
        try:
            yield from _sound_in(path, place, 0 if number > place.segment else place.position)
        except OSError:
            continue  # a file that cannot be opened or read gives no evidence


def _sound_in(path: Path, place: Place, position: int) -> Iterator[Found]:
    file = SegmentFile(path)
    try:
        if position == 0:
            try:
                header = file.header()
                if place.log in (None, header.log):
                    yield header, None
            except Damage:
                pass
        # One segment in memory: recovery runs alone, and few logs have anything behind their end.
        text = file.rest(position)
    finally:
        file.close()
    raw = pa.py_buffer(text)
    at = 0
    while (at := text.find(RECORD_MAGIC, at)) >= 0:
        if (position + at) % ALIGN:
            at += 1
            continue
        found = _sound_at(raw.slice(at), place)
        if found is None:
            at += ALIGN
            continue
        yield found
        at += found[0].length


def _sound_at(raw: pa.Buffer, place: Place) -> tuple[RecordHead, Record | None] | None:
    parsed = parse_head(raw, raw.size)
    if isinstance(parsed, str):
        return None
    head, crc = parsed
    # First, and cheap: a segment that is used again is full of sound records of earlier lives.
    if place.log not in (None, head.log) or head.record_number < place.record_number or head.first < place.offset:
        return None
    if check_record(raw, head, crc) or head.version != FORMAT_VERSION:
        return None
    kind = known_kind(head.kind)
    return head, None if kind is None else to_record(kind, head, raw)
