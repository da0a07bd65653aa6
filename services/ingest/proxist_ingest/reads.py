"""Reads of this node's own shards: hot operations for other nodes, and the public queries that RAM can answer."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from proxist.auth.identity import Caller
from proxist.auth.seen import Seen
from proxist.errors import InvalidArgument, NotFound, Unavailable
from proxist.etcd.catalog import Catalog
from proxist.hot.ops import HotAsof, HotOp, HotPart, Probes, op_from_json, probes_from_batch
from proxist.hot.reader import HotReader
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.query import parse_query
from proxist.model.receipt import RECEIPT_METADATA_KEY
from proxist.model.table import Table
from proxist.rpc.flight_server import Call
from proxist.rpc.quick import SHARD_REQUEST, QuickAnswer, QuickReads, QuickShards, ticket_text
from proxist.rpc.session import SessionAnswer
from proxist.seam import Answer, Chain, Executor, Log
from proxist.seam.warm import WarmPart
from proxist.telemetry import tracing
from proxist_ingest.put import Owners
from proxist_ingest.shard import Shard
from proxist_ingest.warm import read_warm

_REQUEST = b'{"%s": ' % SHARD_REQUEST.encode()
CHAIN_WAIT_S = 2.0
"""How long a chain is waited for that etcd's mirror has not shown yet; it lags by milliseconds."""


class NodeCatalog:
    """The executor's view of etcd's catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def table(self, tenant: str, name: str) -> Table:
        """Raises NotFound that names the known tables, and Unavailable while it is not known whether there is one."""
        return self._catalog.known_table(tenant, name).table

    def chain(self, shard: ShardId, at_least: Epoch) -> Chain:
        """The shard's logs, up to epoch `at_least` or later. Raises Unavailable where the mirror does not show them."""
        if not self._catalog.wait_until(lambda catalog: catalog.shard(shard).epoch >= at_least, CHAIN_WAIT_S):
            raise Unavailable(
                f"Epoch {at_least} of shard {shard} is not known here yet: etcd's copy is behind. Try again.",
                retry_after_s=0.5,
                shard=shard,
            )
        logs = self._catalog.shard(shard).logs
        return Chain(shard, tuple(Log(one.epoch, one.start, one.end, one.state) for one in logs))


