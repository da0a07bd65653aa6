"""The one way to a ClickHouse server: clickhouse-connect over HTTP, with what Proxist must be sure of spelled out."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httpclient import HttpClient
from clickhouse_connect.driver.httputil import get_pool_manager
from urllib3 import Timeout
from urllib3.exceptions import HTTPError

from proxist.clickhouse import ddl
from proxist.clickhouse.content import compared_schema
from proxist.clickhouse.failures import from_clickhouse, not_connected
from proxist.clickhouse.types import cold_to_schema, stored_schema, to_stored
from proxist.clickhouse.wire import CutShort, arrow_stream, external_data, read_answer
from proxist.config import without_password
from proxist.errors import ConfigError, ProxistError, Unavailable
from proxist.model.ids import Offset, ShardId
from proxist.model.table import Table
from proxist.telemetry import tracing
from proxist.telemetry.figures import Histogram
from proxist.telemetry.metrics import STORE_S
from proxist.telemetry.tracing import Span

if TYPE_CHECKING:
    from proxist.rpc.tls import Tls  # a value that is handed in: this layer imports nothing of the doors

INSERT_ROWS_MAX = 1_000_000
"""Rows of one insert: more would be cut into several blocks, and one insert must be one block (atomic, one token)."""
POOL_CONNECTIONS_MAX = 32
OUTCOMES = ("none", "failed", "unknown")
"""What is known of a statement that raised (see `failures`)."""
_ANSWER_GRACE_S = 2.0
"""ClickHouse ends a statement at its own bound first, with a better message than a broken connection."""

_INSERT_SETTINGS: dict[str, Any] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "max_insert_threads": 1,
    "max_insert_block_size": 2 * INSERT_ROWS_MAX,
    "min_insert_block_size_rows": 2 * INSERT_ROWS_MAX,
    "min_insert_block_size_bytes": 0,
    "max_partitions_per_insert_block": 1,
    "throw_on_max_partitions_per_insert_block": 1,
    # A column that is missing or of another type is an error, never a default.
    "input_format_arrow_allow_missing_columns": 0,
    "input_format_null_as_default": 0,
    "input_format_defaults_for_omitted_fields": 0,
}

_READ_BACK = {"select_sequential_consistency": 1}


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a ClickHouse server listens, from a URL such as `http://user:secret@host:8123`."""

    host: str
    port: int
    user: str
    password: str = dataclasses.field(repr=False)
    secure: bool

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """For people and for the wire: without user and password."""
        return f"{'https' if self.secure else 'http'}://{self}"


