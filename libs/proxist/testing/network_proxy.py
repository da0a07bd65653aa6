"""A TCP proxy on loopback that makes a network slow, silent or broken when a test says so.

    with NetworkProxy(etcd.address) as network:
        client = EtcdClient([network.address])
        network.delay(0.05)                         # every byte, both ways
        network.stall(Way.TO_CLIENT)                # requests arrive, answers do not, nothing is closed
        network.flow()
        network.cut()                               # every connection is reset
        network.half_close(Way.TO_SERVER)           # the server sees the end of the requests, its answers still come
        network.cut_after(1_000, Way.TO_CLIENT)     # in the middle of whatever is then being answered
        network.refuse()                            # nobody gets a connection that stays, until `accept`

Every command has taken effect when it returns. What passes, passes byte for byte and in order.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from enum import StrEnum
from typing import Self, TypeVar

COMMAND_S_MAX = 10.0
CHUNK_BYTES = 65_536
HELD_BYTES_MAX = 1 << 20
"""Delayed bytes of one direction; past it nothing is read, so the sender meets its own window."""
_RESET = struct.pack("ii", 1, 0)

T = TypeVar("T")


class Way(StrEnum):
    TO_SERVER = "to server"
    TO_CLIENT = "to client"


BOTH = (Way.TO_SERVER, Way.TO_CLIENT)


class _Flow:
    """One direction of one connection."""

    def __init__(self, way: Way, source: socket.socket, sink: socket.socket) -> None:
        self.way = way
        self.source = source
        self.sink = sink
        self.held: deque[tuple[float, bytes]] = deque()  # when it may go on, and what
        self.held_bytes = 0
        self.ended = False  # the source sends no more
        self.shut = False  # the sink was told so


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.sockets = (client, server)
        self.flows = (_Flow(Way.TO_SERVER, client, server), _Flow(Way.TO_CLIENT, server, client))

    @property
    def over(self) -> bool:
        return all(flow.shut and flow.ended for flow in self.flows)


class NetworkProxy:
    """A context manager in front of `target` ("host:port"). Commands are for any thread; one thread moves the bytes and
    owns every field below that a command changes."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.bytes: Counter[Way] = Counter()
        """How many went through, per direction."""
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe()
        self._connections: list[_Connection] = []
        self._delay_s = dict.fromkeys(BOTH, 0.0)
        self._stalled: set[Way] = set()
        self._cut_at: dict[Way, int] = {}
        self._refusing = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="network-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop)
        self._thread.join()
        for fd in (self._wake_read, self._wake_write):
            os.close(fd)

    # ---- commands --------------------------------------------------------------------------------------------------

    def delay(self, seconds: float, *ways: Way) -> None:
        """What is read from now on goes on that much later; both ways where none is named."""
        self._do(lambda: self._delay_s.update(dict.fromkeys(ways or BOTH, seconds)))

    def stall(self, *ways: Way) -> None:
        """Nothing moves any more, and nothing is closed: what a host that lost its network looks like."""
        self._do(lambda: self._stalled.update(ways or BOTH))

    def flow(self, *ways: Way) -> None:
        """The end of `stall`; nothing was lost."""
        self._do(lambda: self._stalled.difference_update(ways or BOTH))

    def cut(self) -> int:
        """Reset every connection, both ways; how many there were. New ones are taken."""
        return self._do(self._cut)

    def cut_after(self, count: int, way: Way) -> None:
        """Reset the connection that is the first to carry `count` more bytes that way, behind exactly that many."""
        self._do(lambda: self._cut_at.__setitem__(way, self.bytes[way] + count))

    def half_close(self, way: Way) -> None:
        """The receiver of `way` sees the end of every open connection's stream; the other direction goes on."""
        self._do(lambda: self._half_close(way))

    def refuse(self) -> None:
        """New connections are reset at once; open ones stay."""
        self._do(lambda: setattr(self, "_refusing", True))

    def accept(self) -> None:
        """The end of `refuse`."""
        self._do(lambda: setattr(self, "_refusing", False))

    @property
    def connections(self) -> int:
        """How many are open now."""
        return self._do(lambda: len(self._connections))

    def _do(self, command: Callable[[], T]) -> T:
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(command())
            except BaseException as error:
                done.set_exception(error)

        self._commands.put(run)
        os.write(self._wake_write, b"!")
        return done.result(COMMAND_S_MAX)

    # ---- the thread that moves the bytes ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            ready = self._wait()
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                with contextlib.suppress(queue.Empty):
                    while True:
                        self._commands.get_nowait()()
            if not self._stopping and self._listener.fileno() in ready:
                self._take(self._listener.accept()[0])
            for connection in list(self._connections):
                try:
                    for flow in connection.flows:
                        self._move(flow, ready)
                except OSError:  # one side has reset it, or `cut_after` has
                    self._reset(connection)
                if connection.over:
                    self._close(connection)

    def _wait(self) -> dict[int, int]:
        """{descriptor: events} of what can be read or written, after waiting for it or for the next byte's time."""
        wanted: Counter[int] = Counter({self._wake_read: select.POLLIN, self._listener.fileno(): select.POLLIN})
        due_s: list[float] = []
        for flow in self._flows():
            if flow.way in self._stalled:
                continue
            if not flow.ended and flow.held_bytes < HELD_BYTES_MAX:
                wanted[flow.source.fileno()] |= select.POLLIN
            if flow.held and flow.held[0][0] <= time.monotonic():
                wanted[flow.sink.fileno()] |= select.POLLOUT
            elif flow.held:
                due_s.append(flow.held[0][0])
        poll = select.poll()
        for descriptor, events in wanted.items():
            poll.register(descriptor, events)
        timeout_ms = None if not due_s else max(1, round((min(due_s) - time.monotonic()) * 1000))
        return dict(poll.poll(timeout_ms))

    def _take(self, client: socket.socket) -> None:
        try:
            if self._refusing:
                raise ConnectionRefusedError
            server = socket.create_connection(self._target, COMMAND_S_MAX)
        except OSError:
            _reset_socket(client)
            return
        for one in (client, server):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.append(_Connection(client, server))

    def _move(self, flow: _Flow, ready: dict[int, int]) -> None:
        """Read and write what one direction can now. Raises OSError where the connection is over."""
        if flow.way in self._stalled:
            return
        if not flow.ended and ready.get(flow.source.fileno(), 0) & (select.POLLIN | select.POLLHUP | select.POLLERR):
            with contextlib.suppress(BlockingIOError):
                data = flow.source.recv(CHUNK_BYTES)
                flow.ended = not data
                if data and not flow.shut:
                    flow.held.append((time.monotonic() + self._delay_s[flow.way], data))
                    flow.held_bytes += len(data)
        while flow.held and flow.held[0][0] <= time.monotonic() and not flow.shut:
            _, data = flow.held[0]
            allowed = max(0, self._cut_at[flow.way] - self.bytes[flow.way]) if flow.way in self._cut_at else len(data)
            try:
                sent = flow.sink.send(data[:allowed]) if allowed else 0
            except BlockingIOError:
                return
            self.bytes[flow.way] += sent
            flow.held_bytes -= sent
            if flow.way in self._cut_at and self.bytes[flow.way] >= self._cut_at[flow.way]:
                del self._cut_at[flow.way]
                raise ConnectionResetError
            flow.held.popleft()
            if sent < len(data):
                flow.held.appendleft((0.0, data[sent:]))
        if flow.ended and not flow.held:
            self._shut(flow)

    def _flows(self) -> Iterable[_Flow]:
        return [flow for connection in self._connections for flow in connection.flows]

    def _shut(self, flow: _Flow) -> None:
        """Tell the sink that no more comes; what is held, or comes later, is dropped."""
        if not flow.shut:
            flow.shut = True
            flow.held.clear()
            flow.held_bytes = 0
            with contextlib.suppress(OSError):
                flow.sink.shutdown(socket.SHUT_WR)

    def _half_close(self, way: Way) -> None:
        for flow in self._flows():
            if flow.way == way:
                self._shut(flow)

    def _cut(self) -> int:
        count = len(self._connections)
        for connection in list(self._connections):
            self._reset(connection)
        return count

    def _reset(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            for one in connection.sockets:
                _reset_socket(one)

    def _close(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            for one in connection.sockets:
                one.close()

    def _stop(self) -> None:
        self._stopping = True
        self._cut()
        self._listener.close()


def _reset_socket(one: socket.socket) -> None:
    """Close it with a RST: the other side's next call fails, as behind a machine that is gone."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    one.close()
