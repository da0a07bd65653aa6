"""One run: a seed chooses the table, the cluster, the load and what goes wrong; then all is well again and must converge."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path

import structlog
from sim_clickhouse import ClickHouseFaults
from sim_clients import Ids, Producer, Query
from sim_cluster import TTL_S, Cluster, NetworkFaults
from sim_etcd import EtcdFaults
from sim_faces import installed
from sim_oracle import Oracle, Violation
from sim_threads import Process, Sim, sim
from sim_wiring import wired

from proxist.errors import InternalError, OperatorError, ProxistError
from proxist.model.ids import ShardId, TableId
from proxist.model.table import Table, parse_spec
from proxist_ingest.shard import EvictTo

CHECK_EVERY = 16
STEPS_MAX = 200_000
FAULT_S = 3.5
HEAL_S_MAX = 120.0


@dataclass
class Outcome:
    """What a run did."""

    seed: int
    trace: list[str]
    trace_hash: str
    steps: int
    acks: int
    answers: int
    checks: int
    violation: str | None

    def __str__(self) -> str:
        return "\n".join(
            [
                *self.trace,
                f"seed {self.seed}: {self.violation}",
                f"replay: PROXIST_SIM_SEED={self.seed} pytest tests/sim",
            ]
        )


def run(seed: int) -> Outcome:
    """Run one seed to its end, or to the first violation."""
    root = Path(tempfile.mkdtemp(prefix="proxist-sim-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        with quiet(), installed(Sim(seed, root=str(root))) as simulation:
            return _Run(simulation, root).play()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines: a run has its trace."""
    logging = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**logging)


