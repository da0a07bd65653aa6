"""The caller's token as each kind of door receives it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from pyarrow import flight

from proxist.auth.guard import Guard
from proxist.auth.identity import Caller
from proxist.auth.outgoing import HEADER
from proxist.auth.rules import RULES, Action
from proxist.errors import ProxistError, Unauthenticated, Unavailable

MIDDLEWARE = "proxist-auth"
_Asgi = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


# ---- Flight ----------------------------------------------------------------------------------------------------------


class _Token(flight.ServerMiddleware):
    def __init__(self, value: str | None) -> None:
        super().__init__()
        self.value = value


class _Tokens(flight.ServerMiddlewareFactory):
    def start_call(self, info: Any, headers: Mapping[str, list[Any]]) -> _Token:
        values = headers.get(HEADER) or [None]
        return _Token(_text(values[0]))


def flight_middleware(guard: Guard) -> dict[str, flight.ServerMiddlewareFactory]:
    """What a Flight server is constructed with; nothing without auth."""
    return {MIDDLEWARE: _Tokens()} if guard.on else {}


def admit_flight(guard: Guard, context: Any, name: str) -> Caller:
    """The caller of a Flight call, "DoGet" or "DoAction flush". Raises what the guard raises."""
    token = context.get_middleware(MIDDLEWARE).value if guard.on else None
    return guard.admit(f"flight/{name.replace(' ', ':', 1)}", token)


# ---- gRPC ------------------------------------------------------------------------------------------------------------


def admit_grpc(guard: Guard, context: Any, method: str) -> Caller:
    """The caller of a gRPC call, which `proxist.auth.identity.caller_of(context)` then finds."""
    token = None
    if guard.on:
        token = next((_text(value) for key, value in context.invocation_metadata() or () if key == HEADER), None)
    caller = guard.admit(f"grpc/{method.lstrip('/')}", token)
    context.proxist_caller = caller
    return caller


# ---- HTTP ------------------------------------------------------------------------------------------------------------

_STATUS = {Unauthenticated: 401, Unavailable: 503}


class HttpGuard:
    """ASGI: answers 401, 403 or 503 with the error's JSON, or lets the request through.

    `certificate`: what is not open to everybody also needs a client certificate; the connection's protocol says under
    `scope["state"]["certificate"]` whether one was verified.
    """

    def __init__(self, app: _Asgi, guard: Guard, certificate: bool = False) -> None:
        self._app = app
        self._guard = guard
        self._certificate = certificate

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            try:
                self._admit(f"http/{scope['path'].strip('/')}", scope)
            except ProxistError as error:
                from starlette.responses import JSONResponse

                status = next((code for cls, code in _STATUS.items() if isinstance(error, cls)), 403)
                headers = {"www-authenticate": "Bearer"} if status == 401 else None
                await JSONResponse(error.to_json(), status, headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, entry: str, scope: MutableMapping[str, Any]) -> None:
        rule = RULES.get(entry)
        is_open = rule is not None and rule.action is Action.OPEN
        if self._certificate and not is_open and not scope["state"]["certificate"]:
            raise Unauthenticated(
                "This needs a client certificate and none came. Show one that the node's `tls_ca` signed, beside the "
                "token, as with `curl --cert tls.crt --key tls.key --cacert ca.crt`.",
                reason="missing",
            )
        token = next((v.decode("latin-1") for k, v in scope["headers"] if k == HEADER.encode()), None)
        self._guard.admit(entry, token)


def _text(value: Any) -> str | None:
    return value.decode("latin-1") if isinstance(value, bytes) else value
