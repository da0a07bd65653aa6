"""Persisted marks to etcd: a lower bound for operators and for sealing, so throttled, and allowed to be late."""

from __future__ import annotations

import threading

import structlog

from proxist.errors import ProxistError
from proxist.etcd import EtcdClient, WatermarkRecord
from proxist.etcd.shards import put_watermarks
from proxist.model.ids import ShardId

_log = structlog.get_logger("proxist.persister")


class Watermarks:
    """One thread that writes what has changed, all shards in one transaction, at most once per period."""

    def __init__(self, client: EtcdClient, period_s: float) -> None:
        self._client = client
        self._period_s = period_s
        self._lock = threading.Lock()  # guards _pending and _written
        self._pending: dict[ShardId, WatermarkRecord] = {}
        self._written: dict[ShardId, WatermarkRecord] = {}
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watermarks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Writes what is pending, if etcd answers, and joins."""
        self._stop.set()
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def advance(self, shard: ShardId, mark: WatermarkRecord) -> None:
        """To be written; a mark below one that was given before is ignored."""
        with self._lock:
            last = self._pending.get(shard) or self._written.get(shard)
            if last is None or mark.persisted > last.persisted:
                self._pending[shard] = mark
                self._changed.set()

    def forget(self, shard: ShardId) -> None:
        """The shard is not ours any more, or gone: nothing more is written for it."""
        with self._lock:
            self._pending.pop(shard, None)
            self._written.pop(shard, None)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._changed.wait()
            self._changed.clear()
            self._write()
            self._stop.wait(self._period_s)
        self._write()

    def _write(self) -> None:
        with self._lock:
            marks, self._pending = self._pending, {}
            self._written |= marks
        if not marks:
            return
        try:
            put_watermarks(self._client, marks)
        except ProxistError as error:
            _log.warning("watermarks were not written; the next write has them", error=error.message)
            with self._lock:
                self._pending = marks | self._pending
            self._changed.set()
