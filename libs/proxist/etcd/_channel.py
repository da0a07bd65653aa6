"""gRPC channels to etcd's endpoints, and what etcd's errors mean to a caller of Proxist."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import grpc

from proxist.errors import ConfigError, InternalError, NotFound, PermissionDenied, ProxistError, Unavailable
from proxist.pb import etcd_rpc_pb2_grpc as rpc

PING_PERIOD_MS = 6_000
"""Not under etcd's own minimum of 5 s between pings (`--grpc-keepalive-min-time`): it hangs up on a client that pings
faster ("too many pings"), so one second is left for a timer that comes early."""
PING_TIMEOUT_MS = 3_000

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", PING_PERIOD_MS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    # keepalive_timeout alone left a frozen peer unnoticed for over a minute: this is the timeout of the ping itself.
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    # A quiet watch sends no data for minutes; gRPC would stop pinging after two pings without any.
    ("grpc.http2.max_pings_without_data", 0),
    # etcd allows pings only while a call is open.
    ("grpc.keepalive_permit_without_calls", 0),
    # A restarted etcd is found again within a second; the default back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # also the time that one attempt has
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Channels with equal options share one connection by default: one client's frozen stream would hold up another's.
    ("grpc.use_local_subchannel_pool", 1),
)


class Endpoint:
    """One etcd member: its channel and the stubs on it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.kv = rpc.KVStub(self._channel)
        self.lease = rpc.LeaseStub(self._channel)
        self.watch = rpc.WatchStub(self._channel)
        self.maintenance = rpc.MaintenanceStub(self._channel)

    def close(self) -> None:
        self._channel.close()


class Endpoints:
    """The members that were configured, one of them current; a failed call moves on to the next."""

    def __init__(self, addresses: Sequence[str]) -> None:
        clean = [a.strip().removeprefix("http://").rstrip("/") for a in addresses if a.strip()]
        if not clean:
            raise ConfigError(
                '`etcd` is empty, but must name at least one etcd member. Set for example "127.0.0.1:2379".'
            )
        self._all = [Endpoint(address) for address in clean]
        self._lock = threading.Lock()  # guards _current
        self._current = 0

    def __len__(self) -> int:
        return len(self._all)

    @property
    def addresses(self) -> str:
        return ",".join(e.address for e in self._all)

    def current(self) -> Endpoint:
        with self._lock:
            return self._all[self._current]

    def failed(self, endpoint: Endpoint) -> None:
        """Make another member current, unless some other caller did so already."""
        with self._lock:
            if self._all[self._current] is endpoint:
                self._current = (self._current + 1) % len(self._all)

    def close(self) -> None:
        for endpoint in self._all:
            endpoint.close()


def to_error(exc: Exception, address: str, *, doing: str, write: bool) -> ProxistError:
    """The error to raise for a failed call. A write that got no answer may have happened: `outcome="unknown"`."""
    code = exc.code() if isinstance(exc, grpc.Call) else None
    said = (exc.details() or "") if isinstance(exc, grpc.Call) else str(exc)
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound(f"etcd at {address} has no such lease ({doing}). It has expired; take a new one.")
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return PermissionDenied(f"etcd at {address} refuses {doing}: {said}. Give Proxist a user with the right.")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InternalError(f"etcd at {address} finds {doing} malformed: {said}.")
    details = {"outcome": "unknown"} if write else {}
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Unavailable(
            f"etcd at {address} is out of space or overloaded ({doing}: {said}). "
            "Compact and defragment it, then `etcdctl alarm disarm`.",
            retry_after_s=1.0,
            store="etcd",
        )
    name = code.name if code is not None else "CLOSED"
    return Unavailable(
        f"etcd at {address} does not answer ({doing}: {name}). Start it, or correct `etcd` (PROXIST_ETCD).",
        retry_after_s=1.0,
        store="etcd",
        **details,
    )
