"""Verifying and repairing a table in ClickHouse: passed on, shard by shard, to the persister that holds each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxist.errors import NotFound, Unavailable
from proxist.etcd import NodeRecord
from proxist.model.ids import ShardId
from proxist.model.table import Table
from proxist.pb import persister_pb2 as pb
from proxist_controlplane.cluster import Cluster
from proxist_controlplane.peers import Peers

ROUND_S_MAX = 24 * 3600.0
"""Of one shard; a caller that leaves ends it at once."""


class Inspecting:
    """The credentials of ClickHouse stay with the persisters: what passes here are events."""

    def __init__(self, cluster: Cluster, peers: Peers) -> None:
        self._cluster = cluster
        self._peers = peers

    def verify(self, tenant: str, request: pb.VerifyRequest, context: Any) -> Iterator[pb.VerifyEvent]:
        """The events of every shard of the table, or of the one that is named. Raises NotFound and Unavailable."""
        return self._each("Verify", tenant, request, context)

    def repair(self, tenant: str, request: pb.RepairRequest, context: Any) -> Iterator[pb.VerifyEvent]:
        """As `verify`; a shard is only begun when the one before it is done."""
        return self._each("Repair", tenant, request, context)

    def _each(self, method: str, tenant: str, request: Any, context: Any) -> Iterator[pb.VerifyEvent]:
        table = self._cluster.table(tenant, request.table).table
        for shard in _shards(table, request):
            one = type(request)()
            one.CopyFrom(request)
            one.tenant, one.shard = table.tenant, shard
            call = getattr(self._peers.persister(self._holder(table, shard)), method)(one, timeout=ROUND_S_MAX)
            if not context.add_callback(call.cancel):
                call.cancel()  # the caller has left already
            yield from call

    def _holder(self, table: Table, shard: ShardId) -> NodeRecord:
        catalog = self._cluster.catalog
        record = catalog.persister(shard)
        node = catalog.node(record.node) if record is not None else None
        if node is None:
            raise Unavailable(
                f"No persister holds shard {shard} of table {table.name!r} now. Start one, or wait until it has its lease: "
                "`pxctl status` lists the nodes.",
                retry_after_s=1.0,
                shard=shard,
            )
        return node


def _shards(table: Table, request: Any) -> tuple[ShardId, ...]:
    if not request.HasField("shard"):
        return table.shard_ids
    if request.shard not in table.shard_ids:
        known = ", ".join(str(shard) for shard in table.shard_ids)
        raise NotFound(f"Table {table.name!r} has no shard {request.shard}. It has {known}.", shard=request.shard)
    return (ShardId(request.shard),)
