"""Open DoExchange streams: many queries, one round trip each."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import OrderedDict
from typing import Any

import pyarrow as pa

from proxist.client.answer import Answer
from proxist.client.tracing import query_span
from proxist.client.verbs import Verbs
from proxist.client.wire import UNREACHABLE, Wire
from proxist.errors import DeadlineExceeded, InternalError, ProxistError, Unavailable, from_json
from proxist.telemetry import tracing

STREAMS_MAX = 16
"""Each pins a thread of the server; the one used longest ago is closed for a new one."""
_WATCH_S = 1.0
_LIFE_S = 7 * 86_400.0


class Session(Verbs):
    """Queries over open streams: `with connection.session() as s: s.last_by("trades", ["BTCUSDT"])`.

    Flight gives a stream one probe schema and one answer schema, so a session keeps a stream per shape of query (verb,
    tables, columns, aggregates, probe schema) and opens it with the first query of that shape. A query that fails leaves the
    session open. Streams that broke are opened again by the next query; the failed one raises Unavailable and is not
    repeated. Safe for several threads, which take turns.
    """

    def __init__(self, wire: Wire, *, timeout_s: float) -> None:
        super().__init__()
        self._wire = wire
        self._timeout_s = timeout_s
        self._lock = threading.Lock()  # guards everything below; held for the whole of a query
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._closing = threading.Event()
        self._busy: tuple[_Stream, float] | None = None
        """The stream that works on a query, and when it is out of time; read by the watchdog without the lock."""
        self._watchdog: threading.Thread | None = None

    def query(self, query: dict[str, Any], probes: pa.RecordBatch | None = None) -> Answer:
        """Any JSON query of the public surface; `probes` are the rows of `left: {"probe": true}`."""
        with query_span(query, self._wire.uri):
            return self.ask(query, probes)

    def ask(
        self, query: dict[str, Any], probes: pa.RecordBatch | None = None, *, timeout_s: float | None = None
    ) -> Answer:
        """`query` without a span, for callers that trace by themselves; `timeout_s` instead of the session's."""
        shape = _shape(query, probes)
        with self._lock:
            if self._closing.is_set():
                raise Unavailable("The session is closed. Open another one.", unreachable=self._wire.uri)
            stream = self._stream(shape)
            self._busy = stream, time.monotonic() + (timeout_s or self._timeout_s)
            try:
                return stream.ask(query, probes)
            except _Broken as broken:
                del self._streams[shape]
                stream.close()
                raise self._explained(broken.error) from None
            finally:
                self._busy = None

    def close(self) -> None:
        self._closing.set()
        if self._watchdog is not None:
            self._watchdog.join()
        with self._lock:
            streams = list(self._streams.values())
            self._streams.clear()
        for stream in streams:
            stream.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _explained(self, error: ProxistError) -> ProxistError:
        if self._busy is None or time.monotonic() < self._busy[1]:
            if isinstance(error, Unavailable):
                error.details[UNREACHABLE] = self._wire.uri
            return error
        return DeadlineExceeded(
            f"{self._wire.uri} did not answer a session's query in time. Raise timeout_s, or ask for less."
        )

    def _watch(self) -> None:
        """Cancels a stream whose query is out of time. One look per second costs a query nothing, unlike a timer each."""
        while not self._closing.wait(_WATCH_S):
            busy = self._busy
            if busy is not None and time.monotonic() > busy[1]:
                busy[0].cancel()

    def _stream(self, shape: str) -> _Stream:
        stream = self._streams.get(shape)
        if self._watchdog is None:
            self._watchdog = threading.Thread(target=self._watch, name="proxist-session-watchdog", daemon=True)
            self._watchdog.start()
        if stream is None:
            if len(self._streams) >= STREAMS_MAX:
                self._streams.popitem(last=False)[1].close()
            stream = self._streams[shape] = _Stream(self._wire)
        self._streams.move_to_end(shape)
        return stream


class _Broken(Exception):
    """The stream itself ended, unlike a query that the server answered with an error."""

    def __init__(self, error: ProxistError) -> None:
        super().__init__()
        self.error = error


class _Stream:
    """One DoExchange, one query at a time."""

    def __init__(self, wire: Wire) -> None:
        self._exchange = wire.do_exchange({"session": True}, timeout_s=_LIFE_S, lasting=True)
        self._ids = itertools.count(1)
        self._schema: pa.Schema | None = None

    def ask(self, query: dict[str, Any], probes: pa.RecordBatch | None) -> Answer:
        query_id = next(self._ids)
        try:
            context = tracing.traceparent()
            traced = {} if context is None else {tracing.TRACEPARENT: context}
            self._exchange.write({**query, "id": query_id, **traced}, probes)
            batches, last = self._read(query_id)
        except ProxistError as error:
            raise _Broken(error) from None
        except StopIteration:
            raise _Broken(Unavailable("The server ended the session. Ask again; a new one is opened.")) from None
        if "error" in last:
            raise from_json(last["error"])
        return Answer(self._table(batches), last.get("receipt"))

    def _read(self, query_id: int) -> tuple[list[pa.RecordBatch], dict[str, Any]]:
        batches = []
        while True:
            chunk = self._exchange.read()
            if chunk.batch is not None:
                batches.append(chunk.batch)
            told = json.loads(chunk.metadata) if chunk.metadata else {}
            if told.get("last"):
                if told.get("id") != query_id:
                    raise InternalError(f"The session answered query {told.get('id')!r} instead of {query_id}.")
                return batches, told

    def _table(self, batches: list[pa.RecordBatch]) -> pa.Table:
        if batches:
            self._schema = batches[0].schema
        return pa.Table.from_batches(batches, self._schema or pa.schema([]))

    def cancel(self) -> None:
        self._exchange.cancel()

    def close(self) -> None:
        try:
            self._exchange.done_writing()
            self._exchange.close()
        except ProxistError:
            pass  # it ended before; nobody waits for an answer of it


def _shape(query: dict[str, Any], probes: pa.RecordBatch | None) -> str:
    """What decides the schemas of a stream: the query without its keys, times, numbers and tokens, and the probes' schema."""
    schema = "" if probes is None else probes.schema.to_string(show_field_metadata=False, show_schema_metadata=False)
    body = query.get("sql") or {verb: _columns(body) for verb, body in query.items() if isinstance(body, dict)}
    return json.dumps([body, schema], sort_keys=True)


def _columns(body: dict[str, Any]) -> dict[str, Any]:
    kept = ("table", "columns", "left", "right", "probe", "aggs", "fill", "shard", "op")
    return {name: _columns(part) if isinstance(part, dict) else part for name, part in body.items() if name in kept}
