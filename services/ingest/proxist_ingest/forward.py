"""Parts of a stream's batches on their way to other owners: one DoPut stream per owner, open as long as ours."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from proxist.errors import NotOwner, ProxistError, Unavailable, from_json
from proxist.model.ids import ShardId
from proxist.model.table import Table
from proxist.model.token import parse_token
from proxist.rpc.flight_client import FlightPeer, PutStream
from proxist_ingest.part import PartAck, Receiver
from proxist_ingest.request import PutRequest

STREAM_S_MAX = 24 * 3600.0
"""A forwarding stream lives as long as the client's, a day at most; then the client's stream ends with a retry hint."""


@dataclass(slots=True)
class _Sent:
    shard: ShardId
    done: Receiver
    climbed: Receiver


class Forwards:
    """The forwarding streams of one client stream; used by its handler thread, closed by it."""

    def __init__(self, table: Table, peer_of: Callable[[str], FlightPeer]) -> None:
        """`peer_of(node)`: the connection to another ingest node; raises Unavailable."""
        self._table = table
        self._peer_of = peer_of
        self._streams: dict[str, _Forward] = {}

    def send(
        self,
        node: str,
        slot: int,
        rows: pa.RecordBatch,
        request: PutRequest,
        done: Receiver,
        climbed: Receiver,
    ) -> None:
        """Hand a part to `node`; `done` and `climbed` get what comes back, an error where the stream breaks."""
        sent = _Sent(self._table.shard_ids[slot], done, climbed)
        try:
            forward = self._streams.get(node)
            if forward is None or forward.broken:
                forward = self._streams[node] = _Forward(self._peer_of(node), self._table)
            forward.send(slot, rows, request, sent)
        except ProxistError as error:
            done(error)

    def close(self) -> None:
        """End the streams; what was not answered by then is told that the stream ended."""
        for forward in self._streams.values():
            forward.close()


class _Forward:
    """One open DoPut to another owner. `_lock` guards `_waiting`, `_all` and `broken`."""

    def __init__(self, peer: FlightPeer, table: Table) -> None:
        self._peer = peer
        self._lock = threading.Lock()
        self._waiting: deque[_Sent] = deque()
        self._climbing: dict[int, _Sent] = {}
        self._count = 0
        self.broken = False
        self._stream: PutStream = peer.do_put([table.tenant, table.name], table.spec.schema, timeout_s=STREAM_S_MAX)
        self._acks = threading.Thread(target=self._read, name="forward-acks", daemon=True)
        self._acks.start()

    def send(self, slot: int, rows: pa.RecordBatch, request: PutRequest, sent: _Sent) -> None:
        with self._lock:
            if self.broken:
                raise self._gone()
            of = self._count if request.producer is None else request.number
            self._count += 1
            self._waiting.append(sent)
            if request.acks:
                self._climbing[of] = sent
        try:
            self._stream.write(rows, {**request.to_json(), "slot": slot})
        except ProxistError as error:
            self._break(error)

    def close(self) -> None:
        try:
            self._stream.done_writing()
        except ProxistError as error:
            self._break(error)
        self._acks.join()

    def _read(self) -> None:
        try:
            while (ack := self._stream.read_ack()) is not None:
                self._take(ack)
            self._stream.close()
            self._break(self._gone())
        except ProxistError as error:
            self._break(error)

    def _take(self, ack: dict[str, Any]) -> None:
        if "of" in ack:
            sent = self._climbing.get(ack["of"])
            if sent is not None:
                sent.climbed(_part_ack(sent.shard, ack))
            return
        with self._lock:
            sent = self._waiting.popleft()
        sent.done(from_json(ack["error"]) if "error" in ack else _part_ack(sent.shard, ack))

    def _break(self, error: ProxistError) -> None:
        with self._lock:
            self.broken = True
            lost, self._waiting = list(self._waiting), deque()
        for sent in lost:
            sent.done(error)

    def _gone(self) -> ProxistError:
        return Unavailable(f"The owner at {self._peer.uri} ended the stream. Send again.", retry_after_s=0.5)


def _part_ack(shard: ShardId, ack: dict[str, Any]) -> PartAck | ProxistError:
    mark = parse_token(ack["token"]).marks.get(shard)
    if mark is None:
        return NotOwner(f"The ack for shard {shard} does not name it. Send again.", retry_after_s=0.5, shard=shard)
    return PartAck(shard, ack["rows"], ack["duplicate"], ack["durability"], mark.epoch, mark.end)
