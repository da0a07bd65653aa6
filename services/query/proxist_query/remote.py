"""Hot sets of owners elsewhere: the operator runs there, the result travels on a session that stays open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from proxist.client.session import Session
from proxist.client.wire import UNREACHABLE, Wire
from proxist.errors import Unavailable
from proxist.hot.ops import HotOp, HotPart, Probes, part_from_head
from proxist.model.ids import Offset, ShardId
from proxist.rpc.tracing import flight_outgoing

READ_S_MAX = 30.0
"""A hot read is milliseconds; past this the owner hangs."""
IDLE_MAX = 8
"""Sessions to one owner that are kept for the next read; each has a thread there."""


class Remote:
    """Sessions to owners by address. Thread-safe: a session is one read's at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._wires: dict[str, Wire] = {}
        self._idle: dict[str, list[Session]] = {}
        self._closed = False

    def run(
        self, uri: str, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int
    ) -> HotPart:
        """Answer from the owner at `uri`. Raises what it raises, Unavailable where it does not answer."""
        wait_ms = -(-wait_ns // 1_000_000)
        asked: dict[str, Any] = {"shard": shard, "op": op.to_json()}
        if min_end is not None:
            asked |= {"min_end": min_end, "wait_ms": wait_ms}
        batch = None if probes is None else probes.to_batch()
        with flight_outgoing("DoExchange", uri):
            rows, head = self._ask(uri, {"hot": asked}, batch, READ_S_MAX + wait_ms / 1000)
        return part_from_head(head, _one_batch(rows))

    def close(self) -> None:
        """End every session; reads that are under way raise Unavailable."""
        with self._lock:
            self._closed = True
            idle, self._idle = [one for sessions in self._idle.values() for one in sessions], {}
            wires, self._wires = list(self._wires.values()), {}
        for session in idle:
            session.close()
        for wire in wires:
            wire.close()

    def _ask(
        self, uri: str, asked: dict[str, Any], probes: pa.RecordBatch | None, timeout_s: float
    ) -> tuple[pa.Table, dict[str, Any]]:
        """Again once where a session that was kept has broken meanwhile: its owner may long be back."""
        for kept in (True, False):
            with self._session(uri, kept=kept) as (session, was_kept):
                try:
                    answer = session.ask(asked, probes, timeout_s=timeout_s)
                    return answer.to_arrow(), answer.receipt
                except Unavailable as error:
                    if error.details.pop(UNREACHABLE, None) is None or not was_kept:
                        raise
        raise AssertionError("unreachable: a new session answers or raises")

    @contextmanager
    def _session(self, uri: str, *, kept: bool) -> Iterator[tuple[Session, bool]]:
        """A session of nobody else's, and whether it was there before; kept afterwards unless there are enough."""
        with self._lock:
            if self._closed:
                raise Unavailable("This node is stopping. Ask another one.", retry_after_s=1.0)
            if uri not in self._wires:
                self._wires[uri] = Wire(uri)
            wire = self._wires[uri]
            idle = self._idle.setdefault(uri, [])
            found = idle.pop() if kept and idle else None
        session = found or Session(wire, timeout_s=READ_S_MAX)
        try:
            yield session, found is not None
        finally:
            with self._lock:
                keep = not self._closed and len(idle) < IDLE_MAX
                if keep:
                    idle.append(session)
            if not keep:
                session.close()


def _one_batch(rows: pa.Table) -> pa.RecordBatch:
    batches = rows.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)
