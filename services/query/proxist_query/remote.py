"""Hot sets of owners elsewhere: the operator runs there, the result travels on a stream that stays open."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from proxist.client.stream import QueryStream, Watchdog, shape_of
from proxist.client.wire import UNREACHABLE, Wire
from proxist.errors import Unavailable
from proxist.hot.ops import HotOp, HotPart, Probes, part_from_head
from proxist.model.ids import Offset, ShardId
from proxist.rpc.quick import request_of
from proxist.rpc.tracing import flight_outgoing
from proxist.seam.last_rows import Form
from proxist.seam.warm import WarmPart, warm_from_head

READ_S_MAX = 30.0
"""A hot read is milliseconds; past this the owner hangs."""
WARM_S_MAX = 300.0
"""A warm read goes through log files, gigabytes of them after a long outage."""
IDLE_MAX = 16
"""Streams to one owner that are kept for the next read: each is an open call, and has a thread, there."""
IDLE_S_MAX = 30.0
"""How long one is kept that nothing asks for."""


class Remote:
    """Streams to owners by address. Thread-safe: a stream is one read's at a time."""

    def __init__(self) -> None:
        self._watchdog = Watchdog()
        self._lock = threading.Lock()  # guards _owners and _closed
        self._owners: dict[str, _Owner] = {}
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

    def warm(self, uri: str, shard: ShardId, op: HotOp, probes: Probes | None, first: Offset, end: Offset) -> WarmPart:
        """What the owner at `uri` answers from the rows [first, end) of its log. Raises as `run` does."""
        asked = {"shard": shard, "op": op.to_json(), "rows_of": "log", "first": first, "end": end}
        with flight_outgoing("DoExchange", uri):
            rows, head = self._ask(uri, {"hot": asked}, None if probes is None else probes.to_batch(), WARM_S_MAX)
        return warm_from_head(head, _one_batch(rows))

    def last_rows(self, uri: str, form: Form) -> tuple[pa.RecordBatch, bytes]:
        """Rows and receipt of a quick read by the owner at `uri`. Raises what it raises, Unavailable where it has none."""
        rows, receipt = self._ask(uri, request_of(form), None, READ_S_MAX)
        return _one_batch(rows), json.dumps(receipt).encode()

    def close(self) -> None:
        """Reads that are under way raise Unavailable, and so do later ones."""
        with self._lock:
            self._closed = True
            owners, self._owners = list(self._owners.values()), {}
        self._watchdog.close()
        for owner in owners:
            owner.close()

    def _ask(
        self, uri: str, asked: dict[str, Any], probes: pa.RecordBatch | None, timeout_s: float
    ) -> tuple[pa.Table, dict[str, Any]]:
        """Again once where a stream that was kept has broken meanwhile: its owner may long be back."""
        shape = shape_of(asked, probes)
        for kept in (True, False):
            with self._stream(uri, shape, kept=kept) as (stream, was_kept):
                try:
                    with self._watchdog.watching(stream, uri, timeout_s):
                        answer = stream.ask(asked, probes)
                    return answer.to_arrow(), answer.receipt
                except Unavailable as error:
                    # The caller's client would take the owner's address for that of a node of its own.
                    if error.details.pop(UNREACHABLE, None) is None or not was_kept:
                        raise
        raise AssertionError("unreachable: a new stream answers or raises")

    @contextmanager
    def _stream(self, uri: str, shape: str, *, kept: bool) -> Iterator[tuple[QueryStream, bool]]:
        """A stream of nobody else's, and whether it was there before; kept afterwards unless it broke."""
        with self._lock:
            if self._closed:
                raise Unavailable("This node is stopping. Ask another one.", retry_after_s=1.0)
            if uri not in self._owners:
                self._owners[uri] = _Owner(uri)
            owner = self._owners[uri]
            owner.busy += 1
            found = owner.take(shape) if kept else None
        stream = found
        try:
            if stream is None:
                stream = QueryStream(owner.wire)
            yield stream, found is not None
        finally:
            with self._lock:
                owner.busy -= 1
                over = owner.keep(shape, stream, not self._closed)
                gone = [self._owners.pop(name) for name in self._idle_owners()]
            for one in over:
                one.close()
            for other in gone:
                other.close()

    def _idle_owners(self) -> list[str]:
        """Addresses that nobody has asked for long; under `_lock`."""
        before = time.monotonic() - IDLE_S_MAX
        return [uri for uri, owner in self._owners.items() if not owner.busy and owner.used_s < before]


class _Owner:
    """One address: its channel and the streams that nobody uses. Under the lock of its Remote."""

    def __init__(self, uri: str) -> None:
        self.wire = Wire(uri)
        self.busy = 0
        self.used_s = time.monotonic()
        self._idle: OrderedDict[QueryStream, tuple[str, float]] = OrderedDict()
        """Shape, and since when; the one used longest ago first."""

    def take(self, shape: str) -> QueryStream | None:
        """An idle stream of that shape."""
        self.used_s = time.monotonic()
        found = next((stream for stream in reversed(self._idle) if self._idle[stream][0] == shape), None)
        if found is not None:
            del self._idle[found]
        return found

    def keep(self, shape: str, stream: QueryStream | None, wanted: bool) -> list[QueryStream]:
        """Put a stream back; those that are to be closed instead."""
        now = self.used_s = time.monotonic()
        over = []
        if stream is not None and wanted and not stream.broken:
            self._idle[stream] = shape, now
        elif stream is not None:
            over.append(stream)
        while self._idle and (len(self._idle) > IDLE_MAX or next(iter(self._idle.values()))[1] < now - IDLE_S_MAX):
            over.append(self._idle.popitem(last=False)[0])
        return over

    def close(self) -> None:
        for stream in self._idle:
            stream.close()
        self.wire.close()


def _one_batch(rows: pa.Table) -> pa.RecordBatch:
    batches = rows.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)
