"""ClickHouse's HTTP interface over the engine: a thread per connection, keep-alive, bodies plain or chunked."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

from proxist.clickhouse.embedded.compression import BODY_BYTES_MAX, decompress
from proxist.clickhouse.embedded.engine import Answer, Engine, StatementFailed
from proxist.clickhouse.embedded.request import BadRequest, read_request
from proxist.errors import PortTaken
from proxist.rpc.tls import PLAIN, Renewed, Tls

URL_BYTES_MAX = 2**20
"""As ClickHouse's http_max_uri_size: a statement with external data travels in the URL."""
IDLE_TIMEOUT_S = 300.0
HANDSHAKE_TIMEOUT_S = 10.0
LINGER_S = 1.0

_LOG = logging.getLogger("proxist.clickhouse.embedded")
_NOT_OF_A_HOST = (
    "The store is for the services, and this certificate is a client's: it has no DNS name. Call a query node, or show "
    "a certificate that names its host."
)
_BAD_REQUEST = frozenset({36, 6, 26, 27, 38, 41, 62, 72, 117, 130, 131, 427, 53, 321, 167, 168})
_NOT_FOUND = frozenset({60, 46, 47, 50, 56, 81, 115, 63, 73, 336, 343})
_HTTP_STATUS = {516: 403, 192: 403, 194: 401, 159: 408, 48: 501, 202: 503, 164: 403}


def http_status(code: int) -> int:
    """The HTTP status that ClickHouse sends with an exception's code."""
    if code in _BAD_REQUEST:
        return 400
    if code in _NOT_FOUND:
        return 404
    return _HTTP_STATUS.get(code, 500)


