"""Pausing and resuming the persister of a table."""

from __future__ import annotations

from typing import Any

import structlog

from proxist.errors import Unavailable
from proxist.etcd import NodeRecord
from proxist.etcd.shards import change_table
from proxist.pb import persister_pb2
from proxist_controlplane.cluster import Cluster
from proxist_controlplane.deadline import Deadline
from proxist_controlplane.peers import Peers

_log = structlog.get_logger("proxist.controlplane")


class Persisting:
    """The flag in etcd is what holds, across restarts; the calls to the persisters make it true before we return."""

    def __init__(self, cluster: Cluster, peers: Peers, *, ask_timeout_s: float) -> None:
        self._cluster = cluster
        self._peers = peers
        self._ask_timeout_s = ask_timeout_s

    def pause(self, tenant: str, name: str, deadline: Deadline) -> None:
        """Return when no insert of the table is in flight and none will follow. Raises NotFound and Unavailable."""
        record = self._cluster.table(tenant, name)
        self._set(record.table.tenant, name, paused=True, deadline=deadline)
        request = persister_pb2.PauseRequest(tenant=record.table.tenant, table=name)

        def ask(node: NodeRecord) -> Any:
            return self._peers.persister(node).Pause(request, timeout=deadline.at_most(deadline.left_s))

        for node, answer in self._peers.each(self._persisters(), ask).items():
            # One that died has no insert in flight that it could confirm, and reads the flag when it starts.
            if isinstance(answer, Exception) and self._cluster.catalog.node(node) is not None:
                raise Unavailable(
                    f"Table {name!r} is marked as paused, but {node} did not confirm that its insert in flight has ended: "
                    f"{answer} Run `pxctl persist pause {name}` again.",
                    retry_after_s=1.0,
                )

    def resume(self, tenant: str, name: str, deadline: Deadline) -> None:
        """Let the persister go on. A persister that cannot be told reads the flag by itself."""
        record = self._cluster.table(tenant, name)
        self._set(record.table.tenant, name, paused=False, deadline=deadline)
        request = persister_pb2.ResumeRequest(tenant=record.table.tenant, table=name)

        def ask(node: NodeRecord) -> Any:
            return self._peers.persister(node).Resume(request, timeout=deadline.at_most(self._ask_timeout_s))

        for node, answer in self._peers.each(self._persisters(), ask).items():
            if isinstance(answer, Exception):
                _log.warning("persister was not told to resume", node=node, table=name, error=str(answer))

    def _set(self, tenant: str, name: str, *, paused: bool, deadline: Deadline) -> None:
        change_table(self._cluster.client, tenant, name, paused=paused)
        self._cluster.catalog.wait_until(lambda c: c.table(tenant, name).paused == paused, deadline.at_most(1.0))

    def _persisters(self) -> dict[str, NodeRecord]:
        return {node.name: node for node in self._cluster.catalog.nodes("persister")}
