"""FlightPeer: calls another Flight door, with a deadline on every call and our errors instead of pyarrow's.

Tickets, commands and action bodies are JSON objects. A peer is thread-safe; the streams that it opens are for one
thread each, except that a PutStream is written by one thread and its acks are read by another.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

import pyarrow as pa
from pyarrow import flight

from proxist.auth.outgoing import Credential
from proxist.auth.outgoing import header as auth_header
from proxist.errors import ProxistError, Unavailable
from proxist.rpc.handshake import REASON
from proxist.rpc.status import from_flight
from proxist.rpc.tls import Tls, own
from proxist.rpc.tracing import flight_headers, flight_outgoing

_IN_CLEAR = ("grpc://", "grpc+tcp://")
WRITE_BYTES_MAX = 1 << 30
"""A larger message could pass Flight's hard limit of 2 GiB; pyarrow then raises FlightWriteSizeExceededError."""


@dataclass(frozen=True)
class Answer:
    """A whole DoGet answer. `metadata` is the schema's; `app_metadata` came with the last batch that had any."""

    table: pa.Table
    metadata: Mapping[bytes, bytes]
    app_metadata: bytes | None


class Chunk(NamedTuple):
    """One message of a stream: either part may be missing."""

    batch: pa.RecordBatch | None
    metadata: bytes | None


