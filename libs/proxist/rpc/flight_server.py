"""The Flight door of a service: one handler behind two listeners, TCP and a unix socket.

A service overrides the methods of `FlightHandler` and constructs `FlightDoor(handler, …)` last, when its state is
loaded: a Flight server is live as soon as it exists. Handlers run on gRPC's threads, several at a time. Whatever a
handler raises reaches the client as the status of `proxist.rpc.status`, never with a traceback.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pyarrow as pa
import structlog
from pyarrow import flight

from proxist.auth.guard import Guard, open_guard
from proxist.auth.identity import Caller, local_caller
from proxist.errors import InvalidArgument, Unavailable
from proxist.rpc import ports
from proxist.rpc.credentials import admit_flight
from proxist.rpc.credentials import flight_middleware as auth_middleware
from proxist.rpc.open_calls import OpenCalls
from proxist.rpc.server_tracing import flight_call, flight_middleware
from proxist.rpc.slices import slices
from proxist.rpc.status import flight_error
from proxist.rpc.tls import PLAIN, Tls

CALLS_MAX = 512
"""Open calls of a door; each pins a thread. More are refused as Overloaded."""
CLOSE_LOOK_S = 0.02
CANCEL_POLL_NS = 20_000_000
"""Asking gRPC whether the client has gone takes 110 µs, as long as a whole small answer, so it is asked this often."""

_ASKS_ALWAYS = ("DoPut", "DoAction", "GetFlightInfo", "GetSchema")
"""Calls that name a table where their rule says so; SQL may name none, and a session may ask nothing."""

log = structlog.get_logger("proxist.rpc.flight")
T = TypeVar("T")
Message: TypeAlias = pa.RecordBatch | tuple[pa.RecordBatch, bytes | None]


class Call:
    """One call: who asked, whether anybody still wants the answer."""

    def __init__(
        self,
        context: flight.ServerCallContext,
        stopping: threading.Event,
        name: str,
        local: bool,
        caller: Caller | None = None,
        guard: Guard | None = None,
        idle: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`idle(True)` is called where nothing is asked of the call for a while, `idle(False)` when that ends."""
        self.idle = idle
        self._guard = guard or open_guard()
        self._context = context
        self.caller = caller or local_caller()
        """Who calls, and what they may."""
        self._stopping = stopping
        self._ask_at_ns = time.monotonic_ns() + CANCEL_POLL_NS
        self.name = name
        self.local = local
        """True on the unix socket: the caller is on this host and passed the run directory's mode."""

    def recheck(self) -> None:
        """Raises Unauthenticated where the caller's token has ended since: for each step of a stream that lives long.

        A service's own streams go on: its tokens last minutes, its secret as long as the cluster.
        """
        if self._guard.on and not self.caller.trusted:
            admit_flight(self._guard, self._context, self.name)

    @property
    def peer(self) -> str:
        return "unix" if self.local else self._context.peer()

    @property
    def stopping(self) -> threading.Event:
        """Set when the door is closing; a handler that waits, waits on it too."""
        return self._stopping

    def cancelled(self) -> bool:
        """True when the door is closing or the client has gone, which is noticed within CANCEL_POLL_NS.

        Cheap; long handlers ask between batches.
        """
        return self._stopping.is_set() or self._gone()

    def check(self) -> None:
        """Raises Unavailable where `cancelled`."""
        if self._stopping.is_set():
            raise Unavailable("This node is stopping. Ask another one, or again in a moment.", retry_after_s=1.0)
        if self._gone():
            raise Unavailable("The client cancelled the call.")

    def _gone(self) -> bool:
        now = time.monotonic_ns()
        if now < self._ask_at_ns:
            return False
        self._ask_at_ns = now + CANCEL_POLL_NS
        return bool(self._context.is_cancelled())


@dataclass(frozen=True)
class BatchStream:
    """A DoGet answer made while it is sent: batches, or (batch, app_metadata) pairs, all with `schema`.

    Batches are sliced to the door's maximum; app_metadata goes with the last slice of its batch.
    """

    schema: pa.Schema
    messages: Iterable[Message]


