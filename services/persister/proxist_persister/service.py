"""The persister as a service: what it starts, in which order, and how it stops."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from proxist.auth.setup import guard_of
from proxist.clickhouse import ClickHouse
from proxist.etcd import Catalog, EtcdClient, KeptLease, NodeRecord, NodeSession
from proxist.hot.host import this_host_id
from proxist.pb import persister_pb2_grpc
from proxist.rpc import tls
from proxist.rpc.grpc_server import GrpcDoor, GrpcService
from proxist.rpc.http import HttpDoor
from proxist.rpc.service import Lifeline
from proxist.telemetry.common import node_figures
from proxist.telemetry.figures import registry_of
from proxist_persister.config import PersisterConfig
from proxist_persister.keeper import Keeper
from proxist_persister.metrics import clickhouse_figures, persister_figures
from proxist_persister.servicer import SERVICE_NAME, PersisterServicer
from proxist_persister.sink import Sink
from proxist_persister.watermarks import Watermarks
from proxist_persister.worker import Tools

_log = structlog.get_logger("proxist.persister")

START_WAIT_S = 5.0
"""How long the start waits for etcd. ClickHouse is not waited for: shards retry, and Status says DOWN."""


class Persister:
    """One persister process. `start` once, `stop` once."""

    def __init__(self, config: PersisterConfig) -> None:
        self._config = config
        self._undo = contextlib.ExitStack()
        self._pending: list[str] = []
        self._grace_s = config.stop_grace_s
        self._session: NodeSession | None = None
        self._catalog: Catalog | None = None
        self._sink: Sink | None = None

    def start(self) -> Mapping[str, str]:
        """Ready on return, unless etcd does not answer: then `/readyz` and health say so until it does."""
        try:
            return self._start()
        except BaseException:
            self._undo.close()
            raise

    def stop(self, grace_s: float) -> list[str]:
        """Finish the inserts in flight, tell the owners and etcd, give up the lease."""
        self._grace_s = grace_s
        self._undo.close()
        return self._pending

    def _start(self) -> dict[str, str]:
        config = self._config
        client = self._undo.enter_context(EtcdClient(config.etcd_endpoints, tls=tls.to_etcd(config)))
        self._catalog = catalog = Catalog.start(client)
        self._undo.callback(catalog.close)
        clickhouse = ClickHouse(
            config.clickhouse, tls=tls.to_clickhouse(config), answer_timeout_s=config.insert_timeout_s
        )
        self._undo.callback(clickhouse.close)
        self._sink = sink = Sink(clickhouse)
        watermarks = Watermarks(client, config.watermark_period_s)
        keeper = Keeper(Tools(config.name, client, catalog, sink, watermarks, self._lease))
        own = node_figures(
            "persister",
            config.name,
            insecure=config.insecure,
            client=client,
            mirror=catalog.mirror,
            session=lambda: self._session,
        )
        figures = registry_of("persister", own, clickhouse_figures(clickhouse), persister_figures(keeper, sink))
        grpc_door, http_door = self._doors(keeper, sink, figures)
        endpoints = config.advertised({"grpc": grpc_door.address, "http": http_door.url})
        record = NodeRecord(
            config.name,
            "persister",
            os.getpid(),
            grpc=endpoints["grpc"],
            http=endpoints["http"],
            host_id=this_host_id(),
            insecure=config.insecure,
        )
        self._session = session = NodeSession(
            client,
            record,
            ttl_s=config.lease_ttl_s,
            on_gained=lambda _: keeper.poke(),
            on_lost=lambda _: keeper.poke(),
        )
        self._undo.callback(session.close)
        watermarks.start()
        self._undo.callback(watermarks.stop)
        keeper.start()
        self._undo.callback(self._stopping(keeper.stop))
        session.start()
        if session.wait_gained(START_WAIT_S):
            catalog.wait_until(lambda c: c.node(config.name) is not None, START_WAIT_S)
        else:
            _log.warning("etcd does not answer yet", etcd=config.etcd)
        grpc_door.set_serving(True)
        return endpoints

    def _lease(self) -> KeptLease | None:
        return self._session.lease if self._session is not None else None

    def _doors(self, keeper: Keeper, sink: Sink, figures: CollectorRegistry) -> tuple[GrpcDoor, HttpDoor]:
        config = self._config
        assert self._catalog is not None
        guard = guard_of(config, self._catalog.mirror)
        servicer = PersisterServicer(config.name, keeper, sink, pause_timeout_s=config.pause_timeout_s)
        add = persister_pb2_grpc.add_PersisterServiceServicer_to_server
        grpc_door = GrpcDoor(
            [GrpcService(SERVICE_NAME, add, servicer)], config.host, config.grpc_port, guard=guard, tls=tls.of(config)
        )
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
        """Ready as long as etcd answers: ClickHouse being down is for Status and alerts, no restart helps."""
        synced = self._catalog is not None and self._catalog.mirror.synced
        return {
            "name": self._config.name,
            "role": "persister",
            "state": "ready" if synced else "waiting for etcd",
            "insecure": self._config.insecure,
            "sink": self._sink.state if self._sink is not None else "OK",
        }


def build(config: PersisterConfig, lifeline: Lifeline) -> Persister:
    """For `proxist.rpc.service.main`. Nothing that this service runs can fail for good, so the lifeline is not used."""
    del lifeline
    return Persister(config)
