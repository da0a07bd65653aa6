"""Format version 1 of segment files: the byte layout, and nothing else. The page of it is docs/formats/wal.md."""

from __future__ import annotations

import struct
from typing import NamedTuple

import google_crc32c
import pyarrow as pa

FORMAT_VERSION = 1
RECORD_MAGIC = b"PXRC"
SEGMENT_MAGIC = b"PXWALSEG"
ALIGN = 8
RECORD_BYTES_MAX = 2**30
"""Longest record. A length above it is taken for damage, so that a flipped bit never asks for gigabytes."""

PREFIX = struct.Struct("<4sI")
"""magic, CRC-32C of all that follows it in the record."""
HEAD = struct.Struct("<IBBHIIQQQIIQQQQq16sII")
"""The fixed fields after PREFIX, in the order of RecordHead."""
HEAD_BYTES = PREFIX.size + HEAD.size
SEGMENT_HEAD = struct.Struct("<8sHHIQQQQQQIIQQq")
SCHEMA_HEAD = struct.Struct("<II")
CRC = struct.Struct("<I")

FLAG_PRODUCER = 0x0001
"""The record has a producer's name and batch number."""
SEGMENT_REUSED = 0x0001
"""The segment's file had an earlier life: behind the last record it holds old bytes, not zeros."""
FLAG_IGNORABLE = 0x8000
"""A reader that does not know the record's kind may pass over it."""


class Damage(Exception):
    """The bytes at `position` of the file at `path` are not the record (or header) that belongs there.

    `final` is set where the bytes are sound but of a newer format: never a torn tail, whatever `synced` says.
    """

    def __init__(self, path: str, position: int, cause: str, *, final: bool = False) -> None:
        super().__init__(f"{path} at {position}: {cause}")
        self.path = path
        self.position = position
        self.cause = cause
        self.final = final


class RecordHead(NamedTuple):
    length: int
    version: int
    kind: int
    flags: int
    previous: int
    schema_version: int
    log: int
    record_number: int
    first: int
    rows: int
    producer_bytes: int
    batch_number: int
    table_id: int
    synced: int
    synced_records: int
    arrived_ns: int
    content_hash: bytes
    body_bytes: int
    reserved: int


class SegmentHead(NamedTuple):
    """`first` and `first_record` say what the segment begins with, `previous` is the checksum of the record before."""

    log: int
    segment: int
    first: int
    first_record: int
    synced: int
    synced_records: int
    previous: int
    table_id: int
    segment_bytes: int
    created_ns: int
    schemas: tuple[tuple[int, bytes], ...]
    """(schema version, Arrow IPC schema message) of every version that records of this segment use."""
    header_bytes: int
    reused: bool = False
    """Whether the file had an earlier life, whose bytes follow the last record."""


def padded(length: int) -> int:
    return (length + ALIGN - 1) & -ALIGN


def record_bytes(producer_bytes: int, body_bytes: int) -> int:
    return HEAD_BYTES + padded(producer_bytes) + padded(body_bytes)


def pack_record(head: RecordHead, producer: bytes, body: pa.Buffer | bytes) -> tuple[list[pa.Buffer | bytes], int]:
    """The buffers to write, in order, and the record's checksum."""
    front = HEAD.pack(*head) + producer.ljust(padded(len(producer)), b"\0")
    crc = google_crc32c.extend(google_crc32c.value(front), body)
    parts: list[pa.Buffer | bytes] = [b"", body]
    if tail := b"\0" * (-head.body_bytes % ALIGN):
        crc = google_crc32c.extend(crc, tail)
        parts.append(tail)
    parts[0] = PREFIX.pack(RECORD_MAGIC, crc) + front
    return parts, crc


