"""DoPut: one stream of batches for one table, one PutResult per batch, in order.

The handler thread reads, validates, splits and encodes; a thread of the stream writes the acks, so that a client may
have many batches on their way. Where it says that it has only one, the handler thread does everything. A batch that is
refused while the handler waits for the client's next message is answered `{"error": {…}}` in its place, and so is a
later ack (`of`) that can never come; the stream then ends with that error as its status.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import flight

from proxist.errors import CallerError, InvalidArgument, ProxistError, Unavailable
from proxist.model.ids import ShardId
from proxist.model.table import Table
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.flight_server import Call
from proxist.rpc.status import outward
from proxist.rpc.tracing import FLIGHT_SERVICE
from proxist.telemetry import tracing
from proxist.telemetry.tracing import OFF, Span
from proxist_ingest.counts import Refusals
from proxist_ingest.forward import Forwards
from proxist_ingest.part import Part, make_part
from proxist_ingest.pending import PendingPut
from proxist_ingest.request import PutRequest, parse_request
from proxist_ingest.shard import Shard
from proxist_ingest.split import check_slot, split
from proxist_ingest.validate import Normaliser

PENDING_MAX = 1024
"""Batches of one stream without their first ack; then the handler reads no further and the transport holds the client."""
SETTLE_S = 1.0
"""How long a number that does not follow the stream's last waits for what is under way before it is judged."""
POLL_S = 0.25
DO_PUT = f"{FLIGHT_SERVICE}/DoPut"


class Owners(Protocol):
    """Who owns what, as this node knows it."""

    def local(self, shard: ShardId) -> Shard | None:
        """The open shard, where this node owns it."""

    def owner_node(self, shard: ShardId) -> str:
        """The node that owns a shard that is not ours. Raises NotOwner (Unavailable) where none does."""

    def peer(self, node: str) -> FlightPeer:
        """A connection to another ingest node. Raises Unavailable."""


