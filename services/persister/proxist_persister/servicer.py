"""The gRPC PersisterService: status, pause, resume, verify, repair."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import proxist
from proxist.auth.identity import caller_of
from proxist.model.ids import Offset, ShardId
from proxist.pb import persister_pb2 as pb
from proxist.pb import persister_pb2_grpc as pb_grpc
from proxist_persister.inspection import repair, verify
from proxist_persister.keeper import Keeper
from proxist_persister.sink import Sink
from proxist_persister.worker import ShardWorker

SERVICE_NAME = "proxist.persister.v1.PersisterService"


class PersisterServicer(pb_grpc.PersisterServiceServicer):
    """Implements protos/proxist/persister/v1/persister.proto; its comments are the contract."""

    def __init__(self, name: str, keeper: Keeper, sink: Sink, *, pause_timeout_s: float) -> None:
        self._name = name
        self._keeper = keeper
        self._sink = sink
        self._pause_timeout_s = pause_timeout_s

    def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        return pb.StatusResponse(
            name=self._name,
            state=self._sink.state,
            pid=os.getpid(),
            version=proxist.__version__,
            shards=[_status(worker) for worker in self._keeper.held()],
        )

    def Pause(self, request: pb.PauseRequest, context: Any) -> pb.PauseResponse:
        left_s = context.time_remaining()
        timeout_s = self._pause_timeout_s if left_s is None else max(0.0, left_s - 0.1)
        self._keeper.pause(
            caller_of(context).table(request.table, request.tenant), request.table, min(timeout_s, 3600.0)
        )
        return pb.PauseResponse()

    def Resume(self, request: pb.ResumeRequest, context: Any) -> pb.ResumeResponse:
        self._keeper.resume(caller_of(context).table(request.table, request.tenant), request.table)
        return pb.ResumeResponse()

    def Verify(self, request: pb.VerifyRequest, context: Any) -> Iterator[pb.VerifyEvent]:
        tenant = caller_of(context).table(request.table, request.tenant)
        worker = self._keeper.worker(tenant, request.table, ShardId(request.shard))
        first = Offset(getattr(request, "from")) if request.HasField("from") else None
        end = Offset(request.to) if request.HasField("to") else None
        return verify(self._keeper.tools, worker, first, end)

    def Repair(self, request: pb.RepairRequest, context: Any) -> Iterator[pb.VerifyEvent]:
        tenant = caller_of(context).table(request.table, request.tenant)
        worker = self._keeper.worker(tenant, request.table, ShardId(request.shard))
        worker.check_holds()
        return repair(self._keeper.tools, worker, execute=request.execute)


def _status(worker: ShardWorker) -> pb.ShardStatus:
    now = worker.board.progress
    return pb.ShardStatus(
        table=worker.table.name,
        shard=worker.shard,
        state=now.state,
        persisted=now.persisted,
        inserts=now.inserts,
        rows=now.rows,
        last_error=now.last_error,
        verified=now.verified,
    )
