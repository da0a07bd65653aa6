"""Store and forward: a writer whose batches are on this machine's disk before they are on their way."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from proxist.client.acks import Ack, Pending, Span
from proxist.client.delivery import WINDOW_BYTES_MAX, Delivery, Owners
from proxist.client.frames import conform, is_frame, to_batches, to_table
from proxist.client.spool import Spool, create_spool, open_spool
from proxist.client.writer import BATCH_BYTES, BATCH_ROWS, WINDOW_BATCHES, Sent
from proxist.errors import DeadlineExceeded, InvalidArgument, NotFound, ProxistError, TransientError, Unavailable
from proxist.model.table import DURABILITY_LEVELS

SPOOL_BYTES = 1 << 30
SPOOL_LEVELS = ("os", "disk")
_BACKOFF_S_MIN, _BACKOFF_S_MAX = 0.05, 2.0
_LOOK_S = 0.5
"""How often an idle forwarder looks whether it is to end."""


class SpooledWriter:
    """Writes rows as numbered batches through a spool directory. Safe for several threads; numbers follow the calls.

    `send` returns when the batch is in the spool; a thread forwards it, and what a crash of this process or an outage of
    the cluster left there goes out under the same numbers at the next opening, so every row is stored once. It never
    gives up for a passing reason; what bounds it is `spool_bytes` (SpoolFull). Rows that the cluster refuses end it: then
    every call raises that error, and what was not acked stays in the directory.
    """

    def __init__(
        self,
        owners: Owners,
        table: str,
        *,
        spool: str | Path,
        producer: str | None = None,
        spool_bytes: int = SPOOL_BYTES,
        spool_durability: str = "os",
        durability: str | None = None,
        window: int = WINDOW_BATCHES,
        on_ack: Callable[[int, float], None] | None = None,
    ) -> None:
        """The first opening of a directory needs the cluster (table and numbers); later ones do not."""
        if not producer:
            raise InvalidArgument(
                "A writer with a `spool` needs a `producer` name that outlives the process. Choose one."
            )
        if spool_durability not in SPOOL_LEVELS:
            raise InvalidArgument(
                f"`spool_durability` is {spool_durability!r}, but must be one of {', '.join(SPOOL_LEVELS)}."
            )
        if durability is not None and durability not in DURABILITY_LEVELS:
            raise InvalidArgument(f"Durability is {durability!r}, but must be one of {', '.join(DURABILITY_LEVELS)}.")
        self.table = table
        self.producer = producer
        self._owners = owners
        self._spool = _open(owners, Path(spool), table, producer, spool_bytes, spool_durability)
        self._spec = self._spool.table.spec
        self._durability = durability
        self._window = window
        self._on_ack = on_ack
        self._moved = threading.Condition()  # guards the fields below, and every span that callers wait for
        self._failed: ProxistError | None = None
        self._spans: dict[int, Span] = {}
        self._total = Span()
        self._outstanding: dict[int, int] = {}
        """Bytes of each batch that was handed to the delivery and is not acked."""
        self._acked: set[int] = set()
        """Numbers above the spool's mark that were acked before a lower one."""
        self._stopping = threading.Event()
        self._delivery: Delivery | None = None
        self._thread = threading.Thread(target=self._run, name=f"proxist-forward-{table}", daemon=True)
        self._thread.start()

    @property
    def next_seq(self) -> int:
        """The number that the next batch will have."""
        return self._spool.next_number

    @property
    def unacked(self) -> int:
        """Batches in the spool that are not acked yet."""
        return self._spool.next_number - 1 - self._spool.acked

    @property
    def failed(self) -> ProxistError | None:
        """The error that ended the forwarding, None while it works."""
        return self._failed

    def send(self, rows: Any, *, batch_rows: int = BATCH_ROWS, batch_bytes: int | None = BATCH_BYTES) -> Sent:
        """Put rows into the spool, in batches as `Writer.send` makes them; returns when they are there.

        Where it returns every row will be stored once, whatever happens to this process or to the cluster. Where it
        raises in the middle of several batches, `next_seq` tells which of them were taken.
        Raises SchemaMismatch, InvalidBatch, SpoolFull, Unavailable (the disk), and the error that ended the forwarding.
        """
        if self._failed is not None:
            raise self._failed
        table = conform(to_table(rows, self._spec.schema), self._spec, cast=is_frame(rows))
        batches = list(to_batches(table, batch_rows, batch_bytes))
        span = Span(expected=len(batches))
        for batch in batches:
            self._spool.append(batch, lambda number: self._spans.__setitem__(number, span))
        return Sent(self, span, self.producer)

    def write(self, rows: Any, *, batch_rows: int = BATCH_ROWS, timeout_s: float | None = None) -> Ack:
        """`send` and wait for the cluster's ack."""
        return self.send(rows, batch_rows=batch_rows).wait(timeout_s)

    def flush(self, timeout_s: float | None = None) -> Ack:
        """Wait until the cluster has acked everything in the spool; the sum of what was acked since the last flush."""
        before = self._spool.next_number
        self.wait(lambda: self._spool.acked + 1 >= before, timeout_s)
        with self._moved:
            total, self._total = self._total, Span()
            return total.ack(self.producer)

    def wait(self, done: Callable[[], bool], timeout_s: float | None) -> None:
        """Until `done()`. Raises the error that ended the forwarding, or DeadlineExceeded."""
        with self._moved:
            if not self._moved.wait_for(lambda: done() or self._failed is not None, timeout_s):
                raise DeadlineExceeded(
                    f"Table {self.table!r} acked not all batches within {timeout_s} s; they are in the spool and on "
                    "their way. Wait again, or give it longer."
                )
            if not done() and self._failed is not None:
                raise self._failed

    def close(self) -> None:
        """End without waiting (`flush` waits): what is not acked stays in the spool for the next opening."""
        self._stopping.set()
        delivery = self._delivery
        if delivery is not None:
            delivery.stop()
        self._thread.join()
        if self._delivery is not None and self._delivery is not delivery:
            self._delivery.stop()
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- the forwarder's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            number, rows = self._spool.acked + 1, None
            while not self._stopping.is_set():
                rows = self._spool.read(number, _LOOK_S) if rows is None else rows
                if rows is not None and self._forward(number, rows):
                    number, rows = number + 1, None
        except ProxistError as error:
            self._fail(error)
        except Exception as error:  # whatever it is: without this thread nothing is ever acked
            self._fail(
                Unavailable(
                    f"Batches of spool {self._spool.path} cannot be forwarded any more ({type(error).__name__}: {error}). "
                    "What is not acked stays there. Look at its disk, then open the writer again.",
                    path=str(self._spool.path),
                    cause=str(error),
                )
            )

    def _forward(self, number: int, rows: pa.RecordBatch) -> bool:
        """Hand one batch to the delivery; False where the writer is ending first."""
        delivery = self._delivery or self._begin(number)
        if delivery is None or not self._has_window(rows.nbytes):
            return False
        with self._moved:
            self._outstanding[number] = rows.nbytes
        delivery.submit(rows, _Told(self, number))
        return True

    def _begin(self, number: int) -> Delivery | None:
        """The delivery, from `number` on, once the cluster tells where the table is; None where the writer ends first."""
        attempt = 0
        while not self._stopping.is_set():
            try:
                table_map = self._owners.table_map(self.table, fresh=True)
            except TransientError as error:
                backoff_s = min(_BACKOFF_S_MIN * 2**attempt, _BACKOFF_S_MAX) * random.uniform(0.5, 1.0)
                attempt = min(attempt + 1, 16)
                self._stopping.wait(max(error.retry_after_s or 0.0, backoff_s))
                continue
            if table_map.table.id != self._spool.table.id:
                raise NotFound(
                    f"Table {self.table!r} was dropped and created anew; the batches in spool {self._spool.path} belong to "
                    "the one before. Move the directory away, and open a writer with a new one."
                )
            self._delivery = Delivery(
                self._owners, table_map, self.producer, number, self._durability, self._window, math.inf, self._on_ack
            )
            return self._delivery
        return None

    def _has_window(self, size: int) -> bool:
        """Wait until the delivery has room, so that it never blocks this thread; False where the writer ends first."""

        def fits() -> bool:
            waiting = self._outstanding
            return not waiting or (len(waiting) < self._window and sum(waiting.values()) + size <= WINDOW_BYTES_MAX)

        with self._moved:
            self._moved.wait_for(lambda: fits() or self._failed is not None or self._stopping.is_set(), _LOOK_S)
            return fits() and self._failed is None and not self._stopping.is_set()

    def _note(self, batch: Pending) -> None:
        """A batch was acked; on an ack thread."""
        with self._moved:
            del self._outstanding[batch.seq]
            self._acked.add(batch.seq)
            mark = self._spool.acked
            while mark + 1 in self._acked:
                mark += 1
                self._acked.discard(mark)
            self._spool.ack(mark)
            self._total.add(batch)
            span = self._spans.pop(batch.seq, None)
            if span is not None:
                span.add(batch)
            self._moved.notify_all()

    def _fail(self, error: ProxistError) -> None:
        with self._moved:
            self._failed = self._failed or error
            self._moved.notify_all()


class _Told(Span):
    """What the delivery knows of one batch, told to the writer."""

    def __init__(self, writer: SpooledWriter, number: int) -> None:
        super().__init__(expected=1)
        self._writer = writer
        self._number = number

    def add(self, batch: Pending) -> None:
        self._writer._note(batch)

    def fail(self, error: ProxistError) -> None:
        self._writer._fail(error)


def _open(owners: Owners, path: Path, table: str, producer: str, bytes_max: int, durability: str) -> Spool:
    spool = open_spool(path, producer, bytes_max, durability)
    if spool is None:
        try:
            table_map = owners.table_map(table, fresh=False)
            first = 1 + (owners.producer_last(table, producer) or 0)
        except Unavailable as error:
            raise Unavailable(
                f"Spool {path} is new, and its first opening needs the cluster, for the table and the producer's numbers: "
                f"{error.message}",
                retry_after_s=error.retry_after_s,
            ) from None
        return create_spool(path, table_map.table, producer, first, bytes_max, durability)
    if spool.table.spec.name != table:
        spool.close()
        raise InvalidArgument(
            f"Spool {path} is of table {spool.table.spec.name!r}, not {table!r}. Use another directory."
        )
    return spool
