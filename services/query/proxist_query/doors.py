"""The Flight door: reads of any table; writes are answered with the owner's address."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pyarrow as pa
from pyarrow import flight

from proxist.errors import InvalidArgument
from proxist.etcd.catalog import Catalog
from proxist.model.query import Query, parse_query
from proxist.model.receipt import RECEIPT_METADATA_KEY
from proxist.rpc.actions import DESCRIPTIONS, ClusterActions, parse_body
from proxist.rpc.flight_server import BatchStream, Call, FlightHandler
from proxist.rpc.quick import QuickAnswer, ticket_text
from proxist.rpc.session import SessionAnswer, serve_session
from proxist.seam import Answer
from proxist.telemetry import tracing
from proxist_query.info import describe
from proxist_query.runner import Runner


class QueryDoor(FlightHandler):
    """Every handler first asks `check_serving`, which raises Unavailable while the node is starting or stopping."""

    def __init__(
        self, runner: Runner, catalog: Catalog, actions: ClusterActions, check_serving: Callable[[], None]
    ) -> None:
        self._runner = runner
        self._catalog = catalog
        self._actions = actions
        self._check_serving = check_serving

    def do_get(self, call: Call, ticket: bytes) -> pa.Table | pa.RecordBatch | BatchStream:
        """The whole answer, its receipt in the schema's metadata."""
        text = ticket_text(ticket)
        quick = None if text is None or tracing.on() else self._quick(call, text)
        if quick is not None:
            return quick.rows.replace_schema_metadata({RECEIPT_METADATA_KEY: quick.receipt})
        answer = self._run(call, parse_query(ticket), None)
        receipt = json.dumps(answer.receipt.to_json()).encode()
        return answer.rows.replace_schema_metadata({RECEIPT_METADATA_KEY: receipt})

    def do_exchange(
        self,
        call: Call,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.MetadataRecordBatchWriter,
    ) -> None:
        self._check_serving()
        if _object(descriptor.command).get("session") is not True:
            raise InvalidArgument('A DoExchange here is a session: send the descriptor CMD {"session": true}.')

        def answer(wire: dict[str, Any], probes: pa.RecordBatch | None) -> SessionAnswer:
            rows = None if probes is None else pa.Table.from_batches([probes])
            found = self._run(call, parse_query(wire), rows)
            return SessionAnswer(found.rows, found.receipt.to_json())

        serve_session(call, reader, writer, answer, partial(self._quick, call))

    def get_flight_info(self, call: Call, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
        """Of a JSON query (CMD), or of a whole table (PATH)."""
        self._check_serving()
        if descriptor.path:
            name = descriptor.path[-1].decode(errors="replace")
            command = json.dumps({"scan": {"table": name}}).encode()
        else:
            command = descriptor.command or b""
        described = describe(self._runner, parse_query(command), call.caller)
        location = [] if described.owner is None else [described.owner]
        endpoint = flight.FlightEndpoint(command, location)
        return flight.FlightInfo(described.schema, descriptor, [endpoint], -1, -1)

    def list_flights(self, call: Call, criteria: bytes) -> Iterable[flight.FlightInfo]:
        self._check_serving()
        return [
            flight.FlightInfo(record.table.spec.schema, flight.FlightDescriptor.for_path(record.table.name), [], -1, -1)
            for record in self._catalog.tables(call.caller.tenant())
            if call.caller.sees(record.table.tenant, record.table.name)
        ]

    def do_put(
        self,
        call: Call,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        """Refuses, with the address that takes the rows."""
        self._check_serving()
        path = [part.decode(errors="replace") for part in descriptor.path or ()]
        if not path:
            raise InvalidArgument('A DoPut names its table as descriptor PATH ["trades"], and goes to an ingest node.')
        asked = path[0] if len(path) > 1 else ""
        table = self._runner.seen_by(call.caller).table(asked, path[-1])
        owner = self._runner.hot.owner(table.shard_ids[0])
        raise InvalidArgument(
            f"A query node takes no rows. Write those of table {table.name!r} to an ingest node, for example their "
            f"owner {owner.name!r} at {owner.flight}.",
            node=owner.name,
            flight=owner.flight,
        )

    def list_actions(self, call: Call) -> Iterable[tuple[str, str]]:
        return [*DESCRIPTIONS.items(), ("cancel", 'Ends the running queries with that id: {"id": …}.')]

    def do_action(self, call: Call, name: str, body: bytes) -> Iterable[bytes]:
        self._check_serving()
        if name in DESCRIPTIONS:
            result = self._actions.run(name, body, call.caller)
        elif name == "cancel":
            result = {"cancelled": self._runner.cancel(parse_body(name, body).get("id"), call.caller)}
        else:
            raise InvalidArgument(f"Action {name!r} is unknown. Actions are {', '.join([*DESCRIPTIONS, 'cancel'])}.")
        return [json.dumps(result).encode()]

    def _quick(self, call: Call, text: bytes) -> QuickAnswer | None:
        self._check_serving()
        return self._runner.quick(text, call.check, call.caller)

    def _run(self, call: Call, query: Query, probes: pa.Table | None) -> Answer:
        self._check_serving()
        return self._runner.run(query, probes, call.check, call.caller)


def _object(command: bytes | None) -> dict[str, Any]:
    try:
        wire = json.loads(command or b"")
    except ValueError:
        return {}
    return wire if isinstance(wire, dict) else {}
