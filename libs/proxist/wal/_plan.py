"""From records to the bytes of an append: decided before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from proxist.model.ids import LogId, Offset, TableId
from proxist.wal._format import (
    FLAG_PRODUCER,
    FORMAT_VERSION,
    RecordHead,
    SegmentHead,
    pack_record,
    pack_segment,
    record_bytes,
)
from proxist.wal.mark import LogMark
from proxist.wal.record import RecordIn


class Tail(NamedTuple):
    """What the next record follows: the end of the log, the checksum of its last record, the current segment's size."""

    mark: LogMark
    previous: int
    room: int


class Piece(NamedTuple):
    """Bytes to write at `position` of one segment: the current one, or (`header` set) a new one of `room` bytes, whose
    header is written before them."""

    header: SegmentHead | None
    room: int
    position: int
    parts: list[pa.Buffer | bytes]


@dataclass(frozen=True)
class Planner:
    """What all records of a log have in common."""

    log: LogId
    table_id: TableId
    schemas: tuple[tuple[int, bytes], ...]
    now_ns: Callable[[], int]

    def plan(
        self, records: Sequence[RecordIn], tail: Tail, synced: LogMark, segment_bytes: int
    ) -> tuple[list[Piece], Tail]:
        """What to write where, in order, and the tail after it."""
        (end, count, segment, position), previous, room = tail
        schema_version = self.schemas[-1][0]
        parts: list[pa.Buffer | bytes] = []
        pieces = [Piece(None, room, position, parts)]
        for kind, rows, body, content_hash, arrived_ns, producer, batch_number in records:
            name = b"" if producer is None else producer.encode()
            length = record_bytes(len(name), len(body))
            if position + length > room:
                segment += 1
                header = self._header(LogMark(end, count, segment, 0), previous, synced, segment_bytes, length)
                room, position, parts = header.segment_bytes, header.header_bytes, []
                pieces.append(Piece(header, room, position, parts))
            head = RecordHead(
                length, FORMAT_VERSION, kind, 0 if producer is None else FLAG_PRODUCER, previous, schema_version,
                self.log, count, end, rows, len(name), batch_number, self.table_id, synced.end, synced.records,
                arrived_ns, content_hash, len(body), 0,
            )  # fmt: skip
            buffers, previous = pack_record(head, name, body)
            parts += buffers
            position += length
            end = Offset(end + rows)
            count += 1
        return pieces, Tail(LogMark(end, count, segment, position), previous, room)

    def _header(self, at: LogMark, previous: int, synced: LogMark, segment_bytes: int, length: int) -> SegmentHead:
        """Header of a segment that begins at `at` and has room for a record of `length` bytes."""
        head = SegmentHead(
            self.log, at.segment, at.end, at.records, synced.end, synced.records, previous, self.table_id, 0,
            self.now_ns(), self.schemas, 0,
        )  # fmt: skip
        header_bytes = len(pack_segment(head))
        return head._replace(header_bytes=header_bytes, segment_bytes=max(segment_bytes, header_bytes + length))
