"""Which way to an owner: attached on this host, by Flight to the others, or as the query says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from proxist.errors import NotOwner, Unavailable
from proxist.etcd.catalog import Catalog
from proxist.etcd.records import NodeRecord
from proxist.hot.ops import HotOp, HotPart, Probes
from proxist.model.ids import Offset, ShardId
from proxist.model.table import Table
from proxist.rpc.attached import Attached
from proxist.rpc.quick import QuickReads
from proxist.seam.last_rows import Form
from proxist.seam.warm import WarmPart
from proxist.telemetry import tracing
from proxist_query.remote import Remote

OWNER_WAIT_S = 2.0
"""How long an owner is waited for that the mirror has not shown yet, or that is just being replaced: a restart is about
as long, a start with many rows to replay is longer and a typed error."""
RETRY_S_MIN = 0.01
T = TypeVar("T")


class Hot:
    """The owners' hot sets. Thread-safe; `via(path)` is an executor's HotSource."""

    def __init__(self, catalog: Catalog, attached: Attached, remote: Remote, host_id: str) -> None:
        self._catalog = catalog
        self._attached = attached
        self._remote = remote
        self._host_id = host_id

    def via(self, hot_path: str) -> HotVia:
        """The source for a query's `hot_path`: "auto", "attach" or "flight"."""
        return HotVia(self, hot_path)

    def quick(self) -> QuickReads:
        """Quick reads of the same owners, on the same ways."""

        def table(tenant: str, name: str) -> Table:
            return self._catalog.table(tenant, name).table

        return QuickReads(table, self._attached.attached, self._attached.drop, self._last_rows)

    def owner(self, shard: ShardId) -> NodeRecord:
        """The node that owns a shard now. Raises NotOwner where nobody does, after waiting a moment, or the
        error for which it cannot be opened."""
        node = self._owner(shard)
        if node is None:
            self._catalog.wait_until(
                lambda catalog: self._owner(shard) is not None or catalog.refusal(shard) is not None, OWNER_WAIT_S
            )
            node = self._owner(shard)
        if node is None:
            refusal = self._catalog.refusal(shard)
            if refusal is not None:
                raise refusal
            record = self._catalog.shard(shard)
            raise NotOwner(
                f"Shard {shard} of table {record.table!r} has no owner now: node {record.node!r}, where it is placed, "
                f"is down or starting. Its last epoch is {record.epoch}. Try again in a moment.",
                retry_after_s=0.5,
                shard=shard,
                node=record.node,
                epoch=record.epoch,
            )
        return node

    def way_to(self, node: NodeRecord) -> str:
        """ "attach" or "flight": how `auto` reaches an ingest node."""
        return "attach" if node.attach and node.host_id == self._host_id else "flight"

    def run(
        self,
        hot_path: str,
        shard: ShardId,
        op: HotOp,
        probes: Probes | None,
        min_end: Offset | None,
        wait_ns: int,
    ) -> HotPart:
        """One read; again, for a moment, where the owner is changing: the new one is known before it answers."""
        return self._patiently(shard, lambda: self._run(hot_path, shard, op, probes, min_end, wait_ns))

    def warm(self, shard: ShardId, op: HotOp, probes: Probes | None, first: Offset, end: Offset) -> WarmPart:
        """Rows [first, end) of the shard's log: the owner reads its files, wherever it is."""

        def read() -> WarmPart:
            with tracing.span("warm.read") as span:
                span.set("proxist.shard.id", shard)
                span.set("db.operation.name", type(op).__name__)
                part = self._remote.warm(self._uri(self.owner(shard)), shard, op, probes, first, end)
                span.set("db.response.returned_rows", part.rows.num_rows)
                return part

        return self._patiently(shard, read)

    def _patiently(self, shard: ShardId, read: Callable[[], T]) -> T:
        deadline, pause_s = time.monotonic() + OWNER_WAIT_S, RETRY_S_MIN
        while True:
            try:
                return read()
            except NotOwner:
                self._attached.drop(shard)
                if time.monotonic() + pause_s > deadline:
                    raise
            time.sleep(pause_s)
            pause_s *= 2

    def _uri(self, node: NodeRecord) -> str:
        return node.flight_unix if node.host_id == self._host_id and node.flight_unix else node.flight

    def _run(
        self, hot_path: str, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int
    ) -> HotPart:
        node = self.owner(shard)
        near = self.way_to(node) == "attach"
        if not near:
            self._attached.drop(shard)  # of an owner that was on this host before
        if hot_path == "attach" and not near:
            raise Unavailable(
                f"Shard {shard} is owned by node {node.name!r}, which is not on this host, so it cannot be attached. "
                'Set `hot_path` to "auto" or "flight".',
                shard=shard,
            )
        if near and hot_path != "flight":
            try:
                with tracing.span("hot.read") as span:
                    part = self._attached.run(node.attach, shard, op, probes, min_end, wait_ns)
                    if span.recording:
                        span.set("proxist.hot.path", "attach")
                        span.set("proxist.shard.id", shard)
                        span.set("db.operation.name", type(op).__name__)
                        span.set("db.response.returned_rows", part.rows.num_rows)
                    return part
            except NotOwner:
                raise
            except Unavailable as error:
                # "evicting": the owner outran the reader again and again; itself it can still answer.
                if hot_path == "attach" and error.details.get("reason") != "evicting":
                    raise
        return self._remote.run(self._uri(node), shard, op, probes, min_end, wait_ns)

    def _last_rows(self, form: Form, hot_path: str) -> tuple[pa.RecordBatch, bytes] | None:
        node = self._owner(form.shard)
        if node is None or hot_path == "attach" or (hot_path == "auto" and self.way_to(node) == "attach"):
            return None  # to be attached first
        return self._remote.last_rows(self._uri(node), form)

    def _owner(self, shard: ShardId) -> NodeRecord | None:
        owner = self._catalog.owner(shard)
        return None if owner is None else self._catalog.node(owner.node)


class HotVia:
    """`Hot` with a query's way."""

    def __init__(self, hot: Hot, hot_path: str) -> None:
        self._hot = hot
        self._hot_path = hot_path

    def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        return self._hot.run(self._hot_path, shard, op, probes, min_end, wait_ns)

    def warm(self, shard: ShardId, op: HotOp, probes: Probes | None, first: Offset, end: Offset) -> WarmPart:
        return self._hot.warm(shard, op, probes, first, end)
