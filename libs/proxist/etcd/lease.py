"""A lease that is kept alive, with the instant until which its holder may act."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from proxist.errors import ProxistError
from proxist.etcd.client import EtcdClient

_log = structlog.get_logger("proxist.etcd")

KEEPALIVES_PER_TTL = 5
ATTEMPT_S_MAX = 2.0
REVOKE_TIMEOUT_S = 1.0


class KeptLease:
    """One lease, from grant to loss; after a loss it stays lost, and its holder takes another.

    `valid_until_ns` (CLOCK_MONOTONIC) counts from when the last answered keepalive was *sent*, so it always lies before
    the instant at which etcd may let the lease expire. Callbacks run in the keepalive thread and must be short:
    `on_extend(valid_until_ns)` after each extension, the grant included; `on_lost(reason)` once, at the latest at
    `valid_until_ns`, and never after `close`.
    """

    def __init__(
        self,
        client: EtcdClient,
        ttl_s: int,
        *,
        on_extend: Callable[[int], None] | None = None,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self._client = client
        self._asked_ttl_s = ttl_s
        self._on_extend = on_extend
        self._on_lost = on_lost
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread: threading.Thread | None = None
        self._period_s = max(ttl_s, 1) / KEEPALIVES_PER_TTL
        self.id = 0
        self.valid_until_ns = 0

    def start(self) -> KeptLease:
        """Take the lease and keep it. Raises Unavailable where etcd does not answer; then nothing was started."""
        sent_ns = time.monotonic_ns()
        self.id, ttl_s = self._client.lease_grant(self._asked_ttl_s)
        self._period_s = ttl_s / KEEPALIVES_PER_TTL
        self._extend(sent_ns, ttl_s)
        self._thread = threading.Thread(target=self._run, name="etcd-keepalive", daemon=True)
        self._thread.start()
        return self

    @property
    def lost(self) -> bool:
        """True once the lease is gone or can no longer be relied on; it never becomes False again."""
        return self._lost.is_set() or time.monotonic_ns() >= self.valid_until_ns

    def wait_lost(self, timeout_s: float) -> bool:
        return self._lost.wait(timeout_s)

    def close(self, *, revoke: bool = True) -> None:
        """Stop keeping it; with `revoke` its keys go at once if etcd answers, else when it expires."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if revoke and self.id:
            try:
                self._client.lease_revoke(self.id, timeout_s=REVOKE_TIMEOUT_S)
            except ProxistError as error:
                _log.info("lease was not revoked and will expire", lease=f"{self.id:x}", error=error.message)

    def _run(self) -> None:
        pause_s = self._period_s
        while not self._stop.wait(min(pause_s, self._left_s())):
            left_s = self._left_s()
            if left_s <= 0:
                return self._lose("no keepalive was answered within its ttl")
            sent_ns = time.monotonic_ns()
            try:
                ttl_s = self._client.lease_keepalive(self.id, timeout_s=max(0.05, min(ATTEMPT_S_MAX, left_s)))
            except ProxistError as error:
                _log.warning("keepalive failed", lease=f"{self.id:x}", left_s=round(left_s, 1), error=error.message)
                pause_s = min(self._period_s, 0.25)
                continue
            if ttl_s <= 0:
                return self._lose("etcd no longer knows it")
            if self._left_s() <= 0:  # this thread was held up: the holder may have stopped itself already
                return self._lose("its keepalive was answered too late")
            self._extend(sent_ns, ttl_s)
            pause_s = self._period_s
        return None

    def _left_s(self) -> float:
        return max(0.0, (self.valid_until_ns - time.monotonic_ns()) / 1e9)

    def _extend(self, sent_ns: int, ttl_s: int) -> None:
        self.valid_until_ns = sent_ns + ttl_s * 10**9
        if self._on_extend is not None:
            self._on_extend(self.valid_until_ns)

    def _lose(self, why: str) -> None:
        self._lost.set()
        if not self._stop.is_set() and self._on_lost is not None:
            self._on_lost(f"lease {self.id:x} is lost: {why}")
