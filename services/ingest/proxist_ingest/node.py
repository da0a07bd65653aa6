"""The ingest node: its parts, the order in which they start and stop, and how it leaves service."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from proxist.auth.setup import guard_of
from proxist.errors import NotOwner, ProxistError, Unavailable
from proxist.etcd import Catalog, EtcdClient, KeptLease, NodeRecord, NodeSession
from proxist.hot.host import this_host_id
from proxist.model.ids import ShardId
from proxist.pb import ingest_pb2_grpc as pb_grpc
from proxist.rpc import tls
from proxist.rpc.actions import ClusterActions
from proxist.rpc.attach import AttachDoor
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.flight_server import FlightDoor
from proxist.rpc.grpc_server import GrpcDoor, GrpcService
from proxist.rpc.http import HttpDoor
from proxist.rpc.run_dir import prepare_run_dir
from proxist.rpc.service import Lifeline
from proxist.telemetry.common import node_figures
from proxist.telemetry.figures import registry_of
from proxist.wal import DirectoryLock, Volume
from proxist_ingest import metrics
from proxist_ingest.config import IngestConfig
from proxist_ingest.doors import IngestDoor
from proxist_ingest.keeper import Keeper, Refusals
from proxist_ingest.opening import Opener
from proxist_ingest.servicer import SERVICE_NAME, IngestServicer
from proxist_ingest.shard import Shard
from proxist_ingest.snapshot_thread import SnapshotThread
from proxist_ingest.snapshotting import SnapshotRule

log = structlog.get_logger("proxist.ingest")


class NodeLease:
    """The node's lease as its shards see it: one integer, written by the keepalive thread."""

    def __init__(self) -> None:
        self.valid_until_ns = 0


