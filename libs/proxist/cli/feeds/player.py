"""Plays files into a cluster: one producer per file, numbers from 1, so that a second run sends only what is missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from proxist.cli.feeds.feed import Feed, FeedBatch
from proxist.cli.feeds.formats import open_feed, producer_name
from proxist.client.connection import Connection
from proxist.client.writer import Writer
from proxist.errors import InvalidArgument, NotFound, TransientError
from proxist.model.table import TableSpec

RETRY_S = 120.0
"""How long a replay waits for a cluster that came down under it; a restart of every part fits in."""
_BACKOFF_S = 0.2

T = TypeVar("T")


@dataclass
class Report:
    """What became of one file, per table: rows that were acked now, and rows that the cluster already had."""

    sent: dict[str, int] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)

    def add(self, counts: dict[str, int], table: str, rows: int) -> None:
        counts[table] = counts.get(table, 0) + rows


class Player:
    """`play` returns when every row of a file is acked. `on_progress(bytes, rows)` is called per batch: the position in
    the file, and the rows of the batch (0 for one that the cluster already had); `on_ack(table, rows, seconds)` per acked
    batch, on another thread. Once `stopping` is set, `play` ends soon, with what was sent so far acked.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        speed: float | None = None,
        on_progress: Callable[[int, int], None] = lambda *_: None,
        on_ack: Callable[[str, int, float], None] = lambda *_: None,
        retry_s: float = RETRY_S,
        stopping: threading.Event | None = None,
    ) -> None:
        self._connection = connection
        self._speed = speed
        self._on_progress = on_progress
        self._on_ack = on_ack
        self._retry_s = retry_s
        self._stopping = stopping or threading.Event()
        self._clock = FeedClock(speed, self._stopping)

    def play(
        self, path: Path, format_name: str | None = None, venue: str | None = None, table: str | None = None
    ) -> Report:
        """Send one file. Raises InvalidArgument for a file or format that cannot be read, and what a Writer raises.

        After an error, or a kill, playing the same file again goes on behind the last batch that every shard has.
        """
        feed = open_feed(path, format_name, venue, table, self._describe)
        producer = producer_name(path)
        report = Report()
        with ExitStack() as writers:
            tables: dict[str, _TableFeed] = {}
            for batch in feed.batches():
                if self._stopping.is_set():
                    break
                if batch.table not in tables:
                    tables[batch.table] = writers.enter_context(self._open(feed, batch.table, producer))
                self._clock.wait_for(batch)
                sent = tables[batch.table].take(batch)
                report.add(report.sent if sent else report.known, batch.table, batch.rows.num_rows)
                self._on_progress(batch.position, batch.rows.num_rows if sent else 0)
        return report

    def _describe(self, table: str) -> TableSpec:
        try:
            return self._connection.table(table).spec
        except NotFound as error:
            raise NotFound(f"{error.message} (Or with pxctl create-table.)", **error.details) from None

    def _open(self, feed: Feed, table: str, producer: str) -> _TableFeed:
        self._retried(lambda: self._ensure_table(feed, table))
        last = self._retried(lambda: self._connection.producer_last(table, producer)) or 0
        writer = Writer(
            self._connection,
            table,
            producer=producer,
            first_seq=last + 1,
            retry_s=self._retry_s,
            on_ack=lambda rows, took_s: self._on_ack(table, rows, took_s),
        )
        return _TableFeed(writer, last)

    def _ensure_table(self, feed: Feed, table: str) -> None:
        try:
            self._connection.table_map(table, fresh=True)
        except NotFound:
            self._connection.create_table(feed.tables[table])

    def _retried(self, call: Callable[[], T]) -> T:
        deadline_s = time.monotonic() + self._retry_s
        while True:
            try:
                return call()
            except TransientError as error:
                if time.monotonic() > deadline_s or self._stopping.wait(error.retry_after_s or _BACKOFF_S):
                    raise


class _TableFeed:
    """One table's part of one file: counts its batches, skips those up to `last`, sends the others."""

    def __init__(self, writer: Writer, last: int) -> None:
        self._writer = writer
        self._last = last
        self._seq = 0

    def take(self, batch: FeedBatch) -> bool:
        """True where the batch was sent."""
        self._seq += 1
        if self._seq <= self._last:
            return False
        # A batch of the feed is one numbered batch, whatever its size.
        self._writer.send(batch.rows, batch_rows=max(batch.rows.num_rows, 1), batch_bytes=None)
        return True

    def __enter__(self) -> _TableFeed:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._writer.close(abandon=kind is not None)


class FeedClock:
    """Holds a batch back until its time has come at `speed` times the feed's own pace; None: never."""

    def __init__(self, speed: float | None, stopping: threading.Event) -> None:
        self._speed = speed
        self._stopping = stopping
        self._start: tuple[float, int] | None = None

    def wait_for(self, batch: FeedBatch) -> None:
        if self._speed is None:
            return
        now_s = time.monotonic()
        if self._start is None or batch.first_ns < self._start[1]:
            self._start = now_s, batch.first_ns
        start_s, start_ns = self._start
        due_s = start_s + (batch.first_ns - start_ns) / 1e9 / self._speed
        if due_s > now_s:
            self._stopping.wait(due_s - now_s)


def parse_speed(text: str) -> float | None:
    """ "max" is None; "1x", "10x", "0.5x" are factors. Raises InvalidArgument."""
    if text == "max":
        return None
    try:
        factor = float(text.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor < 1e9:
        raise InvalidArgument(f'Speed is {text!r}, but must be "max" or a factor such as "1x" or "10x".')
    return factor
