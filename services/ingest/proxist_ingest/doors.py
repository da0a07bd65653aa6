"""The Flight door: which handler answers what."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import flight

from proxist.auth.identity import Caller
from proxist.errors import InvalidArgument, NotOwner
from proxist.etcd.catalog import Catalog
from proxist.etcd.records import TableRecord
from proxist.model.ids import Offset
from proxist.rpc.actions import DESCRIPTIONS, ClusterActions, parse_body, table_of
from proxist.rpc.flight_server import BatchStream, Call, FlightHandler
from proxist.rpc.session import serve_session
from proxist_ingest.counts import INVALID, Refusals
from proxist_ingest.follow import follow
from proxist_ingest.logrows import log_rows
from proxist_ingest.put import Owners, PutCall
from proxist_ingest.reads import Reads, producer_numbers
from proxist_ingest.request import parse_path


class Gate(Protocol):
    def check_serving(self) -> None:
        """Raises Unavailable while the node is starting, fenced or stopping."""


class IngestDoor(FlightHandler):
    """Writes of any table, reads of this node's shards, the follow stream, the cluster's actions."""

    def __init__(self, owners: Owners, catalog: Catalog, gate: Gate, actions: ClusterActions) -> None:
        self._owners = owners
        self._catalog = catalog
        self._gate = gate
        self._actions = actions
        self._reads = Reads(owners, catalog)
        self.invalid: dict[tuple[str, str], Refusals] = {}
        """What was refused before it reached a shard, by tenant and table (of tables that exist)."""

    def do_put(
        self,
        call: Call,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        self._gate.check_serving()
        tenant, name = parse_path(descriptor.path)
        record = self._table(call.caller, name, tenant)
        _check_active(record)
        invalid = self.invalid.setdefault((record.table.tenant, record.table.name), Refusals(INVALID))
        PutCall(self._owners, record.table, call, writer, invalid).serve(reader)

    def do_get(self, call: Call, ticket: bytes) -> pa.Table | pa.RecordBatch | BatchStream:
        self._gate.check_serving()
        wire = _internal(ticket)
        if "follow" in wire:
            call.caller.at("flight/DoGet:follow")
            asked = wire["follow"]
            start = asked.get("from") if isinstance(asked, dict) else None
            if not isinstance(start, int):
                raise InvalidArgument('A follow stream is {"follow": {"shard": id, "from": offset}}.')
            return follow(self._reads.open_shard(asked.get("shard")), Offset(start))
        if "log" in wire:
            call.caller.at("flight/DoGet:log")
            asked = wire["log"] if isinstance(wire["log"], dict) else {}
            first, end = asked.get("from"), asked.get("to")
            if not isinstance(first, int) or not isinstance(end, int):
                raise InvalidArgument('Rows of a log are {"log": {"shard": id, "from": offset, "to": offset}}.')
            return log_rows(self._reads.open_shard(asked.get("shard")), Offset(first), Offset(end))
        return self._reads.answer(call, ticket)

    def do_exchange(
        self,
        call: Call,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.MetadataRecordBatchWriter,
    ) -> None:
        self._gate.check_serving()
        if _internal(descriptor.command or b"").get("session") is not True:
            raise InvalidArgument('A DoExchange here is a session: send the descriptor CMD {"session": true}.')
        reads = self._reads
        serve_session(
            call,
            reader,
            writer,
            lambda query, probes: reads.session_answer(call, query, probes),
            lambda text: reads.quick(call, text),
        )

    def list_flights(self, call: Call, criteria: bytes) -> Iterable[flight.FlightInfo]:
        self._gate.check_serving()
        return [
            flight.FlightInfo(record.table.spec.schema, flight.FlightDescriptor.for_path(record.table.name), [], -1, -1)
            for record in self._catalog.tables(call.caller.tenant())
            if call.caller.sees(record.table.tenant, record.table.name)
        ]

    def list_actions(self, call: Call) -> Iterable[tuple[str, str]]:
        return [
            *DESCRIPTIONS.items(),
            ("producer", 'The last number of a producer per slot owned here: {"table": …, "producer": …}.'),
            ("cancel", "Ends a running query by its id; queries of this node end with their stream, so it finds none."),
        ]

    def do_action(self, call: Call, name: str, body: bytes) -> Iterable[bytes]:
        self._gate.check_serving()
        if name in DESCRIPTIONS:
            result = self._actions.run(name, body, call.caller)
        elif name == "producer":
            wire = parse_body(name, body)
            record = self._table(call.caller, table_of(name, wire), str(wire.get("tenant") or ""))
            result = producer_numbers(self._owners, record.table, str(wire.get("producer")))
        elif name == "cancel":
            result = {"cancelled": False}
        else:
            raise InvalidArgument(
                f"Action {name!r} is unknown. Actions are {', '.join([*DESCRIPTIONS, 'producer', 'cancel'])}."
            )
        return [json.dumps(result).encode()]

    def _table(self, caller: Caller, name: str, asked_tenant: str) -> TableRecord:
        """Raises PermissionDenied before it looks; NotFound that names what the caller sees."""
        tenant = caller.table(name, asked_tenant)
        with caller.hiding(name, lambda: [(one.table.tenant, one.table.name) for one in self._catalog.tables()]):
            return self._catalog.known_table(tenant, name)


def _internal(ticket: bytes) -> dict[str, Any]:
    """The ticket as a JSON object; what is none is left to the query's parser, whose message is better."""
    try:
        wire = json.loads(ticket)
    except ValueError:
        return {}
    return wire if isinstance(wire, dict) else {}


def _check_active(record: TableRecord) -> None:
    if record.state != "active":
        raise NotOwner(
            f"Table {record.table.name!r} is being dropped and takes no rows. Create it again when it is gone.",
            table=record.table.name,
        )
