"""A service's life in etcd: its lease, its node record, and what happens when the lease is lost."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace

import structlog

from proxist.errors import NotFound, ProxistError, Unavailable
from proxist.etcd import layout
from proxist.etcd.client import EtcdClient
from proxist.etcd.lease import KeptLease
from proxist.etcd.ops import KeyValue, Put, mod_is
from proxist.etcd.records import NodeRecord, encode

_log = structlog.get_logger("proxist.etcd")

RETRY_S = 0.25


class NodeSession:
    """Holds `nodes/<name>` under a kept lease; takes a new lease after each loss, until `close`.

    `on_gained(lease)` and `on_lost(reason)` alternate, beginning with `on_gained`, both in the session's thread.
    Both must be short: hand long work to a thread. `on_lost` is called when the lease may expire, on the monotonic clock;
    `on_extend(valid_until_ns)` runs in the keepalive thread, first before `on_gained`. What hung on the lost lease is given up before the next one is taken.

    With `takeover` (the caller holds this name's directory lock) the lease of an earlier process of the same name is
    revoked at once; else only where that process is known to be dead, and otherwise its expiry is awaited.
    """

    def __init__(
        self,
        client: EtcdClient,
        record: NodeRecord,
        *,
        ttl_s: int = 10,
        takeover: bool = False,
        on_gained: Callable[[KeptLease], None] | None = None,
        on_lost: Callable[[str], None] | None = None,
        on_extend: Callable[[int], None] | None = None,
    ) -> None:
        self._client = client
        self._ttl_s = ttl_s
        self._takeover = takeover
        self._on_gained, self._on_lost, self._on_extend = on_gained, on_lost, on_extend
        self._lock = threading.Lock()  # guards _record, _lease and the writes of the node's key
        self._record = record
        self._lease: KeptLease | None = None
        self._old_leases: set[int] = set()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._gained = threading.Event()
        self._reason = ""
        self._said = ""
        self.gain_count = 0
        self.loss_count = 0
        self._thread = threading.Thread(target=self._run, name="etcd-session", daemon=True)

    def start(self) -> NodeSession:
        """Returns at once; etcd need not be there yet."""
        self._thread.start()
        return self

    @property
    def lease(self) -> KeptLease | None:
        """The lease that is held now, None between a loss and the next gain."""
        return self._lease

    def wait_gained(self, timeout_s: float) -> bool:
        """True once a lease is held and the node record is written."""
        return self._gained.wait(timeout_s)

    def update(self, **fields: object) -> None:
        """Change fields of the node record, say `state="ready"`; now, or with the next lease where none is held."""
        with self._lock:
            self._record = replace(self._record, **fields)  # type: ignore[arg-type]
            if self._lease is not None and not self._lease.lost:
                try:
                    self._client.put(layout.node_key(self._record.name), self._encoded(), self._lease.id)
                except (Unavailable, NotFound) as error:
                    _log.warning("node record is not current", node=self._record.name, error=error.message)

    def close(self) -> None:
        """Give up the lease and everything on it; joins the threads. `on_lost` is not called."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    # ---- the session's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                lease = self._gain()
            except ProxistError as error:
                self._say_once(f"node {self._record.name} has no lease yet: {error.message}")
                self._stop.wait(RETRY_S)
                continue
            if lease is None:
                self._stop.wait(RETRY_S)
                continue
            self._said = ""
            self.gain_count += 1
            self._call(self._on_gained, lease)
            self._gained.set()
            reason = self._hold()
            self._gained.clear()
            with self._lock:
                self._lease = None
            if reason is not None:
                self.loss_count += 1
                self._call(self._on_lost, reason)
            lease.close()

    def _gain(self) -> KeptLease | None:
        """A lease with the node's key on it, or None where a living process still holds the name."""
        key = layout.node_key(self._record.name)
        found = self._client.get(key)
        if found is not None and not self._evict(found):
            return None
        self._wake.clear()
        lease = KeptLease(
            self._client, self._ttl_s, on_extend=self._on_extend, on_lost=lambda reason: self._lost(reason)
        ).start()
        self._old_leases.add(lease.id)
        with self._lock:
            self._lease = lease
            try:
                now = self._client.get(key)
                if now is None and self._client.txn([mod_is(key, 0)], [Put(key, self._encoded(), lease.id)]).succeeded:
                    return lease
            except ProxistError:
                lease.close()
                self._lease = None
                raise
            self._lease = None
        lease.close()
        return None

    def _evict(self, found: KeyValue) -> bool:
        """Whether the name is free now: its holder is an earlier self, was dead, or lost it to the directory lock."""
        other = NodeRecord.from_json(json.loads(found.value))
        mine = found.lease in self._old_leases
        if not (mine or self._takeover or _is_dead(other, self._record)):
            self._say_once(f"node name {other.name} is held by pid {other.pid}; waiting for its lease to end")
            return False
        if found.lease:
            self._client.lease_revoke(found.lease)
        else:
            self._client.delete(found.key)
        return True

    def _hold(self) -> str | None:
        """Return why the lease was lost, or None where the session is closed."""
        if not self._stop.is_set():
            self._wake.wait()
        return None if self._stop.is_set() else self._reason

    def _lost(self, reason: str) -> None:
        self._reason = reason
        self._wake.set()

    def _say_once(self, said: str) -> None:
        """Retries come four times a second: the log gets each state of affairs once."""
        if said != self._said:
            self._said = said
            _log.warning(said)

    def _encoded(self) -> bytes:
        return encode(self._record.to_json())

    def _call(self, callback: Callable[..., None] | None, *args: object) -> None:
        if callback is None:
            return
        try:
            callback(*args)
        except Exception:
            _log.exception("a callback of the session failed", node=self._record.name)


def _is_dead(other: NodeRecord, mine: NodeRecord) -> bool:
    """Whether the process that wrote `other` is known to be gone. One with our own pid was, too, before a reboot."""
    if other.host_id != mine.host_id or not mine.host_id:
        return False
    if other.pid == mine.pid:
        return True
    try:
        os.kill(other.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
