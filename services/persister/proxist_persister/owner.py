"""A shard's owner, as its persister talks to it: marks, the follow stream, advancing persisted."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import pyarrow as pa

from proxist.errors import NotOwner
from proxist.etcd import NodeRecord, OwnerRecord
from proxist.hot.host import this_host_id
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.pb import ingest_pb2 as pb
from proxist.pb import ingest_pb2_grpc as pb_grpc
from proxist.rpc.flight_client import FlightPeer, GetStream
from proxist.rpc.grpc_client import connect
from proxist_persister.batches import Batch, read_batch

STREAM_LIFE_S = 3600.0
"""A follow stream is opened anew this often: very long streams have leaked memory in gRPC."""
CALL_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class OwnerMarks:
    """Where the shard stands at its owner."""

    epoch: Epoch
    persisted: Offset
    end: Offset


class Owner:
    """One owner under one epoch. A context manager; used by one thread, except `cancel`.

    Raises what the owner raises: NotOwner once the shard has moved on, Unavailable where the node does not answer.
    """

    def __init__(self, shard: ShardId, owner: OwnerRecord, node: NodeRecord) -> None:
        self.shard = shard
        self.epoch = owner.epoch
        self.name = node.name
        self._channel = connect(node.grpc, timeout_s=CALL_TIMEOUT_S)
        self._stub = pb_grpc.IngestServiceStub(self._channel)
        local = node.flight_unix and node.host_id == this_host_id()
        self._flight = FlightPeer(node.flight_unix if local else node.flight)
        self._lock = threading.Lock()  # guards _stream and _cancelled
        self._stream: GetStream | None = None
        self._cancelled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
        self._flight.close()
        self._channel.close()

    def marks(self) -> OwnerMarks:
        """Asked now. Raises NotOwner where the node does not own the shard under this epoch."""
        answer = self._stub.Watermarks(pb.WatermarksRequest())
        for mark in answer.watermarks:
            if mark.shard == self.shard and mark.epoch == self.epoch:
                return OwnerMarks(Epoch(mark.epoch), Offset(mark.persisted), Offset(mark.end))
        raise NotOwner(
            f"Node {self.name!r} does not own shard {self.shard} under epoch {self.epoch}. Read its owner again.",
            retry_after_s=0.1,
            shard=self.shard,
        )

    def follow(self, start: Offset) -> Iterator[Batch | None]:
        """Batches from `start` on as the owner cut them; None for a sign of life while there is none."""
        with self._lock:
            if self._cancelled:
                return
            self._stream = stream = self._flight.stream(
                {"follow": {"shard": self.shard, "from": start}}, timeout_s=STREAM_LIFE_S
            )
        parts: list[pa.RecordBatch] = []
        for chunk in stream:
            if chunk.batch is not None and chunk.batch.num_rows:
                parts.append(chunk.batch)
            if chunk.metadata is None:
                continue  # a slice of a batch: its metadata come with the last one
            head = json.loads(chunk.metadata)
            bounds = head.get("batch")
            if bounds is None:
                yield None
                continue
            batch = read_batch(self.shard, Offset(bounds[0]), Offset(bounds[1]), parts)
            yield replace(batch, links=tuple(head["links"])) if "links" in head else batch
            parts = []

    def log_rows(self, first: Offset, end: Offset) -> Iterator[pa.RecordBatch]:
        """The rows [first, end) that the owner's log still holds, in order, with `_log` and `_offset`."""
        asked = {"log": {"shard": self.shard, "from": first, "to": end}}
        stream = self._flight.stream(asked, timeout_s=STREAM_LIFE_S)
        try:
            for chunk in stream:
                if chunk.batch is not None and chunk.batch.num_rows:
                    yield chunk.batch
        finally:
            with contextlib.suppress(Exception):
                stream.cancel()

    def advance(self, persisted: Offset) -> None:
        """Tell the owner that every row below `persisted` is in ClickHouse; true on return: the owner has logged it."""
        self._stub.AdvancePersisted(pb.AdvancePersistedRequest(shard=self.shard, epoch=self.epoch, persisted=persisted))

    def cancel(self) -> None:
        """End the follow stream, from any thread; it raises or ends. A later `follow` is empty."""
        with self._lock:
            self._cancelled = True
            stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(Exception):  # it may have ended by itself
                stream.cancel()
