"""A gRPC channel whose calls show the TLS files of now; gRPC's own keeps what it was made with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc

from proxist.rpc.tls import Tls


class TlsChannel(grpc.Channel):
    """After each change of the files the next call makes a connection of its own. Those before stay open, since calls
    may go on there, until this channel is closed.

    Only for `grpc.intercept_channel`, which asks for the method anew with every call; a stub on it would keep one.
    """

    def __init__(self, address: str, tls: Tls, options: list[tuple[str, Any]]) -> None:
        self._credentials = tls.renewed(tls.grpc_channel)
        self._make: Callable[[grpc.ChannelCredentials], grpc.Channel] = lambda shown: grpc.secure_channel(
            address, shown, options=options
        )
        self._lock = threading.Lock()  # guards _channels and the look at the files
        self._channels = [self._make(self._credentials.value)]

    def _now(self) -> Any:
        with self._lock:
            shown = self._credentials.changed()
            if shown is not None:
                self._channels.append(self._make(shown))
            return self._channels[-1]

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        return self._now().unary_unary(*arguments, **named)

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._now().unary_stream(*arguments, **named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        return self._now().stream_unary(*arguments, **named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._now().stream_stream(*arguments, **named)

    def subscribe(self, callback: Callable[..., None], try_to_connect: bool | None = False) -> None:
        self._now().subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[..., None]) -> None:
        for channel in self._channels:
            channel.unsubscribe(callback)

    def close(self) -> None:
        with self._lock:
            for channel in self._channels:
                channel.close()

    def __enter__(self) -> TlsChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