class EmbeddedServer:
    """Listens from construction on; serves between `start` and `stop`, from threads that it owns."""

    def __init__(self, engine: Engine, host: str, port: int, tls: Tls = PLAIN) -> None:
        """Binds `host`:`port` (0: a free one); speaks TLS where `tls` serves, and renewed files count from the next
        handshake on. Raises PortTaken, and ConfigError for TLS files that cannot be used.
        """
        contexts = tls.renewed(tls.server_context) if tls.serves else None
        try:
            self._http = _Server((host, port), _Handler)
        except OSError as error:
            raise PortTaken(
                f"The ClickHouse port {host}:{port} cannot be used: {error.strerror}. Stop what listens there, or "
                "choose another --port (0 takes a free one)."
            ) from None
        self._http.engine = engine
        self._http.contexts = contexts
        self._scheme = "https" if tls.serves else "http"
        self._thread = threading.Thread(target=self._http.serve_forever, name="clickhouse-accept", args=(0.05,))

    @property
    def url(self) -> str:
        """With host and port as bound."""
        host, port = self._http.server_address[:2]
        return f"{self._scheme}://{host!s}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Stop accepting, let running statements answer for at most `timeout_s`, then cut all connections.

        Returns whether every statement had ended.
        """
        self._http.shutdown()
        self._thread.join()
        ended = self._http.drain(timeout_s)
        self._http.server_close()
        return ended


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    engine: Engine
    contexts: Renewed[ssl.SSLContext] | None

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._changed = threading.Condition()  # guards the three below
        self._running = 0
        self._stopping = False
        self._sockets: set[socket.socket] = set()
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """A connection; its handshake is left to its own thread, for a silent client would hold up all others."""
        sock, address = super().get_request()
        if self.contexts is None:
            return sock, address
        self.contexts.changed()
        return self.contexts.value.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), address

    def begin(self) -> bool:
        """A request has arrived; False where the server is stopping and will not run it."""
        with self._changed:
            if self._stopping:
                return False
            self._running += 1
            return True

    def end(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def connection(self, sock: socket.socket, *, is_open: bool) -> None:
        with self._changed:
            (self._sockets.add if is_open else self._sockets.discard)(sock)
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """No request begins any more; wait for those that run, then cut the connections and wait for their threads."""
        with self._changed:
            self._stopping = True
            ended = self._changed.wait_for(lambda: self._running == 0, timeout_s)
            for sock in self._sockets:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster
            self._changed.wait_for(lambda: not self._sockets, 1.0)
        return ended

    def handle_error(self, request: object, client_address: object) -> None:
        _LOG.debug("connection %s broke", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT_S
    disable_nagle_algorithm = True
    wbufsize = 2**16

    @property
    def _server(self) -> _Server:
        return cast(_Server, self.server)

    def setup(self) -> None:
        super().setup()
        self._server.connection(self.request, is_open=True)

    def handle(self) -> None:
        self._refused = False
        if isinstance(self.request, ssl.SSLSocket):
            self._shake_hands(self.request)
            self._refused = not _is_of_a_host(self.request)
        super().handle()

    def _shake_hands(self, sock: ssl.SSLSocket) -> None:
        sock.settimeout(HANDSHAKE_TIMEOUT_S)
        try:
            sock.do_handshake()
        except ssl.SSLError:
            # Closing with something unread would reset the connection, and the client not see the alert that says why.
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(LINGER_S)
            while sock.recv(2**16):
                continue
            raise
        sock.settimeout(self.timeout)

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self._server.connection(self.request, is_open=False)

    def handle_one_request(self) -> None:
        """The base's, with ClickHouse's bound on the URL instead of 64 KiB."""
        try:
            self.raw_requestline = self.rfile.readline(URL_BYTES_MAX + 1)
        except OSError:
            self.close_connection = True
            return
        if not self.raw_requestline:
            self.close_connection = True
            return
        if len(self.raw_requestline) > URL_BYTES_MAX:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
            return
        if not self.parse_request():
            return
        if not self._server.begin():
            self.close_connection = True
            return
        try:
            self._handle()
            self.wfile.flush()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            self._server.end()

    def log_message(self, format: str, *args: object) -> None:
        _LOG.debug(format, *args)

    def version_string(self) -> str:
        return "proxist-clickhouse"

    def _handle(self) -> None:
        if self.command not in ("GET", "POST", "HEAD"):
            self.close_connection = True
            self._fail(BadRequest(501, "NOT_IMPLEMENTED", f"HTTP method {self.command} is not served."), 501)
            return
        try:
            raw = self._read_body()
        except BadRequest as error:
            self.close_connection = True  # where the body ends is not known
            self._fail(error, 400)
            return
        if self._refused:
            self.close_connection = True
            self._fail(BadRequest(516, "AUTHENTICATION_FAILED", _NOT_OF_A_HOST), 403)
            return
        url = urlsplit(self.path)
        if url.path in ("/ping", "/replicas_status") or (url.path == "/" and not url.query and not raw):
            self._send(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
        elif url.path != "/":
            self._send(404, f"There is no handle {url.path}\n".encode(), {"Content-Type": "text/plain; charset=UTF-8"})
        else:
            self._run(url.query, raw)

    def _run(self, url_query: str, raw: bytes) -> None:
        query_id = str(uuid.uuid4())
        try:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = _decoded(raw, headers.get("content-encoding", "").strip().lower())
            request = read_request(url_query, headers, body, readonly=self.command == "GET")
            query_id = request.query_id or query_id
            answer = self._server.engine.run(request)
        except BadRequest as error:
            self._fail(error, http_status(error.code), query_id)
        except StatementFailed as error:
            self._send_exception(http_status(error.code), error.code, error.text, query_id)
        else:
            self._answer(answer, query_id, None if request.insert else request.format)

    def _answer(self, answer: Answer, query_id: str, format_: str | None) -> None:
        headers = self._headers(query_id)
        headers["X-ClickHouse-Summary"] = _summary(answer)
        headers["Content-Type"] = "text/plain; charset=UTF-8"
        if format_ is not None and answer.body:
            headers["X-ClickHouse-Format"] = format_
            headers["Content-Type"] = "application/octet-stream"
        self._send(200, answer.body, headers)

    def _fail(self, error: BadRequest, status: int, query_id: str = "") -> None:
        version = self._server.engine.version
        text = f"Code: {error.code}. DB::Exception: {error} ({error.name}) (version {version})"
        self._send_exception(status, error.code, text, query_id)

    def _send_exception(self, status: int, code: int, text: str, query_id: str) -> None:
        headers = self._headers(query_id)
        headers["X-ClickHouse-Exception-Code"] = str(code)
        headers["Content-Type"] = "text/plain; charset=UTF-8"
        self._send(status, f"{text}\n".encode(), headers)

    def _headers(self, query_id: str) -> dict[str, str]:
        headers = {
            "X-ClickHouse-Server-Display-Name": "proxist-embedded",
            "X-ClickHouse-Timezone": self._server.engine.timezone,
        }
        if query_id:
            # A header's value: a caller's id with line breaks must not become headers of its own.
            headers["X-ClickHouse-Query-Id"] = "".join(c if c.isprintable() and ord(c) < 256 else "?" for c in query_id)
        return headers

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._read_chunks()
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            raise BadRequest(
                36, "BAD_ARGUMENTS", f"Content-Length is {length[:40]}, but must be 0 to {BODY_BYTES_MAX}."
            )
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise ConnectionError("the client left in the middle of its body")
        return body

    def _read_chunks(self) -> bytes:
        chunks: list[bytes] = []
        total = 0
        while True:
            line = self.rfile.readline(1024)
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError:
                # An end of the stream before the last chunk is half an insert: it must not be executed.
                raise ConnectionError("the client left in the middle of its body") from None
            total += size
            if size < 0 or total > BODY_BYTES_MAX:
                raise BadRequest(36, "BAD_ARGUMENTS", f"The body is longer than {BODY_BYTES_MAX} bytes.")
            if size == 0:
                while self.rfile.readline(1024) not in (b"\r\n", b"\n", b""):
                    continue  # trailers
                return b"".join(chunks)
            chunk = self.rfile.read(size)
            if len(chunk) != size or self.rfile.readline(3) not in (b"\r\n", b"\n"):
                raise ConnectionError("the client left in the middle of its body")
            chunks.append(chunk)


def _is_of_a_host(sock: ssl.SSLSocket) -> bool:
    """Whether the caller showed a certificate with a DNS name, as services have; so does everybody where none is asked."""
    if sock.context.verify_mode == ssl.CERT_NONE:
        return True
    names = (sock.getpeercert() or {}).get("subjectAltName", ())
    return any(entry[0] == "DNS" for entry in names)


def _decoded(body: bytes, coding: str) -> bytes:
    try:
        return decompress(body, coding)
    except LookupError:
        raise BadRequest(48, "NOT_IMPLEMENTED", f"Content-Encoding {coding[:40]!r} is not offered.") from None
    except ValueError as error:
        raise BadRequest(354, "INFLATE_FAILED", str(error)) from None


def _summary(answer: Answer) -> str:
    counts = {
        "read_rows": answer.read_rows,
        "read_bytes": answer.read_bytes,
        "written_rows": answer.written_rows,
        "written_bytes": answer.written_bytes,
        "total_rows_to_read": answer.read_rows,
        "result_rows": answer.written_rows,
        "result_bytes": answer.written_bytes,
        "elapsed_ns": answer.elapsed_ns,
    }
    return json.dumps({name: str(count) for name, count in counts.items()})
