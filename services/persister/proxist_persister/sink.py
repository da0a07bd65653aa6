"""ClickHouse as the persister's workers see it: with its health, its counts, and what may be done to a table."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from proxist.clickhouse import ClickHouse, database_of
from proxist.errors import OperatorError, ProxistError
from proxist.model.ids import Offset, ShardId
from proxist.model.table import Table
from proxist.telemetry import tracing
from proxist.telemetry.figures import Histogram
from proxist.telemetry.metrics import ROWS, STORE_S
from proxist_persister.batches import Insert
from proxist_persister.coverage import Stored
from proxist_persister.policy import SinkHealth

MISMATCHES = ("missing", "differs", "unexplained")
"""What a read-back may find: confirmed rows that are not there; rows that differ from those sent; rows that no log
explains, copies among them."""


class Sink:
    """Shared by all workers; thread-safe."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse
        self._lock = threading.Lock()  # guards _health and the counts
        self._health = SinkHealth()
        self._failures = 0
        self.insert_seconds = {outcome: Histogram(STORE_S) for outcome in ("ok", "failed")}
        self.insert_rows = Histogram(ROWS)
        self.verify_seconds = Histogram(STORE_S)
        self._mismatches = dict.fromkeys(MISMATCHES, 0)

    @property
    def state(self) -> str:
        """ "OK", "DEGRADED" or "DOWN"."""
        with self._lock:
            return self._health.state(time.monotonic_ns())

    @property
    def failures(self) -> int:
        with self._lock:
            return self._failures

    @property
    def clickhouse(self) -> ClickHouse:
        """For its counts."""
        return self._clickhouse

    def prepare(self, table: Table, *, was_persisted: bool) -> None:
        """On return the table exists. Where rows of it were persisted before it must be there already: an empty new one
        in its place would hide that they are lost, so OperatorError.
        """
        with self._watched():
            if was_persisted and not self._exists(table):
                raise OperatorError(
                    f"Table {table.name!r} is not in ClickHouse any more, but rows of it were persisted there. Bring it "
                    "back (its backup, the right server), or drop the table; then restart the persister.",
                    table=table.name,
                    cause="table lost",
                )
            self._clickhouse.create_table(table)

    def read_back(self, table: Table, shard: ShardId, at_or_above: Offset, below: Offset | None = None) -> Stored:
        """What is stored of the shard in [at_or_above, below)."""
        with self._watched():
            return Stored(self._clickhouse.offsets_present(table, shard, at_or_above, below))

    def read_batch(
        self, table: Table, shard: ShardId, first: Offset, end: Offset, times_ns: tuple[int, int]
    ) -> pa.Table:
        """The stored rows of the shard in [first, end) and between the times, as `ClickHouse.rows_present`."""
        began = time.perf_counter()
        with self._watched(), tracing.span("persist.verify") as span:
            rows = self._clickhouse.rows_present(table, shard, first, end, times_ns)
            span.set("db.response.returned_rows", rows.num_rows)
        self.verify_seconds.observe(time.perf_counter() - began)
        return rows

    def mismatched(self, kind: str) -> None:
        """A read-back found something else than what was sent; `kind` is one of MISMATCHES."""
        with self._lock:
            self._mismatches[kind] += 1

    @property
    def mismatches(self) -> dict[str, int]:
        """Read-backs that found something else than what was sent, by kind."""
        with self._lock:
            return dict(self._mismatches)

    def insert(self, table: Table, insert: Insert) -> None:
        """Confirmed on return."""
        began, outcome = time.perf_counter(), "failed"
        try:
            with self._watched():
                self._clickhouse.insert(table, insert.rows, insert.token)
            outcome = "ok"
            self.insert_rows.observe(insert.rows.num_rows)
        finally:
            self.insert_seconds[outcome].observe(time.perf_counter() - began)

    def drop(self, table: Table) -> None:
        """Gone on return."""
        with self._watched():
            self._clickhouse.drop_table(table)

    def _exists(self, table: Table) -> bool:
        answer = self._clickhouse.query(
            "SELECT count() AS n FROM system.tables "
            f"WHERE database = '{database_of(table.tenant)}' AND name = '{table.name}'"
        )
        return bool(answer["n"][0].as_py())

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except ProxistError as error:
            with self._lock:
                self._failures += 1
                self._health = self._health.failed(error, time.monotonic_ns())
            raise
        with self._lock:
            self._health = self._health.succeeded()
