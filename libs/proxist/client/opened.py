"""`proxist.open(path)`: a directory as a database of one process. Engine, log and hot set, no server.

For notebooks, tests and backtests. Every row stays in RAM and in the log; there is no history behind it, so no eviction,
no ClickHouse and no SQL. One process at a time; a write is durable as its level says when it returns.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from proxist.client.acks import Ack
from proxist.client.answer import Answer
from proxist.client.attach import Elsewhere
from proxist.client.connection import Connection
from proxist.client.frames import conform, is_frame, to_batches, to_table
from proxist.client.opened_table import OpenTable
from proxist.client.table import Table
from proxist.client.topology import TableMap
from proxist.client.verbs import Verbs
from proxist.client.writer import BATCH_BYTES, BATCH_ROWS
from proxist.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from proxist.hot.ops import HotOp, HotPart, Probes
from proxist.hot.reader import HotReader
from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.model.query import parse_query
from proxist.model.table import DEFAULT_TENANT, TableSpec, parse_spec, table_from_json
from proxist.model.table import Table as TableEntry
from proxist.seam import Chain, Executor
from proxist.seam.warm import WarmPart
from proxist.wal import (
    DirectoryLock,
)

TABLES_FILE = "tables.json"
_ELSEWHERE = "A directory that was opened has no SQL and no history; start a cluster (`proxist up`) for those."


def open_directory(path: str | Path) -> Opened:
    """Open the directory at `path`, made where it is missing: recovered, and ready for the verbs, on return.

    Raises DirectoryLocked where another process has it open, LogCorrupt where rows are missing that were promised.
    """
    return Opened(Path(path))


class Opened(Verbs):
    """Use `proxist.open`. Safe for several threads: writes take turns, reads wait for nobody."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()  # guards _tables, _next_id, _closed and every write
        self._closed = False
        self._directory = DirectoryLock(path)
        self._tables: dict[str, OpenTable] = {}
        self._next_id = 1
        self.attaching = _Own(self)
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def query(self, query: dict[str, Any], probes: pa.RecordBatch | None = None) -> Answer:
        """Any JSON query of the public surface but `sql`; `probes` are the rows of `left: {"probe": true}`."""
        sent = None if probes is None else pa.Table.from_batches([probes])
        source = _Source(self)
        found = Executor(source, source, None, elsewhere=lambda: _ELSEWHERE).run(
            parse_query(query), DEFAULT_TENANT, sent
        )
        return Answer(found.rows, found.receipt.to_json())

    def table(self, name: str) -> Table:
        return _TableHere(cast("Connection", self), name)

    def write(self, table: str, rows: Any, *, durability: str | None = None, timeout_s: float | None = None) -> Ack:
        """Write rows; on return they are visible and as durable as `durability` ("mem", "os", "disk"; else the table's
        level) says. Raises as `Table.write`; Overloaded, with nothing stored, where the table's `hot_bytes` are used up or
        the disk is full. After a write that was interrupted (KeyboardInterrupt, a disk that failed) the table takes no
        more (Unavailable) until the directory is opened again, which may find rows of that write."""
        with self._lock:
            entry = self.entry(table)
            taken = conform(to_table(rows, entry.table.spec.schema), entry.table.spec, cast=is_frame(rows))
            return entry.write(list(to_batches(taken, BATCH_ROWS, BATCH_BYTES)), durability)

    def create_table(self, spec: Mapping[str, Any] | TableSpec) -> Table:
        """Create a table, on disk on return; it has one shard here. An equal spec again succeeds, another one under the
        same name raises AlreadyExists."""
        wanted = spec if isinstance(spec, TableSpec) else parse_spec(dict(spec))
        with self._lock:
            self._check_open()
            known = self._tables.get(wanted.name)
            if known is not None and known.table.spec != wanted:
                raise AlreadyExists(f"Table {wanted.name!r} exists with another spec. Drop it, or choose another name.")
            if known is None:
                entry = TableEntry(TableId(self._next_id), DEFAULT_TENANT, wanted, (ShardId(self._next_id),))
                self._next_id += 1
                self._save({**{name: one.table for name, one in self._tables.items()}, wanted.name: entry})
                self._tables[wanted.name] = OpenTable(self.path, entry)
        return self.table(wanted.name)

    def drop_table(self, name: str) -> None:
        """Drop a table with its rows and its log."""
        with self._lock:
            entry = self.entry(name)
            self._save({other: one.table for other, one in self._tables.items() if other != name})
            del self._tables[name]
            entry.close()
            shutil.rmtree(entry.directory, ignore_errors=True)

    def tables(self) -> list[TableSpec]:
        """The specs of all tables, by name."""
        with self._lock:
            self._check_open()
            return [self._tables[name].table.spec for name in sorted(self._tables)]

    def flush(self, table: str) -> None:
        """Returns when everything written before is on disk."""
        with self._lock:
            self.entry(table).sync()

    def close(self) -> None:
        """What was written is on disk on return; handles and tables raise Unavailable from then on."""
        with self._lock:
            self._closed = True
            tables, self._tables = list(self._tables.values()), {}
            for one in tables:
                one.close()
            self._directory.release()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entry(self, name: str) -> OpenTable:
        """Raises NotFound that names the tables there are, Unavailable where the directory is closed."""
        found = self._tables.get(name)
        if found is None:
            self._check_open()
            known = ", ".join(sorted(self._tables)) or "none yet"
            raise NotFound(f"Table {name!r} is not there; the tables are: {known}. Create it with create_table.")
        return found

    def of_shard(self, shard: ShardId) -> OpenTable:
        for one in list(self._tables.values()):
            if one.table.shard_ids[0] == shard:
                return one
        self._check_open()
        raise Unavailable(f"The table of shard {shard} was dropped.", shard=shard)

    def table_map(self, table: str, *, fresh: bool) -> TableMap:
        """As a connection's."""
        return TableMap(self.entry(table).table, (str(self.path),))

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("The directory is closed. Open it again.")

    def _load(self) -> None:
        file = self.path / TABLES_FILE
        if not file.exists():
            return
        wire = json.loads(file.read_text())
        self._next_id = wire["next_id"]
        for entry in wire["tables"]:
            table = table_from_json(entry)
            self._tables[table.name] = OpenTable(self.path, table)

    def _save(self, tables: Mapping[str, TableEntry]) -> None:
        wire = {"next_id": self._next_id, "tables": [tables[name].to_json() for name in sorted(tables)]}
        made = self.path / (TABLES_FILE + ".new")
        with made.open("w") as file:
            json.dump(wire, file)
            file.flush()
            os.fsync(file.fileno())
        made.replace(self.path / TABLES_FILE)
        directory = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class _Source:
    """The executor's Catalog and HotSource."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    def table(self, tenant: str, name: str) -> TableEntry:
        return self._opened.entry(name).table

    def chain(self, shard: ShardId, at_least: Epoch) -> Chain:
        return self._opened.of_shard(shard).chain

    def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        return self._opened.of_shard(shard).reader.run(op, probes)

    def warm(self, shard: ShardId, op: HotOp, probes: Probes | None, first: Offset, end: Offset) -> WarmPart:
        raise AssertionError("the rows of an opened directory stay in memory")


class _Own:
    """What prepared reads take for a connection's local reads: the readers of this process."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self.host = self

    def reads(self) -> _Own:
        return self

    def check(self, elsewhere: Elsewhere) -> None:
        """There is nobody else to ask."""
        if elsewhere.error is not None:
            raise elsewhere.error

    def try_attached(self, shard: ShardId, read: Callable[[str], Any]) -> Any:
        try:
            return read("")
        except Unavailable as error:
            raise Elsewhere(error) from None

    def attach(self, _path: str, shard: ShardId) -> HotReader:
        return self._opened.of_shard(shard).reader


class _TableHere(Table):
    def writer(self, **settings: Any) -> Any:
        raise InvalidArgument(
            f"Table {self.name!r} of an opened directory has no pipelined writer: `write` returns at once here. Use it."
        )
