"""A cluster's processes on the simulated machine: the product's own parts, wired as its services wire them, without doors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pyarrow as pa
from sim_clickhouse import SimClickHouse
from sim_disk import DiskFaults, SimDisk
from sim_etcd import SimEtcd, SimEtcdClient
from sim_threads import Process, Sim, sim

from proxist.errors import NotOwner, ProxistError, Unavailable
from proxist.etcd import Catalog, NodeRecord, NodeSession, OwnerRecord, ShardRecord, TableRecord, layout
from proxist.etcd.mirror import Mirror
from proxist.etcd.ops import Put
from proxist.etcd.records import encode
from proxist.model.ids import Offset, ShardId
from proxist.model.table import Table
from proxist.wal import Volume
from proxist_ingest.follow import follow
from proxist_ingest.keeper import Keeper as IngestKeeper
from proxist_ingest.opening import Opener
from proxist_ingest.shard import Shard
from proxist_ingest.snapshot_thread import SnapshotThread
from proxist_ingest.snapshotting import SnapshotRule
from proxist_persister.batches import Batch, read_batch
from proxist_persister.keeper import Keeper as PersisterKeeper
from proxist_persister.owner import OwnerMarks
from proxist_persister.sink import Sink
from proxist_persister.watermarks import Watermarks
from proxist_persister.worker import Tools

T = TypeVar("T")
TTL_S = 4
CALL_S_MAX = 10.0


@dataclass
class NetworkFaults:
    """Chances per call between processes."""

    latency_s_max: float = 0.002
    lost_request: float = 0.0
    lost_answer: float = 0.0


@dataclass
class Lease:
    valid_until_ns: int = 0


class IngestProcess:
    """One start of an ingest node."""

    def __init__(self, cluster: Cluster, name: str, disk: SimDisk, number: int) -> None:
        self.cluster, self.name, self.disk = cluster, name, disk
        self.process = Process(f"{name}#{number}")
        self.lease = Lease()
        self.fenced: ProxistError | None = None
        self.buried = False
        self.keeper: IngestKeeper | None = None
        self._opening = False
        cluster.sim.spawn(self.process, self._run, "main")

    @property
    def alive(self) -> bool:
        return self.process.alive

    def shards(self) -> list[Shard]:
        return self.keeper.shards() if self.keeper is not None else []

    def refusals(self) -> Mapping[ShardId, ProxistError]:
        """Shards that it cannot open."""
        return self.keeper.refusals() if self.keeper is not None else {}

    def _run(self) -> None:
        client: Any = SimEtcdClient(self.cluster.etcd)
        self._catalog = Catalog(Mirror(client, layout.PREFIX).start())
        run_dir = self.cluster.root / f"host-{self.name}"
        volume = Volume(self.disk.root, files=self.disk)
        opener = Opener(
            client,
            self._catalog,
            self.name,
            self.disk.root,
            run_dir,
            self.lease,
            self._lease_id,
            self._fence,
            snapshots=SnapshotRule(self.disk.root, volume, self.cluster.snapshot_bytes),
        )
        keeper = IngestKeeper(opener, self._catalog, self._fence)
        record = NodeRecord(self.name, "ingest", 1)
        self._session = NodeSession(
            client, record, ttl_s=TTL_S, takeover=True, on_lost=self._lost, on_extend=self._extended
        )  # type: ignore[arg-type]
        self._session.start()
        while not self._session.wait_gained(1.0) or not self._catalog.mirror.wait_until(self._current, 1.0):
            sim().yield_()
        self.keeper, self._opening = keeper, True
        keeper.start()
        SnapshotThread(keeper.shards).start()

    def stop(self) -> None:
        """In good order: what was accepted is finished, the logs are sealed."""
        if self.keeper is not None:
            self.keeper.stop()
            self.keeper.close_shards()
            self._session.close()

    def _current(self, _: object) -> bool:
        return self._catalog.mirror.synced and self._catalog.node(self.name) is not None

    def _lease_id(self) -> int:
        lease = self._session.lease
        if lease is None:
            raise Unavailable("This node holds no lease now.")
        return lease.id

    def _extended(self, valid_until_ns: int) -> None:
        if self.fenced is None:
            self.lease.valid_until_ns = valid_until_ns
            for shard in self.shards():
                shard.set_lease_until(valid_until_ns)

    def _lost(self, reason: str) -> None:
        if not self._opening:
            self.lease.valid_until_ns = 0
            return
        self._fence(Unavailable(f"its {reason}", reason="lease"))

    def _fence(self, error: ProxistError) -> None:
        if self.fenced is None and self.alive:
            self.fenced = error
            self.lease.valid_until_ns = 0
            sim().say(f"{self.process.name}: leaves service: {type(error).__name__}: {error.message[:100]}")
            for shard in self.shards():
                shard.fail(NotOwner("the node left service"))

    def call(self, run: Callable[[], T]) -> T:
        """Run something in this process for a caller in another one."""
        network = self.cluster.network
        sim().pause(network.latency_s_max)
        if not self.alive or sim().random.random() < network.lost_request:
            raise Unavailable(f"Node {self.name!r} does not answer.")
        box: list[T | ProxistError] = []

        def handle() -> None:
            try:
                box.append(run())
            except ProxistError as error:
                box.append(error)

        thread = sim().spawn(self.process, handle, "handler")
        thread.join(CALL_S_MAX)
        sim().pause(network.latency_s_max)
        if not box or sim().random.random() < network.lost_answer:
            raise Unavailable(f"Node {self.name!r} did not answer in time.")
        if isinstance(box[0], ProxistError):
            raise box[0]
        return box[0]

    def shard(self, shard: ShardId) -> Shard:
        """The open shard. Raises NotOwner."""
        found = self.keeper.get(shard) if self.keeper is not None and self.fenced is None else None
        if found is None:
            raise NotOwner(f"Node {self.name!r} does not own shard {shard}.")
        return found


class SimOwner:
    """What a persister's worker holds in the place of `Owner`: the same calls, to the simulated node."""

    def __init__(self, shard: ShardId, owner: OwnerRecord, node: NodeRecord) -> None:
        self.shard, self.epoch = shard, owner.epoch
        self._node = cluster().node(node.name)
        self._cancelled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _shard(self) -> Shard:
        shard = self._node.shard(self.shard)
        if shard.epoch != self.epoch:
            raise NotOwner(f"Epoch {self.epoch} of shard {self.shard} is over.")
        return shard

    def marks(self) -> OwnerMarks:
        def read() -> OwnerMarks:
            marks = self._shard().marks()
            return OwnerMarks(marks.epoch, marks.persisted, marks.end)

        return self._node.call(read)

    def follow(self, start: Offset) -> Iterator[Batch | None]:
        messages = self._node.call(lambda: iter(follow(self._shard(), start).messages))
        while not self._cancelled:
            rows, metadata = self._node.call(lambda: next(messages))
            bounds = json.loads(metadata).get("batch")
            yield None if bounds is None else read_batch(self.shard, Offset(bounds[0]), Offset(bounds[1]), [rows])

    def advance(self, persisted: Offset) -> None:
        self._node.call(lambda: self._shard().advance_persisted(self.epoch, persisted))

    def cancel(self) -> None:
        self._cancelled = True