class FlightPeer:
    """One server at `uri` (grpc://host:port, grpc+tls://host:port or grpc+unix:///path). Connects at the first call,
    again after a break.

    `credential` gives the token of each call; without one calls carry what this process presents, nothing as a rule.
    `tls`, by default the process' own, counts for grpc+tls:// alone; renewed files from the next call on. Raises
    ConfigError where they cannot be used. Where it has files, a call in clear that would carry a token raises Unavailable.
    """

    def __init__(self, uri: str, credential: Credential | None = None, tls: Tls | None = None) -> None:
        self.uri = uri
        self._credential = credential
        shown = tls or own()
        self._no_token = shown.asked and uri.startswith(_IN_CLEAR)
        self._shown = shown.renewed(shown.flight_client) if uri.startswith("grpc+tls://") else None
        self._clients = [self._connect(self._shown.value if self._shown else {})]
        """The last one is for calls; streams may still be open on those before."""

    def _connect(self, shown: Mapping[str, Any]) -> flight.FlightClient:
        try:
            return flight.connect(
                self.uri,
                **shown,
                write_size_limit_bytes=WRITE_BYTES_MAX,
                generic_options=[
                    ("grpc.initial_reconnect_backoff_ms", 100),
                    ("grpc.max_reconnect_backoff_ms", 1_000),
                    ("grpc.keepalive_time_ms", 10_000),
                    ("grpc.keepalive_timeout_ms", 5_000),
                    ("grpc.http2.ping_timeout_ms", 5_000),
                    # Peers of one host and port must not share a connection pool: a test restarts servers.
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.enable_http_proxy", 0),
                ],
            )
        except (pa.ArrowException, ValueError) as error:
            raise self._typed(error) from None

    @property
    def _client(self) -> flight.FlightClient:
        """Of the TLS files as they are now."""
        if self._shown is not None and (shown := self._shown.changed()) is not None:
            self._clients.append(self._connect(shown))
        return self._clients[-1]

    def do_get(self, ticket: Mapping[str, Any] | bytes, *, timeout_s: float) -> Answer:
        """The whole answer. Raises the server's error class, Unavailable or DeadlineExceeded."""
        with flight_outgoing("DoGet", self.uri):
            return self._get(ticket, timeout_s)

    def _get(self, ticket: Mapping[str, Any] | bytes, timeout_s: float) -> Answer:
        try:
            reader = self._client.do_get(flight.Ticket(_json(ticket)), self._options(timeout_s))
            batches, app_metadata = [], None
            for chunk in reader:
                if chunk.data is not None:
                    batches.append(chunk.data)
                if chunk.app_metadata is not None:
                    app_metadata = chunk.app_metadata.to_pybytes()
            schema = reader.schema
            table = pa.Table.from_batches(batches, schema=schema)
        except pa.ArrowException as error:
            raise self._typed(error) from None
        return Answer(table, schema.metadata or {}, app_metadata)

    def stream(self, ticket: Mapping[str, Any] | bytes, *, timeout_s: float) -> GetStream:
        """A DoGet answer chunk by chunk; for endless streams `timeout_s` bounds the stream's life."""
        try:
            reader = self._client.do_get(flight.Ticket(_json(ticket)), self._lasting(timeout_s))
            return GetStream(self, reader)
        except pa.ArrowException as error:
            raise self._typed(error) from None

    def do_put(self, path: Sequence[str], schema: pa.Schema, *, timeout_s: float) -> PutStream:
        """Open a DoPut to `path`; for long-lived streams `timeout_s` bounds the stream's life."""
        try:
            descriptor = flight.FlightDescriptor.for_path(*path)
            writer, reader = self._client.do_put(descriptor, schema, self._lasting(timeout_s))
        except pa.ArrowException as error:
            raise self._typed(error) from None
        return PutStream(self, writer, reader)

    def do_exchange(self, command: Mapping[str, Any] | bytes, *, timeout_s: float, lasting: bool = False) -> Exchange:
        """Open a DoExchange; for sessions, which are `lasting`, `timeout_s` bounds the session's life."""
        try:
            descriptor = flight.FlightDescriptor.for_command(_json(command))
            options = self._lasting(timeout_s) if lasting else self._options(timeout_s)
            writer, reader = self._client.do_exchange(descriptor, options)
        except pa.ArrowException as error:
            raise self._typed(error) from None
        return Exchange(self, writer, reader)

    def do_action(self, name: str, body: Mapping[str, Any] | None = None, *, timeout_s: float) -> list[Any]:
        """The results, each parsed as JSON."""
        with flight_outgoing("DoAction", self.uri, name):
            try:
                results = self._client.do_action(flight.Action(name, _json(body or {})), self._options(timeout_s))
                return [json.loads(result.body.to_pybytes()) for result in results]
            except pa.ArrowException as error:
                raise self._typed(error) from None

    def get_flight_info(self, command: Mapping[str, Any] | bytes, *, timeout_s: float) -> flight.FlightInfo:
        try:
            descriptor = flight.FlightDescriptor.for_command(_json(command))
            return self._client.get_flight_info(descriptor, self._options(timeout_s))
        except pa.ArrowException as error:
            raise self._typed(error) from None

    def list_flights(self, *, timeout_s: float) -> list[flight.FlightInfo]:
        try:
            return list(self._client.list_flights(b"", self._options(timeout_s)))
        except pa.ArrowException as error:
            raise self._typed(error) from None

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _options(self, timeout_s: float) -> flight.FlightCallOptions:
        return flight.FlightCallOptions(timeout=timeout_s, headers=[*flight_headers(), *self._auth()])

    def _lasting(self, timeout_s: float) -> flight.FlightCallOptions:
        """Of a stream that outlives the operation that opened it, so it is no part of its trace."""
        return flight.FlightCallOptions(timeout=timeout_s, headers=self._auth())

    def _auth(self) -> list[tuple[bytes, bytes]]:
        carried = auth_header(self._credential)
        if carried and self._no_token:
            raise Unavailable(
                f"{self.uri} speaks no TLS, and a token would go to it in clear, though TLS files are given. Call it as "
                "grpc+tls://, or, where nobody listens on the way, without `tls_ca`, `tls_cert` and `tls_key` "
                "(PROXIST_TLS_CA, PROXIST_TLS_CERT, PROXIST_TLS_KEY).",
                reason=REASON,
            )
        return [(name.encode(), value.encode()) for name, value in carried]

    def _typed(self, error: BaseException) -> BaseException:
        return from_flight(error, self.uri)


