"""Commands to the owners of shards: watermarks, flush, evict; each asked of the nodes that own them now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from proxist.errors import DeadlineExceeded, InvalidArgument, Paused, Unavailable
from proxist.etcd import NodeRecord, TableRecord
from proxist.model.ids import ShardId
from proxist.pb import controlplane_pb2 as pb
from proxist.pb import ingest_pb2, persister_pb2
from proxist_controlplane.cluster import Cluster
from proxist_controlplane.deadline import Deadline
from proxist_controlplane.peers import Peers
from proxist_controlplane.wire import mark_to_wire

OWNER_WAIT_S = 3.0
"""An owner that restarts is back within this; a command waits so long before it says that there is none."""

Marks = dict[ShardId, pb.Watermark]


class Owners:
    """Each answer covers every shard that was asked for, or an error names the one that is missing."""

    def __init__(self, cluster: Cluster, peers: Peers, *, ask_timeout_s: float, flush_timeout_s: float) -> None:
        self._cluster = cluster
        self._peers = peers
        self._ask_timeout_s = ask_timeout_s
        self._flush_timeout_s = flush_timeout_s

    def watermarks(self, records: Sequence[TableRecord], deadline: Deadline) -> list[pb.Watermark]:
        """One entry per shard of these tables, by shard id, as its owner has it now."""
        shards = [shard for record in records if record.state == "active" for shard in record.table.shard_ids]
        marks = self._ask(shards, deadline, self._marks_of(deadline))
        return [marks[shard] for shard in sorted(shards)]

    def reachable_watermarks(self, deadline: Deadline) -> list[pb.Watermark]:
        """For a status: what the owners that answer say, by shard id; never an error because of one that does not."""
        answers = self._peers.each({n.name: n for n in self._cluster.catalog.nodes("ingest")}, self._marks_of(deadline))
        marks: Marks = {}
        for answer in answers.values():
            if not isinstance(answer, Exception):
                marks.update(answer)
        return [marks[shard] for shard in sorted(marks)]

    def flush(self, tenant: str, name: str, timeout_ms: int, deadline: Deadline) -> None:
        """Return when everything acked before the call is persisted. Raises Paused at once for a paused table."""
        record = self._cluster.table(tenant, name)
        if record.paused:
            raise Paused(
                f"Table {name!r} is paused, so its rows are not persisted and a flush would wait for ever. "
                f"Run `pxctl persist resume {name}` first.",
                table=name,
            )
        budget = Deadline(min(deadline.left_s, timeout_ms / 1000 if timeout_ms else self._flush_timeout_s))

        def ask(node: NodeRecord) -> Marks:
            left_s = budget.at_most(self._flush_timeout_s if not timeout_ms else timeout_ms / 1000)
            request = ingest_pb2.FlushRequest(
                tenant=record.table.tenant, table=name, wait=True, timeout_ms=max(1, int(left_s * 1000))
            )
            return _by_shard(self._peers.ingest(node).Flush(request, timeout=left_s + 1.0).shards)

        try:
            self._ask(record.table.shard_ids, budget, ask)
        except (DeadlineExceeded, Unavailable) as error:
            raise type(error)(
                error.message + self._sink_state(record, deadline), retry_after_s=error.retry_after_s, **error.details
            ) from None

    def evict(self, request: pb.EvictRequest, deadline: Deadline) -> list[pb.Watermark]:
        """Move the floors of a table's shards; returns the marks afterwards, by shard id."""
        record = self._cluster.table(request.tenant, request.table)
        how = request.WhichOneof("to")
        if how is None or (how == "all" and not request.all):
            raise InvalidArgument(
                f"Evicting {request.table!r} needs one of `before_ns`, `all` and `rows`. Say how far the floor moves."
            )
        inner = ingest_pb2.EvictRequest(tenant=record.table.tenant, table=request.table, **{how: getattr(request, how)})

        def ask(node: NodeRecord) -> Marks:
            return _by_shard(
                self._peers.ingest(node).Evict(inner, timeout=deadline.at_most(self._flush_timeout_s)).shards
            )

        marks = self._ask(record.table.shard_ids, deadline, ask)
        return [marks[shard] for shard in sorted(marks)]

    # ---- asking ----------------------------------------------------------------------------------------------------

    def _ask(self, shards: Iterable[ShardId], deadline: Deadline, ask: Callable[[NodeRecord], Marks]) -> Marks:
        """Ask the owners of `shards`, those that changed hands meanwhile once more; exactly these shards' answers."""
        left, marks = set(shards), {}
        patience = Deadline(min(deadline.left_s, OWNER_WAIT_S))
        while left:
            answers = self._peers.each(self._nodes_of(left, patience), ask)
            for answer in answers.values():
                if not isinstance(answer, Exception):
                    marks.update({shard: mark for shard, mark in answer.items() if shard in left})
            left -= marks.keys()
            failed = next((a for a in answers.values() if isinstance(a, Exception)), None)
            if failed is not None and (not _is_passing(failed) or patience.passed):
                raise failed
            if left and patience.passed:
                raise self._no_owner(left)
            if left:
                self._cluster.catalog.wait_until(lambda _: False, patience.at_most(0.1))
        return marks

    def _nodes_of(self, shards: set[ShardId], patience: Deadline) -> dict[str, NodeRecord]:
        """The nodes that own `shards`; waits a little for an owner that is just coming back."""
        catalog = self._cluster.catalog
        if not catalog.wait_until(lambda _: not self._cluster.unowned(tuple(shards)), patience.left_s):
            raise self._no_owner(shards)
        nodes = {}
        for shard in shards:
            owner = catalog.owner(shard)
            node = catalog.node(owner.node) if owner else None
            if node is not None:
                nodes[node.name] = node
        return nodes

    def _no_owner(self, shards: set[ShardId]) -> Unavailable:
        missing = self._cluster.unowned(tuple(sorted(shards))) or sorted(shards)
        return Unavailable(
            f"No node accepts the rows of shard {self._cluster.where(missing)} now. "
            "Start that ingest node, or wait until it has recovered.",
            retry_after_s=1.0,
            shard=missing[0],
        )

    def _marks_of(self, deadline: Deadline) -> Callable[[NodeRecord], Marks]:
        request = ingest_pb2.WatermarksRequest()

        def ask(node: NodeRecord) -> Marks:
            answer = self._peers.ingest(node).Watermarks(request, timeout=deadline.at_most(self._ask_timeout_s))
            return _by_shard(answer.watermarks)

        return ask

    def _sink_state(self, record: TableRecord, deadline: Deadline) -> str:
        """What the persisters say of the table's shards, for the message of a flush that did not end."""

        def ask(node: NodeRecord) -> Any:
            return self._peers.persister(node).Status(persister_pb2.StatusRequest(), timeout=deadline.at_most(0.5))

        nodes = {n.name: n for n in self._cluster.catalog.nodes("persister")}
        if not nodes:
            return " No persister is alive; start one."
        said = []
        for name, answer in self._peers.each(nodes, ask).items():
            if isinstance(answer, Exception):
                said.append(f"{name} does not answer")
                continue
            wrong = next(
                (s.last_error for s in answer.shards if s.last_error and s.shard in record.table.shard_ids), ""
            )
            said.append(f"{name} says its sink is {answer.state}" + (f": {wrong}" if wrong else ""))
        return f" Now {'; '.join(said)}."


def _by_shard(marks: Iterable[ingest_pb2.Watermark]) -> Marks:
    return {ShardId(mark.shard): mark_to_wire(mark) for mark in marks}


def _is_passing(error: Exception) -> bool:
    """Whether asking again may help: the node went away or no longer owns the shard, as after a restart."""
    return isinstance(error, Unavailable)
