"""Hot sets of owners elsewhere, over Flight: the operator runs there, the result travels."""

from __future__ import annotations

import json
import threading
from typing import Any

import pyarrow as pa

from proxist.errors import InternalError
from proxist.hot.ops import HotOp, HotPart, Probes, part_from_head
from proxist.model.ids import Offset, ShardId
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.tracing import flight_outgoing

HOT_METADATA_KEY = b"proxist.hot"
READ_S_MAX = 30.0
"""A hot read is milliseconds; past this the owner hangs."""


class Remote:
    """Connections to owners by address. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _peers
        self._peers: dict[str, FlightPeer] = {}

    def run(
        self, uri: str, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int
    ) -> HotPart:
        """Answer from the owner at `uri`. Raises what it raises, Unavailable where it does not answer."""
        wait_ms = -(-wait_ns // 1_000_000)
        asked: dict[str, Any] = {"shard": shard, "op": op.to_json()}
        if min_end is not None:
            asked |= {"min_end": min_end, "wait_ms": wait_ms}
        timeout_s = READ_S_MAX + wait_ms / 1000
        peer = self._peer(uri)
        if probes is None:
            answer = peer.do_get({"hot": asked}, timeout_s=timeout_s)
            rows, metadata = answer.table, answer.metadata
        else:
            with flight_outgoing("DoExchange", uri):
                rows, metadata = _exchange(peer, {"hot": asked}, probes, timeout_s)
        head = metadata.get(HOT_METADATA_KEY)
        if head is None:
            raise InternalError(f"The owner of shard {shard} at {uri} answered without {HOT_METADATA_KEY.decode()}.")
        return part_from_head(json.loads(head), _one_batch(rows.replace_schema_metadata(None)))

    def close(self) -> None:
        with self._lock:
            peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            peer.close()

    def _peer(self, uri: str) -> FlightPeer:
        with self._lock:
            if uri not in self._peers:
                self._peers[uri] = FlightPeer(uri)
            return self._peers[uri]


def _exchange(
    peer: FlightPeer, command: dict[str, Any], probes: Probes, timeout_s: float
) -> tuple[pa.Table, dict[bytes, bytes]]:
    exchange = peer.do_exchange(command, timeout_s=timeout_s)
    try:
        exchange.write(batch=probes.to_batch())
        exchange.done_writing()
        batches = []
        while True:
            try:
                chunk = exchange.read()
            except StopIteration:
                break
            if chunk.batch is not None:
                batches.append(chunk.batch)
        schema = exchange.schema()
        return pa.Table.from_batches(batches, schema=schema), schema.metadata or {}
    finally:
        exchange.close()


def _one_batch(rows: pa.Table) -> pa.RecordBatch:
    batches = rows.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)
