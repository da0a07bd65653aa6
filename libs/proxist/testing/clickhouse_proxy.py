"""An HTTP proxy in front of ClickHouse that fails as networks and servers do, when a test says so.

    with LocalClickHouse() as server, ClickHouseProxy(server.url) as proxy:
        client = ClickHouse(proxy.url)
        proxy.inject("insert", Fault.TIMEOUT_AFTER_APPLY)
        …                                    # the next insert is applied, and its client hears nothing
        assert proxy.faults["insert", Fault.TIMEOUT_AFTER_APPLY] == 1

What passes, passes byte for byte, over connections that are kept. No TLS.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import select
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self, cast
from urllib.parse import parse_qs, urlsplit

HOLD_S_MAX = 60.0
"""Nothing is held longer, whatever a test forgets."""
UPSTREAM_TIMEOUT_S = 60.0

Kind = Literal["insert", "select", "other"]


class Fault(StrEnum):
    """What happens to one statement."""

    ERROR_BEFORE_APPLY = "error before apply"
    """Not sent on; answered with an error of ClickHouse."""
    ERROR_AFTER_APPLY = "error after apply"
    """Executed; answered with UNKNOWN_STATUS_OF_INSERT."""
    OK_WITHOUT_APPLY = "ok without apply"
    """Not sent on; answered as if it had been executed."""
    TIMEOUT_BEFORE_APPLY = "timeout before apply"
    """Not sent on; silence until the client has left."""
    TIMEOUT_AFTER_APPLY = "timeout after apply"
    """Executed; silence until the client has left."""
    STALL = "stall"
    """Held until `release`, then executed, though its client has left long ago."""
    RESET_BEFORE_APPLY = "reset before apply"
    """Not sent on; the connection is reset."""
    RESET_AFTER_APPLY = "reset after apply"
    """Executed; the connection is reset."""
    HALF_ANSWER = "half an answer"
    """Executed; the connection ends in the middle of the answer's body."""
    SHORT_ANSWER = "short answer"
    """Executed; half of the answer's body comes as if it were all of it."""


_ERROR = b"Code: 241. DB::Exception: Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED) (version 26.9.2.1)\n"
_UNKNOWN = b"Code: 319. DB::Exception: Unknown status. (UNKNOWN_STATUS_OF_INSERT) (version 26.9.2.1)\n"
_SYSTEM = re.compile(rb"\bFROM\s+(?!system\.)", re.IGNORECASE)


