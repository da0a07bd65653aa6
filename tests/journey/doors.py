"""The public doors as a stranger would use them: raw Arrow Flight, no SDK, so that the tests depend on docs/api.md alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

Ask = Callable[[dict[str, Any]], pa.Table]
TIMEOUT_S = 60


def shown() -> dict[str, bytes]:
    """The PEM of PROXIST_TLS_CA, _CERT and _KEY by the last word, as the tests' cluster sets them where it has TLS."""
    names = [name for name in ("CA", "CERT", "KEY") if f"PROXIST_TLS_{name}" in os.environ]
    return {name: Path(os.environ[f"PROXIST_TLS_{name}"]).read_bytes() for name in names}


def dial(uri: str) -> fl.FlightClient:
    if not uri.startswith("grpc+tls://"):
        return fl.connect(uri)
    pem = shown()
    return fl.connect(uri, tls_root_certs=pem["CA"], cert_chain=pem["CERT"], private_key=pem["KEY"])


def each_call() -> fl.FlightCallOptions:
    """A deadline, and who calls, where the cluster asks for it."""
    token = os.environ.get("PROXIST_TOKEN")
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    return fl.FlightCallOptions(timeout=TIMEOUT_S, headers=headers)


def by_get(uri: str, hot_path: str) -> Ask:
    """DoGet with the owner reached as `hot_path` says."""

    def ask(query: dict[str, Any]) -> pa.Table:
        with dial(uri) as client:
            ticket = fl.Ticket(json.dumps({**query, "hot_path": hot_path}).encode())
            return client.do_get(ticket, each_call()).read_all()

    return ask


def by_session(uri: str) -> Ask:
    """A DoExchange session of one query; the answer's messages are put together again."""

    def ask(query: dict[str, Any]) -> pa.Table:
        with dial(uri) as client:
            descriptor = fl.FlightDescriptor.for_command(b'{"session": true}')
            writer, reader = client.do_exchange(descriptor, each_call())
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
    with dial(uri) as client:
        writer, reader = client.do_put(fl.FlightDescriptor.for_path(table), batch.schema, each_call())
        with writer:
            writer.write_with_metadata(batch, json.dumps(metadata or {}).encode())
            ack = reader.read()
            writer.done_writing()
    return dict(json.loads(ack.to_pybytes()))


def action(uri: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    with dial(uri) as client:
        results = list(client.do_action(fl.Action(name, json.dumps(body).encode()), each_call()))
    return dict(json.loads(results[0].body.to_pybytes())) if results else {}