def parse_head(raw: pa.Buffer, room: int) -> tuple[RecordHead, int] | str:
    """The fixed fields and the stored checksum, or what is wrong with them; `room` is the bytes left in the file."""
    if raw.size < HEAD_BYTES:
        return "the file ends inside a record's head"
    magic, crc = PREFIX.unpack_from(raw)
    if magic != RECORD_MAGIC:
        return "no record begins here" if magic == b"\0\0\0\0" else f"the magic is {magic!r}, not {RECORD_MAGIC!r}"
    head = RecordHead._make(HEAD.unpack_from(raw, PREFIX.size))
    if not HEAD_BYTES <= head.length <= RECORD_BYTES_MAX or head.length % ALIGN:
        return f"the length {head.length} is not possible"
    if head.length > room:
        return f"the length {head.length} passes the end of the file"
    return head, crc


def check_record(raw: pa.Buffer, head: RecordHead, stored: int) -> str | None:
    """What is wrong with a whole record's bytes, or None. Checks bytes, not their place in the log."""
    if raw.size < head.length:
        return "the file ends inside a record"
    computed = google_crc32c.value(raw.slice(PREFIX.size, head.length - PREFIX.size))
    if computed != stored:
        return f"the checksum is {computed:#010x}, the record says {stored:#010x}"
    if head.version == FORMAT_VERSION and head.length != record_bytes(head.producer_bytes, head.body_bytes):
        return "its lengths contradict each other"
    return None


def pack_segment(head: SegmentHead, *, reused: bool = False) -> bytes:
    """The segment's header; `head.header_bytes` is computed here, and `head.reused` is not looked at."""
    schemas = b"".join(
        SCHEMA_HEAD.pack(version, len(raw)) + raw.ljust(padded(len(raw)), b"\0") for version, raw in head.schemas
    )
    total = SEGMENT_HEAD.size + len(schemas) + ALIGN
    front = SEGMENT_HEAD.pack(
        SEGMENT_MAGIC, FORMAT_VERSION, SEGMENT_REUSED if reused else 0, total, head.log, head.segment, head.first, head.first_record, head.synced,
        head.synced_records, head.previous, len(head.schemas), head.table_id, head.segment_bytes, head.created_ns,
    )  # fmt: skip
    covered = front + schemas + b"\0" * (ALIGN - CRC.size)
    return covered + CRC.pack(google_crc32c.value(covered))


def segment_header_bytes(raw: pa.Buffer) -> int | str:
    """How long the header says it is, or what is wrong with its first bytes."""
    if raw.size < SEGMENT_HEAD.size:
        return "the file ends inside the segment's header"
    magic, _, _, total = SEGMENT_HEAD.unpack_from(raw)[:4]
    if magic != SEGMENT_MAGIC:
        return f"the segment's magic is {magic!r}, not {SEGMENT_MAGIC!r}"
    if not SEGMENT_HEAD.size + ALIGN <= total <= RECORD_BYTES_MAX:
        return f"the header's length {total} is not possible"
    return int(total)


def parse_segment(raw: pa.Buffer) -> tuple[SegmentHead, int] | str:
    """The header in `raw` (all of its bytes) and its format version, or what is wrong with it."""
    total = raw.size
    (crc,) = CRC.unpack_from(raw, total - CRC.size)
    computed = google_crc32c.value(raw.slice(0, total - CRC.size))
    if computed != crc:
        return f"the header's checksum is {computed:#010x}, the header says {crc:#010x}"
    (_, version, flags, _, log, segment, first, first_record, synced, synced_records, previous, count, table_id, size,
     created) = SEGMENT_HEAD.unpack_from(raw)  # fmt: skip
    schemas = []
    at = SEGMENT_HEAD.size
    if version == FORMAT_VERSION:
        for _ in range(count):
            schema_version, length = SCHEMA_HEAD.unpack_from(raw, at)
            at += SCHEMA_HEAD.size
            schemas.append((schema_version, raw.slice(at, length).to_pybytes()))
            at += padded(length)
    head = SegmentHead(
        log, segment, first, first_record, synced, synced_records, previous, table_id, size, created, tuple(schemas), total,
        bool(flags & SEGMENT_REUSED),
    )  # fmt: skip
    return head, version
