"""Records: what goes into a log, and what comes out of it."""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash

from proxist.errors import InvalidArgument
from proxist.model.ids import Offset

NO_HASH = bytes(16)
_BOUND = struct.Struct("<Q")


class RecordKind(IntEnum):
    """What a record says. Values 128 and above are kept for kinds that older readers may pass over."""

    ROWS = 1
    """Rows of the shard; the only kind that takes offsets. With 0 rows it carries just its producer's number."""
    CARRY = 2
    """First record of every log: the carried state, a JSON object."""
    CUT = 3
    """The owner ended a persister batch at an offset (`Record.bound`)."""
    PERSISTED = 4
    """Every row below an offset (`Record.bound`) is in ClickHouse."""
    SEAL = 5
    """The owner ended the log in good order; nothing follows."""


class RecordIn(NamedTuple):
    """One record to append; build it with the functions below."""

    kind: RecordKind
    rows: int = 0
    body: pa.Buffer | bytes = b""
    content_hash: bytes = NO_HASH
    arrived_ns: int = 0
    producer: str | None = None
    batch_number: int = 0


class Record(NamedTuple):
    """One record of a log.

    `body` is a slice of the buffer that was read: it keeps up to `reader.CHUNK_BYTES` (or the longest record, if that
    is more) alive, so copy what is to be kept.
    """

    kind: RecordKind
    record_number: int
    first: Offset
    """Offset of the first row; for a record without rows, the end of the log when it was written."""
    rows: int
    body: pa.Buffer
    content_hash: bytes
    arrived_ns: int
    producer: str | None
    batch_number: int
    schema_version: int
    synced: Offset

    @property
    def end(self) -> Offset:
        """First offset after this record's rows."""
        return Offset(self.first + self.rows)

    @property
    def bound(self) -> Offset:
        """The offset that a CUT or PERSISTED record names."""
        return Offset(_BOUND.unpack(self.body)[0])

    @property
    def carry(self) -> dict[str, Any]:
        """The carried state of a CARRY record."""
        state: dict[str, Any] = json.loads(self.body.to_pybytes())
        return state

    def batch(self, schema: pa.Schema) -> pa.RecordBatch:
        """The rows of a ROWS record, zero copy."""
        return decode_body(self.body, schema)


def encode_body(batch: pa.RecordBatch) -> pa.Buffer:
    """The Arrow IPC message of a batch, uncompressed; offsets of a sliced batch are normalised by Arrow.

    Raises InvalidArgument where a column is dictionary-encoded: strings are stored as values.
    """
    for field in batch.schema:
        if pa.types.is_dictionary(field.type):
            raise InvalidArgument(
                f"Column {field.name!r} is dictionary-encoded, but the log stores values. Cast it to {field.type.value_type}."
            )
    return batch.serialize()


def decode_body(buffer: pa.Buffer | bytes, schema: pa.Schema) -> pa.RecordBatch:
    """The batch of an encoded body, its columns pointing into `buffer` (zero copy). An empty body has no rows.

    The content is as valid as what was encoded: the record's checksum vouches for the bytes, not for a batch that
    was never validated.
    """
    raw = pa.py_buffer(buffer)
    if raw.size == 0:
        return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
    return pa.ipc.read_record_batch(raw, schema)


def hash_content(body: pa.Buffer | bytes) -> bytes:
    """xxh3_128 of an encoded body: 16 bytes."""
    return xxhash.xxh3_128_digest(body)


def rows_record(
    body: pa.Buffer | bytes,
    rows: int,
    arrived_ns: int,
    *,
    producer: str | None = None,
    batch_number: int = 0,
    content_hash: bytes | None = None,
) -> RecordIn:
    """A record of `rows` rows that arrived at `arrived_ns` (wall clock, ns since 1970).

    `body` is `encode_body` of them. `content_hash` (16 bytes) defaults to `hash_content(body)`; pass the whole batch's
    hash where the record holds only a part of what the producer sent under that number. With 0 rows pass `body=b""`.
    """
    content = hash_content(body) if content_hash is None else content_hash
    if len(content) != len(NO_HASH):
        raise InvalidArgument(f"The content hash has {len(content)} bytes; it is an xxh3_128 digest of {len(NO_HASH)}.")
    return RecordIn(RecordKind.ROWS, rows, body, content, arrived_ns, producer, batch_number)


def cut_record(bound: Offset, arrived_ns: int = 0) -> RecordIn:
    """The owner's cut: a persister batch ends at `bound` (rows below it, from the cut before)."""
    return RecordIn(RecordKind.CUT, body=_BOUND.pack(bound), arrived_ns=arrived_ns)


def persisted_record(bound: Offset, arrived_ns: int = 0) -> RecordIn:
    """The mark: every row below `bound` is in ClickHouse."""
    return RecordIn(RecordKind.PERSISTED, body=_BOUND.pack(bound), arrived_ns=arrived_ns)


def carry_record(state: dict[str, Any], arrived_ns: int = 0) -> RecordIn:
    body = json.dumps(state, separators=(",", ":"), sort_keys=True).encode()
    return RecordIn(RecordKind.CARRY, body=body, arrived_ns=arrived_ns)
