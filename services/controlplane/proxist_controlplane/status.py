"""`pxctl status`: every node with its state, the stores among them, and what the owners say of their shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxist.clickhouse import ClickHouse
from proxist.errors import ProxistError, Unavailable
from proxist.pb import controlplane_pb2 as pb
from proxist_controlplane.cluster import Cluster
from proxist_controlplane.deadline import Deadline
from proxist_controlplane.owners import Owners
from proxist_controlplane.peers import Peers

PROBE_TIMEOUT_S = 1.0
PARTS_FILE = "parts.json"
"""In the run directory of a local cluster: its supervisor writes there who runs now, etcd and ClickHouse included."""
ROLE_ORDER = ("query", "ingest", "persister", "controlplane", "etcd", "clickhouse")


class Status:
    """Best effort by design: a part that does not answer is shown as such, and the rest all the same."""

    def __init__(
        self, cluster: Cluster, owners: Owners, peers: Peers, *, clickhouse: ClickHouse, run_dir: Path
    ) -> None:
        """`clickhouse` is asked for a sign of life only, and waited for as long as it waits for a connection."""
        self._cluster = cluster
        self._owners = owners
        self._peers = peers
        self._clickhouse = clickhouse
        self._run_dir = run_dir

    def read(self, deadline: Deadline) -> pb.StatusResponse:
        """Within a few seconds, whatever is down."""
        probes: dict[str, Callable[[], Any]] = {
            "etcd": lambda: _asked(self._etcd_state),
            "clickhouse": lambda: _asked(self._clickhouse_state),
        }
        found = self._peers.each(probes, lambda probe: probe())
        nodes = self._nodes()
        _set_store(nodes, pb.Node(name="etcd", role="etcd", grpc=self._cluster.client.addresses), str(found["etcd"]))
        clickhouse = pb.Node(name="clickhouse", role="clickhouse", http=self._clickhouse.endpoint.url)
        _set_store(nodes, clickhouse, str(found["clickhouse"]))
        ordered = sorted(nodes.values(), key=lambda n: (ROLE_ORDER.index(n.role), n.name))
        return pb.StatusResponse(nodes=ordered, shards=self._marks(deadline))

    def _nodes(self) -> dict[str, pb.Node]:
        """Nodes by name: those with a lease, those that own a shard and are gone, and the parts of a local cluster."""
        nodes: dict[str, pb.Node] = {}
        try:
            catalog = self._cluster.catalog
        except ProxistError:
            catalog = None
        if catalog is not None:
            nodes = {s.node: pb.Node(name=s.node, role="ingest", state="down") for s in catalog.shards()}
            for n in catalog.nodes():
                nodes[n.name] = pb.Node(
                    name=n.name, role=n.role, pid=n.pid, flight=n.flight, grpc=n.grpc, http=n.http, state=n.state,
                    insecure=n.insecure,
                )  # fmt: skip
        for name, part in read_parts(self._run_dir).items():
            node = nodes.setdefault(name, pb.Node(name=name, role=part["role"]))
            if node.pid != part["pid"] or not node.state:  # its lease may be that of the process before
                node.MergeFrom(
                    pb.Node(pid=part["pid"], state=part["state"], **{d: part[d] for d in _DOORS if d in part})
                )
        return nodes

    def _etcd_state(self) -> str:
        return "ready" if self._cluster.client.status(timeout_s=PROBE_TIMEOUT_S).has_leader else "no leader"

    def _clickhouse_state(self) -> str:
        self._clickhouse.check()
        return "ready"

    def _marks(self, deadline: Deadline) -> list[pb.Watermark]:
        try:
            return self._owners.reachable_watermarks(deadline)
        except Unavailable:  # etcd has not answered since the start: nobody knows of shards yet
            return []


_DOORS = ("flight", "grpc", "http")


def _asked(state: Callable[[], str]) -> str:
    """`state()`, or which kind of silence it is: a store that is there is looked for in certificates, not in processes."""
    try:
        return state()
    except ProxistError as error:
        return "handshake failed" if error.details.get("reason") == "handshake" else "down"


def _set_store(nodes: dict[str, pb.Node], store: pb.Node, state: str) -> None:
    """What was probed just now counts; a store that nobody announced is shown with its configured address."""
    node = next((n for n in nodes.values() if n.role == store.role), None)
    if node is None:
        node = nodes[store.name] = store
    node.state = state


def read_parts(run_dir: Path) -> dict[str, dict[str, Any]]:
    """The parts of a local cluster by name; empty elsewhere."""
    try:
        parts: dict[str, dict[str, Any]] = json.loads((run_dir / PARTS_FILE).read_text())["parts"]
        return {name: part for name, part in parts.items() if part.get("role") in ROLE_ORDER}
    except (OSError, ValueError, KeyError):
        return {}
