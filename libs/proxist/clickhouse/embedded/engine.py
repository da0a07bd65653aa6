"""chdb's engine: one per process, one data directory; every statement has a connection, and so a session, of its own."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from chdb import ChdbError
from chdb.state.sqlitelike import Connection

from proxist.clickhouse.embedded.request import ExternalTable, Request
from proxist.errors import DirectoryLocked

STATEMENTS_MAX = 32
"""Statements that run at once; more wait. ClickHouse's own default is unlimited, which a small machine regrets."""

_CODE = re.compile(r"Code: (\d+)\. ")
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]+)\)")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement answered: the bytes in its format and the counts that ClickHouse's summary header shows."""

    body: bytes
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    elapsed_ns: int = 0


class StatementFailed(Exception):
    """ClickHouse's exception: `code`, and the text as its HTTP interface prints it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Engine:
    """Owns the data directory for the life of the process. `run` may be called from any number of threads."""

    def __init__(self, path: Path) -> None:
        """Opens (or creates) the store under `path`. Raises DirectoryLocked where another process owns it."""
        path.mkdir(parents=True, exist_ok=True)
        self._path = str(path.resolve())
        self._lock_fd = _lock(path)
        # The engine lives while a connection does; this one is kept to the end.
        self._first = Connection(self._path)
        self._free = threading.BoundedSemaphore(STATEMENTS_MAX)
        self._session = self._first.query("SELECT version(), timezone()", "TabSeparated").bytes().decode().split()

    @property
    def version(self) -> str:
        return self._session[0]

    @property
    def timezone(self) -> str:
        return self._session[1]

    def run(self, request: Request) -> Answer:
        """Execute one statement in a session of its own, which ends with it. Raises StatementFailed."""
        with self._free:
            connection = Connection(self._path)
            try:
                return self._run_in(connection, request)
            except (ChdbError, RuntimeError) as error:
                raise self._failure(str(error)) from None
            finally:
                connection.close()

    def close(self) -> None:
        """Ends the engine. No statement may be running."""
        self._first.close()
        os.close(self._lock_fd)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run_in(self, connection: Connection, request: Request) -> Answer:
        if request.database:
            connection.query(f"USE {_quote_name(request.database)}")
        for table in request.external:
            _create_external(connection, table)
        _apply_settings(connection, dict(request.settings))
        if request.insert is not None:
            return _insert(connection, request.insert.sql, request.insert.format, request.data)
        query: Any = request.sql  # bytes: the engine takes them, and a bound value need not be UTF-8
        return _answer(connection.query(query, request.default_format, params=dict(request.params)))

    def _failure(self, message: str) -> StatementFailed:
        """ClickHouse's text without chdb's frame; the server's version goes last, as over HTTP."""
        start = message.find("Code: ")
        text = message[max(start, 0) :].strip()
        code = _CODE.match(text)
        if code is None:
            text = f"Code: 1002. DB::Exception: {text} (UNKNOWN_EXCEPTION)"
        elif _NAME.search(text) is None:
            text = f"{text} (UNKNOWN)"
        if "(version " not in text:
            text = f"{text} (version {self.version})"
        return StatementFailed(int(code[1]) if code else 1002, text)


def _lock(path: Path) -> int:
    fd = os.open(path / "proxist.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise DirectoryLocked(
            f"The ClickHouse directory {path.name!r} is in use by another process, and an engine needs it alone. "
            "Stop that process, or give another --path."
        ) from None
    return fd


def _create_external(connection: Connection, table: ExternalTable) -> None:
    name = _quote_name(table.name)
    connection.query(f"CREATE TEMPORARY TABLE {name} ({table.structure}) ENGINE = Memory")
    if table.data:
        _insert(connection, f"INSERT INTO {name}", table.format, memoryview(table.data))


def _apply_settings(connection: Connection, settings: dict[str, str]) -> None:
    """`readonly` last: from then on nothing can be set."""
    readonly = settings.pop("readonly", None)
    if settings:
        connection.query("SET " + ", ".join(_setting(name, value) for name, value in settings.items()))
    if readonly is not None:
        connection.query("SET " + _setting("readonly", readonly))


def _setting(name: str, value: str) -> str:
    if not _SETTING.fullmatch(name):
        raise RuntimeError(f"Code: 115. DB::Exception: Unknown setting '{name}'. (UNKNOWN_SETTING)")
    return f"{name} = {_quote_text(value)}"


def _insert(connection: Connection, sql: str, format_: str, data: memoryview) -> Answer:
    """Ten times as fast as handing statement and rows to `query` as one text; of the settings that Proxist uses, this
    path does not know `max_partitions_per_insert_block`.
    """
    with connection.send_insert(sql, format_) as insert:
        insert.append(data)
        result = insert.finish()
    return Answer(
        b"",
        written_rows=result.rows_written,
        written_bytes=result.bytes_written,
        elapsed_ns=int(result.elapsed * 1e9),
    )


def _answer(result: Any) -> Answer:
    return Answer(
        result.bytes(),
        read_rows=result.storage_rows_read(),
        read_bytes=result.storage_bytes_read(),
        written_rows=result.rows_written(),
        written_bytes=result.bytes_written(),
        elapsed_ns=int(result.elapsed() * 1e9),
    )


def _quote_name(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _quote_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
