"""The control plane as a service: what it starts, in which order, and how it stops."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from proxist.auth.guard import Guard
from proxist.auth.setup import guard_of
from proxist.clickhouse import ClickHouse
from proxist.etcd import Catalog, EtcdClient, NodeRecord, NodeSession
from proxist.hot.host import this_host_id
from proxist.pb import auth_pb2_grpc, controlplane_pb2, controlplane_pb2_grpc
from proxist.rpc import tls
from proxist.rpc.grpc_server import GrpcDoor, GrpcService
from proxist.rpc.http import HttpDoor
from proxist.rpc.service import Lifeline
from proxist.telemetry.common import node_figures
from proxist.telemetry.figures import registry_of
from proxist_controlplane.cluster import Cluster
from proxist_controlplane.config import ControlPlaneConfig
from proxist_controlplane.inspecting import Inspecting
from proxist_controlplane.metrics import cluster_figures
from proxist_controlplane.owners import Owners
from proxist_controlplane.peers import Peers
from proxist_controlplane.persisting import Persisting
from proxist_controlplane.reconcile import Reconciler
from proxist_controlplane.servicer import Commands, ControlPlaneServicer
from proxist_controlplane.status import PROBE_TIMEOUT_S, Status
from proxist_controlplane.tables import Tables
from proxist_controlplane.tokens import SERVICE_NAME as TOKENS_NAME
from proxist_controlplane.tokens import AuthServicer

_log = structlog.get_logger("proxist.controlplane")

START_WAIT_S = 5.0
"""How long the start waits for etcd. Without it the doors open all the same: commands then say what is missing."""
SERVICE_NAME = controlplane_pb2.DESCRIPTOR.services_by_name["ControlPlaneService"].full_name


class ControlPlane:
    """One control plane process. `start` once, `stop` once."""

    def __init__(self, config: ControlPlaneConfig) -> None:
        self._config = config
        self._undo = contextlib.ExitStack()
        self._pending: list[str] = []
        self._grace_s = config.stop_grace_s
        self._catalog: Catalog | None = None
        self._session: NodeSession | None = None

    def start(self) -> Mapping[str, str]:
        """Ready on return, unless etcd does not answer: then `/readyz` and health say so until it does."""
        try:
            return self._start()
        except BaseException:
            self._undo.close()
            raise

    def stop(self, grace_s: float) -> list[str]:
        """Leave the list of nodes, then close the doors; calls in flight get `grace_s`."""
        self._grace_s = grace_s
        self._undo.close()
        return self._pending

    def _start(self) -> dict[str, str]:
        config = self._config
        client = self._undo.enter_context(EtcdClient(config.etcd_endpoints, tls=tls.to_etcd(config)))
        self._catalog = catalog = Catalog.start(client)
        self._undo.callback(catalog.close)
        peers = Peers()
        self._undo.callback(peers.close)
        cluster = Cluster(client, catalog)
        owners = Owners(cluster, peers, ask_timeout_s=config.ask_timeout_s, flush_timeout_s=config.flush_timeout_s)
        clickhouse = ClickHouse(config.clickhouse, tls=tls.to_clickhouse(config), connect_timeout_s=PROBE_TIMEOUT_S)
        self._undo.callback(clickhouse.close)
        status = Status(cluster, owners, peers, clickhouse=clickhouse, run_dir=config.run_dir)
        persisting = Persisting(cluster, peers, ask_timeout_s=config.ask_timeout_s)
        commands = Commands(cluster, Tables(cluster), owners, persisting, Inspecting(cluster, peers), status)
        own = node_figures(
            "controlplane",
            config.name,
            insecure=config.insecure,
            client=client,
            mirror=catalog.mirror,
            session=lambda: self._session,
        )
        figures = registry_of("controlplane", own, cluster_figures(catalog))
        guard = guard_of(config, catalog.mirror)
        grpc_door, http_door = self._doors(ControlPlaneServicer(commands, config), AuthServicer(client), figures, guard)
        reconciler = Reconciler(cluster, catalog, replace_after_s=config.replace_after_s)
        reconciler.start()
        self._undo.callback(reconciler.stop)
        endpoints: dict[str, Any] = config.advertised({"grpc": grpc_door.address, "http": http_door.url})
        record = NodeRecord(
            config.name, "controlplane", os.getpid(), host_id=this_host_id(), insecure=config.insecure, **endpoints
        )
        self._session = session = NodeSession(client, record, ttl_s=config.lease_ttl_s).start()
        self._undo.callback(session.close)
        subscription = catalog.mirror.subscribe(lambda _: grpc_door.set_serving(True))
        self._undo.callback(subscription.close)
        if session.wait_gained(START_WAIT_S):
            catalog.wait_until(lambda c: c.node(config.name) is not None, START_WAIT_S)
        else:
            _log.warning("etcd does not answer yet", etcd=config.etcd)
        return endpoints

    def _doors(
        self, servicer: ControlPlaneServicer, tokens: AuthServicer, figures: CollectorRegistry, guard: Guard
    ) -> tuple[GrpcDoor, HttpDoor]:
        config = self._config
        add = controlplane_pb2_grpc.add_ControlPlaneServiceServicer_to_server
        services = [
            GrpcService(SERVICE_NAME, add, servicer),
            GrpcService(TOKENS_NAME, auth_pb2_grpc.add_AuthServiceServicer_to_server, tokens),
        ]
        grpc_door = GrpcDoor(services, config.host, config.grpc_port, guard=guard, tls=tls.of(config))
        self._undo.callback(self._stopping(grpc_door.stop))
        http_door = HttpDoor(
            config.host, config.http_port, self._health, registry=figures, guard=guard, tls=tls.of(config)
        )
        self._undo.callback(self._stopping(http_door.stop))
        grpc_door.start()
        http_door.start()
        return grpc_door, http_door

    def _stopping(self, stop: Callable[[float], list[str]]) -> Callable[[], None]:
        return lambda: self._pending.extend(stop(self._grace_s))

    def _health(self) -> Mapping[str, Any]:
        mirror = self._catalog.mirror if self._catalog is not None else None
        synced = mirror is not None and mirror.synced
        return {
            "name": self._config.name,
            "role": "controlplane",
            "state": "ready" if synced else "waiting for etcd",
            "insecure": self._config.insecure,
            "etcd": self._config.etcd,
        }


def build(config: ControlPlaneConfig, lifeline: Lifeline) -> ControlPlane:
    """For `proxist.rpc.service.main`. Nothing that this service runs can fail for good, so the lifeline is not used."""
    del lifeline
    return ControlPlane(config)
