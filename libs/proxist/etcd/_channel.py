"""gRPC channels to etcd's endpoints, and what etcd's errors mean to a caller of Proxist."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from proxist.errors import ConfigError, InternalError, NotFound, PermissionDenied, ProxistError, Unavailable
from proxist.pb import etcd_rpc_pb2_grpc as rpc

if TYPE_CHECKING:
    from proxist.rpc.tls import Tls  # a value that is handed in: this layer imports nothing of the doors

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
    ("grpc.enable_http_proxy", 0),
)


class Endpoint:
    """One etcd member: its channel and the stubs on it. With `https://` before it the channel is TLS."""

    def __init__(self, configured: str, tls: Tls | None) -> None:
        """`tls`: what is shown and trusted; None: nothing is shown, and trusted is whom gRPC trusts by itself."""
        scheme, there, rest = configured.rstrip("/").rpartition("://")
        self.address = rest
        self.secure = scheme == "https"
        if (there and scheme not in ("http", "https")) or "@" in rest:
            raise ConfigError(
                "`etcd` names a member by something else than host:port, http://host:port or https://host:port. "
                "Users and passwords are not among it: where etcd asks who calls, give a certificate (`tls_cert`)."
            )
        self._credentials = tls.renewed(tls.grpc_channel) if self.secure and tls is not None else None
        self._connect()

    def _connect(self) -> None:
        if self.secure:
            credentials = self._credentials.value if self._credentials else grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(self.address, credentials, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        self.kv = rpc.KVStub(self._channel)
        self.lease = rpc.LeaseStub(self._channel)
        self.watch = rpc.WatchStub(self._channel)
        self.maintenance = rpc.MaintenanceStub(self._channel)

    def renew(self) -> None:
        """After a failed call: with another channel where the TLS files have changed, which a channel does not see."""
        if self._credentials is not None and self._credentials.changed() is not None:
            self._channel.close()
            self._connect()

    def close(self) -> None:
        self._channel.close()


class Endpoints:
    """The members that were configured, one of them current; a failed call moves on to the next."""

    def __init__(self, addresses: Sequence[str], tls: Tls | None) -> None:
        clean = [a.strip() for a in addresses if a.strip()]
        if not clean:
            raise ConfigError(
                '`etcd` is empty, but must name at least one etcd member. Set for example "127.0.0.1:2379".'
            )
        self._all = [Endpoint(address, tls) for address in clean]
        self._lock = threading.Lock()  # guards _current and the renewal of channels
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
            endpoint.renew()
            if self._all[self._current] is endpoint:
                self._current = (self._current + 1) % len(self._all)

    def close(self) -> None:
        for endpoint in self._all:
            endpoint.close()


def to_error(exc: Exception, endpoint: Endpoint, *, doing: str, write: bool) -> ProxistError:
    """The error to raise for a failed call. A write that got no answer may have happened: `outcome="unknown"`."""
    address = endpoint.address
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
    remedy = _remedy(said, secure=endpoint.secure)
    if remedy.startswith(_HANDSHAKE):
        details["reason"] = "handshake"
    return Unavailable(
        f"etcd at {address} does not answer ({doing}: {name}). {remedy}",
        retry_after_s=1.0,
        store="etcd",
        **details,
    )


_HANDSHAKE = "The TLS handshake failed"


def _remedy(said: str, *, secure: bool) -> str:
    """What to do about a call that failed with gRPC's words `said`."""
    if "VERIFY_FAILED" in said or "peer certificate" in said:
        return (
            f"{_HANDSHAKE}: its certificate is not signed by the authority in `etcd_ca` (default `tls_ca`), "
            "is over, or is for another name. Set the authority that signed it, or call etcd by a name in it."
        )
    if "_ALERT_" in said:
        return (
            f"{_HANDSHAKE}: it refuses the certificate that it was shown, or wants one. Set `tls_cert` and "
            "`tls_key` to a pair that its --trusted-ca-file signed, for the name in its --client-cert-allowed-hostname."
        )
    if "andshake" in said:
        return (
            f"{_HANDSHAKE}: check that it speaks TLS, or write `etcd` (PROXIST_ETCD) without https:// if it does not."
        )
    if not secure and "failed to connect" in said and "refused" not in said:
        return "Start it, correct `etcd` (PROXIST_ETCD), or write https:// before the address if it speaks TLS."
    return "Start it, or correct `etcd` (PROXIST_ETCD)."
