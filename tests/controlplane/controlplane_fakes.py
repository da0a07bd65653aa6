"""The other services as the control plane sees them: real etcd records and real gRPC, without any rows."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from proxist.errors import DeadlineExceeded, NotFound, ProxistError, Unavailable
from proxist.etcd import Catalog, EtcdClient, KeptLease, NodeRecord, NodeSession, ShardRecord
from proxist.etcd.shards import change_table, open_shard, read_claim, seal_shard
from proxist.model.ids import Offset
from proxist.pb import ingest_pb2, ingest_pb2_grpc, persister_pb2, persister_pb2_grpc
from proxist.rpc.grpc_server import GrpcDoor, GrpcService


@dataclass
class Marks:
    """One shard's marks, as the tests set them."""

    record: ShardRecord
    floor: int = 0
    persisted: int = 0
    end: int = 0


class FakeIngest(ingest_pb2_grpc.IngestServiceServicer):
    """A node that opens every shard placed on it, and releases those of tables that are dropped."""

    def __init__(self, etcd: str, name: str, *, opens: bool = True) -> None:
        self.name = name
        self.shards: dict[int, Marks] = {}
        self.opens = opens
        self.persists = True
        self._lock = threading.Lock()
        self._client = EtcdClient([etcd])
        self._catalog = Catalog.start(self._client)
        self._door = GrpcDoor(
            [GrpcService("proxist.ingest.v1.IngestService", ingest_pb2_grpc.add_IngestServiceServicer_to_server, self)],
            "127.0.0.1",
            0,
        )
        self._door.start()
        record = NodeRecord(name, "ingest", 4711, grpc=self._door.address)
        self._session = NodeSession(
            self._client, record, takeover=True, on_gained=lambda _: self._work(), on_lost=lambda _: self._lost()
        ).start()
        assert self._session.wait_gained(20)
        self._subscription = self._catalog.mirror.subscribe(lambda _: self._work())

    def close(self) -> None:
        self._subscription.close()
        self._session.close()
        self._catalog.close()
        self._door.stop(0.1)
        self._client.close()

    def __enter__(self) -> FakeIngest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- shards ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        lease = self._session.lease
        if lease is None or not self.opens:
            return
        with self._lock:
            for record in self._catalog.shards():
                if record.node == self.name:
                    try:
                        self._follow(record, lease)
                    except ProxistError:
                        continue  # the next change brings it round again

    def _follow(self, record: ShardRecord, lease: KeptLease) -> None:
        shard, held = record.shard, self.shards.get(record.shard)
        state = self._catalog.table_of(shard).state
        if state == "active" and held is None:
            claim = read_claim(self._client, shard, node=self.name)
            newest = claim.record.epoch or None
            self.shards[shard] = Marks(claim.record.opened(Offset(0)))  # before others can see that it is open
            try:
                open_shard(self._client, claim, start=Offset(0), predecessor=newest, lease=lease.id)
            except ProxistError:
                del self.shards[shard]
                raise
        elif state == "dropping" and held is not None:
            del self.shards[shard]  # before others can see that it is sealed
            try:
                seal_shard(self._client, held.record, end=Offset(held.end), lease=lease.id)
            except ProxistError:
                self.shards[shard] = held
                raise

    def _lost(self) -> None:
        with self._lock:
            self.shards.clear()

    # ---- IngestService ---------------------------------------------------------------------------------------------

    def Watermarks(self, request: Any, context: Any) -> ingest_pb2.WatermarksResponse:
        return ingest_pb2.WatermarksResponse(watermarks=self._marks(request.table))

    def Flush(self, request: Any, context: Any) -> ingest_pb2.FlushResponse:
        if not self.persists:
            raise DeadlineExceeded("Rows are not persisted yet.")
        for marks in self.shards.values():
            marks.persisted = marks.end
        return ingest_pb2.FlushResponse(shards=self._marks(request.table))

    def Evict(self, request: Any, context: Any) -> ingest_pb2.EvictResponse:
        for marks in self.shards.values():
            marks.floor = min(marks.persisted, marks.end - request.rows if request.rows else marks.persisted)
        return ingest_pb2.EvictResponse(shards=self._marks(request.table))

    def _marks(self, table: str) -> list[ingest_pb2.Watermark]:
        return [
            ingest_pb2.Watermark(
                table=m.record.table,
                tenant=m.record.tenant,
                shard=shard,
                epoch=m.record.epoch,
                floor=m.floor,
                persisted=m.persisted,
                end=m.end,
                t_persisted=17 if m.persisted else None,
            )
            for shard, m in self.shards.items()
            if table in ("", m.record.table)
        ]


class FakePersister(persister_pb2_grpc.PersisterServiceServicer):
    """Drops what its owners have released; remembers what it was told; can refuse to answer."""

    def __init__(self, etcd: str, name: str, *, drops: bool = True) -> None:
        self.told: list[tuple[str, str]] = []
        self.fails = False
        self._drops = drops
        self._client = EtcdClient([etcd])
        self._catalog = Catalog.start(self._client)
        self._door = GrpcDoor(
            [
                GrpcService(
                    "proxist.persister.v1.PersisterService",
                    persister_pb2_grpc.add_PersisterServiceServicer_to_server,
                    self,
                )
            ],
            "127.0.0.1",
            0,
        )
        self._door.start()
        record = NodeRecord(name, "persister", 4712, grpc=self._door.address)
        self._session = NodeSession(self._client, record, takeover=True).start()
        assert self._session.wait_gained(20)
        self._subscription = self._catalog.mirror.subscribe(lambda _: self._work())

    def close(self) -> None:
        self._subscription.close()
        self._session.close()
        self._catalog.close()
        self._door.stop(0.1)
        self._client.close()

    def __enter__(self) -> FakePersister:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        for record in self._catalog.tables() if self._drops else []:
            owned = any(self._catalog.owner(shard) for shard in record.table.shard_ids)
            if record.state == "dropping" and not owned:
                try:
                    change_table(self._client, record.table.tenant, record.table.name, state="dropped")
                except NotFound:
                    continue

    def Status(self, request: Any, context: Any) -> persister_pb2.StatusResponse:
        down = "ClickHouse at http://c:8123 does not answer."
        shards = [persister_pb2.ShardStatus(shard=s.shard, last_error=down) for s in self._catalog.shards()]
        return persister_pb2.StatusResponse(name="persister-0", state="DOWN", shards=shards)

    def Pause(self, request: Any, context: Any) -> persister_pb2.PauseResponse:
        if self.fails:
            raise Unavailable("The insert in flight has no answer yet.")
        self.told.append(("pause", request.table))
        return persister_pb2.PauseResponse()

    def Resume(self, request: Any, context: Any) -> persister_pb2.ResumeResponse:
        self.told.append(("resume", request.table))
        return persister_pb2.ResumeResponse()
