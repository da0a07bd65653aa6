"""One open DoExchange: many queries of one shape, one at a time; and who ends those that take too long."""

from __future__ import annotations

import itertools
import json
import threading
import time
from types import TracebackType
from typing import Any

import pyarrow as pa

from proxist.client.answer import Answer
from proxist.client.wire import UNREACHABLE, Wire
from proxist.errors import DeadlineExceeded, InternalError, ProxistError, Unavailable, from_json
from proxist.telemetry import tracing

_WATCH_S = 1.0
_LIFE_S = 7 * 86_400.0


class QueryStream:
    """Flight gives a stream one probe schema and one answer schema: queries of one `shape_of` share one."""

    def __init__(self, wire: Wire) -> None:
        self._exchange = wire.do_exchange({"session": True}, timeout_s=_LIFE_S, lasting=True)
        self.broken = False
        """The stream itself has ended, unlike after a query that the server answered with an error."""
        self._ids = itertools.count(1)
        self._schema: pa.Schema | None = None

    def ask(self, query: dict[str, Any], probes: pa.RecordBatch | None) -> Answer:
        """Raises the server's error; where the stream ends meanwhile, `broken` is set before that is raised."""
        query_id = next(self._ids)
        try:
            context = tracing.traceparent()
            traced = {} if context is None else {tracing.TRACEPARENT: context}
            self._exchange.write({**query, "id": query_id, **traced}, probes)
            batches, last = self._read(query_id)
        except ProxistError:
            self.broken = True
            raise
        except StopIteration:
            self.broken = True
            raise Unavailable("The server ended the session. Ask again; a new one is opened.") from None
        if "error" in last:
            raise from_json(last["error"])
        return Answer(self._table(batches), last.get("receipt"))

    def _read(self, query_id: int) -> tuple[list[pa.RecordBatch], dict[str, Any]]:
        batches = []
        good = b'{"id": %d, "last": true, "receipt": ' % query_id
        while True:
            chunk = self._exchange.read()
            if chunk.batch is not None:
                batches.append(chunk.batch)
            if chunk.metadata is not None and chunk.metadata.startswith(good):
                return batches, {"receipt": chunk.metadata}  # read when somebody looks at it
            told = json.loads(chunk.metadata) if chunk.metadata else {}
            if told.get("last"):
                if told.get("id") != query_id:
                    raise InternalError(f"The session answered query {told.get('id')!r} instead of {query_id}.")
                return batches, told

    def _table(self, batches: list[pa.RecordBatch]) -> pa.Table:
        if self._schema is None and batches:
            self._schema = batches[0].schema
        return pa.Table.from_batches(batches, self._schema or pa.schema([]))

    def cancel(self) -> None:
        """From any thread: a query that is under way finds the stream broken."""
        self._exchange.cancel()

    def close(self) -> None:
        """End it in order; nothing is under way."""
        try:
            self._exchange.done_writing()
            self._exchange.close()
        except ProxistError:
            pass  # it ended before; nobody waits for an answer of it


class Watchdog:
    """Cancels streams whose query is out of time. One look per second costs a query nothing, unlike a timer each.

    Thread-safe. `_lock` guards everything; a stream is cancelled under it, so never after its query has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[QueryStream, float] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def watching(self, stream: QueryStream, uri: str, timeout_s: float) -> _Watching:
        """Around one query. Raises DeadlineExceeded where it was cancelled for its time, and what else broke the stream
        with `uri` in its details."""
        return _Watching(self, stream, uri, timeout_s)

    def begin(self, stream: QueryStream, until: float) -> None:
        """`end` follows."""
        with self._lock:
            self._until[stream] = until
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="proxist-session-watchdog", daemon=True)
                self._thread.start()

    def end(self, stream: QueryStream) -> None:
        """The stream is not cancelled from here on."""
        with self._lock:
            del self._until[stream]

    def check_open(self, uri: str) -> None:
        """Raises Unavailable after `close`."""
        if self._closed.is_set():
            raise Unavailable("The session is closed. Open another one.", unreachable=uri)

    def close(self) -> None:
        """Queries under way are cancelled; there must be no later ones."""
        with self._lock:
            self._closed.set()
            for stream in self._until:
                stream.cancel()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(_WATCH_S):
            now = time.monotonic()
            with self._lock:
                for stream, until in self._until.items():
                    if now > until:
                        stream.cancel()


class _Watching:
    """A context manager of one query; a class, since a generator's costs what the rest of a small query does."""

    __slots__ = ("_dog", "_stream", "_timeout_s", "_until", "_uri")

    def __init__(self, dog: Watchdog, stream: QueryStream, uri: str, timeout_s: float) -> None:
        self._dog, self._stream, self._uri, self._timeout_s = dog, stream, uri, timeout_s
        self._until = 0.0

    def __enter__(self) -> None:
        self._until = time.monotonic() + self._timeout_s
        self._dog.begin(self._stream, self._until)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._dog.end(self._stream)
        if not self._stream.broken or not isinstance(error, ProxistError):
            return
        if time.monotonic() >= self._until:
            raise DeadlineExceeded(
                f"{self._uri} did not answer a session's query within {self._timeout_s:g} s. Raise timeout_s, or ask for "
                "less."
            ) from None
        if isinstance(error, Unavailable):
            error.details[UNREACHABLE] = self._uri


def shape_of(query: dict[str, Any], probes: pa.RecordBatch | None) -> str:
    """What decides the schemas of a stream: the query without its keys, times, numbers and tokens, and the probes' schema."""
    schema = "" if probes is None else probes.schema.to_string(show_field_metadata=False, show_schema_metadata=False)
    return (
        repr(query.get("sql") or [(verb, _columns(part)) for verb, part in query.items() if type(part) is dict])
        + schema
    )


def _columns(body: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(n, _columns(part) if type(part) is dict else part) for n, part in body.items() if n in _SHAPING]


_SHAPING = frozenset({"table", "columns", "left", "right", "probe", "aggs", "fill", "shard", "op", "rows_of"})