class GetStream:
    """Iterate for chunks; `cancel` from any thread ends it on both sides. Errors are typed."""

    def __init__(self, peer: FlightPeer, reader: Any) -> None:
        self._peer = peer
        self._reader = reader

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        return _read_chunk(self._peer, self._reader)

    def cancel(self) -> None:
        self._reader.cancel()


class PutStream:
    """Writes on one thread, acks on another. The server's error is raised by whichever of the two sees it first."""

    def __init__(self, peer: FlightPeer, writer: Any, reader: Any) -> None:
        self._peer = peer
        self._writer = writer
        self._reader = reader
        self._lock = threading.Lock()  # one at a time writes to, or closes, the writer

    def write(self, batch: pa.RecordBatch, metadata: Mapping[str, Any] | None = None) -> None:
        """Hand the batch to the transport; what became of it is in its ack."""
        try:
            with self._lock:
                if metadata is None:
                    self._writer.write_batch(batch)
                else:
                    self._writer.write_with_metadata(batch, _json(metadata))
        except pa.ArrowException as error:
            self._raise(error)

    def read_ack(self) -> dict[str, Any] | None:
        """The next PutResult, waiting for it; None when the server has ended the stream without an error."""
        try:
            buffer = self._reader.read()
        except pa.ArrowException as error:
            self._raise(error)
        if buffer is None:  # the end, with or without an error: only closing tells
            self.close()
            return None
        return json.loads(buffer.to_pybytes())

    def done_writing(self) -> None:
        """No more batches; acks go on until the server closes."""
        try:
            with self._lock:
                self._writer.done_writing()
        except pa.ArrowException as error:
            self._raise(error)

    def close(self) -> None:
        """End the stream and raise the server's error, if any. All acks must have been read before."""
        try:
            with self._lock:
                self._writer.close()
        except pa.ArrowException as error:
            raise from_flight(error, self._peer.uri) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
            return
        with contextlib.suppress(ProxistError):  # the first error is the one to see
            self.close()

    def _raise(self, error: BaseException) -> NoReturn:
        """A write to a stream that the server ended says only that; the server's own error comes from closing."""
        self.close()
        raise from_flight(error, self._peer.uri) from None


class Exchange:
    """One open DoExchange. `begin` fixes the schema that is written, the first batch read fixes the other one."""

    def __init__(self, peer: FlightPeer, writer: Any, reader: Any) -> None:
        self._peer = peer
        self._writer = writer
        self._reader = reader
        self._schema: pa.Schema | None = None

    def write(self, metadata: Mapping[str, Any] | bytes | None = None, batch: pa.RecordBatch | None = None) -> None:
        """Send one message: metadata, a batch, or both. All batches of one exchange have one schema."""
        try:
            if batch is None:
                self._writer.write_metadata(_json(metadata or {}))
                return
            if self._schema is None:
                self._writer.begin(batch.schema)
                self._schema = batch.schema
            if metadata is None:
                self._writer.write_batch(batch)
            else:
                self._writer.write_with_metadata(batch, _json(metadata))
        except pa.ArrowException as error:
            raise from_flight(error, self._peer.uri) from None

    def read(self) -> Chunk:
        """The next message; StopIteration at the end."""
        return _read_chunk(self._peer, self._reader)

    def schema(self) -> pa.Schema:
        """Of the batches read; waits for the first one's."""
        return self._reader.schema

    def done_writing(self) -> None:
        try:
            self._writer.done_writing()
        except pa.ArrowException as error:
            raise from_flight(error, self._peer.uri) from None

    def cancel(self) -> None:
        self._reader.cancel()

    def close(self) -> None:
        try:
            self._writer.close()
        except pa.ArrowException as error:
            raise from_flight(error, self._peer.uri) from None


def _read_chunk(peer: FlightPeer, reader: Any) -> Chunk:
    try:
        chunk = reader.read_chunk()
    except pa.ArrowException as error:
        raise from_flight(error, peer.uri) from None
    metadata = chunk.app_metadata
    return Chunk(chunk.data, None if metadata is None else metadata.to_pybytes())


def _json(value: Mapping[str, Any] | bytes) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()