class FlightHandler:
    """What a service answers. Each method may raise any ProxistError; the ones not overridden refuse by name."""

    def list_flights(self, call: Call, criteria: bytes) -> Iterable[flight.FlightInfo]:
        raise _unserved("ListFlights")

    def get_flight_info(self, call: Call, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
        raise _unserved("GetFlightInfo")

    def get_schema(self, call: Call, descriptor: flight.FlightDescriptor) -> pa.Schema:
        return self.get_flight_info(call, descriptor).schema

    def do_get(self, call: Call, ticket: bytes) -> pa.Table | pa.RecordBatch | BatchStream:
        """A Table or RecordBatch is sent by C++ without the interpreter; its schema may carry metadata."""
        raise _unserved("DoGet")

    def do_put(
        self,
        call: Call,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        """Read with `reader.read_chunk()` until StopIteration; ack with `writer.write(pa.py_buffer(…))`."""
        raise _unserved("DoPut")

    def do_exchange(
        self,
        call: Call,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.MetadataRecordBatchWriter,
    ) -> None:
        raise _unserved("DoExchange")

    def do_action(self, call: Call, name: str, body: bytes) -> Iterable[bytes]:
        """The results' bodies, JSON as a rule."""
        raise _unserved(f"DoAction {name}")

    def list_actions(self, call: Call) -> Iterable[tuple[str, str]]:
        """(name, description) of each action."""
        return ()


class FlightDoor:
    """Listens on `host:port` (0: a free port, see `port`) and on `unix_path`; serving when constructed.

    `tls` is for the TCP address: who reaches the socket passed the directory's mode. Its files are read once.
    Raises PortTaken or ConfigError, naming `flight_port`, where an address cannot be bound, or the file of `tls` that
    cannot be used.
    """

    def __init__(
        self,
        handler: FlightHandler,
        host: str,
        port: int,
        unix_path: Path | None = None,
        *,
        calls_max: int = CALLS_MAX,
        guard: Guard | None = None,
        tls: Tls = PLAIN,
    ) -> None:
        self._guard = guard or open_guard()
        self._scheme = "grpc+tls" if tls.serves else "grpc"
        self._stopping = threading.Event()
        self._calls = OpenCalls(calls_max)
        self._listeners: list[_Listener] = []
        location = f"{self._scheme}://{host}:{port}"
        self._listeners.append(self._listen(handler, location, local=False, host=host, port=port, tls=tls))
        self.host = host
        self.port: int = self._listeners[0].port
        self.unix_path = unix_path
        if unix_path is not None:
            ports.check_unix_path(unix_path)
            unix_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._listeners.append(self._listen(handler, f"grpc+unix://{unix_path}", local=True))
            except BaseException:
                self.stop(1.0)
                raise

    @property
    def uri(self) -> str:
        return f"{self._scheme}://{self.host}:{self.port}"

    @property
    def unix_uri(self) -> str | None:
        return None if self.unix_path is None else f"grpc+unix://{self.unix_path}"

    def begin_stop(self) -> None:
        """From now on handlers that look see that the door is closing. Returns at once."""
        self._stopping.set()

    def stop(self, grace_s: float) -> list[str]:
        """Close; returns after `grace_s` at most. On an empty list no handler runs any more and the port is free.

        Otherwise it names the calls that are still open: a client that reads no further blocks its stream's thread
        and Flight's own shutdown has no deadline, so the process must then end without waiting for them. Sessions of
        which nothing is asked are not waited for: only their clients could end them.
        """
        self.begin_stop()
        closers = [threading.Thread(target=one.shutdown, name="flight-close", daemon=True) for one in self._listeners]
        deadline = time.monotonic() + grace_s
        for closer in closers:
            closer.start()
        while any(closer.is_alive() for closer in closers) and time.monotonic() < deadline:
            for closer in closers:
                closer.join(CLOSE_LOOK_S)
            if self._calls.names() and not self._calls.at_work():
                break
        if not any(closer.is_alive() for closer in closers):
            if self.unix_path is not None:
                self.unix_path.unlink(missing_ok=True)
            return []
        return self._calls.names() or ["Flight's shutdown"]

    def _listen(
        self, handler: FlightHandler, location: str, local: bool, host: str = "", port: int = 0, tls: Tls = PLAIN
    ) -> _Listener:
        try:
            return _Listener(location, handler, self._stopping, self._calls, local, self._guard, tls)
        except (pa.ArrowException, OSError) as error:
            if local:
                raise Unavailable(
                    f"The unix socket {location} cannot be made. Check `run_dir` and its rights."
                ) from error
            raise ports.bind_error(host, port, "flight_port") from None


class _Listener(flight.FlightServerBase):
    """One address. pyarrow calls the methods below on gRPC's threads."""

    def __init__(
        self,
        location: str,
        handler: FlightHandler,
        stopping: threading.Event,
        calls: OpenCalls,
        local: bool,
        guard: Guard,
        tls: Tls,
    ) -> None:
        self._handler = handler
        self._stopping = stopping
        self._calls = calls
        self._local = local
        self._guard = guard
        middleware = {**flight_middleware(), **auth_middleware(guard)}
        super().__init__(location, middleware=middleware, **tls.flight_server())

    def _run(self, context: Any, name: str, work: Callable[[Call], T]) -> T:
        """Run one handler to its end as one counted call."""
        try:
            call_id = self._calls.enter(name)
            try:
                caller = admit_flight(self._guard, context, name)
                idle = partial(self._calls.idle, call_id)
                call = Call(context, self._stopping, name, self._local, caller, self._guard, idle)
                call.check()
                with flight_call(context, name, self._local):
                    answer = work(call)
                if name.startswith(_ASKS_ALWAYS):
                    call.caller.check_asked()
                return answer
            finally:
                self._calls.leave(call_id)
        except BaseException as error:
            raise flight_error(self._told(context, error)) from None

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[flight.FlightInfo]:
        return iter(self._run(context, "ListFlights", lambda call: list(self._handler.list_flights(call, criteria))))

    def get_flight_info(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
        return self._run(context, "GetFlightInfo", lambda call: self._handler.get_flight_info(call, descriptor))

    def get_schema(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.SchemaResult:
        schema = self._run(context, "GetSchema", lambda call: self._handler.get_schema(call, descriptor))
        return flight.SchemaResult(schema)

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.FlightDataStream:
        return self._run(context, "DoGet", lambda call: self._stream(call, self._handler.do_get(call, ticket.ticket)))

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self._run(context, "DoPut", lambda call: self._handler.do_put(call, descriptor, reader, writer))

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self._run(context, "DoExchange", lambda call: self._handler.do_exchange(call, descriptor, reader, writer))

    def do_action(self, context: Any, action: flight.Action) -> Iterator[bytes]:
        def work(call: Call) -> list[bytes]:
            return list(self._handler.do_action(call, action.type, action.body.to_pybytes()))

        return iter(self._run(context, f"DoAction {action.type}", work))

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        return self._run(context, "ListActions", lambda call: list(self._handler.list_actions(call)))

    def _stream(self, call: Call, answer: pa.Table | pa.RecordBatch | BatchStream) -> flight.FlightDataStream:
        if isinstance(answer, BatchStream):
            return flight.GeneratorStream(answer.schema, self._generate(call, answer))
        batches = [answer] if isinstance(answer, pa.RecordBatch) else answer.to_batches()
        parts = [part for batch in batches for part in slices(batch)]
        return flight.RecordBatchStream(pa.Table.from_batches(parts, schema=answer.schema))

    def _generate(self, call: Call, answer: BatchStream) -> Iterator[Any]:
        """The stream's own call: the handler has returned, the thread is pinned until the last batch is read."""
        try:
            call_id = self._calls.enter(f"{call.name} stream")
            messages = iter(answer.messages)
            try:
                for message in messages:
                    call.check()
                    batch, metadata = message if isinstance(message, tuple) else (message, None)
                    *head, last = slices(batch)
                    yield from head
                    yield last if metadata is None else (last, metadata)
            finally:
                self._calls.leave(call_id)
                close = getattr(messages, "close", None)
                if close is not None:
                    close()
        except GeneratorExit:
            raise
        except BaseException as error:
            raise flight_error(error) from None

    def _told(self, context: Any, error: BaseException) -> BaseException:
        """The transport's complaint about a client that went away is no bug of ours, and nobody reads the answer."""
        if isinstance(error, pa.ArrowException | OSError) and (context.is_cancelled() or self._stopping.is_set()):
            return Unavailable("The client went away, or this node is stopping.")
        return error


def _nameless(function: Callable[..., Any]) -> None:
    """pyarrow sends a GetSchema error with its traceback, and that shows the path of this file: it gets another name."""
    function.__code__ = function.__code__.replace(co_filename="proxist")


_nameless(_Listener._run)
_nameless(_Listener.get_schema)


def _unserved(what: str) -> InvalidArgument:
    return InvalidArgument(f"{what} is not served here. See the public surface's page for what this node answers.")