class ClickHouseProxy:
    """A context manager. Listens on a free port; `url` stays the same. For any thread."""

    def __init__(self, upstream: str) -> None:
        """`upstream`: http://host:port of the server."""
        parts = urlsplit(upstream)
        self.upstream = parts.hostname or "127.0.0.1", parts.port or 8123
        self.choose: Callable[[Kind], Fault | None] | None = None
        """Asked for each statement for which nothing is injected; None lets it pass."""
        self.statements: Counter[Kind] = Counter()
        """Statements that came, by kind."""
        self.applied: Counter[Kind] = Counter()
        """Statements that the server has executed, by kind."""
        self.faults: Counter[tuple[Kind, Fault]] = Counter()
        """Faults that happened."""
        self._moved = threading.Condition()  # guards the counters above and all below
        self._injected: dict[Kind, deque[Fault | None]] = {"insert": deque(), "select": deque(), "other": deque()}
        self._held = 0
        self._released = 0
        self._open: set[socket.socket] = set()
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="clickhouse-proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with self._moved:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            self._moved.wait_for(lambda: not self._open, 5.0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def inject(self, kind: Kind, *faults: Fault | None) -> None:
        """The next statements of this kind meet these, one after the other; None: that one passes."""
        with self._moved:
            self._injected[kind].extend(faults)

    def wait_stalled(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until so many statements are held. Raises TimeoutError."""
        with self._moved:
            if not self._moved.wait_for(lambda: self._held - self._released >= count, timeout_s):
                raise TimeoutError(f"{self._held - self._released} statements are held, not {count}")

    def release(self) -> None:
        """Let every held statement go on to the server; `wait_applied` says when it was executed."""
        with self._moved:
            self._released = self._held
            self._moved.notify_all()

    def wait_applied(self, kind: Kind, count: int, timeout_s: float = 30.0) -> None:
        """Wait until the server has executed so many of this kind in all. Raises TimeoutError."""
        with self._moved:
            if not self._moved.wait_for(lambda: self.applied[kind] >= count, timeout_s):
                raise TimeoutError(f"{self.applied[kind]} {kind} statements were executed, not {count}")

    # ---- for the connections' threads ------------------------------------------------------------------------------

    def arrived(self, kind: Kind) -> Fault | None:
        """What is to happen to the statement that has just come."""
        with self._moved:
            self.statements[kind] += 1
            waiting = self._injected[kind]
            fault = waiting.popleft() if waiting else self.choose(kind) if self.choose is not None else None
            if fault is not None:
                self.faults[kind, fault] += 1
            return fault

    def connection(self, sock: socket.socket, *, is_open: bool) -> None:
        with self._moved:
            (self._open.add if is_open else self._open.discard)(sock)
            self._moved.notify_all()

    def executed(self, kind: Kind) -> None:
        with self._moved:
            self.applied[kind] += 1
            self._moved.notify_all()

    def hold(self) -> None:
        """Until `release`."""
        with self._moved:
            self._held += 1
            mine = self._held
            self._moved.notify_all()
            self._moved.wait_for(lambda: self._released >= mine, HOLD_S_MAX)


def kind_of(path: str, body: bytes) -> Kind:
    """`insert`, `select` (of rows of a table that is not a system's), or `other`."""
    text = parse_qs(urlsplit(path).query).get("query", [""])[0].encode() or body[:65_536]
    word = text.lstrip()[:6].upper()
    if word == b"INSERT":
        return "insert"
    return "select" if word in (b"SELECT", b"WITH") and _SYSTEM.search(text) else "other"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    proxy: ClickHouseProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**16

    def setup(self) -> None:
        super().setup()
        self._proxy = cast(_Server, self.server).proxy
        self._proxy.connection(self.request, is_open=True)
        self._upstream = http.client.HTTPConnection(*self._proxy.upstream, timeout=UPSTREAM_TIMEOUT_S)

    def finish(self) -> None:
        self._upstream.close()
        with contextlib.suppress(OSError):
            super().finish()
        self._proxy.connection(self.request, is_open=False)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: `faults` says what happened."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self._body()
        kind = kind_of(self.path, body)
        fault = self._proxy.arrived(kind)
        if fault is Fault.ERROR_BEFORE_APPLY:
            return self._answer(500, _ERROR, {"X-ClickHouse-Exception-Code": "241"})
        if fault is Fault.OK_WITHOUT_APPLY:
            return self._answer(200, b"", {})
        if fault is Fault.RESET_BEFORE_APPLY:
            return self._reset()
        if fault is Fault.TIMEOUT_BEFORE_APPLY:
            return self._be_silent()
        if fault is Fault.STALL:
            self._proxy.hold()
        try:
            status, headers, answer = self._pass_on(body)
        except OSError:
            return self._reset()  # the server is away
        except http.client.HTTPException:
            return self._reset()
        self._proxy.executed(kind)
        if fault is Fault.ERROR_AFTER_APPLY:
            return self._answer(500, _UNKNOWN, {"X-ClickHouse-Exception-Code": "319"})
        if fault is Fault.RESET_AFTER_APPLY:
            return self._reset()
        if fault is Fault.TIMEOUT_AFTER_APPLY:
            return self._be_silent()
        if fault is Fault.HALF_ANSWER:
            self._answer(status, answer, headers, sent=answer[: len(answer) // 2])
            return self._reset()
        if fault is Fault.SHORT_ANSWER:
            answer = answer[: len(answer) // 2]
        return self._answer(status, answer, headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _pass_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        hop = ("connection", "transfer-encoding", "content-length", "host", "keep-alive")
        sent = {name: value for name, value in self.headers.items() if name.lower() not in hop}
        self._upstream.request(self.command, self.path, body=body, headers=sent)
        got = self._upstream.getresponse()
        answer = got.read()
        headers = {name: value for name, value in got.getheaders() if name.lower() not in (*hop, "date", "server")}
        return got.status, headers, answer

    def _answer(self, status: int, body: bytes, headers: dict[str, str], sent: bytes | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if sent is None else sent)
        self.wfile.flush()

    def _reset(self) -> None:
        """A RST instead of a FIN."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _be_silent(self) -> None:
        """Until the client has left, or the proxy closes."""
        self.close_connection = True
        for _ in range(int(HOLD_S_MAX / 0.05)):
            readable, _, _ = select.select([self.connection], [], [], 0.05)
            if self._proxy.closing.is_set() or readable:
                return
