"""The HTTP door of a service: /metrics, /livez, /readyz, /health. Starlette on uvicorn in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from proxist.auth.guard import Guard, open_guard
from proxist.errors import InternalError
from proxist.rpc import ports
from proxist.rpc.credentials import HttpGuard
from proxist.rpc.server_tracing import HttpTracing
from proxist.rpc.tls import PLAIN, Tls
from proxist.telemetry import tracing

HealthSource = Callable[[], Mapping[str, Any]]
"""Plain JSON about the node: at least `name`, `role`, `state` ("ready" means ready), `insecure`."""


class HttpDoor:
    """Listens on `host:port` (0: a free port, see `port`) when constructed; answers after `start`.

    /livez is 200 while the process can answer; /readyz is 200 when `health()["state"]` is "ready", else 503; /health is
    `health()` as JSON; /metrics is `registry` in Prometheus' text form. Where `tls` demands certificates, the first two
    answer without one, for probes. Raises PortTaken or ConfigError: `http_port`, or the file of `tls` that is wrong.
    """

    def __init__(
        self,
        host: str,
        port: int,
        health: HealthSource,
        *,
        registry: CollectorRegistry = REGISTRY,
        guard: Guard | None = None,
        tls: Tls = PLAIN,
    ) -> None:
        context = tls.http_server() if tls.serves else None
        self._scheme = "http" if context is None else "https"
        self._health = health
        self._registry = registry
        self._socket = _bind(host, port)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        routes = [
            Route("/livez", self._livez),
            Route("/readyz", self._readyz),
            Route("/health", self._health_json),
            Route("/metrics", self._metrics),
        ]
        config = uvicorn.Config(
            _app(routes, guard or open_guard(), tls.demands_certificate),
            http=_Connection,
            ssl_context_factory=None if context is None else lambda *_: context,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._error: BaseException | None = None

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.host}:{self.port}"

    def start(self) -> None:
        """On return requests are answered."""
        self._thread.start()
        if not self._server.up.wait(10.0) or self._error is not None:
            raise InternalError(f"The HTTP server on {self.url} did not start: {self._error!r}.")

    def stop(self, grace_s: float) -> list[str]:
        """Close; names what is still running after `grace_s`."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(grace_s)
        self._socket.close()
        return ["HTTP requests"] if self._thread.is_alive() else []

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        except BaseException as error:
            self._error = error
        finally:
            self._server.up.set()

    # Sync endpoints: starlette runs them on a worker thread, so a slow health source does not stop /livez.

    async def _livez(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def _readyz(self, request: Request) -> Response:
        state = str(self._health().get("state"))
        return PlainTextResponse(f"{state}\n", 200 if state == "ready" else 503)

    def _health_json(self, request: Request) -> Response:
        return JSONResponse(dict(self._health()))

    def _metrics(self, request: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


def _app(routes: list[Route], guard: Guard, certificate: bool) -> Starlette:
    middleware = [Middleware(HttpTracing)] if tracing.on() else []
    if guard.on or certificate:
        middleware.append(Middleware(HttpGuard, guard=guard, certificate=certificate))
    return Starlette(routes=routes, middleware=middleware)


class _Connection(H11Protocol):
    """uvicorn's own, which also tells the app whether the client showed a certificate; TLS has verified one that came."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self.app_state = {**self.app_state, "certificate": tls is not None and bool(tls.getpeercert())}


class _Server(uvicorn.Server):
    """uvicorn that says when it is up. Off the main thread it leaves signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        raise ports.bind_error(host, port, "http_port") from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise ports.bind_error(host, port, "http_port") from None
    return bound