class IngestNode:
    """Owns the process' shards and doors. Everything is for any thread unless it says otherwise.

    Doors open before the shards do, so that a port that is taken is noticed at once; until `state` is "ready" every call
    is answered Unavailable.
    """

    def __init__(self, config: IngestConfig, lifeline: Lifeline) -> None:
        self.name = config.name
        self.state = "starting"
        self._config = config
        self._lifeline = lifeline
        self._lease = NodeLease()
        self._fence_lock = threading.Lock()  # guards _fenced
        self._fenced = False
        self._opening = False
        """Whether shards may have been taken under the lease."""
        self._peers: dict[str, FlightPeer] = {}
        self._peers_lock = threading.Lock()  # guards _peers
        self._host_id = this_host_id()

    # ---- life ------------------------------------------------------------------------------------------------------

    def start(self) -> Mapping[str, str]:
        """Ready on return: every shard that is placed here accepts rows, or is refused (`health` says why). Waits for etcd as long as it takes.

        Raises DirectoryLocked, PortTaken, ConfigError; Unavailable where the process is asked to stop.
        """
        try:
            return self._start()
        except BaseException:
            self.stop(self._config.stop_grace_s)
            raise

    def _start(self) -> Mapping[str, str]:
        config = self._config
        self._lock = DirectoryLock(config.data_dir)
        run_dir = prepare_run_dir(config.data_dir, config.run_dir)
        self._client = EtcdClient(config.etcd_endpoints, tls=tls.to_etcd(config))
        self._catalog = Catalog.start(self._client)
        self._opener = Opener(
            self._client,
            self._catalog,
            self.name,
            config.data_dir,
            run_dir,
            self._lease,
            self._lease_id,
            self._fence,
            int(config.wal_gib_max * 2**30),
            SnapshotRule(
                config.data_dir,
                Volume(config.data_dir, ballast_bytes=config.ballast_mib * 2**20),
                config.snapshot_mib * 2**20,
            ),
        )
        self._keeper = Keeper(self._opener, self._catalog, self._fence, self._refused)
        self._snapshots = SnapshotThread(self._keeper.shards)
        guard = guard_of(config, self._catalog.mirror)
        self._actions = ClusterActions(self._catalog, self.name)
        handler = IngestDoor(self, self._catalog, self, self._actions)
        self._flight = FlightDoor(
            handler, config.host, config.flight_port, config.flight_socket, guard=guard, tls=tls.of(config)
        )
        servicer = IngestServicer(self, self._catalog)
        self._grpc = GrpcDoor(
            [GrpcService(SERVICE_NAME, pb_grpc.add_IngestServiceServicer_to_server, servicer)],
            config.host,
            config.grpc_port,
            guard=guard,
            tls=tls.of(config),
        )
        own = node_figures(
            "ingest",
            self.name,
            insecure=config.insecure,
            client=self._client,
            mirror=self._catalog.mirror,
            session=lambda: getattr(self, "_session", None),
        )
        shards, invalid = metrics.shards(self.open_shards), metrics.invalid(handler.invalid)
        figures = registry_of("ingest", own, metrics.disk(config.data_dir), shards, invalid)
        self._http = HttpDoor(
            config.host, config.http_port, self.health, registry=figures, guard=guard, tls=tls.of(config)
        )
        self._attach = AttachDoor(config.attach_socket, self._provide, guard)
        self._grpc.start()
        self._http.start()
        self._join_cluster()
        self._open_shards()
        self.state = "ready"
        self._session.update(state="ready")
        self._grpc.set_serving(True)
        return self._endpoints()

    def stop(self, grace_s: float) -> list[str]:
        """Refuse new calls, finish what was accepted, close the doors, give the lease back. Names what is pending."""
        deadline = time.monotonic() + grace_s
        if self.state != "fenced":
            self.state = "stopping"
        pending: list[str] = []
        if hasattr(self, "_flight"):
            self._flight.begin_stop()
        if hasattr(self, "_keeper"):
            self._snapshots.stop()
            self._keeper.stop()
            self._keeper.close_shards()
        for part in ("_attach", "_flight", "_grpc", "_http"):
            if hasattr(self, part):
                pending += getattr(self, part).stop(max(0.2, deadline - time.monotonic()))
        for part in ("_session", "_actions", "_catalog", "_client"):
            if hasattr(self, part):
                getattr(self, part).close()
        for peer in self._peers.values():
            peer.close()
        if hasattr(self, "_lock"):
            self._lock.release()
        return pending

    def _join_cluster(self) -> None:
        """Take the node's name and lease, and see the catalog; waits for etcd."""
        self._session = NodeSession(
            self._client,
            replace(self._record(), state="starting"),
            ttl_s=self._config.lease_ttl_s,
            takeover=True,
            on_gained=self._gained,
            on_lost=self._lost,
            on_extend=self._extended,
        ).start()
        self._lifeline.wait("etcd", self._session.wait_gained, etcd=self._config.etcd)
        self._lifeline.wait(
            "etcd's catalog",
            lambda wait_s: self._catalog.mirror.wait_until(self._is_current, wait_s),
            etcd=self._config.etcd,
        )

    def _is_current(self, view: Any) -> bool:
        """The mirror shows at least our own registration, so it is not the state from before."""
        return self._catalog.mirror.synced and self._catalog.node(self.name) is not None

    def _open_shards(self) -> None:
        self._opening = True
        self._keeper.start()
        self._snapshots.start()
        self._lifeline.wait("the shards", self._keeper.wait_first_pass, etcd=self._config.etcd)

    def _refused(self, refusals: Refusals) -> None:
        """Say in etcd which shards cannot be opened, so that everybody who asks for them is told why."""
        self._session.update(refused={str(shard): error.to_json() for shard, error in refusals.items()})

    def _record(self) -> NodeRecord:
        return NodeRecord(
            name=self.name,
            role="ingest",
            pid=os.getpid(),
            host_id=self._host_id,
            state=self.state,
            insecure=self._config.insecure,
            **self._endpoints(),
        )

    def _endpoints(self) -> dict[str, Any]:
        return self._config.advertised(
            {
                "flight": self._flight.uri,
                "flight_unix": self._flight.unix_uri or "",
                "grpc": self._grpc.address,
                "http": self._http.url,
                "attach": str(self._attach.path),
            }
        )

    # ---- the lease -------------------------------------------------------------------------------------------------

    def _lease_id(self) -> int:
        lease = self._session.lease
        if lease is None:
            raise Unavailable("This node holds no lease now. Try again.", retry_after_s=1.0)
        return lease.id

    def _gained(self, lease: KeptLease) -> None:
        log.info("lease taken", lease=f"{lease.id:x}")

    def _extended(self, valid_until_ns: int) -> None:
        if self._fenced:
            return  # what was lost stays lost in this process: another owner may have been there meanwhile
        self._lease.valid_until_ns = valid_until_ns
        for shard in self.open_shards():
            shard.set_lease_until(valid_until_ns)

    def _lost(self, reason: str) -> None:
        if not self._opening:
            self._lease.valid_until_ns = 0
            return  # nothing was owned under it; the session takes the next one
        self._fence(
            Unavailable(
                f"Node {self.name!r} stopped: its {reason}. It acks and answers nothing more, since its shards may get "
                "another owner. Restart it (a supervisor does), and check that etcd answers.",
                reason="lease",
            )
        )

    def _fence(self, error: ProxistError) -> None:
        """Leave service at once and for good: no ack, no answer; the process ends with `error`."""
        with self._fence_lock:
            if self._fenced:
                return
            self._fenced = True
        self.state = "fenced"
        self._lease.valid_until_ns = 0
        gone = NotOwner(
            f"Node {self.name!r} left service and restarts. Send again in a moment, to the owner that the shard map names.",
            retry_after_s=1.0,
        )
        for shard in self.open_shards():
            shard.fail(gone)
        log.error("leaving service", error=error.message)
        self._lifeline.fail(error)

    # ---- what doors ask --------------------------------------------------------------------------------------------

    def check_serving(self) -> None:
        """Raises Unavailable while the node is starting, fenced or stopping."""
        if self.state != "ready":
            raise Unavailable(
                f"Node {self.name!r} is {self.state}. Try again in a moment.", retry_after_s=0.5, state=self.state
            )

    def local(self, shard: ShardId) -> Shard | None:
        """The open shard, where this node owns it."""
        return self._keeper.get(shard)

    def open_shards(self) -> list[Shard]:
        """The shards that this node owns, by id."""
        return self._keeper.shards() if hasattr(self, "_keeper") else []

    def owner_node(self, shard: ShardId) -> str:
        """The other node that owns a shard. Raises NotFound, NotOwner where nobody owns it now, or the error for
        which it cannot be opened."""
        owner = self._catalog.owner(shard)
        if owner is not None and owner.node != self.name:
            return owner.node
        record = self._catalog.shard(shard)
        refusal = self._keeper.refusals().get(shard) or self._catalog.refusal(shard)
        if refusal is not None:
            raise refusal
        raise NotOwner(
            f"Shard {shard} of table {record.table!r} has no owner now: node {record.node!r}, where it is placed, is "
            f"{'opening it' if record.node == self.name else 'down or starting'}. Try again in a moment.",
            retry_after_s=0.5,
            shard=shard,
            node=record.node,
        )

    def peer(self, node: str) -> FlightPeer:
        """A connection to another ingest node, over its unix socket where it is on this host."""
        record = self._catalog.node(node)
        if record is None:
            raise Unavailable(f"Node {node!r} is not alive. Try again in a moment.", retry_after_s=0.5, node=node)
        uri = record.flight_unix if record.host_id == self._host_id and record.flight_unix else record.flight
        with self._peers_lock:
            if uri not in self._peers:
                self._peers[uri] = FlightPeer(uri)
            return self._peers[uri]

    def health(self) -> dict[str, Any]:
        """What /health says."""
        return {
            "name": self.name,
            "role": "ingest",
            "state": self.state,
            "insecure": self._config.insecure,
            "pid": os.getpid(),
            "shards": len(self.open_shards()),
            "refused": {str(shard): error.message for shard, error in self._keeper.refusals().items()},
        }

    def _provide(self, shard_id: int) -> tuple[int, Mapping[str, Any]]:
        """What the attach door hands out."""
        self.check_serving()
        shard = self._keeper.get(ShardId(shard_id))
        if shard is None:
            node = self.owner_node(ShardId(shard_id))
            raise NotOwner(f"Shard {shard_id} is owned by node {node!r}. Attach there.", shard=shard_id, node=node)
        page = self._opener.run_dir / "epochs" / str(shard_id)
        info = {"shard": shard_id, "epoch": shard.epoch, "table": shard.table.name, "epoch_page": str(page)}
        shard.counts.attaches += 1
        return shard.readonly_fd(), info