class Reads:
    """Answers from the open shards. Thread-safe."""

    def __init__(self, owners: Owners, catalog: Catalog) -> None:
        self._owners = owners
        self._catalog = catalog
        self._quick = QuickReads(lambda tenant, name: catalog.table(tenant, name).table, self._reader, lambda *_: None)
        self._quick_shards = QuickShards(lambda shard: catalog.table_of(shard).table, self._reader)

    def quick(self, call: Call, text: bytes) -> QuickAnswer | None:
        """The answer to `text` + "}", a public query or another node's request, where it needs no executor, else None.

        Raises what `call.check` does, PermissionDenied where the caller is no node.
        """
        call.check()
        if text.startswith(_REQUEST):
            call.caller.at("flight/DoExchange:hot")
            return self._quick_shards.answer(text)
        return self._quick.answer(text, call.caller)

    def _reader(self, shard: ShardId) -> HotReader | None:
        found = self._owners.local(shard)
        return None if found is None else found.alive_reader()

    def open_shard(self, shard: Any) -> Shard:
        """The shard that this node owns. Raises NotFound, or NotOwner that names the owner."""
        if not isinstance(shard, int) or isinstance(shard, bool):
            raise InvalidArgument(f"`shard` is {shard!r}, but must be a shard's id. List them with `pxctl shards`.")
        found = self._owners.local(ShardId(shard))
        if found is not None:
            return found
        node = self._owners.owner_node(ShardId(shard))
        raise Unavailable(f"Shard {shard} is owned by node {node!r}. Ask there.", shard=shard, node=node)

    def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        """The executor's HotSource: waits for `min_end`, then answers whatever is there."""
        opened = self.open_shard(shard)
        with tracing.span("hot.read") as span:
            span.set("proxist.hot.path", "owner")
            span.set("proxist.shard.id", shard)
            span.set("db.operation.name", type(op).__name__)
            if min_end is not None:
                opened.wait_end(min_end, wait_ns)
            part = opened.run(op, probes)
            span.set("db.response.returned_rows", part.rows.num_rows)
            return part

    def warm(self, shard: ShardId, op: HotOp, probes: Probes | None, first: Offset, end: Offset) -> WarmPart:
        """The executor's HotSource: rows that left memory before ClickHouse had them."""
        with tracing.span("warm.read") as span:
            span.set("proxist.shard.id", shard)
            span.set("db.operation.name", type(op).__name__)
            part = read_warm(self.open_shard(shard), op, probes, first, end)
            span.set("db.response.returned_rows", part.rows.num_rows)
            return part

    def hot(self, wire: Any, probes: pa.RecordBatch | None = None) -> SessionAnswer:
        """The answer to `{"shard", "op", "min_end"?, "wait_ms"?}`, with the part's head as its receipt; with `rows_of`
        "log" from the rows [`first`, `end`) of the log."""
        if not isinstance(wire, dict) or not isinstance(wire.get("op"), dict):
            raise InvalidArgument('A hot read is {"hot": {"shard": id, "op": {…}}}.')
        op = op_from_json(wire["op"])
        if isinstance(op, HotAsof) != (probes is not None):
            raise InvalidArgument("A hot as-of needs probes; other operations take none.")
        sent = None if probes is None else probes_from_batch(probes)
        if wire.get("rows_of") == "log":
            warm = self.warm(wire["shard"], op, sent, Offset(int(wire["first"])), Offset(int(wire["end"])))
            return SessionAnswer(warm.rows, warm.head_json())
        min_end = wire.get("min_end")
        part = self.run(
            wire["shard"],
            op,
            sent,
            None if min_end is None else Offset(int(min_end)),
            int(wire.get("wait_ms") or 0) * 1_000_000,
        )
        return SessionAnswer(part.rows, part.head_json())

    def query(self, call: Call, wire: Any, probes: pa.RecordBatch | None = None) -> Answer:
        """A public JSON query over tables whose shards are all owned here, as far as RAM decides it."""
        query = parse_query(wire)
        executor = Executor(self._seen_by(call.caller), self, None, elsewhere=self._elsewhere, step=call.check)
        return executor.run(query, call.caller.tenant(), None if probes is None else pa.Table.from_batches([probes]))

    def answer(self, call: Call, ticket: bytes) -> pa.Table | pa.RecordBatch:
        """The rows of a DoGet ticket, with the receipt in the schema's metadata."""
        text = ticket_text(ticket)
        quick = None if text is None or tracing.on() else self.quick(call, text)
        if quick is not None:
            return quick.rows.replace_schema_metadata({RECEIPT_METADATA_KEY: quick.receipt})
        answer = self.query(call, ticket)
        return answer.rows.replace_schema_metadata(
            {RECEIPT_METADATA_KEY: json.dumps(answer.receipt.to_json()).encode()}
        )

    def session_answer(self, call: Call, query: dict[str, Any], probes: pa.RecordBatch | None) -> SessionAnswer:
        """One query of a DoExchange session; `{"hot": {…}}` is a hot operation for another node."""
        if "hot" in query:
            call.caller.at("flight/DoExchange:hot")
            return self.hot(query["hot"], probes)
        if SHARD_REQUEST in query:
            call.caller.at("flight/DoExchange:hot")
            raise Unavailable("This shard's owner has no quick answer to that now. Ask it with a hot operation.")
        answer = self.query(call, query, probes)
        return SessionAnswer(answer.rows, answer.receipt.to_json())

    def _seen_by(self, caller: Caller) -> Seen:
        names = lambda: [(one.table.tenant, one.table.name) for one in self._catalog.tables()]  # noqa: E731
        return Seen(NodeCatalog(self._catalog), caller, names)

    def _elsewhere(self) -> str:
        doors = [node.flight for node in self._catalog.nodes("query") if node.flight]
        return f"Ask a query node: {doors[0]}." if doors else "Ask a query node; none is registered now, so start one."


def producer_numbers(owners: Owners, table: Table, producer: str) -> dict[str, Any]:
    """The last number of `producer` per slot that this node owns, and the lowest of them."""
    slots: dict[str, int | None] = {}
    for slot, shard_id in enumerate(table.shard_ids):
        shard = owners.local(shard_id)
        if shard is not None:
            slots[str(slot)] = shard.producers.last(producer)
    if not slots:
        raise NotFound(f"No shard of table {table.name!r} is owned here. Ask the owners; the topology names them.")
    known = [last for last in slots.values() if last is not None]
    return {"last": min(known) if len(known) == len(slots) else None, "slots": slots}
