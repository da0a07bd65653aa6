"""The query node: its parts, the order in which they start and stop."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import structlog

from proxist.auth.setup import guard_of
from proxist.clickhouse import ClickHouse
from proxist.errors import Unavailable
from proxist.etcd import Catalog, EtcdClient, NodeRecord, NodeSession
from proxist.hot.host import this_host_id
from proxist.pb import query_pb2_grpc as pb_grpc
from proxist.rpc import tls
from proxist.rpc.actions import ClusterActions
from proxist.rpc.attached import Attached
from proxist.rpc.flight_server import FlightDoor
from proxist.rpc.grpc_server import GrpcDoor, GrpcService
from proxist.rpc.http import HttpDoor
from proxist.rpc.run_dir import prepare_run_dir
from proxist.rpc.service import Lifeline
from proxist.telemetry.common import node_figures
from proxist.telemetry.figures import registry_of
from proxist_query.catalog import NodeCatalog
from proxist_query.config import QueryConfig
from proxist_query.doors import QueryDoor
from proxist_query.engine import Engine
from proxist_query.hot import Hot
from proxist_query.metrics import Metrics
from proxist_query.remote import Remote
from proxist_query.runner import Runner
from proxist_query.servicer import SERVICE_NAME, QueryServicer

log = structlog.get_logger("proxist.query")


class QueryNode:
    """Owns the process' parts. It goes on answering while etcd is down, from what it knew last; ClickHouse need not be
    there at all until a query asks for history."""

    def __init__(self, config: QueryConfig, lifeline: Lifeline) -> None:
        self.name = config.name
        self.state = "starting"
        self._config = config
        self._lifeline = lifeline
        self._host_id = this_host_id()
        self._closers: list[Any] = []
        self._doors: list[Any] = []

    def start(self) -> Mapping[str, str]:
        """Ready on return. Waits for etcd as long as it takes. Raises PortTaken, ConfigError; Unavailable where the
        process is asked to stop meanwhile."""
        try:
            return self._start()
        except BaseException:
            self.stop(self._config.stop_grace_s)
            raise

    def stop(self, grace_s: float) -> list[str]:
        """Refuse new calls, let running ones end, close. Names what is pending after `grace_s`."""
        deadline = time.monotonic() + grace_s
        self.state = "stopping"
        for door in self._doors:
            if hasattr(door, "begin_stop"):
                door.begin_stop()
        pending: list[str] = []
        for door in self._doors:
            pending += door.stop(max(0.2, deadline - time.monotonic()))
        for part in reversed(self._closers):
            part.close()
        return pending

    def check_serving(self) -> None:
        """Raises Unavailable while the node is starting or stopping."""
        if self.state != "ready":
            raise Unavailable(
                f"Node {self.name!r} is {self.state}. Try again in a moment.", retry_after_s=0.5, state=self.state
            )

    def health(self) -> dict[str, Any]:
        """What /health says."""
        return {
            "name": self.name,
            "role": "query",
            "state": self.state,
            "insecure": self._config.insecure,
            "pid": os.getpid(),
            "attached": len(self._attached.shards()),
            "clickhouse_statements": self._clickhouse.statements,
        }

    def _start(self) -> Mapping[str, str]:
        config = self._config
        prepare_run_dir(config.data_dir, config.run_dir)
        pa.array([0])  # at its first conversion pyarrow loads pandas, where it is: half a second of the first query's
        self._client = self._closing(EtcdClient(config.etcd_endpoints, tls=tls.to_etcd(config)))
        self._catalog = self._closing(Catalog.start(self._client))
        self._clickhouse = self._closing(ClickHouse(config.clickhouse, tls=tls.to_clickhouse(config)))
        self._attached = self._closing(Attached())
        remote = self._closing(Remote())
        engine = self._closing(Engine(config.engines_max, config.query_s_max))
        actions = self._closing(ClusterActions(self._catalog, self.name))
        hot = Hot(self._catalog, self._attached, remote, self._host_id)
        metrics = Metrics(self._attached, self._clickhouse)
        own = node_figures(
            "query",
            self.name,
            insecure=config.insecure,
            client=self._client,
            mirror=self._catalog.mirror,
            session=lambda: getattr(self, "_session", None),
        )
        figures = registry_of("query", own, metrics.figures)
        catalog = NodeCatalog(self._catalog)
        runner = Runner(
            catalog,
            hot,
            self._clickhouse,
            engine,
            metrics,
            query_s_max=config.query_s_max,
            slow_query_s=config.slow_query_s,
        )
        # The engine's first statement takes tens of milliseconds: not the first caller's.
        engine.query("SELECT 1")
        guard = guard_of(config, self._catalog.mirror)
        door = QueryDoor(runner, self._catalog, actions, self.check_serving)
        servicer = QueryServicer(runner, self._catalog, self.name, lambda: self.state, self.check_serving)
        self._flight = self._opened(
            FlightDoor(door, config.host, config.flight_port, config.flight_socket, guard=guard, tls=tls.of(config))
        )
        service = GrpcService(SERVICE_NAME, pb_grpc.add_QueryServiceServicer_to_server, servicer)
        self._grpc = self._opened(GrpcDoor([service], config.host, config.grpc_port, guard=guard, tls=tls.of(config)))
        self._http = self._opened(
            HttpDoor(config.host, config.http_port, self.health, registry=figures, guard=guard, tls=tls.of(config))
        )
        self._grpc.start()
        self._http.start()
        self._join_cluster()
        self.state = "ready"
        self._session.update(state="ready")
        self._grpc.set_serving(True)
        return self._endpoints()

    def _join_cluster(self) -> None:
        """Register, and see the catalog as it is now; waits for etcd."""
        record = NodeRecord(
            name=self.name,
            role="query",
            pid=os.getpid(),
            host_id=self._host_id,
            insecure=self._config.insecure,
            **self._endpoints(),
        )
        self._session = self._closing(
            NodeSession(self._client, replace(record, state="starting"), ttl_s=self._config.lease_ttl_s).start()
        )
        self._lifeline.wait("etcd", self._session.wait_gained, etcd=self._config.etcd)
        self._lifeline.wait(
            "etcd's catalog",
            lambda wait_s: self._catalog.mirror.wait_until(self._is_current, wait_s),
            etcd=self._config.etcd,
        )

    def _is_current(self, _view: Any) -> bool:
        """The mirror shows our own registration, so it is not older than this process."""
        node = self._catalog.node(self.name) if self._catalog.mirror.synced else None
        return node is not None and node.pid == os.getpid()

    def _endpoints(self) -> dict[str, Any]:
        return self._config.advertised(
            {
                "flight": self._flight.uri,
                "flight_unix": self._flight.unix_uri or "",
                "grpc": self._grpc.address,
                "http": self._http.url,
            }
        )

    def _closing(self, part: Any) -> Any:
        """A part that is closed at the end, the last one first."""
        self._closers.append(part)
        return part

    def _opened(self, door: Any) -> Any:
        """A door that is stopped before the parts are closed."""
        self._doors.append(door)
        return door
