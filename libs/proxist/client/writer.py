"""The pipelined writer of one table under one producer's numbers."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from proxist.client.acks import Ack, Span
from proxist.client.delivery import Delivery, Owners
from proxist.client.frames import AsIs, conform, is_frame, to_batches, to_table
from proxist.errors import InvalidArgument, ProxistError
from proxist.model.table import DURABILITY_LEVELS

BATCH_ROWS = 65_536
BATCH_BYTES = 16 << 20
WINDOW_BATCHES = 64
RETRY_S = 60.0


class Waiting(Protocol):
    def wait(self, done: Callable[[], bool], timeout_s: float | None) -> None:
        """Until `done()`. Raises the writer's error, or DeadlineExceeded."""


class Sent:
    """Batches on their way; `wait` returns when all of them are acked."""

    def __init__(self, delivery: Waiting, span: Span, producer: str) -> None:
        self._delivery = delivery
        self._span = span
        self._producer = producer

    @property
    def done(self) -> bool:
        return self._span.done

    def wait(self, timeout_s: float | None = None) -> Ack:
        """The ack of all these batches. Raises the writer's error, or DeadlineExceeded (then waiting again is fine)."""
        self._delivery.wait(lambda: self._span.done, timeout_s)
        return self._span.ack(self._producer)


class Writer:
    """Writes rows as numbered batches. Safe for several threads; numbers follow the calls.

    A batch is sent at once and kept until every owner has acked it; `send` blocks where `window` batches (or 64 MiB) are
    unacked, until a quarter of the window is free. When a stream breaks, or an owner refuses for a passing reason, the
    writer asks for the topology and sends what is not acked again under the same numbers, so that nothing is stored twice.
    It gives up when no batch was acked for `retry_s`, or at once when rows are refused: then every call raises that error,
    and what was not acked may or may not be stored. A new writer with the same producer name goes on after what every
    slot has.

    `on_ack(rows, seconds)` is called per acked batch, on an ack thread, with the time since the batch was sent,
    before anybody who waits for it goes on; it must be brief and call nothing of the writer.
    """

    def __init__(
        self,
        owners: Owners,
        table: str,
        *,
        producer: str | None = None,
        first_seq: int | None = None,
        durability: str | None = None,
        window: int = WINDOW_BATCHES,
        retry_s: float = RETRY_S,
        on_ack: Callable[[int, float], None] | None = None,
    ) -> None:
        if durability is not None and durability not in DURABILITY_LEVELS:
            raise InvalidArgument(f"Durability is {durability!r}, but must be one of {', '.join(DURABILITY_LEVELS)}.")
        table_map = owners.table_map(table, fresh=False)
        self._spec = table_map.spec
        self._schema = self._spec.schema
        self._as_is = AsIs(self._schema)
        self.table = table
        self.producer = producer or f"sdk-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(6)}"
        if first_seq is None:
            first_seq = 1 + ((owners.producer_last(table, producer) or 0) if producer else 0)
        self._delivery = Delivery(owners, table_map, self.producer, first_seq, durability, window, retry_s, on_ack)

    @property
    def next_seq(self) -> int:
        """The number that the next batch will have."""
        return self._delivery.next_seq

    @property
    def failed(self) -> ProxistError | None:
        """The error that ended this writer, None while it works."""
        return self._delivery.failed

    def send(self, rows: Any, *, batch_rows: int = BATCH_ROWS, batch_bytes: int | None = BATCH_BYTES) -> Sent:
        """Send rows (Arrow, polars, pandas, a dict of columns, a list of dicts) in batches of `batch_rows` (fewer where
        they would pass `batch_bytes`); returns before they are acked. Memory that the rows lie in must not change until then.

        No rows send no batch. Raises SchemaMismatch or InvalidBatch before anything is sent where columns are missing,
        extra or mistyped, or a null stands where none may.
        """
        ready = self._as_is.batch(rows, batch_rows)
        if ready is not None and (batch_bytes is None or ready.nbytes <= batch_bytes):
            batches = [ready]
        else:
            table = conform(to_table(rows, self._schema), self._spec, cast=is_frame(rows))
            batches = list(to_batches(table, batch_rows, batch_bytes))
        span = Span(expected=len(batches))
        for batch in batches:
            self._delivery.submit(batch, span)
        return Sent(self._delivery, span, self.producer)

    def write(self, rows: Any, *, batch_rows: int = BATCH_ROWS, timeout_s: float | None = None) -> Ack:
        """`send` and wait for the ack."""
        return self.send(rows, batch_rows=batch_rows).wait(timeout_s)

    def flush(self, timeout_s: float | None = None) -> Ack:
        """Wait until everything sent so far is acked; the sum of what was acked since the last flush."""
        return self._delivery.drain(timeout_s).ack(self.producer)

    def close(self, *, abandon: bool = False) -> None:
        """Wait for all acks (not with `abandon`) and end the streams. Raises what `flush` raises; closed in any case."""
        try:
            if not abandon:
                self.flush()
        finally:
            self._delivery.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(abandon=error is not None)
