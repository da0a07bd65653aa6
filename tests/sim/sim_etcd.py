"""etcd in memory, on the simulated clock: key-values, transactions, leases and watches as `EtcdClient` shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from sim_faces import Condition, Event
from sim_threads import Sim

from proxist.errors import NotFound, Unavailable
from proxist.etcd.ops import Compare, Delete, Get, KeyValue, Op, Put, TxnResult
from proxist.etcd.watch import Change, WatchBatch
from proxist.pb import etcd_rpc_pb2 as pb

CALL_S_MAX = 0.003


@dataclass
class _Lease:
    ttl_s: int
    ends_ns: int


@dataclass
class EtcdFaults:
    """What goes wrong, each as a chance per call (per batch of a watch)."""

    lost_request: float = 0.0
    lost_answer: float = 0.0
    watch_delay_s: float = 0.0
    watch_repeat: float = 0.0
    watch_break: float = 0.0
    down: bool = False


class SimEtcd:
    """The store: one for the whole cluster."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.faults = EtcdFaults()
        self.revision = 1
        self.keys: dict[str, KeyValue] = {}
        self.history: list[WatchBatch] = []
        self.grown = Condition()
        self.on_change: Callable[[Change], None] = lambda _: None
        """Told of every change at the instant at which it is made."""
        self._leases: dict[int, _Lease] = {}
        self._lease_ids = 7_000

    # ---- the store itself ------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Leases whose time is over go, with their keys."""
        for lease in [one for one, state in self._leases.items() if state.ends_ns <= self.sim.now_ns]:
            self.sim.say(f"etcd: lease {lease} expired")
            self.revoke(lease)

    def revoke(self, lease: int) -> bool:
        if self._leases.pop(lease, None) is None:
            return False
        self.apply([Delete(key) for key, kv in self.keys.items() if kv.lease == lease])
        return True

    def grant(self, ttl_s: int) -> int:
        self._lease_ids += 1
        self._leases[self._lease_ids] = _Lease(ttl_s, self.sim.now_ns + ttl_s * 10**9)
        return self._lease_ids

    def keep(self, lease: int) -> int:
        state = self._leases.get(lease)
        if state is None:
            return 0
        state.ends_ns = self.sim.now_ns + state.ttl_s * 10**9
        return state.ttl_s

    def apply(self, ops: Sequence[Op]) -> tuple[tuple[KeyValue, ...], ...]:
        """All of them at one revision; what each Get read."""
        for op in ops:
            if isinstance(op, Put) and op.lease and op.lease not in self._leases:
                raise NotFound(f"etcd: lease {op.lease} is not known", outcome="none")
        reads: list[tuple[KeyValue, ...]] = []
        changes: list[Change] = []
        for op in ops:
            reads.append(self.read(op.key, op.prefix) if isinstance(op, Get) else ())
            if isinstance(op, Put):
                changes.append(self._put(op))
            elif isinstance(op, Delete):
                for kv in self.read(op.key, op.prefix):
                    del self.keys[kv.key]
                    changes.append(Change(kv.key, None))
        if changes:
            self.revision += 1
            self.history.append(WatchBatch(self.revision, tuple(changes)))
            for change in changes:
                self.on_change(change)
            self.grown.notify_all()
        return tuple(reads)

    def _put(self, op: Put) -> Change:
        revision, old = self.revision + 1, self.keys.get(op.key)
        made = KeyValue(op.key, op.value, revision, revision, 1, op.lease)
        if old is not None:
            made = replace(made, create_revision=old.create_revision, version=old.version + 1)
        self.keys[op.key] = made
        return Change(op.key, made)

    def read(self, key: str, prefix: bool) -> tuple[KeyValue, ...]:
        if not prefix:
            return (self.keys[key],) if key in self.keys else ()
        return tuple(self.keys[name] for name in sorted(self.keys) if name.startswith(key))

    def holds(self, compare: Compare) -> bool:
        wire = compare.wire
        kv = self.keys.get(wire.key.decode())
        found: object
        wanted: object
        if wire.target == pb.Compare.CREATE:
            found, wanted = (kv.create_revision if kv else 0), wire.create_revision
        elif wire.target == pb.Compare.MOD:
            found, wanted = (kv.mod_revision if kv else 0), wire.mod_revision
        elif wire.target == pb.Compare.LEASE:
            found, wanted = (kv.lease if kv else None), wire.lease
        else:
            found, wanted = (kv.value if kv else None), wire.value
        return (found == wanted) == (wire.result == pb.Compare.EQUAL)