def parse_endpoint(url: str) -> Endpoint:
    """Raises ConfigError where `url` is not http(s)://[user[:password]@]host[:port]."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise ConfigError(
            f"`clickhouse` is {without_password(url)!r}, but must be the URL of ClickHouse's HTTP interface. "
            "Write for example http://127.0.0.1:8123."
        )
    secure = parts.scheme == "https"
    return Endpoint(
        parts.hostname,
        port or (8443 if secure else 8123),
        unquote(parts.username or "default"),
        unquote(parts.password or ""),
        secure,
    )


class ClickHouse:
    """A server's statements. Thread-safe; connects on first use, so constructing succeeds while the server is down.

    Nothing is retried in here: a caller that repeats an insert has read back first. Errors are those of
    `proxist.clickhouse.failures`: `details["outcome"]` is "none", "failed" or "unknown".
    """

    def __init__(
        self, url: str, *, tls: Tls | None = None, connect_timeout_s: float = 3.0, answer_timeout_s: float = 300.0
    ) -> None:
        """`tls` is for https: what is shown and trusted; without a `ca` in it: whom the machine trusts. Each new
        connection reads its files. `answer_timeout_s`: silence after which a statement's outcome counts as unknown.

        Raises ConfigError for a URL that is none, and for TLS files that cannot be used.
        """
        self.endpoint = parse_endpoint(url)
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._pool = get_pool_manager(maxsize=POOL_CONNECTIONS_MAX, num_pools=4, **self._files(tls))
        self._local = threading.local()
        self._count_lock = threading.Lock()  # guards _statements and _failures
        self._statements = 0
        self._failures = dict.fromkeys(OUTCOMES, 0)
        self.statement_seconds = Histogram(STORE_S)
        """Of every statement, failed ones too."""

    def _files(self, tls: Tls | None) -> dict[str, Any]:
        """As urllib3 takes them: by path, read for each connection."""
        if tls is None or not self.endpoint.secure:
            return {}
        tls.check()
        files = {"ca_cert": tls.ca, "client_cert": tls.cert, "client_cert_key": tls.key}
        return {name: str(path) for name, path in files.items() if path is not None}

    @property
    def statements(self) -> int:
        """Statements sent by this object so far (pings are not statements)."""
        with self._count_lock:
            return self._statements

    @property
    def failures(self) -> dict[str, int]:
        """Statements that raised, by `details["outcome"]`."""
        with self._count_lock:
            return dict(self._failures)

    def _failed(self, error: ProxistError) -> None:
        with self._count_lock:
            self._failures[str(error.details.get("outcome", "unknown"))] += 1

    def check(self) -> None:
        """Returns where the server answers /ping now; raises Unavailable, as a statement that was not sent."""
        url = f"{self.endpoint.url}/ping"
        try:
            answer = self._pool.request("GET", url, timeout=self._connect_timeout_s, retries=False)
        except HTTPError as error:
            raise not_connected(error, str(self.endpoint), secure=self.endpoint.secure) from None
        if answer.status != 200:
            raise Unavailable(f"{url} answers {answer.status}. Check that ClickHouse is there.", outcome="none")

    def ping(self) -> bool:
        """Whether the server answers /ping now."""
        try:
            self.check()
        except Unavailable:
            return False
        return True

    def create_table(self, table: Table) -> None:
        """On return the tenant's database and the table exist. Repeating it is harmless."""
        self.command(ddl.create_database_sql(table.tenant))
        self.command(ddl.create_table_sql(table))

    def drop_table(self, table: Table) -> None:
        """On return the table and its rows are gone and the name is free. Repeating it is harmless."""
        self.command(ddl.drop_table_sql(table))

    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        """Insert `rows` as one block under the deduplication token `token`; true on return: confirmed by ClickHouse.

        `rows` has the table's columns in any order and `_log`, `_offset`, and is sorted by `ddl.sort_columns`. It
        holds 1 to INSERT_ROWS_MAX rows of one partition, else ValueError: more would not be atomic. A repeat under
        the same token within the table's dedup window changes nothing.
        """
        _check_one_block(rows, table.spec.time)
        names = stored_schema(table.spec).names
        body = arrow_stream(to_stored(rows.select(names)))
        settings = {**_INSERT_SETTINGS, "insert_deduplication_token": token, "query_id": f"{token}/{uuid.uuid4()}"}
        with self._statement("INSERT", table=table, row_count=rows.num_rows) as client:
            # A memoryview: clickhouse-connect repeats bytes after a dropped connection, but not this.
            block: Any = memoryview(body)
            client.raw_insert(
                ddl.table_name(table), names, block, settings, fmt="ArrowStream", transport_settings=tracing.headers()
            )

    def offsets_present(
        self, table: Table, shard: ShardId, at_or_above: Offset, below: Offset | None = None
    ) -> pa.Table:
        """Which rows of a shard with offset in [at_or_above, below) are stored: `_log`, `_offset`, `copies`.

        One row per (log, offset), ordered by (offset, log); `copies` above 1 means a row that was stored twice.
        """
        first, last = ddl.log_range(shard)
        until = "" if below is None else f" AND _offset < {below}"
        return self.read(
            f"SELECT _log, _offset, count() AS copies FROM {ddl.table_name(table)} "
            f"WHERE _log >= {first} AND _log <= {last} AND _offset >= {at_or_above}{until} "
            "GROUP BY _log, _offset ORDER BY _offset, _log"
        )

    def rows_present(
        self,
        table: Table,
        shard: ShardId,
        first: Offset,
        end: Offset,
        times_ns: tuple[int, int] | None = None,
        timeout_s: float | None = None,
    ) -> pa.Table:
        """Every stored row of a shard with offset in [first, end), as `content` compares them, by (offset, log).

        A row that is stored twice comes twice. `times_ns`: only rows from the one to the other, both closed, so that
        partitions of other days are not opened.
        """
        schema = compared_schema(table.spec)
        columns = ", ".join(ddl.quote(name) for name in schema.names)
        low, high = ddl.log_range(shard)
        time = ddl.quote(table.spec.time)
        bounds = zip((">=", "<="), times_ns or (), strict=False)
        within = "".join(f" AND {time} {sign} fromUnixTimestamp64Nano({at}, 'UTC')" for sign, at in bounds)
        rows = self.read(
            f"SELECT {columns} FROM {ddl.table_name(table)} "
            f"WHERE _log >= {low} AND _log <= {high} AND _offset >= {first} AND _offset < {end}{within}",
            timeout_s,
        )
        return cold_to_schema(rows, schema).take(_offset_order(rows, first, end)).combine_chunks()

    def query(
        self,
        sql: str,
        external: Mapping[str, pa.Table] | None = None,
        settings: Mapping[str, Any] | None = None,
        query_id: str | None = None,
        *,
        structures: Mapping[str, str] | None = None,
        database: str | None = None,
        timeout_s: float | None = None,
    ) -> pa.Table:
        """Run a SELECT (or another statement that answers rows) and return its rows as ClickHouse's Arrow types.

        `external`: temporary tables of this statement alone, by name; `structures` gives a table's names and
        ClickHouse types (`types.structure`), else they follow from its Arrow schema. `database`: where unqualified
        names are looked up (default `default`). `timeout_s`: a bound that ClickHouse keeps too; DeadlineExceeded when
        it passes. A String column that is not UTF-8 comes back as binary.
        """
        send = dict(settings or {})
        send["query_id"] = query_id or str(uuid.uuid4())
        if database is not None:
            send["database"] = database
        if timeout_s is not None:
            send.setdefault("max_execution_time", max(timeout_s, 0.001))
        data = external_data(external, structures or {}) if external else None
        with self._statement("SELECT", timeout_s) as client:
            answer = client.raw_query(
                sql, settings=send, fmt="ArrowStream", external_data=data, transport_settings=tracing.headers()
            )
            try:
                return read_answer(answer)
            except CutShort:
                raise self._cut_short() from None

    def read(self, sql: str, timeout_s: float | None = None) -> pa.Table:
        """The rows of a SELECT on what was written, whose answer has columns even where it has no rows."""
        answer = self.query(sql, settings=_READ_BACK, timeout_s=timeout_s)
        if not answer.num_columns:
            raise self._cut_short()
        return answer

    def _cut_short(self) -> Unavailable:
        return Unavailable(
            f"ClickHouse at {self.endpoint} ended its answer before the last row. Repeat the statement.",
            retry_after_s=0.1,
            outcome="unknown",
        )

    def command(self, sql: str, settings: Mapping[str, Any] | None = None, *, timeout_s: float | None = None) -> None:
        """Run a statement whose answer is not rows; `timeout_s` as in `query`."""
        send = dict(settings or {})
        send.setdefault("query_id", str(uuid.uuid4()))
        with self._statement("COMMAND", timeout_s) as client:
            client.raw_query(sql, settings=send, transport_settings=tracing.headers())

    def close(self) -> None:
        """Close the pooled connections. A later statement opens new ones."""
        self._pool.clear()

    def _statement(
        self,
        operation: str,
        timeout_s: float | None = None,
        *,
        table: Table | None = None,
        row_count: int | None = None,
    ) -> _Statement:
        with self._count_lock:
            self._statements += 1
        span = tracing.outgoing(operation if table is None else f"{operation} {table.name}")
        if span.recording:
            span.set("db.system.name", "clickhouse")
            span.set("db.operation.name", operation)
            span.set("db.collection.name", None if table is None else table.name)
            span.set("db.namespace", None if table is None else table.tenant)
            span.set("db.operation.batch.size", row_count)
            span.set("server.address", self.endpoint.host)
            span.set("server.port", self.endpoint.port)
        return _Statement(self, timeout_s, span)

    def _client(self) -> HttpClient:
        """This thread's client: clickhouse-connect objects are not shared between threads (its issue 295)."""
        client: HttpClient | None = getattr(self._local, "client", None)
        if client is None:
            client = HttpClient(
                interface="https" if self.endpoint.secure else "http",
                host=self.endpoint.host,
                port=self.endpoint.port,
                username=self.endpoint.user,
                password=self.endpoint.password,
                connect_timeout=math.ceil(self._connect_timeout_s),
                send_receive_timeout=math.ceil(self._answer_timeout_s),
                query_retries=0,
                compress=False,
                autogenerate_session_id=False,
                autogenerate_query_id=False,
                database=None,
                pool_mgr=self._pool,
            )
            client.http_retries = 0
            self._local.client = client
        return client


