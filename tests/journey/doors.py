"""The public doors as a stranger would use them: raw Arrow Flight, no SDK, so that the tests depend on docs/api.md alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

Ask = Callable[[dict[str, Any]], pa.Table]
DEADLINE = fl.FlightCallOptions(timeout=60)


def by_get(uri: str, hot_path: str) -> Ask:
    """DoGet with the owner reached as `hot_path` says."""

    def ask(query: dict[str, Any]) -> pa.Table:
        with fl.connect(uri) as client:
            ticket = fl.Ticket(json.dumps({**query, "hot_path": hot_path}).encode())
            return client.do_get(ticket, DEADLINE).read_all()

    return ask


def by_session(uri: str) -> Ask:
    """A DoExchange session of one query; the answer's messages are put together again."""

    def ask(query: dict[str, Any]) -> pa.Table:
        with fl.connect(uri) as client:
            descriptor = fl.FlightDescriptor.for_command(b'{"session": true}')
            writer, reader = client.do_exchange(descriptor, DEADLINE)
            with writer:
                writer.write_metadata(json.dumps({**query, "id": 1}).encode())
                batches, last = [], {}
                while not last.get("last"):
                    chunk = reader.read_chunk()
                    if chunk.data is not None:
                        batches.append(chunk.data)
                    last = json.loads(chunk.app_metadata.to_pybytes()) if chunk.app_metadata else {}
                assert "error" not in last, last["error"]
                table = pa.Table.from_batches(batches)
                writer.done_writing()
            return table.replace_schema_metadata({b"proxist.receipt": json.dumps(last["receipt"]).encode()})

    return ask


def receipt(table: pa.Table) -> dict[str, Any]:
    """The receipt that came with an answer, where it was known up front."""
    return dict(json.loads(table.schema.metadata[b"proxist.receipt"]))


def put(uri: str, table: str, batch: pa.RecordBatch, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """One DoPut of one batch; its ack."""
    with fl.connect(uri) as client:
        writer, reader = client.do_put(fl.FlightDescriptor.for_path(table), batch.schema, DEADLINE)
        with writer:
            writer.write_with_metadata(batch, json.dumps(metadata or {}).encode())
            ack = reader.read()
            writer.done_writing()
    return dict(json.loads(ack.to_pybytes()))


def action(uri: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    with fl.connect(uri) as client:
        results = list(client.do_action(fl.Action(name, json.dumps(body).encode()), DEADLINE))
    return dict(json.loads(results[0].body.to_pybytes())) if results else {}
