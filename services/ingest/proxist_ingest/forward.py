"""Parts of a stream's batches on their way to other owners: one DoPut stream per owner, open as long as ours."""

from __future__ import annotations

import contextlib
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
    request: PutRequest
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
        sent = _Sent(self._table.shard_ids[slot], request, done, climbed)
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
    """One open DoPut to another owner. `_lock` guards every field that changes."""

    def __init__(self, peer: FlightPeer, table: Table) -> None:
        self._peer = peer
        self._lock = threading.Lock()
        self._waiting: deque[_Sent] = deque()
        # By what a later ack says, which is what the first one said: parts of several slots may have one number.
        self._climbing: dict[tuple[str, str], deque[_Sent]] = {}
        self.broken = False
        self._stream: PutStream = peer.do_put([table.tenant, table.name], table.spec.schema, timeout_s=STREAM_S_MAX)
        self._acks = threading.Thread(target=self._read, name="forward-acks", daemon=True)
        self._acks.start()

    def send(self, slot: int, rows: pa.RecordBatch, request: PutRequest, sent: _Sent) -> None:
        with self._lock:
            if self.broken:
                raise self._gone()
            self._waiting.append(sent)
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
        with contextlib.suppress(ProxistError):  # whoever waited has been told
            self._stream.close()

    def _read(self) -> None:
        try:
            while (ack := self._stream.read_ack()) is not None:
                self._take(ack)
            self._stream.close()
            self._break(self._gone())
        except ProxistError as error:
            self._break(error)

    def _take(self, ack: dict[str, Any]) -> None:
        if "of" in ack and "error" in ack:
            raise from_json(ack["error"])  # nothing more comes on this stream
        with self._lock:
            if self.broken:
                return
            if "of" in ack:
                climbing = self._climbing[ack["token"], ack["durability"]]
                sent = climbing.popleft()
                if not climbing:
                    del self._climbing[ack["token"], ack["durability"]]
            else:
                sent = self._waiting.popleft()
                for level in sent.request.acks if "error" not in ack else ():
                    self._climbing.setdefault((ack["token"], level), deque()).append(sent)
        answer = from_json(ack["error"]) if "error" in ack else _part_ack(sent.shard, ack)
        (sent.climbed if "of" in ack else sent.done)(answer)

    def _break(self, error: ProxistError) -> None:
        with self._lock:
            self.broken = True
            lost, self._waiting = list(self._waiting), deque()
            stuck, self._climbing = [sent for queue in self._climbing.values() for sent in queue], {}
        for sent in lost:
            sent.done(error)
        for sent in stuck:
            sent.climbed(error)

    def _gone(self) -> ProxistError:
        return Unavailable(f"The owner at {self._peer.uri} ended the stream. Send again.", retry_after_s=0.5)


def _part_ack(shard: ShardId, ack: dict[str, Any]) -> PartAck | ProxistError:
    mark = parse_token(ack["token"]).marks.get(shard)
    if mark is None:
        return NotOwner(f"The ack for shard {shard} does not name it. Send again.", retry_after_s=0.5, shard=shard)
    return PartAck(shard, ack["rows"], ack["duplicate"], ack["durability"], mark.epoch, mark.end)
