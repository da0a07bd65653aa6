"""The ClickHouse engine inside this process (chdb): SQL over rows that are already here, without a server.

Rows reach it as an Arrow stream in anonymous memory, under the very structure that external data has in plan (b), so
that both plans see the same types.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import chdb
import pyarrow as pa

from proxist.clickhouse import to_stored
from proxist.clickhouse.wire import strings_checked
from proxist.errors import DeadlineExceeded, InternalError, InvalidArgument, Overloaded, ProxistError

_ERROR = re.compile(r"Code: (\d+)\. DB::Exception: (.*?)(?: \((\w+)\))?\s*$", re.DOTALL)
_SCOPE = re.compile(r"(?:\. |: |, )?(?:In scope|In expression|while executing|While executing|in query:).*", re.DOTALL)
_BUSY = {"MEMORY_LIMIT_EXCEEDED", "TOO_MANY_SIMULTANEOUS_QUERIES", "CANNOT_ALLOCATE_MEMORY"}
_WAIT_S_MAX = 30.0
_BLOCK_ROWS = 65_536


class Engine:
    """A bounded pool of handles on the process' one engine; a handle runs one statement at a time. Thread-safe.

    A handle on which a statement failed is thrown away: chdb may answer its next statement with what the failed one
    left behind.
    """

    def __init__(self, handles_max: int, seconds_max: float = 300.0) -> None:
        """`seconds_max` ends a statement: while the engine works, nothing of ours can."""
        self._seconds_max = seconds_max
        self._free = threading.Semaphore(handles_max)
        self._lock = threading.Lock()  # guards _idle and _closed
        self._idle: list[Any] = []
        self._closed = False

    def query(self, text: str) -> pa.Table:
        """The answer of a SELECT, in the Arrow types in which ClickHouse's ArrowStream format gives it.

        Raises InvalidArgument with ClickHouse's own words, Overloaded, DeadlineExceeded.
        """
        with self._handle() as handle:
            answer = handle.query(text, "ArrowStream").bytes()
            return strings_checked(pa.ipc.open_stream(pa.py_buffer(answer)).read_all()) if answer else pa.table({})

    def close(self) -> None:
        """Close the idle handles; those in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for handle in idle:
            handle.close()

    @contextmanager
    def _handle(self) -> Iterator[Any]:
        if not self._free.acquire(timeout=_WAIT_S_MAX):
            raise Overloaded(
                "All SQL engines of this node are busy. Ask again in a moment, or ask another query node.",
                retry_after_s=1.0,
            )
        try:
            with self._lock:
                handle = self._idle.pop() if self._idle else None
            if handle is None:
                handle = chdb.connect()  # type: ignore[no-untyped-call]  # chdb has py.typed, but few types
                handle.query(f"SET session_timezone = 'UTC', max_execution_time = {self._seconds_max}")
            try:
                yield handle
            except BaseException as error:
                handle.close()
                raise _typed(error) from None
            with self._lock:
                if not self._closed:
                    self._idle.append(handle)
                    return
            handle.close()
        finally:
            self._free.release()


@contextmanager
def rows_as_files(tables: Mapping[str, pa.Table]) -> Iterator[dict[str, str]]:
    """Each table as an Arrow stream in anonymous memory, and its path; gone when the context ends."""
    descriptors: list[int] = []
    paths: dict[str, str] = {}
    try:
        for name, table in tables.items():
            descriptor = os.memfd_create(f"proxist-sql-{name}", os.MFD_CLOEXEC)
            descriptors.append(descriptor)
            stored = to_stored(table)
            with (
                open(descriptor, "wb", closefd=False) as file,
                pa.ipc.new_stream(file, stored.schema) as writer,
            ):
                writer.write_table(stored, max_chunksize=_BLOCK_ROWS)
            paths[name] = f"/proc/self/fd/{descriptor}"
        yield paths
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _typed(error: BaseException) -> BaseException:
    if isinstance(error, ProxistError) or not isinstance(error, Exception):
        return error
    found = _ERROR.search(str(error))
    if found is None:
        return InternalError(f"The SQL engine failed: {type(error).__name__}.")
    name = found[3] or "UNKNOWN"
    text = f"The query is refused, {name}: {plain(found[2])}"
    if name in _BUSY:
        return Overloaded(text, retry_after_s=1.0, clickhouse_name=name)
    if name == "TIMEOUT_EXCEEDED":
        return DeadlineExceeded(text, clickhouse_name=name)
    return InvalidArgument(text, clickhouse_code=int(found[1]), clickhouse_name=name)


def plain(message: str) -> str:
    """ClickHouse's sentence without the text of the rewritten statement, which the caller did not write."""
    sentence = _SCOPE.sub("", message).strip()
    return sentence if sentence.endswith(".") else f"{sentence}."
