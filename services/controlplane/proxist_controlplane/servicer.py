"""The gRPC face: one method per command, each only names what it calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from proxist.auth.identity import EVERY_TENANT, Caller, caller_of
from proxist.etcd import TableRecord
from proxist.pb import controlplane_pb2 as pb
from proxist.pb import controlplane_pb2_grpc, persister_pb2
from proxist_controlplane.cluster import Cluster
from proxist_controlplane.config import ControlPlaneConfig
from proxist_controlplane.deadline import Deadline
from proxist_controlplane.inspecting import Inspecting
from proxist_controlplane.owners import Owners
from proxist_controlplane.persisting import Persisting
from proxist_controlplane.status import Status
from proxist_controlplane.tables import Tables
from proxist_controlplane.wire import shard_to_wire, spec_from_wire, table_to_wire

_STORES = ("etcd", "clickhouse")


@dataclass(frozen=True)
class Commands:
    """What the servicer calls."""

    cluster: Cluster
    tables: Tables
    owners: Owners
    persisting: Persisting
    inspecting: Inspecting
    status: Status


class ControlPlaneServicer(controlplane_pb2_grpc.ControlPlaneServiceServicer):
    """Errors are ProxistErrors; the door maps them."""

    def __init__(self, commands: Commands, config: ControlPlaneConfig) -> None:
        self._do = commands
        self._config = config

    def CreateTable(self, request: pb.CreateTableRequest, context: Any) -> pb.CreateTableResponse:
        deadline = Deadline.of_call(context, self._config.create_timeout_s)
        tenant = caller_of(context).table(request.spec.name, request.tenant)
        record = self._do.tables.create(tenant, spec_from_wire(request.spec), deadline)
        return pb.CreateTableResponse(table=table_to_wire(record))

    def DescribeTable(self, request: pb.DescribeTableRequest, context: Any) -> pb.DescribeTableResponse:
        with self._allowed(context, request) as tenant:
            return pb.DescribeTableResponse(table=table_to_wire(self._do.tables.describe(tenant, request.table)))

    def ListTables(self, request: pb.ListTablesRequest, context: Any) -> pb.ListTablesResponse:
        return pb.ListTablesResponse(tables=[table_to_wire(t) for t in self._seen(context, tenant=request.tenant)])

    def DropTable(self, request: pb.DropTableRequest, context: Any) -> pb.DropTableResponse:
        with self._allowed(context, request) as tenant:
            self._do.tables.drop(tenant, request.table, Deadline.of_call(context, self._config.drop_timeout_s))
        return pb.DropTableResponse()

    def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        answer = self._do.status.read(Deadline.of_call(context, self._config.ask_timeout_s))
        return as_seen(answer, caller_of(context))

    def ListShards(self, request: pb.ListShardsRequest, context: Any) -> pb.ListShardsResponse:
        catalog = self._do.cluster.catalog
        tables = {(t.table.tenant, t.table.name) for t in self._seen(context, request.table, request.tenant)}
        shards = [s for s in catalog.shards() if (s.tenant, s.table) in tables]
        return pb.ListShardsResponse(
            shards=[shard_to_wire(s, catalog.owner(s.shard), catalog.refusal(s.shard)) for s in shards]
        )

    def Watermarks(self, request: pb.WatermarksRequest, context: Any) -> pb.WatermarksResponse:
        deadline = Deadline.of_call(context, self._config.flush_timeout_s)
        records = self._seen(context, request.table, request.tenant)
        return pb.WatermarksResponse(watermarks=self._do.owners.watermarks(records, deadline))

    def Flush(self, request: pb.FlushRequest, context: Any) -> pb.FlushResponse:
        limit_s = request.timeout_ms / 1000 or self._config.flush_timeout_s
        with self._allowed(context, request) as tenant:
            self._do.owners.flush(tenant, request.table, request.timeout_ms, Deadline.of_call(context, limit_s))
        return pb.FlushResponse()

    def Evict(self, request: pb.EvictRequest, context: Any) -> pb.EvictResponse:
        deadline = Deadline.of_call(context, self._config.flush_timeout_s)
        with self._allowed(context, request) as tenant:
            request.tenant = tenant
            return pb.EvictResponse(watermarks=self._do.owners.evict(request, deadline))

    def PausePersist(self, request: pb.PausePersistRequest, context: Any) -> pb.PausePersistResponse:
        deadline = Deadline.of_call(context, self._config.drop_timeout_s)
        with self._allowed(context, request) as tenant:
            self._do.persisting.pause(tenant, request.table, deadline)
        return pb.PausePersistResponse()

    def ResumePersist(self, request: pb.ResumePersistRequest, context: Any) -> pb.ResumePersistResponse:
        deadline = Deadline.of_call(context, self._config.flush_timeout_s)
        with self._allowed(context, request) as tenant:
            self._do.persisting.resume(tenant, request.table, deadline)
        return pb.ResumePersistResponse()

    def Verify(self, request: persister_pb2.VerifyRequest, context: Any) -> Iterator[persister_pb2.VerifyEvent]:
        with self._allowed(context, request) as tenant:
            yield from self._do.inspecting.verify(tenant, request, context)

    def Repair(self, request: persister_pb2.RepairRequest, context: Any) -> Iterator[persister_pb2.VerifyEvent]:
        with self._allowed(context, request) as tenant:
            yield from self._do.inspecting.repair(tenant, request, context)

    @contextmanager
    def _allowed(self, context: Any, request: Any) -> Iterator[str]:
        """The tenant in which the caller may do this to `request.table`; asked before anything is looked up."""
        caller = caller_of(context)
        tenant = caller.table(request.table, request.tenant)
        with caller.hiding(request.table, self._names):
            yield tenant

    def _seen(self, context: Any, table: str = "", tenant: str = "") -> list[TableRecord]:
        """The tables that the caller sees, of one name where it is given. Raises NotFound, or PermissionDenied."""
        caller = caller_of(context)
        if tenant:
            tenant = caller.tenant(tenant)
        records = [t for t in self._do.tables.all(tenant) if caller.sees(t.table.tenant, t.table.name)]
        named = [t for t in records if table in ("", t.table.name)]
        if table and not named:
            of = caller.table(table, tenant)
            with caller.hiding(table, self._names):
                self._do.cluster.table(of, table)  # says which tables there are
        return named

    def _names(self) -> list[tuple[str, str]]:
        return [(t.table.tenant, t.table.name) for t in self._do.tables.all("")]


def as_seen(answer: pb.StatusResponse, caller: Caller) -> pb.StatusResponse:
    """For a tenant's caller: its own shards, and no addresses of the stores."""
    if caller.trusted or caller.identity.tenant == EVERY_TENANT:
        return answer
    nodes = [pb.Node(name=n.name, role=n.role, state=n.state) if n.role in _STORES else n for n in answer.nodes]
    return pb.StatusResponse(nodes=nodes, shards=[s for s in answer.shards if caller.sees(s.tenant, s.table)])
