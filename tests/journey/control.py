"""An operator's hands in the tests: the control plane's gRPC, with the plain stubs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc

from proxist.pb import controlplane_pb2 as pb
from proxist.pb import controlplane_pb2_grpc, ingest_pb2, ingest_pb2_grpc

TIMEOUT_S = 60.0

TRADES = {
    "name": "trades",
    "time": "ts",
    "key": "symbol",
    "seq": "trade_id",
    "columns": [
        {"name": "symbol", "type": "string"},
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "trade_id", "type": "uint64"},
        {"name": "price", "type": "double"},
        {"name": "size", "type": "double"},
        {"name": "buyer_is_maker", "type": "bool"},
    ],
}
QUOTES = {
    "name": "quotes",
    "time": "ts",
    "key": "symbol",
    "seq": "update_id",
    "columns": [
        {"name": "symbol", "type": "string"},
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "update_id", "type": "uint64"},
        {"name": "bid", "type": "double"},
        {"name": "bid_size", "type": "double"},
        {"name": "ask", "type": "double"},
        {"name": "ask_size", "type": "double"},
    ],
}
BY_HAND = {"flush": {"rows": 1_000_000, "bytes": "1GiB", "age": "24h"}}
"""A flush policy under which the owner cuts a batch only when it is told to."""


class Control:
    """The verbs that the journeys need, against one cluster's endpoints."""

    def __init__(self, endpoints: dict[str, Any]) -> None:
        self._channel = grpc.insecure_channel(endpoints["controlplane"]["grpc"])
        self._owners = [grpc.insecure_channel(owner["grpc"]) for owner in endpoints["ingest"]]
        self._stub = controlplane_pb2_grpc.ControlPlaneServiceStub(self._channel)

    def close(self) -> None:
        for channel in (self._channel, *self._owners):
            channel.close()

    def drop(self, table: str) -> None:
        self._stub.DropTable(pb.DropTableRequest(table=table), timeout=TIMEOUT_S)

    def pause(self, table: str) -> None:
        self._stub.PausePersist(pb.PausePersistRequest(table=table), timeout=TIMEOUT_S)

    def resume(self, table: str) -> None:
        self._stub.ResumePersist(pb.ResumePersistRequest(table=table), timeout=TIMEOUT_S)

    def flush(self, table: str) -> None:
        self._stub.Flush(pb.FlushRequest(table=table, timeout_ms=50_000), timeout=TIMEOUT_S)

    def cut(self, table: str) -> None:
        """A batch bound at every shard's end, without waiting for the persister."""
        for owner in self._owners:
            stub = ingest_pb2_grpc.IngestServiceStub(owner)
            stub.Flush(ingest_pb2.FlushRequest(table=table, wait=False), timeout=TIMEOUT_S)

    def evict(self, table: str, **to: Any) -> None:
        self._stub.Evict(pb.EvictRequest(table=table, **to), timeout=TIMEOUT_S)

    def marks(self, table: str) -> list[Any]:
        return list(self._stub.Watermarks(pb.WatermarksRequest(table=table), timeout=TIMEOUT_S).watermarks)

    def end(self, table: str) -> int:
        return sum(mark.end for mark in self.marks(table))

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        """Polls until `condition` holds; a gRPC error counts as not yet."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not within {timeout_s} s: {what}")
