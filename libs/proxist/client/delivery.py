"""Gets numbered batches to the owners of their slots: a window of unacked ones, streams, and what to do after a break."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa

from proxist.client.acks import Pending, Span
from proxist.client.frames import split_by_slot
from proxist.client.put_stream import PutStream, StreamEnded, Tag
from proxist.client.topology import TableMap
from proxist.client.tracing import write_span
from proxist.client.wire import Wire
from proxist.errors import DeadlineExceeded, NotFound, ProxistError, TransientError
from proxist.telemetry.tracing import OFF, TRACEPARENT

WINDOW_BYTES_MAX = 64 << 20
_BACKOFF_S_MIN, _BACKOFF_S_MAX = 0.05, 2.0


class Owners(Protocol):
    """What a writer needs of its connection."""

    def table_map(self, table: str, *, fresh: bool) -> TableMap:
        """The table and its owners; asked anew with `fresh`. Raises NotFound, Unavailable."""

    def wire(self, uri: str) -> Wire: ...

    def producer_last(self, table: str, producer: str) -> int | None:
        """The last number that every slot has of this producer; None where some slot has none."""


class Delivery:
    """Numbers batches and delivers each at least once under its number, which the owners store once.

    Two locks. `_route` orders numbers and sends, and guards `_streams`, `_map`, `_map_stale`, `_behind` and `next_seq`; it is held
    while a break is repaired. `_state` guards `_pending`, the window's sums, `_failed`, `_progress_s` and every Span; it
    is held for moments only, and `_route` is never taken inside it. A break is repaired on the ack thread that saw it
    (or on the sender's, when a stream cannot be opened): no other thread is needed while all is well.
    """

    def __init__(
        self,
        owners: Owners,
        table_map: TableMap,
        producer: str,
        first_seq: int,
        durability: str | None,
        window: int,
        retry_s: float,
        on_ack: Callable[[int, float], None] | None,
    ) -> None:
        self._owners = owners
        self._map = table_map
        self._map_stale = False
        self._behind = False
        """Parts wait to be sent again; a newer one must not overtake them on any stream."""
        self._producer = producer
        self.next_seq = first_seq
        self._settings: dict[str, Any] = {} if durability is None else {"durability": durability}
        self._window = window
        self._resumes_at = window - max(1, window // 4)
        """Who found the window full goes on from here, with several batches at a time instead of one per ack."""
        self._waiters = 0
        """Threads that wait for acks, not for room."""
        self._retry_s = retry_s
        self._on_ack = on_ack
        self._route = threading.Lock()
        self._state = threading.Condition()
        self._stopping = threading.Event()
        self._streams: dict[str, PutStream] = {}
        self._pending: dict[int, Pending] = {}
        self._reserved = 0
        self._reserved_bytes = 0
        self._failed: ProxistError | None = None
        self._progress_s = 0.0
        self._total = Span()

    def submit(self, rows: pa.RecordBatch, span: Span) -> None:
        """Send one batch as soon as the window has room. Raises the error that ended the delivery."""
        spec = self._map.spec
        parts = split_by_slot(rows, spec.key, len(self._map.owners))
        size = rows.nbytes
        self._reserve(size)
        with self._route:
            trace = write_span(spec.name, rows.num_rows)
            batch = Pending(self.next_seq, rows.num_rows, size, parts, span, time.monotonic(), trace)
            self.next_seq += 1
            with self._state:
                self._pending[batch.seq] = batch
            self._dispatch(batch)

    def wait(self, done: Callable[[], bool], timeout_s: float | None) -> None:
        """Until `done()`, which is asked under `_state`. Raises the delivery's error, or DeadlineExceeded."""
        with self._state:
            self._waiters += 1
            try:
                in_time = self._state.wait_for(lambda: done() or self._failed is not None, timeout_s)
            finally:
                self._waiters -= 1
            if not in_time:
                raise DeadlineExceeded(
                    f"Table {self._map.spec.name!r} acked not all batches within {timeout_s} s; "
                    "they are still on their way. Wait again, or give it longer."
                )
            if not done() and self._failed is not None:
                raise self._failed

    def drain(self, timeout_s: float | None) -> Span:
        """Wait for everything submitted so far; the sum of what was acked since the last drain."""
        before = self.next_seq
        self.wait(lambda: all(seq >= before for seq in self._pending), timeout_s)
        with self._state:
            total, self._total = self._total, Span()
            return total

    @property
    def failed(self) -> ProxistError | None:
        with self._state:
            return self._failed

    def stop(self) -> None:
        """End the streams; what is not acked is abandoned. Returns when the ack threads have ended, in seconds at most."""
        self._stopping.set()
        with self._route:
            streams = list(self._streams.values())
            self._streams.clear()
        for stream in streams:
            stream.finish()

    def _reserve(self, size: int) -> None:
        with self._state:
            if not self._has_room(size, self._window - 1):
                self._state.wait_for(lambda: self._failed is not None or self._has_room(size, self._resumes_at))
            if self._failed is not None:
                raise self._failed
            if not self._reserved:
                self._progress_s = time.monotonic()
            self._reserved += 1
            self._reserved_bytes += size

    def _has_room(self, size: int, others: int) -> bool:
        """Beside `others` batches at most. One batch always fits, however large."""
        fits = self._reserved <= others and self._reserved_bytes + size <= WINDOW_BYTES_MAX
        return fits or not self._reserved

    def _dispatch(self, batch: Pending) -> None:
        """Under `_route`. A send into an ended stream is left to that stream's ack thread, which repairs the break."""
        try:
            if self._map_stale:
                self._refresh_map()
            if self._behind:
                self._resend()
                return
            for slot in range(len(batch.parts)):
                self._send(batch, slot, self._stream_of(slot))
        except StreamEnded:
            self._behind = True
        except ProxistError as error:
            self._repair(error)

    def _send(self, batch: Pending, slot: int, stream: PutStream) -> None:
        metadata = {"producer": self._producer, "seq": batch.seq, **self._settings}
        if len(batch.parts) > 1:
            metadata["slot"] = slot
        if self._reserved == 1:
            metadata["alone"] = True
        if batch.trace is not OFF:
            metadata[TRACEPARENT] = batch.trace.traceparent
        batch.sent_on[slot] = stream
        stream.send((batch.seq, slot), batch.parts[slot], metadata)

    def _stream_of(self, slot: int) -> PutStream:
        uri = self._map.owners[slot]
        spec = self._map.spec
        if uri is None:
            raise self._map.no_owner(slot)
        stream = self._streams.get(uri)
        if stream is None:
            stream = PutStream(self._owners.wire(uri), spec.name, self._map.spec.schema, self._acked, self._ended)
            self._streams[uri] = stream
        return stream

    def _acked(self, tag: Tag, ack: dict[str, Any]) -> None:
        seq, slot = tag
        with self._state:
            batch = self._pending.get(seq)
            if batch is None:
                return  # sent twice around a break; the first ack counted
            batch.acks.setdefault(slot, ack)
            self._progress_s = time.monotonic()
            if not batch.done:
                return
            del self._pending[seq]
            self._reserved -= 1
            self._reserved_bytes -= batch.bytes
            batch.span.add(batch)
            batch.trace.end()
            self._total.add(batch)
            if self._on_ack is not None:
                # Under the lock, so that whoever waits for this ack finds the callback done.
                self._on_ack(batch.rows, time.monotonic() - batch.sent_at_s)
            if self._waiters or self._reserved <= self._resumes_at:
                self._state.notify_all()

    def _ended(self, stream: PutStream, error: ProxistError | None) -> None:
        with self._route:
            if self._stopping.is_set() or stream not in self._streams.values():
                return
            self._streams = {uri: other for uri, other in self._streams.items() if other is not stream}
            with self._state:
                idle = not self._pending
            if idle:
                self._map_stale = True
            elif error is not None:
                self._repair(error)

    def _repair(self, error: ProxistError) -> None:
        """Under `_route`: send again what is not acked, until it is sent or `_retry_s` passed without any ack."""
        while not self._stopping.is_set():
            stuck_s = self._stuck_s()
            if not isinstance(error, TransientError) or stuck_s > self._retry_s:
                self._fail(error)
                return
            backoff_s = min(max(stuck_s / 4, _BACKOFF_S_MIN), _BACKOFF_S_MAX) * random.uniform(0.5, 1.0)
            self._stopping.wait(max(error.retry_after_s or 0.0, backoff_s))
            try:
                self._refresh_map()
                self._resend()
            except StreamEnded:
                return  # that stream's ack thread waits for `_route` and goes on here
            except ProxistError as again:
                error = again
            else:
                return

    def _stuck_s(self) -> float:
        """How long no batch was acked, though one is waiting."""
        with self._state:
            return time.monotonic() - self._progress_s

    def _refresh_map(self) -> None:
        fresh = self._owners.table_map(self._map.spec.name, fresh=True)
        if fresh.table.id != self._map.table.id:
            raise NotFound(f"Table {self._map.spec.name!r} was dropped and created anew. Open a new writer for it.")
        self._map, self._map_stale = fresh, False

    def _resend(self) -> None:
        """Every part that is not acked and did not go out on the stream that its slot has now; in order of numbers."""
        self._behind = True
        with self._state:
            batches = sorted(self._pending.values(), key=lambda batch: batch.seq)
        for batch in batches:
            for slot in batch.unacked_slots():
                stream = self._stream_of(slot)
                if batch.sent_on.get(slot) is not stream:
                    self._send(batch, slot, stream)
        self._behind = False

    def _fail(self, error: ProxistError) -> None:
        with self._state:
            self._failed = error
            for batch in self._pending.values():
                batch.trace.fail(error)
                batch.trace.end()
                batch.span.fail(error)
            self._state.notify_all()
