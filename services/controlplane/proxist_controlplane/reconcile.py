"""What the control plane does on its own: finish drops, and move shards that were never opened off dead nodes."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import structlog

from proxist.errors import ProxistError
from proxist.etcd import Catalog, ShardRecord, TableRecord, layout
from proxist.etcd.mirror import Subscription
from proxist.etcd.ops import Delete, Op, Put, unchanged
from proxist.etcd.records import NO_EPOCH, encode
from proxist.model.ids import ShardId
from proxist_controlplane.cluster import Cluster
from proxist_controlplane.placement import place
from proxist_controlplane.tables import NOT_PLACEABLE

_log = structlog.get_logger("proxist.controlplane")

PERIOD_S = 1.0


class Reconciler:
    """One thread: looks at each change and once a second. Several control planes may do so at once."""

    def __init__(self, cluster: Cluster, catalog: Catalog, *, replace_after_s: float) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._replace_after_s = replace_after_s
        self._gone_since_s: dict[str, float] = {}
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._subscription: Subscription | None = None
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        self._subscription = self._catalog.mirror.subscribe(lambda _: self._wake.set())
        self._thread.start()

    def stop(self) -> None:
        """Joins its threads; a pass in progress ends first, within etcd's call timeout."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        if self._subscription is not None:
            self._subscription.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                if self._catalog.mirror.synced:
                    self._pass()
            except ProxistError as error:
                _log.warning("reconciling was put off", error=error.message)
                self._stop.wait(PERIOD_S)
            except Exception:
                _log.exception("reconciling failed")
                self._stop.wait(PERIOD_S)
            self._wake.wait(PERIOD_S)

    def _pass(self) -> None:
        for record in self._catalog.tables():
            if record.state == "dropped":
                self._forget(record)
        for shard, node in self._moves().items():
            self._move(shard, node)

    def _forget(self, record: TableRecord) -> None:
        """The last step of a drop: delete the table's keys; its name is free, its ids are never used again."""
        table = record.table
        kv = self._cluster.client.get(layout.table_key(table.tenant, table.name))
        if kv is None or TableRecord.from_json(json.loads(kv.value)) != record:
            return
        then: list[Op] = [Delete(kv.key)]
        for shard in table.shard_ids:
            then += [Delete(layout.shard_key(shard)), Delete(layout.watermark_key(shard))]
        if self._cluster.client.txn([unchanged(kv)], then).succeeded:
            _log.info("table dropped", tenant=table.tenant, table=table.name, id=table.id)

    def _moves(self) -> dict[ShardId, str]:
        alive = [n.name for n in self._catalog.nodes("ingest") if n.state not in NOT_PLACEABLE]
        shards = self._catalog.shards()
        now_s = time.monotonic()
        gone = {s.node for s in shards} - {n.name for n in self._catalog.nodes("ingest")}
        self._gone_since_s = {node: self._gone_since_s.get(node, now_s) for node in gone}
        dead = {node for node, since_s in self._gone_since_s.items() if now_s - since_s >= self._replace_after_s}
        return moves(shards, alive, dead)

    def _move(self, shard: ShardId, node: str) -> None:
        kv = self._cluster.client.get(layout.shard_key(shard))
        record = self._catalog.shard(shard)
        if kv is None or ShardRecord.from_json(json.loads(kv.value)) != record:
            return
        moved = replace(record, node=node)
        if self._cluster.client.txn([unchanged(kv)], [Put(kv.key, encode(moved.to_json()))]).succeeded:
            _log.info("shard moved", shard=shard, table=record.table, old=record.node, new=node)


def moves(shards: Sequence[ShardRecord], alive: Sequence[str], dead: set[str]) -> dict[ShardId, str]:
    """New nodes for the shards on `dead` ones that were never opened; a shard with a log stays where its disk is."""
    stranded = [s.shard for s in shards if s.epoch == NO_EPOCH and s.node in dead]
    if not stranded or not alive:
        return {}
    load = Counter(s.node for s in shards if s.shard not in set(stranded))
    return place(stranded, alive, load)
