"""Open DoExchange streams: many queries, one round trip each."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import pyarrow as pa

from proxist.client.answer import Answer
from proxist.client.stream import QueryStream, Watchdog, shape_of
from proxist.client.tracing import query_span
from proxist.client.verbs import Verbs
from proxist.client.wire import Wire
from proxist.errors import ProxistError

STREAMS_MAX = 16
"""Each pins a thread of the server; the one used longest ago is closed for a new one."""


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
        self._watchdog = Watchdog()
        self._lock = threading.Lock()  # guards _streams; held for the whole of a query
        self._streams: OrderedDict[str, QueryStream] = OrderedDict()

    def query(self, query: dict[str, Any], probes: pa.RecordBatch | None = None) -> Answer:
        """Any JSON query of the public surface; `probes` are the rows of `left: {"probe": true}`."""
        with query_span(query, self._wire.uri), self._lock:
            self._watchdog.check_open(self._wire.uri)
            shape = shape_of(query, probes)
            stream = self._stream(shape)
            try:
                with self._watchdog.watching(stream, self._wire.uri, self._timeout_s):
                    return stream.ask(query, probes)
            except ProxistError:
                if stream.broken:
                    del self._streams[shape]
                    stream.close()
                raise

    def close(self) -> None:
        """A query that is under way on another thread ends with Unavailable, and so does every later one."""
        self._watchdog.close()
        with self._lock:
            streams = list(self._streams.values())
            self._streams.clear()
        for stream in streams:
            stream.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stream(self, shape: str) -> QueryStream:
        stream = self._streams.get(shape)
        if stream is None:
            if len(self._streams) >= STREAMS_MAX:
                self._streams.popitem(last=False)[1].close()
            stream = self._streams[shape] = QueryStream(self._wire)
        self._streams.move_to_end(shape)
        return stream