class PersisterProcess:
    """One start of a persister."""

    def __init__(self, cluster: Cluster, name: str, number: int) -> None:
        self.cluster, self.name = cluster, name
        self.process = Process(f"{name}#{number}")
        self.keeper: PersisterKeeper | None = None
        cluster.sim.spawn(self.process, self._run, "main")

    @property
    def alive(self) -> bool:
        return self.process.alive

    def _run(self) -> None:
        client: Any = SimEtcdClient(self.cluster.etcd)
        catalog = Catalog(Mirror(client, layout.PREFIX).start())
        session = NodeSession(
            client,
            NodeRecord(self.name, "persister", 1),
            ttl_s=TTL_S,
            on_gained=lambda _: self._poke(),
            on_lost=lambda _: self._poke(),
        )
        sink = Sink(self.cluster.clickhouse)  # type: ignore[arg-type]
        watermarks = Watermarks(client, 0.3)
        tools = Tools(self.name, client, catalog, sink, watermarks, lambda: session.lease, sim().random.random)
        self.keeper = PersisterKeeper(tools)
        session.start()
        watermarks.start()
        self.keeper.start()

    def _poke(self) -> None:
        if self.keeper is not None:
            self.keeper.poke()


@dataclass
class Cluster:
    """One table, ingest nodes with a disk each, persisters, etcd and ClickHouse."""

    sim: Sim
    table: Table
    root: Path
    placement: dict[ShardId, str]
    etcd: SimEtcd = field(init=False)
    clickhouse: SimClickHouse = field(init=False)
    network: NetworkFaults = field(default_factory=NetworkFaults)
    disk_faults: DiskFaults = field(default_factory=DiskFaults)
    ingest: dict[str, IngestProcess] = field(default_factory=dict)
    retired: list[IngestProcess] = field(default_factory=list)
    """Killed, or stopped while another process has their disk: their memory is still mapped by readers."""
    persisters: dict[str, PersisterProcess] = field(default_factory=dict)
    disks: dict[str, SimDisk] = field(default_factory=dict)
    starts: int = 0
    snapshot_bytes: int = 16_384
    """Log between two snapshots of a shard."""

    def __post_init__(self) -> None:
        self.etcd = SimEtcd(self.sim)
        self.clickhouse = SimClickHouse(self.sim, self.table)
        puts = [Put(layout.table_key("default", self.table.name), encode(TableRecord(self.table).to_json()))]
        for slot, (shard, node) in enumerate(self.placement.items()):
            record = ShardRecord(shard, "default", self.table.name, self.table.id, slot, node)
            puts.append(Put(layout.shard_key(shard), encode(record.to_json())))
        puts.append(Put(layout.LAST_SHARD_ID, str(max(self.placement)).encode()))
        self.etcd.apply(puts)
        for node in dict.fromkeys(self.placement.values()):
            self.disks[node] = SimDisk(self.sim, self.root / f"disk-{node}", self.disk_faults)

    def start_ingest(self, name: str) -> None:
        """The next process of a node, on its disk; an earlier one is retired, dead or not."""
        if name in self.ingest:
            self.retired.append(self.ingest.pop(name))
        self.starts += 1
        self.ingest[name] = IngestProcess(self, name, self.disks[name], self.starts)
        self.sim.say(f"start {self.ingest[name].process.name}")

    def start_persister(self, name: str) -> None:
        self.starts += 1
        self.persisters[name] = PersisterProcess(self, name, self.starts)
        self.sim.say(f"start {self.persisters[name].process.name}")

    def move(self, name: str, to: str) -> None:
        """The disk of one node is another's from now on, and so are its shards. Whoever ran on the first is retired,
        and may go on."""
        self.retired.append(self.ingest.pop(name))
        self.disks[to] = self.disks.pop(name)
        for shard in self.table.shard_ids:
            record = self.record(shard)
            if record.node == name:
                self.etcd.apply([Put(layout.shard_key(shard), encode(replace(record, node=to).to_json()))])
        self.start_ingest(to)

    def node(self, name: str) -> IngestProcess:
        if name not in self.ingest:
            raise Unavailable(f"Node {name!r} is not there.")
        return self.ingest[name]

    def owner(self, shard: ShardId) -> tuple[IngestProcess, OwnerRecord] | None:
        """Who owns the shard by what etcd says now."""
        kv = self.etcd.keys.get(layout.owner_key(shard))
        if kv is None:
            return None
        record = OwnerRecord.from_json(json.loads(kv.value))
        return (self.ingest[record.node], record) if record.node in self.ingest else None

    def record(self, shard: ShardId) -> ShardRecord:
        return ShardRecord.from_json(json.loads(self.etcd.keys[layout.shard_key(shard)].value))

    def open_shards(self) -> list[tuple[IngestProcess, Shard]]:
        return [(node, shard) for node in self.ingest.values() if node.alive for shard in node.shards()]

    def close(self) -> None:
        """Give memory and files back."""
        for node in (*self.ingest.values(), *self.retired):
            for shard in node.shards():
                shard.hot.close()


running: Cluster | None = None
"""The cluster that the product's parts talk to."""


def cluster() -> Cluster:
    assert running is not None
    return running


def batch_of_rows(table: Table, rows: list[tuple[str, int, int, int | None]]) -> pa.RecordBatch:
    """(symbol, ts, id, price) as a batch of the table."""
    columns = {"symbol": 0, "ts": 1, "id": 2, "price": 3}
    schema = table.spec.schema
    return pa.RecordBatch.from_arrays(
        [pa.array([row[columns[f.name]] for row in rows], f.type) for f in schema], schema=schema
    )
