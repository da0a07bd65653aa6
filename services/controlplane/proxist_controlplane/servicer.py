"""The gRPC face: one method per command, each only names what it calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxist.pb import controlplane_pb2 as pb
from proxist.pb import controlplane_pb2_grpc
from proxist_controlplane.cluster import Cluster
from proxist_controlplane.config import ControlPlaneConfig
from proxist_controlplane.deadline import Deadline
from proxist_controlplane.owners import Owners
from proxist_controlplane.persisting import Persisting
from proxist_controlplane.status import Status
from proxist_controlplane.tables import Tables
from proxist_controlplane.wire import shard_to_wire, spec_from_wire, table_to_wire


@dataclass(frozen=True)
class Commands:
    """What the servicer calls."""

    cluster: Cluster
    tables: Tables
    owners: Owners
    persisting: Persisting
    status: Status


class ControlPlaneServicer(controlplane_pb2_grpc.ControlPlaneServiceServicer):
    """Errors are ProxistErrors; the door maps them."""

    def __init__(self, commands: Commands, config: ControlPlaneConfig) -> None:
        self._do = commands
        self._config = config

    def CreateTable(self, request: pb.CreateTableRequest, context: Any) -> pb.CreateTableResponse:
        deadline = Deadline.of_call(context, self._config.create_timeout_s)
        record = self._do.tables.create(request.tenant, spec_from_wire(request.spec), deadline)
        return pb.CreateTableResponse(table=table_to_wire(record))

    def DescribeTable(self, request: pb.DescribeTableRequest, context: Any) -> pb.DescribeTableResponse:
        return pb.DescribeTableResponse(table=table_to_wire(self._do.tables.describe(request.tenant, request.table)))

    def ListTables(self, request: pb.ListTablesRequest, context: Any) -> pb.ListTablesResponse:
        return pb.ListTablesResponse(tables=[table_to_wire(t) for t in self._do.tables.all(request.tenant)])

    def DropTable(self, request: pb.DropTableRequest, context: Any) -> pb.DropTableResponse:
        self._do.tables.drop(request.tenant, request.table, Deadline.of_call(context, self._config.drop_timeout_s))
        return pb.DropTableResponse()

    def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        return self._do.status.read(Deadline.of_call(context, self._config.ask_timeout_s))

    def ListShards(self, request: pb.ListShardsRequest, context: Any) -> pb.ListShardsResponse:
        catalog = self._do.cluster.catalog
        if request.table and not any(t.table.name == request.table for t in catalog.tables()):
            self._do.cluster.table("", request.table)  # says which tables there are
        shards = catalog.shards(table=request.table or None)
        return pb.ListShardsResponse(shards=[shard_to_wire(s, catalog.owner(s.shard)) for s in shards])

    def Watermarks(self, request: pb.WatermarksRequest, context: Any) -> pb.WatermarksResponse:
        deadline = Deadline.of_call(context, self._config.flush_timeout_s)
        return pb.WatermarksResponse(watermarks=self._do.owners.watermarks(request.table, deadline))

    def Flush(self, request: pb.FlushRequest, context: Any) -> pb.FlushResponse:
        limit_s = request.timeout_ms / 1000 or self._config.flush_timeout_s
        self._do.owners.flush(request.tenant, request.table, request.timeout_ms, Deadline.of_call(context, limit_s))
        return pb.FlushResponse()

    def Evict(self, request: pb.EvictRequest, context: Any) -> pb.EvictResponse:
        deadline = Deadline.of_call(context, self._config.flush_timeout_s)
        return pb.EvictResponse(watermarks=self._do.owners.evict(request, deadline))

    def PausePersist(self, request: pb.PausePersistRequest, context: Any) -> pb.PausePersistResponse:
        deadline = Deadline.of_call(context, self._config.drop_timeout_s)
        self._do.persisting.pause(request.tenant, request.table, deadline)
        return pb.PausePersistResponse()

    def ResumePersist(self, request: pb.ResumePersistRequest, context: Any) -> pb.ResumePersistResponse:
        deadline = Deadline.of_call(context, self._config.flush_timeout_s)
        self._do.persisting.resume(request.tenant, request.table, deadline)
        return pb.ResumePersistResponse()