@dataclass
class SimEtcdClient:
    """What the product holds in the place of `EtcdClient`."""

    store: SimEtcd
    addresses: str = "simulated"
    failure_count: int = 0
    _streams: list[SimWatch] = field(default_factory=list)

    def get(self, key: str) -> KeyValue | None:
        return self._read(lambda: next(iter(self.store.read(key, False)), None))

    def range(self, prefix: str) -> tuple[list[KeyValue], int]:
        return self._read(lambda: (list(self.store.read(prefix, True)), self.store.revision))

    def put(self, key: str, value: bytes, lease: int = 0) -> int:
        self._write(lambda: self.store.apply([Put(key, value, lease)]))
        return self.store.revision

    def delete(self, key: str, *, prefix: bool = False) -> int:
        count = len(self.store.read(key, prefix))
        self._write(lambda: self.store.apply([Delete(key, prefix)]))
        return count

    def txn(self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        def run() -> TxnResult:
            holds = all(self.store.holds(one) for one in compares)
            reads = self.store.apply(then if holds else otherwise)
            return TxnResult(holds, self.store.revision, reads)

        return self._write(run)

    def lease_grant(self, ttl_s: int) -> tuple[int, int]:
        return self._write(lambda: (self.store.grant(ttl_s), ttl_s))

    def lease_revoke(self, lease: int, *, timeout_s: float | None = None) -> bool:
        return self._write(lambda: self.store.revoke(lease))

    def lease_keepalive(self, lease: int, *, timeout_s: float | None = None) -> int:
        return self._read(lambda: self.store.keep(lease))

    def watch(self, prefix: str, start_revision: int) -> SimWatch:
        self._call()
        stream = SimWatch(self.store, prefix, start_revision)
        self._streams.append(stream)
        return stream

    def close(self) -> None:
        for stream in self._streams:
            stream.cancel()

    def _call(self) -> None:
        sim = self.store.sim
        sim.check_alive()
        sim.pause(CALL_S_MAX)
        self.store.expire()
        if self.store.faults.down:
            sim.pause(1.0)
            self.failure_count += 1
            raise Unavailable("etcd does not answer", store="etcd", outcome="none")

    def _read(self, run: Callable[[], object]):  # type: ignore[no-untyped-def]
        self._call()
        found = run()
        self._maybe(self.store.faults.lost_answer, "none")
        return found

    def _write(self, run: Callable[[], object]):  # type: ignore[no-untyped-def]
        self._call()
        self._maybe(self.store.faults.lost_request, "unknown")
        result = run()
        self.store.sim.pause(CALL_S_MAX)
        self._maybe(self.store.faults.lost_answer, "unknown")
        return result

    def _maybe(self, chance: float, outcome: str) -> None:
        if self.store.sim.random.random() < chance:
            self.failure_count += 1
            raise Unavailable("etcd did not answer in time", store="etcd", outcome=outcome)


class SimWatch:
    """A watch stream: later, now and then broken or repeated, but in order and with nothing left out."""

    def __init__(self, store: SimEtcd, prefix: str, start_revision: int) -> None:
        self._store, self._prefix, self._next = store, prefix, start_revision
        self._cancelled = Event()

    def cancel(self) -> None:
        self._cancelled.set()
        self._store.grown.notify_all()

    def __iter__(self) -> Iterator[WatchBatch]:
        sim, faults = self._store.sim, self._store.faults
        while not self._cancelled.is_set():
            batch = next((b for b in self._store.history if b.revision >= self._next), None)
            if batch is None:
                with self._store.grown:
                    self._store.grown.wait(1.0)
                continue
            sim.pause(faults.watch_delay_s)
            if sim.random.random() < faults.watch_break:
                raise Unavailable("the watch broke", store="etcd")
            changes = tuple(c for c in batch.changes if c.key.startswith(self._prefix))
            self._next = batch.revision + 1
            yield WatchBatch(batch.revision, changes)
            if sim.random.random() < faults.watch_repeat:
                yield WatchBatch(batch.revision, changes)