class PutCall:
    """Serves one DoPut."""

    def __init__(
        self, owners: Owners, table: Table, call: Call, writer: flight.FlightMetadataWriter, invalid: Refusals
    ) -> None:
        """`invalid` counts what is refused here, before it reaches a shard."""
        self._owners = owners
        self._invalid = invalid
        self._table = table
        self._call = call
        self._forwards = Forwards(table, owners.peer)
        self._acks = _Acks(writer)
        self._room = threading.BoundedSemaphore(PENDING_MAX)
        self._numbers: dict[tuple[str, int | None], int] = {}
        self._count = 0

    def serve(self, reader: flight.MetadataRecordBatchReader) -> None:
        """Until the client has sent everything and every ack is out. Raises the first batch's error."""
        self._acks.start()
        try:
            normaliser = self._normaliser(reader.schema)
            while (message := _next(reader)) is not None:
                self._acks.check()
                self._take(normaliser, *message)
        except BaseException:
            self._acks.finish(self._call, follow_ups=False)
            raise
        else:
            self._acks.finish(self._call, follow_ups=True)
        finally:
            self._forwards.close()
            self._acks.join()
        self._acks.check()

    def _normaliser(self, schema: pa.Schema) -> Normaliser:
        try:
            return Normaliser(schema, self._table.spec)
        except CallerError as error:  # its batches were not read: how many rows they have is not known
            self._invalid.add(error, 0)
            raise

    def _take(self, normaliser: Normaliser, batch: pa.RecordBatch, metadata: bytes | None) -> None:
        came_ns = time.perf_counter_ns()
        self._call.recheck()
        request = self._in_order(parse_request(metadata, self._table.spec.durability))
        trace = self._begin_trace(request, batch)
        try:
            put, parts = self._prepare(normaliser, batch, request, trace, came_ns)
        except BaseException as error:
            trace.fail(error)
            trace.end()
            if isinstance(error, CallerError):
                self._invalid.add(error, batch.num_rows)
            raise
        self._count += 1
        self._acks.add(put)
        for slot, part in parts.items():
            self._send(put, slot, part, alone=request.alone and len(parts) == 1)
        self._acks.tell()

    def _prepare(
        self, normaliser: Normaliser, batch: pa.RecordBatch, request: PutRequest, trace: Span, came_ns: int
    ) -> tuple[PendingPut, dict[int, Part]]:
        """Everything that can refuse the batch while its client waits."""
        began_ns = time.time_ns()
        rows = normaliser.rows(batch)
        parts = self._split(rows, request)
        while not self._room.acquire(timeout=POLL_S):
            self._call.check()
            self._acks.check()
        shards = {slot: self._table.shard_ids[slot] for slot in parts}
        if trace is not OFF:
            request = replace(request, traceparent=trace.traceparent)
        put = PendingPut(self._count, request, shards, self._changed)
        put.trace = trace
        encoded = {slot: self._encode(put, slot, part, came_ns) for slot, part in parts.items()}
        self._judge_number(request, encoded)
        trace.step("ingest.validate", began_ns, time.time_ns())
        return put, encoded

    def _begin_trace(self, request: PutRequest, batch: pa.RecordBatch) -> Span:
        """The batch's span: of the trace that its metadata name, else of the call's, else of its own."""
        if not tracing.on():
            return OFF
        carrier = None if request.traceparent is None else {tracing.TRACEPARENT: request.traceparent}
        trace = tracing.serve("ingest.batch", carrier)
        if trace.recording:
            trace.set("rpc.system.name", "grpc")
            trace.set("rpc.method", DO_PUT)
            trace.set("db.collection.name", self._table.name)
            trace.set("db.namespace", self._table.tenant)
            trace.set("db.operation.batch.size", batch.num_rows)
            trace.set("proxist.durability", request.level)
        return trace

    def _split(self, rows: pa.RecordBatch, request: PutRequest) -> dict[int, pa.RecordBatch]:
        if request.slot is not None:
            check_slot(rows, self._table, request.slot)
            return {request.slot: rows}
        parts = split(rows, self._table)
        if request.producer is None:
            return parts or {0: rows}
        # A numbered batch goes to every slot: where it has no rows, an empty record carries the number.
        return {slot: parts.get(slot, rows.slice(0, 0)) for slot in range(len(self._table.shard_ids))}

    def _encode(self, put: PendingPut, slot: int, rows: pa.RecordBatch, came_ns: int) -> Part:
        request = put.request
        return make_part(
            rows,
            request.level,
            put.done(slot),
            producer=request.producer,
            number=request.number,
            follow_ups=request.acks,
            climbed=put.climbed(slot) if request.acks else None,
            received_ns=came_ns,
            trace=put.trace,
            follows=request.follows,
        )

    def _in_order(self, request: PutRequest) -> PutRequest:
        """`request`, which follows where the stream's last batch of its producer (and slot) has the number before."""
        if request.producer is None:
            return request
        last = self._numbers.get((request.producer, request.slot))
        self._numbers[request.producer, request.slot] = request.number
        return replace(request, follows=True) if last == request.number - 1 else request

    def _judge_number(self, request: PutRequest, parts: dict[int, Part]) -> None:
        """Refuse a gap or a conflict here, where the client sees it as the call's status, rather than on the way.

        A number that follows the stream's last needs no judging: the writer takes the parts in this order.
        """
        if request.producer is None or request.follows or not self._acks.settled(SETTLE_S):
            return
        for slot, part in parts.items():
            shard = self._owners.local(self._table.shard_ids[slot])
            if shard is not None:
                shard.producers.check(request.producer, request.number, part.content_hash)

    def _send(self, put: PendingPut, slot: int, part: Part, *, alone: bool) -> None:
        shard_id = self._table.shard_ids[slot]
        try:
            shard = self._owners.local(shard_id)
            if shard is not None:
                shard.write(part, alone=alone)
                return
            node = self._owners.owner_node(shard_id)
            if put.request.slot is not None:
                raise Unavailable(
                    f"Shard {shard_id} (slot {slot} of table {self._table.name!r}) is owned by node {node!r} now. "
                    "Read the shard map again.",
                    retry_after_s=0.2,
                    shard=shard_id,
                    node=node,
                )
            self._forwards.send(node, slot, part.rows, put.request, part.done, put.climbed(slot))
        except ProxistError as error:
            part.done(error)

    def _changed(self, put: PendingPut, level: str | None) -> None:
        if level is None:
            self._room.release()
            put.end_trace()
        self._acks.changed(put, level)


