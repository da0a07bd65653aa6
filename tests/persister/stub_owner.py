"""An owner for the persister's tests: real Flight and gRPC doors, whose batches the test cuts by itself."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from proxist.errors import NotOwner
from proxist.etcd import EtcdClient, LogRecord, NodeRecord, OwnerRecord, ShardRecord, TableRecord, layout
from proxist.etcd.ops import Delete, Put
from proxist.etcd.records import encode
from proxist.model.ids import Epoch, Offset, ShardId, TableId, log_id
from proxist.model.table import Table, parse_spec
from proxist.pb import ingest_pb2 as pb
from proxist.pb import ingest_pb2_grpc as pb_grpc
from proxist.rpc.flight_server import BatchStream, Call, FlightDoor, FlightHandler
from proxist.rpc.grpc_server import GrpcDoor, GrpcService

HEARTBEAT_S = 0.1
DAY_NS = 86_400 * 10**9
START_NS = 20_000 * DAY_NS


def make_table(name: str, shards: tuple[int, ...], table_id: int = 1) -> Table:
    columns = [
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "symbol", "type": "string"},
        {"name": "n", "type": "uint64"},
        {"name": "price", "type": "double", "nullable": True},
    ]
    wire = {"name": name, "time": "ts", "key": "symbol", "seq": "n", "columns": columns, "shards": len(shards)}
    return Table(TableId(table_id), "default", parse_spec(wire), tuple(ShardId(s) for s in shards))


def make_rows(table: Table, shard: int, epoch: int, first: int, end: int, days: int = 1) -> pa.RecordBatch:
    """Rows [first, end) of a log, spread over `days` days; a function of the offsets alone."""
    offsets = np.arange(first, end, dtype=np.uint64)
    times = START_NS + (offsets % days).astype(np.int64) * DAY_NS + offsets.astype(np.int64) * 7919 % 1_000_003
    log = log_id(ShardId(shard), Epoch(epoch))
    columns = {
        "ts": pa.array(times).view(pa.timestamp("ns", tz="UTC")),
        "symbol": pa.array([f"S{n % 3}" for n in offsets]),
        "n": pa.array(offsets),
        "price": pa.array([None if n % 5 == 0 else float(n) for n in offsets], pa.float64()),
        "_log": pa.array(np.full(len(offsets), log, dtype=np.uint64)),
        "_offset": pa.array(offsets),
    }
    fields = [*table.spec.schema, pa.field("_log", pa.uint64(), False), pa.field("_offset", pa.uint64(), False)]
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=pa.schema(fields))


class StubOwner(FlightHandler, pb_grpc.IngestServiceServicer):
    """Owns one shard under one epoch; `cut` closes the next batch. A context manager."""

    def __init__(
        self, client: EtcdClient, table: Table, shard: int, *, epoch: int = 1, start: int = 0, persisted: int = 0
    ) -> None:
        self.table = table
        self.shard = ShardId(shard)
        self.epoch = Epoch(epoch)
        self.persisted = persisted
        self.follows = 0
        self.log_begin = 0
        """Rows below are in the log no more."""
        self.advances: list[int] = []
        self._client = client
        self._start = start
        self._changed = threading.Condition()  # guards all above and below
        self._batches: dict[int, pa.RecordBatch] = {}
        self.end = start
        self._gone = False

    def __enter__(self) -> StubOwner:
        add = pb_grpc.add_IngestServiceServicer_to_server
        self._grpc = GrpcDoor([GrpcService("proxist.ingest.v1.IngestService", add, self)], "127.0.0.1", 0)
        self._grpc.start()
        self._flight = FlightDoor(self, "127.0.0.1", 0)
        self._name = f"owner-{self.shard}-{self.epoch}"
        node = NodeRecord(self._name, "ingest", os.getpid(), flight=self._flight.uri, grpc=self._grpc.address)
        owner = OwnerRecord(self._name, self.epoch)
        self._client.txn([], [
            Put(layout.node_key(self._name), encode(node.to_json())),
            Put(layout.shard_key(self.shard), encode(self.record().to_json())),
            Put(layout.owner_key(self.shard), encode(owner.to_json())),
        ])  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self._flight.stop(5.0)
        self._grpc.stop(1.0)

    def leave(self) -> None:
        """Not the owner any more; following ends with NotOwner."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        self._client.txn([], [Delete(layout.owner_key(self.shard)), Delete(layout.node_key(self._name))])

    def record(self) -> ShardRecord:
        older = tuple(
            LogRecord(Epoch(e), Offset(0 if e == 1 else self._start), Offset(self._start), "sealed")
            for e in range(1, self.epoch)
        )
        newest = LogRecord(self.epoch, Offset(self._start if self.epoch > 1 else 0), None, "open")
        table = self.table
        slot = table.shard_ids.index(self.shard)
        return ShardRecord(self.shard, "default", table.name, table.id, slot, self._name, self.epoch, (*older, newest))

    def cut(self, rows: int, days: int = 1, epoch: int | None = None) -> int:
        """Close a batch of the next `rows` rows; returns its end."""
        with self._changed:
            first, self.end = self.end, self.end + rows
            batch = make_rows(self.table, self.shard, self.epoch if epoch is None else epoch, first, self.end, days)
            self._batches[first] = batch
            self._changed.notify_all()
            return self.end

    def wait_persisted(self, end: int, timeout_s: float = 30.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.persisted >= end, timeout_s), (self.persisted, end)

    # ---- the owner's side ------------------------------------------------------------------------------------------

    def do_get(self, call: Call, ticket: bytes) -> BatchStream:
        wire = json.loads(ticket)
        asked = wire.get("follow") or wire["log"]
        assert asked["shard"] == self.shard
        schema = make_rows(self.table, self.shard, 1, 0, 0).schema
        if "log" in wire:
            return BatchStream(schema, self._logged(asked["from"], asked["to"]))
        with self._changed:
            self.follows += 1
        return BatchStream(schema, self._messages(asked["from"], schema))

    def _logged(self, first: int, end: int) -> Iterator[tuple[pa.RecordBatch, bytes]]:
        with self._changed:
            batches, first = dict(self._batches), max(first, self.log_begin)
        for at, batch in sorted(batches.items()):
            low, high = max(at, first), min(at + batch.num_rows, end)
            if low < high:
                yield batch.slice(low - at, high - low), json.dumps({"rows": [low, high]}).encode()

    def _messages(self, offset: int, schema: pa.Schema) -> Iterator[tuple[pa.RecordBatch, bytes]]:
        empty = pa.RecordBatch.from_pylist([], schema=schema)
        while True:
            with self._changed:
                if not self._gone and offset not in self._batches:
                    self._changed.wait(HEARTBEAT_S)
                if self._gone:
                    raise NotOwner("The stub is not the owner any more.")
                batch = self._batches.get(offset)
            if batch is None:
                yield empty, b'{"heartbeat": true}'
                continue
            bounds = [offset, offset + batch.num_rows]
            yield batch, json.dumps({"batch": bounds, "last": True}).encode()
            offset = bounds[1]

    def Watermarks(self, request: pb.WatermarksRequest, context: Any) -> pb.WatermarksResponse:
        with self._changed:
            mark = pb.Watermark(shard=self.shard, epoch=self.epoch, persisted=self.persisted, end=self.end)
        return pb.WatermarksResponse(watermarks=[mark])

    def AdvancePersisted(self, request: pb.AdvancePersistedRequest, context: Any) -> pb.AdvancePersistedResponse:
        with self._changed:
            if self._gone or request.epoch != self.epoch:
                raise NotOwner("The stub is not the owner any more.")
            assert request.persisted >= self.persisted
            self.persisted = request.persisted
            self.advances.append(request.persisted)
            self._changed.notify_all()
        return pb.AdvancePersistedResponse()


def put_table(client: EtcdClient, table: Table, *, state: str = "active", paused: bool = False) -> None:
    record = TableRecord(table, state, paused)
    client.put(layout.table_key(table.tenant, table.name), encode(record.to_json()))
