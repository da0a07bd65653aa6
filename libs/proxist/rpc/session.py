"""The DoExchange session, server side: one open stream, many queries, one at a time and in order.

Request: app_metadata is a JSON query with an `id` (and, where the caller traces, its W3C `traceparent`); the batch, if
there is one, is the probe table.
Answer: its batches carry `{"id": …}`, the last message `{"id": …, "last": true, "receipt": …}` with or without a
batch; a failed query is answered `{"id": …, "last": true, "error": {…}}` and the session stays open. Flight allows
one schema per direction, so the first probe and the first answer with columns fix them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import flight

from proxist.errors import InvalidArgument, ProxistError, SchemaMismatch
from proxist.rpc.flight_server import Call
from proxist.rpc.quick import QuickAnswer, without_id
from proxist.rpc.slices import slices
from proxist.rpc.status import outward, to_proxist
from proxist.rpc.tracing import FLIGHT_SERVICE, carrier_of
from proxist.telemetry import tracing

SPAN = f"{FLIGHT_SERVICE}/DoExchange"


@dataclass(frozen=True)
class SessionAnswer:
    """The rows of one answer (all batches of one schema) and its receipt as JSON."""

    rows: pa.Table | pa.RecordBatch
    receipt: Mapping[str, Any]


Answerer = Callable[[dict[str, Any], pa.RecordBatch | None], SessionAnswer]
"""(query, probes) -> answer. `query` still has its `id`. May raise any error; it becomes that query's answer."""


Quick = Callable[[bytes], QuickAnswer | None]
"""(a query's text without its id and its last "}") -> answer; None: ask the answerer. Raises ProxistError alike."""


def serve_session(
    call: Call,
    reader: flight.MetadataRecordBatchReader,
    writer: flight.MetadataRecordBatchWriter,
    answer: Answerer,
    quick: Quick | None = None,
) -> None:
    """Serve until the client ends its side, goes away, or the door closes. While nothing is traced, `quick` is asked first."""

    def checked(query: dict[str, Any], probes: pa.RecordBatch | None) -> SessionAnswer:
        call.recheck()
        return answer(query, probes)

    def checked_quick(text: bytes) -> QuickAnswer | None:
        if quick is None or tracing.on():
            return None
        call.recheck()
        return quick(text)

    session = _Session(writer, checked, checked_quick)
    while not call.stopping.is_set():  # a client that goes away ends the read
        call.idle(True)
        try:
            chunk = reader.read_chunk()
        except StopIteration:
            return
        finally:
            call.idle(False)
        if chunk.app_metadata is None and chunk.data is None:
            continue
        session.serve(chunk.app_metadata, chunk.data)


class _Session:
    def __init__(self, writer: flight.MetadataRecordBatchWriter, answer: Answerer, quick: Quick) -> None:
        self._writer = writer
        self._answer = answer
        self._quick = quick
        self._schema: pa.Schema | None = None

    def serve(self, request: pa.Buffer | None, probes: pa.RecordBatch | None) -> None:
        query_id: Any = None
        if probes is None and request is not None and self._serve_quickly(request.to_pybytes()):
            return
        try:
            query = _parse(request)
            query_id = query.get("id")
            with tracing.serve(SPAN, carrier_of(query), {"rpc.system.name": "grpc", "rpc.method": SPAN}):
                answer = self._answer(query, probes)
                batches = self._fitting(answer.rows)
        except Exception as error:
            wire = outward(to_proxist(error))
            self._writer.write_metadata(_pack({"id": query_id, "last": True, "error": wire}))
            return
        last = _pack({"id": query_id, "last": True, "receipt": answer.receipt})
        if not batches:
            self._writer.write_metadata(last)
            return
        part = _pack({"id": query_id}) if len(batches) > 1 else b""
        for batch in batches[:-1]:
            self._writer.write_with_metadata(batch, part)
        self._writer.write_with_metadata(batches[-1], last)

    def _serve_quickly(self, request: bytes) -> bool:
        """Whether the request was one for `quick`, and is answered."""
        parts = without_id(request)
        try:
            found = None if parts is None else self._quick(parts[0])
        except ProxistError:
            return False  # the other way says it
        if parts is None or found is None:
            return False
        if self._schema is None:
            self._writer.begin(found.schema)
            self._schema = found.schema
        elif found.schema is not self._schema and not self._schema.equals(found.schema):
            return False
        self._writer.write_with_metadata(
            found.rows, b'{"id": %s, "last": true, "receipt": %s}' % (parts[1], found.receipt)
        )
        return True

    def _fitting(self, rows: pa.Table | pa.RecordBatch) -> list[pa.RecordBatch]:
        """The messages to send, after the stream has begun with their schema. An empty answer still says its schema."""
        bare = rows.schema.remove_metadata() if rows.schema.metadata else rows.schema
        if self._schema is None:
            self._writer.begin(bare)
            self._schema = bare
        elif not self._schema.equals(bare):
            raise SchemaMismatch(
                f"This session answers with the columns {_columns(self._schema)}, and this query has {_columns(bare)}, "
                "but a session has one answer schema. Open another session for it."
            )
        batches = [rows] if isinstance(rows, pa.RecordBatch) else rows.to_batches()
        if rows.schema.metadata:  # one session has one schema, and receipts differ
            batches = [batch.replace_schema_metadata(None) for batch in batches]
        parts = [part for batch in batches for part in slices(batch)]
        return parts or [pa.RecordBatch.from_pylist([], schema=bare)]


def _parse(request: pa.Buffer | None) -> dict[str, Any]:
    try:
        query = json.loads(b"" if request is None else request.to_pybytes())
    except ValueError as error:
        raise InvalidArgument(
            f'A session\'s request is not JSON ({error}). Send a query with an `id` as app_metadata: {{"id": 1, "sql": …}}.'
        ) from None
    if not isinstance(query, dict):
        raise InvalidArgument(
            f"A session's request is {json.dumps(query)[:80]}, but must be a JSON object with an `id`."
        )
    return query


def _pack(wire: Mapping[str, Any]) -> bytes:
    return json.dumps(wire).encode()


def _columns(schema: pa.Schema) -> str:
    return "(" + ", ".join(f"{field.name} {field.type}" for field in schema) + ")"
