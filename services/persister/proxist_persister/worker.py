"""One shard's persisting, in a thread of its own: lease, read-back, follow, insert, advance."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import structlog

from proxist.errors import NotFound, ProxistError, TransientError, Unavailable
from proxist.etcd import Catalog, EtcdClient, KeptLease, NodeRecord, OwnerRecord, WatermarkRecord
from proxist.etcd.shards import release_persister, take_persister
from proxist.failpoints import reach
from proxist.model.ids import Offset, ShardId
from proxist.model.table import Table
from proxist.rpc.status import to_proxist
from proxist.telemetry import tracing
from proxist_persister import progress
from proxist_persister.batches import Batch
from proxist_persister.coverage import Stored, anomaly, unexplained
from proxist_persister.delivery import Delivery
from proxist_persister.doubts import Doubts
from proxist_persister.owner import Owner, OwnerMarks
from proxist_persister.plan import Job
from proxist_persister.policy import is_final, retry_delay_s
from proxist_persister.progress import Board
from proxist_persister.sink import Sink
from proxist_persister.watermarks import Watermarks

_log = structlog.get_logger("proxist.persister")

LOOK_AGAIN_S = 0.5
"""A waiting worker is poked at every change; this is only for what no change announces (another node's lease)."""
NOTHING = Stored(pa.table({name: pa.array([], pa.uint64()) for name in ("_log", "_offset", "copies")}))


@dataclass(frozen=True)
class Tools:
    """What all workers of a process share. `lease` is the node's, None between a loss and the next gain."""

    node: str
    client: EtcdClient
    catalog: Catalog
    sink: Sink
    watermarks: Watermarks
    lease: Callable[[], KeptLease | None]
    chance: Callable[[], float] = random.random


class _Interrupted(Exception):
    """Stop, pause, or the loss of the lease or of the owner: leave what is being done and look again."""


class ShardWorker:
    """Persists one shard while it has the shard's lease, the shard has an owner and the table is not paused."""

    def __init__(self, job: Job, tools: Tools) -> None:
        self.table: Table = job.table
        self.shard: ShardId = job.shard
        self.board = Board()
        self._tools = tools
        self._lock = threading.Lock()  # guards _owner, _owner_record and _paused
        self._owner: Owner | None = None
        self._owner_record: OwnerRecord | None = None
        self._paused = job.paused
        self._lease: KeptLease | None = None
        self._stop = threading.Event()
        self._poked = threading.Event()
        self._resumed = threading.Event()
        self._advanced = 0
        self._doubts = Doubts()
        self._thread = threading.Thread(target=self._run, name=f"persist-{job.shard}", daemon=True)

    # ---- from other threads ----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def request_stop(self) -> None:
        """Returns at once. The insert in flight is finished first; then the shard's lease is given up."""
        self._stop.set()
        self._wake()

    def join(self, timeout_s: float | None = None) -> bool:
        """True once the thread has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """False once the thread has ended, for whichever reason."""
        return self._thread.is_alive()

    def set_paused(self, paused: bool) -> None:
        """Takes effect behind the insert in flight; see `board.wait_not_at_work`."""
        with self._lock:
            if self._paused == paused:
                return
            self._paused = paused
        self._wake()

    def check_holds(self) -> None:
        """Raises Unavailable where another persister may write the shard."""
        lease = self._lease
        if lease is None or lease.lost:
            raise Unavailable(
                f"This persister does not hold shard {self.shard} of table {self.table.name!r} now. Try again.",
                retry_after_s=1.0,
                shard=self.shard,
            )

    def resume(self) -> None:
        """Try again what stopped the shard."""
        self._resumed.set()
        self._poked.set()

    def poke(self) -> None:
        """Something changed in the catalog: a waiting worker looks again, a following one leaves an owner that is gone."""
        with self._lock:
            record, following = self._owner_record, self._owner is not None
        lease = self._lease
        if following and (self._tools.catalog.owner(self.shard) != record or (lease is not None and lease.lost)):
            self._wake()
        self._poked.set()

    def _wake(self) -> None:
        self._poked.set()
        with self._lock:
            owner = self._owner
        if owner is not None:
            owner.cancel()

    # ---- the worker's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        except Exception:  # a bug beside the work itself: the keeper sees that the thread has ended and starts another
            _log.exception("a persister thread failed", table=self.table.name, shard=self.shard)
        self.board.enter(progress.WAITING)
        self._give_up()

    def _work(self) -> None:
        attempt, advanced = 0, 0
        while not self._stop.is_set():
            try:
                self._session()
            except _Interrupted:
                attempt = 0
            except Exception as unexpected:
                error = to_proxist(unexpected)
                if self._advanced != advanced:
                    attempt, advanced = 0, self._advanced
                if self._stop.is_set():
                    break
                if is_final(error, attempt):
                    self._halt(error)
                    attempt = 0
                else:
                    self._rest(error, attempt)
                    attempt += 1

    def _session(self) -> None:
        """One owner under one lease: from read-back to the end of either. Raises _Interrupted or what went wrong."""
        record, node = self._await_owner()
        with Owner(self.shard, record, node) as owner:
            with self._lock:
                self._owner, self._owner_record = owner, record
            try:
                self._check()
                self._persist_from(owner)
            finally:
                self.board.took(0)
                with self._lock:
                    self._owner = None
        self._check()

    def _await_owner(self) -> tuple[OwnerRecord, NodeRecord]:
        """Wait until there is everything that persisting needs."""
        while not self._stop.is_set():
            self._poked.clear()
            if self._paused:
                self.board.enter(progress.PAUSED)
            elif self._holds_lease():
                record = self._tools.catalog.owner(self.shard)
                node = self._tools.catalog.node(record.node) if record is not None else None
                if record is not None and node is not None:
                    self.board.enter(progress.READING_BACK)
                    return record, node
                self.board.enter(progress.WAITING)
            else:
                self.board.enter(progress.WAITING)
            self._poked.wait(LOOK_AGAIN_S)
        raise _Interrupted

    def _holds_lease(self) -> bool:
        lease = self._tools.lease()
        if lease is None or lease.lost:
            return False
        if self._lease is not lease:
            holder = self._tools.catalog.persister(self.shard)
            if holder is not None and holder.node != self._tools.node:
                return False
            if not take_persister(self._tools.client, self.shard, node=self._tools.node, lease=lease.id):
                return False
            self._lease = lease
        return True

    def _persist_from(self, owner: Owner) -> None:
        marks = owner.marks()
        self.board.reached(persisted=marks.persisted, end=marks.end)
        self._tools.sink.prepare(self.table, was_persisted=self._was_persisted(marks))
        stored = self._read_back(owner, marks)
        self.board.enter(progress.FOLLOWING)
        predecessors = marks.persisted  # where one that has not noticed its end may be at work
        for batch in owner.follow(marks.persisted):
            if batch is not None:
                self.board.reached(end=batch.end)
                self.board.took(batch.end - batch.first)
                with self._traced(batch):
                    sure = self._persist(owner, marks, batch, stored if batch.first < stored.end else NOTHING)
                    self._advance(owner, batch.end)
                self.board.took(0)
                if not sure or batch.first == predecessors:
                    self._doubts.add(batch.first, batch.end, time.monotonic_ns())
            self._look_again(owner, marks)
            self._check()

    def _look_again(self, owner: Owner, marks: OwnerMarks) -> None:
        """Whether an insert that came late has doubled rows that were persisted. Raises OperatorError where it has."""
        while (due := self._doubts.due(time.monotonic_ns())) is not None:
            first, end = due
            try:
                stored = self._tools.sink.read_back(self.table, self.shard, first, end)
            except TransientError:
                self._doubts.add(first, end, time.monotonic_ns())
                return
            self._explain(owner, marks, stored, end)

    def _traced(self, batch: Batch) -> tracing.Span:
        """A trace of its own for a batch that carries traced writes, linked to them."""
        if not batch.links:
            return tracing.OFF
        span = tracing.linked("persist.batch", batch.links)
        if span.recording:
            span.set("db.collection.name", self.table.name)
            span.set("db.namespace", self.table.tenant)
            span.set("db.operation.batch.size", batch.end - batch.first)
            span.set("proxist.shard.id", self.shard)
        return span

    def _was_persisted(self, marks: OwnerMarks) -> bool:
        known = (self._tools.catalog.watermark(shard) for shard in self.table.shard_ids)
        return marks.persisted > 0 or any(mark is not None and mark.persisted > 0 for mark in known)

    def _read_back(self, owner: Owner, marks: OwnerMarks) -> Stored:
        """What is stored at or above the owner's persisted."""
        stored = self._tools.sink.read_back(self.table, self.shard, marks.persisted)
        self._explain(owner, marks, stored, marks.end)
        return stored

    def _explain(self, owner: Owner, marks: OwnerMarks, stored: Stored, end: Offset) -> None:
        """Raises OperatorError where what is stored cannot have come, once, from the shard's logs."""
        logs = self._tools.catalog.shard(self.shard).logs
        end = max(marks.end, end)
        if anomaly(stored, self.shard, logs, marks.epoch, end) is None:
            return
        # A predecessor that had not noticed its end may have sent a batch that is newer than the marks.
        found = anomaly(stored, self.shard, logs, marks.epoch, max(end, owner.marks().end))
        if found is not None:
            self._tools.sink.mismatched("unexplained")
            raise unexplained(self.table, self.shard, found)

    def _persist(self, owner: Owner, marks: OwnerMarks, batch: Batch, known: Stored) -> bool:
        """On return a read has found every row of the batch in ClickHouse, once, as it was sent. `known` is what is
        there of it already. False where an insert of it, whose outcome was unknown, may still come."""
        delivery = Delivery(self._tools.sink, self.table, self.shard, batch)
        attempt, unresolved, sure = 0, False, True
        to_insert: Stored | None = known
        while True:
            try:
                if to_insert is not None:
                    known, to_insert = to_insert, None  # after an error, what is there is not known
                    delivery.insert_missing(known, self._check, self.board.inserted)
                found = delivery.read_back()
                self._explain(owner, marks, found, batch.end)
                unresolved = False
                if delivery.is_whole(found):
                    break
                to_insert = found
                if lost := delivery.lost(found):
                    raise lost
            except ProxistError as error:
                if isinstance(error, NotFound) or is_final(error, attempt):
                    raise  # a table that is gone is looked for by the next session
                unresolved = unresolved or error.details.get("outcome") == "unknown"
                sure = sure and not unresolved
                if self._stop.is_set() or (self._paused and not unresolved):
                    raise _Interrupted from None
                self._rest(error, attempt)
                attempt += 1
        self.board.verified(batch.end - batch.first)
        if attempt:
            self.board.enter(progress.FOLLOWING)
        return sure

    def _advance(self, owner: Owner, persisted: Offset) -> None:
        reach("persister.advance.before")
        owner.advance(persisted)
        reach("persister.advance.after")
        self._advanced += 1
        self.board.reached(persisted=persisted)
        self._tools.watermarks.advance(self.shard, WatermarkRecord(owner.epoch, persisted))

    def _check(self) -> None:
        lease = self._lease
        if self._stop.is_set() or self._paused or lease is None or lease.lost:
            raise _Interrupted
        if self._tools.catalog.owner(self.shard) != self._owner_record:
            raise _Interrupted

    def _rest(self, error: ProxistError, attempt: int) -> None:
        """Wait before the next attempt; a change of anything ends the wait."""
        if attempt == 0:
            _log.warning("persisting is retried", table=self.table.name, shard=self.shard, error=_for_log(error))
        self.board.enter(progress.RETRYING, error)
        delay_s = retry_delay_s(attempt, self._tools.chance())
        self._poked.clear()
        if self._stop.is_set() or self._paused:  # they were seen already, and do not end this wait
            self._stop.wait(delay_s)
        else:
            self._poked.wait(delay_s)

    def _halt(self, error: ProxistError) -> None:
        """Stay stopped until `resume`, or until the worker is to end."""
        _log.error(
            "persisting stopped", table=self.table.name, shard=self.shard, error=_for_log(error), details=error.details
        )
        self._resumed.clear()  # before anybody can see that there is something to resume
        self.board.enter(progress.STOPPED, error)
        while not (self._stop.is_set() or self._resumed.is_set()):
            self._poked.wait()
            self._poked.clear()

    def _give_up(self) -> None:
        lease, self._lease = self._lease, None
        self._tools.watermarks.forget(self.shard)
        if lease is None or lease.lost:
            return
        try:
            release_persister(self._tools.client, self.shard, lease=lease.id)
        except ProxistError as error:
            _log.info("the shard's lease ends with the node's", shard=self.shard, error=error.message)


def _for_log(error: ProxistError) -> str:
    """ClickHouse's own sentence may quote a row, as that of a violated constraint does; Status tells it to operators."""
    name = error.details.get("clickhouse_name")
    return error.message if name is None else f"ClickHouse answered {name}; `Status` of this persister has its message."
