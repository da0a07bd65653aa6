"""A local copy of every key under a prefix, kept current: range, watch, and all over again after any break.

A break is whatever stops the flow: etcd restarted or frozen, the connection lost, the watch cancelled or silent, the
history compacted. The copy is then read anew and compared with what was known, so subscribers get exactly the
differences; states that came and went in between are not reported. While etcd is away the last copy stays readable.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import structlog

from proxist.errors import Unavailable
from proxist.etcd.client import EtcdClient
from proxist.etcd.ops import KeyValue
from proxist.etcd.watch import WatchBatch, WatchStream

_log = structlog.get_logger("proxist.etcd")

BACKOFF_S_MIN, BACKOFF_S_MAX = 0.05, 1.0

Changes = Mapping[str, KeyValue | None]
"""Per changed key its latest state, None where it was deleted."""


@dataclass(frozen=True, slots=True)
class View:
    """All keys at one instant: immutable, and never half of a transaction."""

    revision: int
    keys: Mapping[str, KeyValue]


class Mirror:
    """`start`, then read `view` from any thread without a lock; `close` joins every thread."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._changed = threading.Condition()  # guards _view, _synced, _stream, _subscriptions, _stopped
        self._view = View(0, MappingProxyType({}))
        self._synced = False
        self._stream: WatchStream | None = None
        self._subscriptions: list[Subscription] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="etcd-mirror", daemon=True)
        self.resync_count = 0

    def start(self) -> Mirror:
        self._thread.start()
        return self

    def close(self) -> None:
        with self._changed:
            self._stopped.set()
            stream, subscriptions = self._stream, list(self._subscriptions)
            self._changed.notify_all()
        if stream is not None:
            stream.cancel()
        if self._thread.ident is not None:
            self._thread.join()
        for subscription in subscriptions:
            subscription.close()

    @property
    def view(self) -> View:
        return self._view

    @property
    def synced(self) -> bool:
        """False before the first read and while a break is not yet mended: the view may be old."""
        return self._synced

    def get(self, key: str) -> KeyValue | None:
        return self._view.keys.get(key)

    def wait_synced(self, timeout_s: float) -> View:
        """The view once it is current; raises Unavailable where etcd does not answer in time."""
        if not self.wait_until(lambda _: self._synced, timeout_s):
            raise Unavailable(
                f"etcd at {self._client.addresses} did not answer within {timeout_s:g} s. "
                "Start it, or correct `etcd` (PROXIST_ETCD).",
                retry_after_s=1.0,
                store="etcd",
            )
        return self._view

    def wait_until(self, predicate: Callable[[View], bool], timeout_s: float) -> bool:
        """Wait until `predicate(view)` holds; False after `timeout_s` or `close`. It is called under a lock: be short."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not predicate(self._view):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._stopped.is_set():
                    return False
                self._changed.wait(left_s)
            return True

    def wait_revision(self, revision: int, timeout_s: float) -> bool:
        """Wait until the view includes everything that was written up to `revision`, say the caller's own write."""
        return self.wait_until(lambda view: view.revision >= revision, timeout_s)

    def catch_up(self, key: str, timeout_s: float) -> None:
        """On return the view shows `key` at least as new as etcd had it when this was called: what it shows as absent was
        absent. Raises Unavailable where etcd does not answer, or the view does not follow it within `timeout_s`."""
        now = self._client.get(key)
        if now is not None and not self.wait_revision(now.mod_revision, timeout_s):
            raise Unavailable(
                f"This node's copy of etcd is behind, and did not catch up within {timeout_s:g} s. Try again.",
                retry_after_s=0.5,
                store="etcd",
            )

    def subscribe(self, callback: Callable[[Changes], None]) -> Subscription:
        """Call `callback` in a thread of its own with the current keys first, then with every change.

        A slow callback holds up nobody: changes of a key that it has not seen yet are merged into the latest.
        """
        subscription = Subscription(callback, self._unsubscribe)
        with self._changed:
            self._subscriptions.append(subscription)
            subscription.offer(self._view.keys)
        return subscription.start()

    def _unsubscribe(self, subscription: Subscription) -> None:
        with self._changed:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)

    # ---- the mirror's own thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff_s = BACKOFF_S_MIN
        while not self._stopped.is_set():
            try:
                kvs, revision = self._client.range(self._prefix)
                self._reset(kvs, revision)
                backoff_s = BACKOFF_S_MIN
                self._follow(revision + 1)
            except Unavailable as error:
                if self._synced and not self._stopped.is_set():  # once per break, not once per attempt
                    _log.warning("mirror broke and is read again", prefix=self._prefix, error=error.message)
            except Exception:
                _log.exception("mirror failed and is read again", prefix=self._prefix)
            with self._changed:
                self._synced = False
                self._changed.notify_all()
            # Jitter, so that many processes do not fall upon a restarted etcd in step.
            self._stopped.wait(backoff_s * (0.5 + random.random() / 2))
            backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)

    def _follow(self, start_revision: int) -> None:
        stream = self._client.watch(self._prefix, start_revision)
        with self._changed:
            self._stream = stream
            stopped = self._stopped.is_set()
        if stopped:
            stream.cancel()
        try:
            for batch in stream:
                self._apply(batch)
        finally:
            with self._changed:
                self._stream = None

    def _reset(self, kvs: list[KeyValue], revision: int) -> None:
        keys = {kv.key: kv for kv in kvs}
        known = self._view.keys
        changes: dict[str, KeyValue | None] = {k: kv for k, kv in keys.items() if known.get(k) != kv}
        changes.update(dict.fromkeys(known.keys() - keys.keys()))
        if self.resync_count and not self._synced:
            _log.info("mirror is current again", prefix=self._prefix, changed_keys=len(changes))
        self.resync_count += 1
        self._publish(keys, revision, changes)

    def _apply(self, batch: WatchBatch) -> None:
        if not batch.changes:
            return
        keys = dict(self._view.keys)
        for change in batch.changes:
            if change.kv is None:
                keys.pop(change.key, None)
            else:
                keys[change.key] = change.kv
        self._publish(keys, batch.revision, {c.key: c.kv for c in batch.changes})

    def _publish(self, keys: dict[str, KeyValue], revision: int, changes: Changes) -> None:
        with self._changed:
            self._view = View(revision, MappingProxyType(keys))
            self._synced = True
            if changes:
                for subscription in self._subscriptions:
                    subscription.offer(changes)
            self._changed.notify_all()


class Subscription:
    """One subscriber's thread and the changes that it has not seen yet: at most one per key."""

    def __init__(self, callback: Callable[[Changes], None], on_close: Callable[[Subscription], None]) -> None:
        self._callback = callback
        self._on_close = on_close
        self._ready = threading.Condition()  # guards _pending, _closed
        self._pending: dict[str, KeyValue | None] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="etcd-subscription", daemon=True)

    def start(self) -> Subscription:
        self._thread.start()
        return self

    def offer(self, changes: Changes) -> None:
        with self._ready:
            self._pending.update(changes)
            self._ready.notify()

    def close(self) -> None:
        """After return the callback is not running and never will again (unless it is the callback that closes)."""
        self._on_close(self)
        with self._ready:
            self._closed = True
            self._ready.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._pending and not self._closed:
                    self._ready.wait()
                if self._closed:
                    return
                changes, self._pending = self._pending, {}
            try:
                self._callback(changes)
            except Exception:
                _log.exception("a subscriber of the mirror failed; it gets the next change")
