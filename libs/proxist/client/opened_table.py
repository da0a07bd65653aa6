"""One table of an opened directory: its logs and its hot set, in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from proxist.client.acks import Ack
from proxist.errors import (
    BatchTooLarge,
    InvalidArgument,
    InvalidBatch,
    Overloaded,
    Unavailable,
)
from proxist.hot.reader import HotReader
from proxist.hot.words import INT64_MAX
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset
from proxist.model.table import Table as TableEntry
from proxist.model.token import Mark, Token
from proxist.seam import Chain, Log
from proxist.wal import (
    LogWriter,
    RecordKind,
    RecoveredLog,
    encode_body,
    list_logs,
    recover_log,
    rows_record,
    shard_directory,
)

LEVELS = ("mem", "os", "disk")
_REPLAY_ROWS = 65_536


class OpenTable:
    """A table's rows: the logs that lie here, oldest first, in one hot set; the log of this opening with its first row."""

    def __init__(self, path: Path, table: TableEntry) -> None:
        self.table = table
        self.directory = shard_directory(path, table.shard_ids[0])
        self._logs = _recover(self.directory)
        self._epoch = Epoch(self._logs[-1].epoch + 1 if self._logs else 1)
        self.hot = self._replay()
        self.reader: HotReader = self.hot.reader()
        self._writer: LogWriter | None = None
        self._stopped = False

    @property
    def chain(self) -> Chain:
        old = [Log(one.epoch, one.start, one.seal_at, "sealed") for one in self._logs]
        start = self._logs[-1].seal_at if self._logs else Offset(0)
        return Chain(self.table.shard_ids[0], (*old, Log(self._epoch, start, None, "open")))

    def write(self, batches: list[pa.RecordBatch], durability: str | None) -> Ack:
        spec = self.table.spec
        level = durability or (spec.durability if spec.durability in LEVELS else "disk")
        if level not in LEVELS:
            raise InvalidArgument(
                f"Durability is {level!r}, but in an opened directory must be one of {', '.join(LEVELS)}."
            )
        self._check(batches)
        now_ns = time.time_ns()
        records = [rows_record(encode_body(batch), batch.num_rows, now_ns) for batch in batches]
        with self._whole():
            log = self._log()
            assert log.end == self.hot.appended_end
            end = log.append(records)
            for batch in batches:
                self.hot.append(batch, self.hot.appended_end, now_ns)
            if level == "disk":
                log.sync()
            self.hot.publish(end)
        token = Token({self.table.shard_ids[0]: Mark(self._epoch, end)})
        rows = sum(batch.num_rows for batch in batches)
        return Ack(rows, len(batches), 0, level, str(token), str(self.directory), None, None)

    def sync(self) -> None:
        with self._whole():
            if self._writer is not None:
                self._writer.sync()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Log and memory move together in here. What does not reach the end may leave them apart, or rows unsynced that a
        later sync would pass over, so the table stops; but for a refusal that changed neither."""
        if self._stopped:
            raise Unavailable(
                f"Table {self.table.name!r} takes no writes: an earlier one did not finish, and the log may have "
                "rows that memory lacks. Close the directory and open it again.",
                shard=self.table.shard_ids[0],
            )
        self._stopped = True
        try:
            yield
        except (Overloaded, BatchTooLarge):
            self._stopped = self._writer is not None and self._writer.end != self.hot.appended_end
            raise
        self._stopped = False

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        self.hot.close()

    def _check(self, batches: list[pa.RecordBatch]) -> None:
        """Nothing reaches the log that memory would refuse."""
        try:
            for batch in batches:
                batch.validate(full=True)
        except pa.ArrowException as error:
            raise InvalidBatch(f"The rows for table {self.table.name!r} are no valid Arrow batch: {error}.") from None
        if not self.hot.has_room(*batches):
            raise Overloaded(
                f"Table {self.table.name!r} uses {self.hot.used_bytes} of {self.hot.bound_bytes} bytes and has no room for "
                f"{sum(batch.num_rows for batch in batches)} more rows: an opened directory keeps every row in RAM. Create "
                "it with more `hot_bytes`.",
                shard=self.table.shard_ids[0],
            )

    def _log(self) -> LogWriter:
        if self._writer is None:
            table, end = self.table, self.hot.appended_end
            self._writer = LogWriter.create(
                self.directory,
                table.shard_ids[0],
                self._epoch,
                end,
                table.id,
                table.spec.schema,
                table.schema_version,
                {},
            )
        return self._writer

    def _replay(self) -> HotSet:
        """All rows of the logs. They were accepted, so they must fit: with twice the memory where they do not."""
        hot_bytes = self.table.spec.hot_bytes
        while True:
            hot = HotSet.create(self.table.spec, self.table.shard_ids[0], self._epoch, Offset(0), hot_bytes=hot_bytes)
            hot.set_lease_until(INT64_MAX)
            try:
                for rows, arrived_ns in self._rows():
                    hot.append(rows, hot.appended_end, arrived_ns)
                hot.publish(hot.appended_end)
                return hot
            except Overloaded:
                hot.close()
                hot_bytes *= 2
            except BaseException:
                hot.close()
                raise

    def _rows(self) -> Iterator[tuple[pa.RecordBatch, int]]:
        waiting: list[pa.RecordBatch] = []
        arrived_ns = 0
        for one in self._logs:
            for record in one.records():
                if record.kind is RecordKind.ROWS and record.rows:
                    waiting.append(record.batch(one.schema))
                    arrived_ns = record.arrived_ns
                if sum(batch.num_rows for batch in waiting) >= _REPLAY_ROWS:
                    yield pa.concat_batches(waiting), arrived_ns
                    waiting = []
        if waiting:
            yield pa.concat_batches(waiting), arrived_ns


def _recover(directory: Path) -> list[RecoveredLog]:
    """Every log that lies here, oldest first; each ends where the next one begins."""
    found: list[RecoveredLog] = []
    sealed_end: Offset | None = None
    for _, path in reversed(list_logs(directory)):
        one = recover_log(path, sealed_end=sealed_end)
        found.append(one)
        sealed_end = one.start
    return found[::-1]