class _Run:
    def __init__(self, simulation: Sim, root: Path) -> None:
        self.sim = simulation
        random = simulation.random
        shards = random.choice((1, 1, 2))
        self.table = make_table(shards, random.choice(("disk", "disk", "os")), random.choice(("20ms", "200ms")))
        nodes = ["a", "b"][: random.choice((1, 2))]
        placement = {shard: nodes[at % len(nodes)] for at, shard in enumerate(self.table.shard_ids)}
        self.cluster = Cluster(simulation, self.table, root, placement)
        self.cluster.snapshot_bytes = random.choice((2_000, 16_000, 2**30))
        self.oracle = Oracle(self.cluster)
        self.cluster.etcd.on_change = self.oracle.changed
        ids = Ids()
        level = random.choice((None, None, "disk"))
        names = ["feed-1", "feed-2", "feed-3"][: random.choice((1, 2, 3))]
        batches = random.randrange(3, 12)
        self.producers = [Producer(self.cluster, self.oracle, name, batches, ids, level) for name in names]
        self.query = Query(self.cluster, self.oracle)
        self.clients = Process("clients")
        self.healing = False

    def play(self) -> Outcome:
        violation = None
        with wired(self.cluster):
            try:
                self._start()
                self._until(lambda: self.sim.now_ns >= self._fault_end_ns, "the time of faults")
                self._heal()
                self._until(self._converged, "everything is persisted")
                self.oracle.finished(self.table)
            except Violation as found:
                violation = str(found)
                self.sim.say(f"VIOLATION: {violation}")
            outcome = Outcome(
                self.sim.seed,
                self.sim.trace,
                self.sim.trace_hash,
                self.sim.steps,
                sum(p.acked for p in self.producers),
                self.query.answers,
                self.oracle.checks,
                violation,
            )
            for process in {id(t.process): t.process for t in self.sim.threads}.values():
                self.sim.kill(process)
            self.query.close()
        return outcome

    def _start(self) -> None:
        for node in self.cluster.disks:
            self.cluster.start_ingest(node)
        self.cluster.start_persister("p1")
        if self.sim.random.random() < 0.5:
            self.cluster.start_persister("p2")
        for producer in self.producers:
            self.sim.spawn(self.clients, self._guarded(producer.run), producer.name)
        self.sim.spawn(self.clients, self._guarded(self.query.run), "query")
        self.sim.spawn(self.clients, self._guarded(self._chaos), "chaos")
        self.sim.spawn(self.clients, self._guarded(self._evictions), "evictions")
        self._fault_end_ns = self.sim.now_ns + int(FAULT_S * 1e9)
        self._heal_end_ns = self._fault_end_ns + int(HEAL_S_MAX * 1e9)
        self._faults()

    def _guarded(self, run: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                run()
            except Violation as found:
                self.found = found

        return guarded

    found: Violation | None = None

    def _until(self, done: Callable[[], bool], what: str) -> None:
        while not done():
            self.sim.step()
            self._reap()
            if self.sim.steps % CHECK_EVERY == 0:
                self.oracle.check()
            if self.found is not None:
                raise self.found
            if self.sim.failures:
                raise Violation(f"a thread died: {self.sim.failures[0]}")
            if self.sim.steps > STEPS_MAX or self.sim.now_ns > self._heal_end_ns:
                raise Violation(f"it does not come to this: {what}; {self._state()}")

    def _state(self) -> str:
        marks = [
            (n.process.name, s.id, int(s.marks().persisted), int(s.marks().end)) for n, s in self.cluster.open_shards()
        ]
        workers = [
            (p.name, w.shard, w.board.progress.state, w.board.progress.last_error)
            for p in self.cluster.persisters.values()
            if p.keeper is not None
            for w in p.keeper.workers()
        ]
        return f"producers {[(p.name, p.done) for p in self.producers]}, owners {marks}, workers {workers}"

    # ---- faults ----------------------------------------------------------------------------------------------------

    def _faults(self) -> None:
        random = self.sim.random

        def rare(scale: float) -> float:
            return random.choice((0.0, 0.0, scale, scale * 4))

        self.cluster.network = NetworkFaults(random.choice((0.001, 0.02)), rare(0.01), rare(0.01))
        self.cluster.clickhouse.faults = ClickHouseFaults(
            rare(0.05), rare(0.05), rare(0.05), rare(0.05) if LIES else 0.0
        )
        self.cluster.etcd.faults = EtcdFaults(
            rare(0.005), rare(0.005), random.choice((0.001, 0.3)), rare(0.1), rare(0.02)
        )
        faults = self.cluster.disk_faults
        faults.slow_flush, faults.error = rare(0.003), rare(0.001)
        faults.power, faults.stop = rare(0.002), rare(0.002)

    def _heal(self) -> None:
        self.healing = True
        self.sim.say("all is well from here on")
        self.cluster.network, self.cluster.clickhouse.faults = NetworkFaults(), ClickHouseFaults()
        self.cluster.etcd.faults = EtcdFaults()
        faults = self.cluster.disk_faults
        faults.slow_flush = faults.error = faults.power = faults.stop = 0.0
        for process in (p.process for p in (*self.cluster.ingest.values(), *self.cluster.persisters.values())):
            self.sim.thaw(process)
        for name, persister in list(self.cluster.persisters.items()):
            if not persister.alive:
                self.cluster.start_persister(name)

    def _reap(self) -> None:
        """Processes that ended are started again, on what their disk holds then."""
        for name, node in list(self.cluster.ingest.items()):
            if node.alive and node.fenced is None:
                for shard, error in node.refusals().items():
                    raise Violation(f"{node.process.name} does not open shard {shard}: {error.message}")
                continue
            if isinstance(node.fenced, OperatorError | InternalError):
                raise Violation(f"{node.process.name} stopped: {type(node.fenced).__name__}: {node.fenced.message}")
            self.sim.kill(node.process)
            if node.disk.lost_power:
                self._lose_power(name)
            self.cluster.start_ingest(name)
        for node in self.cluster.retired:
            if (node.fenced is not None or not node.alive) and not node.buried:
                self.sim.kill(node.process)
                node.buried = True
        for name, persister in list(self.cluster.persisters.items()):
            if not persister.alive:
                self.sim.kill(persister.process)
                self.cluster.start_persister(name)

    def _lose_power(self, name: str) -> None:
        """Everybody on that disk ends, and finds it in one of the states that it may be in."""
        self.sim.say(f"node {name} finds its disk as it is after the loss of power")
        disk = self.cluster.disks[name]
        for node in self.cluster.retired:
            if node.alive and node.disk is disk:
                self.sim.kill(node.process)
        disk.lost_power = False
        self.cluster.disks[name] = disk.image(self.sim.random)
        shards = self.table.shard_ids
        self.oracle.power_lost |= {shard for shard in shards if self.cluster.record(shard).node == name}

    def _chaos(self) -> None:
        random = self.sim.random
        acts = (self._stop_node, self._cut_power, self._freeze_node, self._kill_persister, self._freeze_persister)
        acts += (
            self._move_node,
            self._move_node,
            self._clickhouse_away,
            self._etcd_away,
            self._flush,
        )
        while not self.healing:
            sim().pause(2.0)
            if not self.healing:
                random.choice(acts)()

    def _evictions(self) -> None:
        while not self.healing:
            sim().pause(0.6)
            self._evict()

    def _node(self) -> str:
        return self.sim.random.choice(sorted(self.cluster.ingest))

    def _stop_node(self) -> None:
        node = self.cluster.ingest[self._node()]
        self.sim.say(f"kill -9 of {node.process.name}")
        node.process.alive = False

    def _cut_power(self) -> None:
        node = self.cluster.ingest[self._node()]
        self.sim.say(f"{node.process.name} loses power")
        node.disk.lost_power = True
        node.process.alive = False

    def _freeze_node(self) -> None:
        self._freeze(self.cluster.ingest[self._node()].process)

    def _move_node(self) -> None:
        """Its disk goes to another host while its process stands still, or is dead. (While it opens a shard it is dead:
        the lock of the directory is what keeps two of them from opening shards there at one time.)"""
        name = self._node()
        node, to = self.cluster.ingest[name], f"{name}'"
        self.sim.say(f"{node.process.name} is taken for dead, {to} has its disk")
        placed = [shard for shard in self.table.shard_ids if self.cluster.record(shard).node == name]
        if {shard.id for shard in node.shards()} == set(placed):
            self.sim.freeze(node.process, TTL_S + 3)
        else:
            node.process.alive = False
        self.cluster.move(name, to)

    def _freeze_persister(self) -> None:
        self._freeze(self.cluster.persisters[self.sim.random.choice(sorted(self.cluster.persisters))].process)

    def _freeze(self, process: Process) -> None:
        seconds = self.sim.random.choice((0.5, 3.0, 9.0))
        self.sim.say(f"{process.name} stands still for {seconds} s")
        self.sim.freeze(process, seconds)

    def _kill_persister(self) -> None:
        name = self.sim.random.choice(sorted(self.cluster.persisters))
        self.sim.say(f"kill -9 of {self.cluster.persisters[name].process.name}")
        self.cluster.persisters[name].process.alive = False

    def _clickhouse_away(self) -> None:
        self.sim.say("clickhouse is away")
        self.cluster.clickhouse.faults.down = True
        sim().block(self.sim.random.random() * 3)
        self.cluster.clickhouse.faults.down = False

    def _etcd_away(self) -> None:
        self.sim.say("etcd is away")
        self.cluster.etcd.faults.down = True
        sim().block(self.sim.random.random() * 5)
        self.cluster.etcd.faults.down = False

    def _flush(self) -> None:
        for node, shard in self.cluster.open_shards():
            self._try(lambda: node.call(shard.flush))

    def _evict(self) -> None:
        rows = self.sim.random.choice((None, 0, 5, 20))
        for node, shard in self.cluster.open_shards():
            self._try(lambda: node.call(lambda: shard.evict(EvictTo(rows=rows))))

    def _try(self, run: Callable[[], object]) -> None:
        try:
            run()
        except ProxistError as error:
            self.sim.say(f"refused: {error.message[:80]}")

    # ---- the end ---------------------------------------------------------------------------------------------------

    def _converged(self) -> bool:
        if not all(producer.done for producer in self.producers):
            return False
        open_shards = {shard.id: shard.marks() for _, shard in self.cluster.open_shards()}
        if set(open_shards) != set(self.table.shard_ids):
            return False
        if any(marks.persisted < marks.end for marks in open_shards.values()):
            return False
        self.query.stop = True
        return not any(thread.name in ("query", "late insert") for thread in self.sim.threads)


LIES = True


def make_table(shards: int, durability: str, age: str) -> Table:
    spec = {
        "name": "trades",
        "time": "ts",
        "key": "symbol",
        "seq": "id",
        "columns": [
            {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
            {"name": "symbol", "type": "string"},
            {"name": "id", "type": "uint64"},
            {"name": "price", "type": "int64", "nullable": True},
        ],
        "shards": shards,
        "durability": durability,
        "hot_bytes": "4MiB",
        "hot_window": "500ms",
        "flush": {"rows": 12, "age": age},
    }
    return Table(TableId(1), "default", parse_spec(spec), tuple(ShardId(1 + slot) for slot in range(shards)))
