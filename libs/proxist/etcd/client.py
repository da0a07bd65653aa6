"""The etcd client: key-values, transactions, leases and watches over etcd's public v3 gRPC API, with threads.

Every call has a deadline and raises Unavailable where etcd does not answer in time. Reads are linearizable and are
tried on every member; writes are sent once, since one whose answer was lost may have happened: their error then has
`details["outcome"] == "unknown"`, and the caller reads again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from proxist.errors import NotFound, ProxistError, Unavailable
from proxist.etcd._channel import Endpoint, Endpoints, to_error
from proxist.etcd.ops import Compare, KeyValue, Op, TxnResult, from_kv, prefix_end, read_results, to_txn
from proxist.etcd.watch import WatchStream
from proxist.pb import etcd_rpc_pb2 as pb
from proxist.telemetry.figures import Histogram
from proxist.telemetry.metrics import STORE_S

if TYPE_CHECKING:
    from proxist.rpc.tls import Tls

CALL_TIMEOUT_S = 3.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member's own view: its version, whether a leader is known, the size of its database in bytes."""

    version: str
    has_leader: bool
    db_bytes: int
    revision: int


class EtcdClient:
    """Thread-safe. `endpoints` are `host:port` or `https://host:port`, in order of preference. `close` ends calls and
    watches in flight.

    `tls` is for the endpoints with `https://`. Renewed files count from the first call on that failed after they came:
    a connection that works is left alone, and one that breaks is made anew with them.
    """

    def __init__(
        self, endpoints: Sequence[str] | str, *, tls: Tls | None = None, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        """Raises ConfigError for an endpoint that is none, and for TLS files that cannot be used."""
        addresses = endpoints.split(",") if isinstance(endpoints, str) else endpoints
        self._endpoints = Endpoints(addresses, tls)
        self._timeout_s = timeout_s
        self.call_seconds = Histogram(STORE_S)
        """Of every call, failed ones too; watches are no calls."""
        self.failure_count = 0

    @property
    def addresses(self) -> str:
        """The configured members, as one comma list."""
        return self._endpoints.addresses

    def __enter__(self) -> EtcdClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._endpoints.close()

    # ---- key-values ------------------------------------------------------------------------------------------------

    def get(self, key: str) -> KeyValue | None:
        """The key as it is now, or None."""
        answer = self._read(f"get {key}", lambda e, t: e.kv.Range(pb.RangeRequest(key=key.encode()), timeout=t))
        return from_kv(answer.kvs[0]) if answer.kvs else None

    def range(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Every key that begins with `prefix`, in order, and the revision at which that was so."""
        request = pb.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix))
        answer = self._read(f"range {prefix}", lambda e, t: e.kv.Range(request, timeout=t))
        return [from_kv(kv) for kv in answer.kvs], answer.header.revision

    def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write one key; returns the revision. Raises NotFound where the lease has expired."""
        request = pb.PutRequest(key=key.encode(), value=value, lease=lease)
        answer = self._write(f"put {key}", lambda e, t: e.kv.Put(request, timeout=t))
        return int(answer.header.revision)

    def delete(self, key: str, *, prefix: bool = False) -> int:
        """Delete a key, or every key under a prefix; returns how many there were."""
        request = pb.DeleteRangeRequest(key=key.encode(), range_end=prefix_end(key) if prefix else b"")
        return int(self._write(f"delete {key}", lambda e, t: e.kv.DeleteRange(request, timeout=t)).deleted)

    def txn(self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        """If all compares hold, do `then`, else `otherwise`, atomically, however many operations there are.

        No key may be written twice. Raises NotFound where a lease of a Put has expired.
        """
        request = to_txn(compares, then, otherwise)
        answer = self._write("transaction", lambda e, t: e.kv.Txn(request, timeout=t))
        return TxnResult(answer.succeeded, answer.header.revision, read_results(answer.responses))

    def compact(self, revision: int) -> None:
        """Forget the history below `revision`; raises InternalError where it is compacted already or in the future."""
        request = pb.CompactionRequest(revision=revision, physical=True)
        self._write("compact", lambda e, t: e.kv.Compact(request, timeout=t))

    def watch(self, prefix: str, start_revision: int) -> WatchStream:
        """Every change under `prefix` from `start_revision` on, until something breaks; see `Mirror` for what resumes."""
        return WatchStream(self._endpoints.current(), prefix, start_revision, self._endpoints.failed)

    # ---- leases ----------------------------------------------------------------------------------------------------

    def lease_grant(self, ttl_s: int) -> tuple[int, int]:
        """A new lease: (id, ttl in seconds as etcd granted it, which may be more)."""
        answer = self._write("lease grant", lambda e, t: e.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=ttl_s), timeout=t))
        return int(answer.ID), int(answer.TTL)

    def lease_revoke(self, lease: int, *, timeout_s: float | None = None) -> bool:
        """End a lease and delete its keys; False where it was gone already."""
        request = pb.LeaseRevokeRequest(ID=lease)
        try:
            self._write("lease revoke", lambda e, t: e.lease.LeaseRevoke(request, timeout=timeout_s or t))
        except NotFound:
            return False
        return True

    def lease_keepalive(self, lease: int, *, timeout_s: float | None = None) -> int:
        """Extend a lease once; returns its new ttl in seconds, 0 or less where it has expired: its holder is fenced."""

        def once(endpoint: Endpoint, call_timeout_s: float) -> int:
            call = endpoint.lease.LeaseKeepAlive(iter([pb.LeaseKeepAliveRequest(ID=lease)]), timeout=call_timeout_s)
            try:
                return int(next(call).TTL)
            finally:
                call.cancel()

        return self._attempt("lease keepalive", once, timeout_s or self._timeout_s, write=False)

    def lease_ttl(self, lease: int) -> int:
        """Seconds left of a lease; -1 where it does not exist."""
        request = pb.LeaseTimeToLiveRequest(ID=lease)
        return int(self._read("lease ttl", lambda e, t: e.lease.LeaseTimeToLive(request, timeout=t)).TTL)

    # ---- the store itself ------------------------------------------------------------------------------------------

    def status(self, *, timeout_s: float | None = None) -> MemberStatus:
        """The first member that answers."""
        answer = self._read("status", lambda e, t: e.maintenance.Status(pb.StatusRequest(), timeout=t), timeout_s)
        return MemberStatus(answer.version, answer.leader != 0, answer.dbSize, answer.header.revision)

    def wait_ready(self, timeout_s: float) -> None:
        """Return once etcd answers a linearizable read; raises Unavailable after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        pause = iter(_pauses_s())
        while True:
            try:
                self.get("/")
                return
            except Unavailable:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise
            time.sleep(min(next(pause), left))

    # ---- calls -----------------------------------------------------------------------------------------------------

    def _read(self, doing: str, call: Callable[[Endpoint, float], Any], timeout_s: float | None = None) -> Any:
        left = len(self._endpoints)
        while True:
            try:
                return self._attempt(doing, call, timeout_s or self._timeout_s, write=False)
            except Unavailable:
                left -= 1
                if not left:
                    raise

    def _write(self, doing: str, call: Callable[[Endpoint, float], Any]) -> Any:
        return self._attempt(doing, call, self._timeout_s, write=True)

    def _attempt(self, doing: str, call: Callable[[Endpoint, float], T], timeout_s: float, *, write: bool) -> T:
        endpoint = self._endpoints.current()
        began = time.perf_counter()
        try:
            return call(endpoint, timeout_s)
        except (grpc.RpcError, StopIteration, ValueError) as exc:  # ValueError: the channel was closed meanwhile
            error: ProxistError = to_error(exc, endpoint, doing=doing, write=write)
            if isinstance(error, Unavailable):
                self._endpoints.failed(endpoint)
            self.failure_count += 1
            raise error from None
        finally:
            self.call_seconds.observe(time.perf_counter() - began)


def _pauses_s() -> Iterable[float]:
    pause_s = 0.02
    while True:
        yield pause_s
        pause_s = min(pause_s * 1.5, 0.5)
