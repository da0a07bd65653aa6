"""One open DoPut to one owner: sent on the caller's threads, acks read by a thread of its own."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from proxist.client.wire import Wire
from proxist.errors import InternalError, ProxistError, Unavailable, from_json
from proxist.rpc.status import from_flight

_CLOSE_S_MAX = 5.0

Tag = tuple[int, int]
"""(producer number, slot) of a part."""


class StreamEnded(Exception):
    """A part was not sent because the stream has ended; its `on_end`, called or about to be, has the cause."""


class PutStream:
    """`send` hands parts to the transport; `on_ack(tag, ack)` is called once per part, in order, on the ack thread.

    When the stream ends, `on_end(self, error)` is called last on the ack thread: error None only after `finish`. A stream
    that has ended stays ended; what was sent and not acked may or may not have been accepted. `_sending` guards the
    writer: closing a writer while another thread writes to it aborts the process.
    """

    def __init__(
        self,
        wire: Wire,
        table: str,
        schema: pa.Schema,
        on_ack: Callable[[Tag, dict[str, Any]], None],
        on_end: Callable[[PutStream, ProxistError | None], None],
    ) -> None:
        self._uri = wire.uri
        self._on_ack = on_ack
        self._on_end = on_end
        self._writer, self._reader = wire.open_put(table, schema)
        self._sending = threading.Lock()
        self._closed = False
        self._finishing = False
        self._unacked: deque[Tag] = deque()
        self._thread = threading.Thread(target=self._read_acks, name=f"proxist-acks-{table}", daemon=True)
        self._thread.start()

    def send(self, tag: Tag, rows: pa.RecordBatch, metadata: Mapping[str, Any]) -> None:
        """Blocks while the transport is full. Raises StreamEnded."""
        with self._sending:
            if self._closed:
                raise StreamEnded
            self._unacked.append(tag)
            try:
                self._writer.write_with_metadata(rows, json.dumps(metadata).encode())
            except pa.ArrowException:
                raise StreamEnded from None

    def finish(self) -> None:
        """Ends the stream after its acks, waiting a few seconds for them. Not from the ack thread."""
        with self._sending:
            self._finishing = True
            if not self._closed:
                try:
                    self._writer.done_writing()
                except pa.ArrowException:
                    self._closed = True
        self._thread.join(_CLOSE_S_MAX)

    def _read_acks(self) -> None:
        error: ProxistError | None = None
        try:
            while (buffer := self._reader.read()) is not None:
                self._take(json.loads(buffer.to_pybytes()))
        except (pa.ArrowException, ValueError, IndexError) as ended:
            error = from_flight(ended, self._uri)
        except ProxistError as refused:
            error = refused
        error = self._close(error)
        if error is None and not self._finishing:
            error = Unavailable(f"{self._uri} ended the stream.")
        self._on_end(self, error)

    def _take(self, ack: dict[str, Any]) -> None:
        """A first ack is for the oldest part; one with `of` tells that an earlier batch climbed, and counts no part.

        Raises what the server refused the oldest part with, where it says so before it ends the stream.
        """
        if "error" in ack:
            raise from_json(ack["error"])
        if "of" not in ack:
            self._on_ack(self._unacked.popleft(), ack)

    def _close(self, error: ProxistError | None) -> ProxistError | None:
        """Closing tells the server's error, where it sent one; reading only tells that the stream has ended."""
        with self._sending:
            self._closed = True
            try:
                self._writer.close()
            except pa.ArrowException as closing:
                told = from_flight(closing, self._uri)
                return told if error is None or not isinstance(told, InternalError) else error
        return error
