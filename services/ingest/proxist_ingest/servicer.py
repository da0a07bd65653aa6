"""The gRPC IngestService: marks, commands, logs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any, Protocol

import proxist
from proxist.auth.identity import Caller, caller_of
from proxist.errors import DeadlineExceeded, NotFound, Paused
from proxist.etcd.catalog import Catalog
from proxist.etcd.records import TableRecord
from proxist.model.ids import Epoch, Offset, ShardId, TimeNs
from proxist.pb import ingest_pb2 as pb
from proxist.pb import ingest_pb2_grpc as pb_grpc
from proxist.wal import Segment, segments
from proxist_ingest.put import Owners
from proxist_ingest.residency import EvictTo
from proxist_ingest.shard import Shard

FLUSH_TIMEOUT_S = 10.0
SERVICE_NAME = "proxist.ingest.v1.IngestService"


class Node(Owners, Protocol):
    """What the servicer needs of the node."""

    name: str
    state: str

    def open_shards(self) -> list[Shard]:
        """The shards that this node owns, by id."""


class IngestServicer(pb_grpc.IngestServiceServicer):
    """Implements protos/proxist/ingest/v1/ingest.proto; its comments are the contract."""

    def __init__(self, node: Node, catalog: Catalog) -> None:
        self._node = node
        self._catalog = catalog

    def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        return pb.StatusResponse(
            name=self._node.name,
            state=self._node.state,
            pid=os.getpid(),
            version=getattr(proxist, "__version__", ""),
            shards=[watermark(shard) for shard in self._of(caller_of(context), "")],
        )

    def Watermarks(self, request: pb.WatermarksRequest, context: Any) -> pb.WatermarksResponse:
        return pb.WatermarksResponse(
            watermarks=[watermark(shard) for shard in self._of(caller_of(context), request.table)]
        )

    def Flush(self, request: pb.FlushRequest, context: Any) -> pb.FlushResponse:
        caller = caller_of(context)
        record = self._table(caller, request.table, request.tenant)
        if request.wait:
            _check_running(record)
        shards = self._of(caller, request.table, request.tenant)
        ends = [(shard, shard.flush()) for shard in shards]
        if request.wait:
            deadline = time.monotonic() + (request.timeout_ms / 1000 or FLUSH_TIMEOUT_S)
            for shard, end in ends:
                self._wait_persisted(record, shard, end, deadline)
        return pb.FlushResponse(shards=[watermark(shard) for shard in shards])

    def ListLogs(self, request: pb.ListLogsRequest, context: Any) -> pb.ListLogsResponse:
        return pb.ListLogsResponse(
            logs=[entry for shard in self._of(caller_of(context), request.table) for entry in self._logs(shard)]
        )

    def AdvancePersisted(self, request: pb.AdvancePersistedRequest, context: Any) -> pb.AdvancePersistedResponse:
        shard = self._node.local(ShardId(request.shard))
        if shard is None:
            raise NotFound(f"Shard {request.shard} is not owned here. Ask its owner.", shard=request.shard)
        shard.advance_persisted(Epoch(request.epoch), Offset(request.persisted))
        return pb.AdvancePersistedResponse()

    def Evict(self, request: pb.EvictRequest, context: Any) -> pb.EvictResponse:
        caller = caller_of(context)
        self._table(caller, request.table, request.tenant)
        kind = request.WhichOneof("to")
        to = EvictTo(
            before_ns=TimeNs(request.before_ns) if kind == "before_ns" else None,
            rows=request.rows if kind == "rows" else None,
        )
        shards = self._of(caller, request.table, request.tenant)
        for shard in shards:
            shard.evict(to)
        return pb.EvictResponse(shards=[watermark(shard) for shard in shards])

    def _table(self, caller: Caller, name: str, asked_tenant: str) -> TableRecord:
        """Raises PermissionDenied before it looks; NotFound that names what the caller sees."""
        tenant = caller.table(name, asked_tenant)
        with caller.hiding(name, lambda: [(one.table.tenant, one.table.name) for one in self._catalog.tables()]):
            return self._catalog.known_table(tenant, name)

    def _of(self, caller: Caller, table: str, tenant: str = "") -> list[Shard]:
        """The shards of a table that are owned here, of all that the caller sees where none is named."""
        of = caller.tenant(tenant)
        return [
            shard
            for shard in self._node.open_shards()
            if (not table or (shard.table.name == table and shard.table.tenant == of))
            and caller.sees(shard.table.tenant, shard.table.name)
        ]

    def _wait_persisted(self, record: TableRecord, shard: Shard, end: Offset, deadline: float) -> None:
        """Until rows below `end` are persisted; looks now and then whether somebody paused the table meanwhile."""
        while not shard.wait_persisted(end, max(0.0, min(0.5, deadline - time.monotonic()))):
            _check_running(self._catalog.table(record.table.tenant, record.table.name))
            if time.monotonic() >= deadline:
                persisted = shard.marks().persisted
                raise DeadlineExceeded(
                    f"Shard {shard.id} of table {shard.table.name!r} is persisted up to {persisted}, and {end} was not "
                    "reached in time. Look at the persister's state, or wait longer.",
                    retry_after_s=1.0,
                    shard=shard.id,
                )

    def _logs(self, shard: Shard) -> Iterable[pb.Log]:
        for entry in self._catalog.shard(shard.id).logs:
            log = pb.Log(
                table=shard.table.name,
                shard=shard.id,
                epoch=entry.epoch,
                start=entry.start,
                end=shard.marks().end if entry.end is None else entry.end,
                state=entry.state,
            )
            writer = shard.log_writer if entry.epoch == shard.epoch and entry.state == "open" else None
            files = segments(shard.log_writer.log_dir.parent / str(entry.epoch), writer)
            log.files.extend(map(_segment, files))
            log.segments = len(files)
            log.bytes = sum(file.bytes for file in files)
            yield log


def watermark(shard: Shard) -> pb.Watermark:
    """Where a shard stands, as the wire says it."""
    marks = shard.marks()
    return pb.Watermark(
        table=shard.table.name,
        tenant=shard.table.tenant,
        shard=shard.id,
        epoch=marks.epoch,
        floor=marks.floor,
        persisted=marks.persisted,
        end=marks.end,
        t_persisted=marks.t_persisted,
    )


def _segment(file: Segment) -> pb.Segment:
    state = "open" if file.open else "sealed"
    return pb.Segment(number=file.number, first=file.first, bytes=file.bytes, state=state, synced=file.synced)


def _check_running(record: TableRecord) -> None:
    if record.paused:
        raise Paused(
            f"Table {record.table.name!r} is paused: nothing is persisted. Run `pxctl persist resume {record.table.name}`."
        )