class _Statement:
    """Gives the thread's client for one statement and turns what it raises into Proxist's errors."""

    def __init__(self, owner: ClickHouse, timeout_s: float | None, span: Span) -> None:
        self._span = span
        self._owner = owner
        self._timeout_s = timeout_s
        self._began = time.perf_counter()

    def __enter__(self) -> HttpClient:
        try:
            client = self._owner._client()
        except (ClickHouseError, HTTPError, OSError) as error:
            typed = not_connected(error, str(self._owner.endpoint), secure=self._owner.endpoint.secure)
            self._owner._failed(typed)
            self._span.fail(typed)
            self._span.end()
            raise typed from None
        self._span.__enter__()
        read_s = self._owner._answer_timeout_s if self._timeout_s is None else self._timeout_s + _ANSWER_GRACE_S
        client.timeout = Timeout(connect=self._owner._connect_timeout_s, read=read_s)
        return client

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._owner.statement_seconds.observe(time.perf_counter() - self._began)
        self._span.__exit__(None, error, None)
        if isinstance(error, ClickHouseError | HTTPError | OSError):
            typed = from_clickhouse(error, str(self._owner.endpoint), bounded=self._timeout_s is not None)
            self._owner._failed(typed)
            raise typed from None


def _check_one_block(rows: pa.Table, time: str) -> None:
    if not 1 <= rows.num_rows <= INSERT_ROWS_MAX:
        raise ValueError(f"one insert holds 1 to {INSERT_ROWS_MAX} rows, not {rows.num_rows}")
    first, last = (int(t.value) for t in pc.min_max(rows[time]).values())
    if ddl.partition_of(first) != ddl.partition_of(last):
        raise ValueError(f"one insert is one partition, not {ddl.partition_of(first)} and {ddl.partition_of(last)}")


def _offset_order(rows: pa.Table, first: Offset, end: Offset) -> pa.Array:
    """Indices that bring `rows` of offsets [first, end) into the order of (offset, log)."""
    at = rows["_offset"].to_numpy() - np.uint64(first)
    if len(at) == end - first and at.max(initial=0) < len(at):
        order = np.full(len(at), -1, np.int64)
        order[at] = np.arange(len(at))
        if (order >= 0).all():  # each offset once, as nearly always: a tenth of the time that sorting takes
            return pa.array(order)
    return pc.sort_indices(rows, [("_offset", "ascending"), ("_log", "ascending")])