class _Acks:
    """Writes a stream's PutResults on a thread of its own, and on the handler's what is known there.

    `_lock` guards `_order` and `_open`; `_telling` is held while results are written.
    """

    def __init__(self, writer: flight.FlightMetadataWriter) -> None:
        self._writer = writer
        self._handler = threading.get_ident()
        self._known_here = False
        self._telling = threading.Lock()
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        self._order: deque[PendingPut] = deque()
        self._open: dict[PendingPut, set[str]] = {}
        self._events: queue.SimpleQueue[tuple[PendingPut, str] | None] = queue.SimpleQueue()
        self._roused = False
        """The thread has not yet looked since it was told of a first ack; then it will see every later one too."""
        self._early: list[tuple[PendingPut, str]] = []
        self._error: ProxistError | None = None
        self._gone = False
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="put-acks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, put: PendingPut) -> None:
        """`put` is the next batch to be acked."""
        with self._lock:
            self._order.append(put)
            if put.request.acks:
                self._open[put] = set(put.request.acks)

    def changed(self, put: PendingPut, level: str | None) -> None:
        """A batch has its last answer, or has climbed. Quick: it only wakes the thread; on the handler's, `tell` follows."""
        if level is not None:
            self._events.put((put, level))
        elif threading.get_ident() == self._handler:
            self._known_here = True
        elif not self._roused:
            self._roused = True
            self._events.put(None)

    def tell(self) -> None:
        """On the handler's thread: write what became known there."""
        if self._known_here:
            self._known_here = False
            self._write()

    def check(self) -> None:
        """Raises the error of the first batch that was refused, or Unavailable where the client is gone."""
        if self._error is not None:
            raise self._error
        if self._gone:
            raise Unavailable("The client has gone.")

    def settled(self, wait_s: float) -> bool:
        """Wait until every batch so far has its answer; False after `wait_s`."""
        with self._lock:
            return self._moved.wait_for(lambda: not self._order or self._over, wait_s)

    def finish(self, call: Call, *, follow_ups: bool) -> None:
        """Wait until all acks are out, with `follow_ups` the later ones too, as long as the client waits for them."""
        with self._lock:
            while not self._over and (self._order or (follow_ups and self._open)) and not call.cancelled():
                self._moved.wait(POLL_S)
            self._ending = True
        self._events.put(None)

    def join(self) -> None:
        self._thread.join()

    @property
    def _over(self) -> bool:
        return self._error is not None or self._gone

    def _run(self) -> None:
        while True:
            event = self._events.get()
            if event is None:
                self._roused = False  # before it looks: what comes from now on rouses it again
            else:
                with self._telling:
                    self._early.append(event)
            self._write()
            with self._lock:
                self._moved.notify_all()
                if self._ending:
                    return

    def _write(self) -> None:
        with self._telling:
            try:
                if not self._over:
                    self._flush()
            except (pa.ArrowException, OSError):
                self._gone = True

    def _flush(self) -> None:
        """Write what can be told now: first acks in the batches' order, then climbs of batches that were acked."""
        while self._order and self._order[0].complete:
            put = self._order[0]
            error = put.error
            if error is not None:
                self._error = error
                self._writer.write(_packed({"error": outward(error)}))
                return
            self._writer.write(pa.py_buffer(put.ack()))
            with self._lock:
                self._order.popleft()
        if not self._early:
            return
        with self._lock:
            waiting = set(self._order)
        now = [event for event in self._early if event[0] not in waiting]
        self._early = [event for event in self._early if event[0] in waiting]
        for put, level in now:
            if put.stuck is not None:
                self._error = put.stuck
                self._writer.write(_packed({"of": put.of, "durability": level, "error": outward(put.stuck)}))
                return
            self._writer.write(pa.py_buffer(put.follow_up(level)))
            with self._lock:
                self._open[put].discard(level)
                if not self._open[put]:
                    del self._open[put]


def _packed(wire: dict[str, Any]) -> pa.Buffer:
    return pa.py_buffer(json.dumps(wire).encode())


def _next(reader: flight.MetadataRecordBatchReader) -> tuple[pa.RecordBatch, bytes | None] | None:
    """The client's next batch with its metadata; None at the end."""
    try:
        chunk = reader.read_chunk()
    except StopIteration:
        return None
    except pa.ArrowInvalid as error:
        raise InvalidArgument(
            f"The stream cannot be read ({str(error).partition(chr(10))[0].rstrip('. ')}). Send Arrow IPC as an Arrow library writes it."
        ) from None
    metadata = None if chunk.app_metadata is None else chunk.app_metadata.to_pybytes()
    if chunk.data is None:
        raise InvalidArgument("A message of the stream has metadata and no batch. Send both in one message.")
    return chunk.data, metadata
