"""One shard that this node owns: its writer thread, its syncer, and what any thread may ask of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack
from typing import TypeVar

import structlog

from proxist.errors import InvalidArgument, NotOwner, Overloaded, ProxistError, Unavailable
from proxist.hot.ops import HotOp, HotPart, Marks, Probes
from proxist.hot.reader import HotReader
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import Table
from proxist.rpc.status import to_proxist
from proxist.wal.writer import LogWriter
from proxist_ingest.bounds import Bounds
from proxist_ingest.carried import Carried, Carry
from proxist_ingest.commit import Committer, Lease
from proxist_ingest.counts import Counts
from proxist_ingest.inbox import Inbox
from proxist_ingest.ladder import Ladder
from proxist_ingest.logtail import WAL_BYTES_MAX, LogTail
from proxist_ingest.part import Part
from proxist_ingest.published import Published
from proxist_ingest.recover import SealedLog
from proxist_ingest.residency import RESIDENCY_PERIOD_NS, STEP_PAUSE_NS, EvictTo
from proxist_ingest.snapshotting import NOTHING_BEHIND, Behind, SnapshotOf, SnapshotRule, Snapshots
from proxist_ingest.syncer import Syncer

DISK_FULL_PAUSE_NS = 1_000_000_000
"""How long a full disk is left alone before the next record is tried."""
log = structlog.get_logger("proxist.ingest.shard")
T = TypeVar("T")


class Shard:
    """An open shard. `write` and every read are for any thread. What changes the shard has its turn: on the writer
    thread, or, for a part that comes alone, on the thread that brings it.

    When a turn fails (a write, a flush, the lease, a bug), nothing more is acked, every waiting sender is
    told, readers are stopped, and `on_fatal` is called with the error: the process must end and recover.
    """

    def __init__(
        self,
        table: Table,
        shard: ShardId,
        epoch: Epoch,
        log_writer: LogWriter,
        hot: HotSet,
        carried: Carried,
        lease: Lease,
        on_fatal: Callable[[ProxistError], None],
        *,
        sealed: Mapping[Epoch, SealedLog] | None = None,
        epoch_page_path: str | None = None,
        wal_bytes_max: int = WAL_BYTES_MAX,
        snapshots: SnapshotRule | None = None,
        behind: Behind = NOTHING_BEHIND,
    ) -> None:
        """`sealed`: the older logs of the chain that lie here, for followers. `snapshots`: None where none are taken;
        `behind`: what the shard was recovered from."""
        self.table = table
        self.id = shard
        self.epoch = epoch
        self.slot = table.shard_ids.index(shard)
        self.log_writer = log_writer
        self.bounds: Bounds = carried.bounds
        self.producers = carried.producers
        self._sealed = dict(sealed or {})
        self.hot = hot
        self.reader: HotReader = hot.reader(epoch_page_path)
        self._ladder = Ladder(carried.persisted)
        self.inbox = Inbox(f"Shard {shard} of table {table.name!r}")
        self._on_fatal = on_fatal
        self._published = Published(hot.marks, self._check_alive)
        self.tail = LogTail(log_writer.log_dir.parent, lambda: log_writer.synced, wal_bytes_max)
        self._committer = Committer(
            table, shard, epoch, log_writer, hot, carried, self._ladder, lease, self._unsynced, self.tail
        )
        of = SnapshotOf(table, shard, epoch, log_writer, hot, carried.producers, carried.bounds, self._carry)
        self.snapshots = None if snapshots is None else Snapshots(snapshots, of, behind)
        self._failed: ProxistError | None = None
        self._closed = False
        self._fd: int | None = None
        self._fail_lock = threading.Lock()  # guards _failed, _closed and _fd, and the hot set's lease
        self._turn = threading.Lock()  # held by whoever changes log and hot set
        self._writer = threading.Thread(target=self._write_loop, name=f"shard-{shard}", daemon=True)
        self._syncer: Syncer | None = None
        if table.spec.durability != "disk":
            self._syncer = Syncer(f"shard-{shard}-sync", self._committer.sync, self._die)

    # ---- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Rows are accepted from now on."""
        self._writer.start()
        if self._syncer is not None:
            self._syncer.start()

    def stop(self, why: str = "is stopping on this node") -> bool:
        """Refuse new rows, finish what was accepted, seal the log and end. After a failure it only ends.

        True where the log is all on disk up to `log_writer.end` (without a seal where the disk is full), False where only
        a recovery can tell."""
        gone = NotOwner(
            f"Shard {self.id} of table {self.table.name!r} {why}. Read the shard map again, and send the rows there.",
            retry_after_s=0.5,
            shard=self.id,
        )
        self.inbox.close(gone)
        if self._writer.ident is not None:
            self._writer.join()
        with self._turn:
            pass  # a part that came alone is finished; the closed inbox lets no other begin
        if self._syncer is not None:
            self._syncer.stop()
        self._end(gone)
        return self._failed is None and self.log_writer.synced_mark == self.log_writer.mark

    def fail(self, error: ProxistError) -> None:
        """Stop acks and reads at once: the lease is lost, or another shard of this process failed."""
        with self._fail_lock:
            if self._failed is not None or self._closed:
                return
            self._failed = error
            self.hot.set_lease_until(0)
        self.inbox.close(error)
        for part in self.inbox.clear():
            part.done(error)
        self._ladder.fail(error)
        self.bounds.close(error)
        if self._syncer is not None:
            self._syncer.give_up()
        self._published.notify()

    def _end(self, gone: ProxistError) -> None:
        with self._fail_lock:
            if self._closed:
                return
            failed, self._closed = self._failed is not None, True
            if self._fd is not None:
                os.close(self._fd)
        self._committer.close()
        self._ladder.fail(gone)
        self.bounds.close(gone)
        with ExitStack() as held:  # all of it is given back, in this order from the last, whatever fails
            held.callback(self.hot.close)
            held.callback(self.reader.close)
            held.callback(self.log_writer.close, sync=not failed)
            sealed = not failed and self._seal()
            if self.snapshots is not None:
                self.snapshots.close(last=sealed)

    def _seal(self) -> bool:
        try:
            self.log_writer.seal()
            return True
        except Overloaded as error:
            log.warning("the log has no seal; a start recovers it as after a crash", shard=self.id, error=error.message)
        except Exception as error:
            self._die(error)
        return False

    # ---- writing ---------------------------------------------------------------------------------------------------

    def write(self, part: Part, *, alone: bool = False) -> None:
        """Queue a part; `part.done` tells. Blocks while the queue is full, then raises Overloaded; NotOwner once the
        shard is stopping.

        `alone`: the sender waits for this part's answer. Where nobody else writes it is committed on this thread, which
        spares it two others waking up.
        """
        if alone and self._commit_here(part):
            return
        try:
            self.inbox.put(part)
        except ProxistError as error:
            self.counts.refusals.add(error, part.rows.num_rows)
            raise

    def _commit_here(self, part: Part) -> bool:
        """Commit a part now; False where it has to queue."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            if not self.inbox.idle():
                return False
            was_due = self._committer.cutter.due_ns()
            self._do([part])
            if was_due is None and self._committer.cutter.due_ns() is not None:
                self.inbox.rouse()  # the writer thread cuts the batch that was begun
        except BaseException as error:
            self._die(error)
        finally:
            self._turn.release()
        return True

    def flush(self) -> Offset:
        """Close the open batch now; returns the shard's end: everything acked before the call lies below it."""
        return self._on_writer(self._committer.cut)

    def advance_persisted(self, epoch: Epoch, persisted: Offset) -> None:
        """Every row below `persisted` is confirmed in ClickHouse. True on return: logged, and readers see it.

        An older mark is ignored. Raises NotOwner for another epoch and InvalidArgument for an offset that is not the
        end of a batch that followers were given.
        """
        if epoch != self.epoch:
            raise NotOwner(
                f"Persisted {persisted} of shard {self.id} was sent for epoch {epoch}, but this owner's is {self.epoch}. "
                "Read the owner's epoch again.",
                shard=self.id,
                epoch=self.epoch,
            )
        if persisted <= self.hot.marks().persisted:
            return
        if persisted > self.bounds.exposed or not self.bounds.is_bound(persisted):
            raise InvalidArgument(
                f"Persisted {persisted} of shard {self.id} is not the end of a batch that was sent; batches are known up "
                f"to {self.bounds.exposed}. Advance batch by batch.",
                shard=self.id,
            )
        self._on_writer(lambda: self._committer.set_persisted(persisted))

    def evict(self, to: EvictTo) -> Marks:
        """Move the floor, never above persisted; the marks afterwards. Writing goes on meanwhile."""
        floor = self._on_writer(lambda: to.floor(self.hot))
        while self._on_writer(lambda: self._committer.residency.step_to(floor)):
            pass  # a step per command, so that batches get their turn in between
        return self.marks()

    def wait_persisted(self, end: Offset, timeout_s: float) -> bool:
        """Wait until every row below `end` is in ClickHouse; False after `timeout_s`. Raises what ended the shard."""
        return self._published.wait_persisted(end, int(timeout_s * 1e9))

    def _carry(self) -> Carry:
        with self._turn:
            self._check_alive()  # after a failed turn memory may know what the log does not
            return self._committer.carry()

    # ---- reading ---------------------------------------------------------------------------------------------------

    def run(self, op: HotOp, probes: Probes | None = None) -> HotPart:
        """Answer from the hot set as of one instant."""
        return self.alive_reader().run(op, probes)

    def alive_reader(self) -> HotReader:
        """Of the hot set, for the next read. Raises what ended the shard."""
        self._check_alive()
        return self.reader

    def wait_end(self, end: Offset, wait_ns: int) -> bool:
        """Wait until the shard's end is at least `end`; False after `wait_ns`."""
        return self._published.wait_end(end, wait_ns)

    def log_of(self, epoch: Epoch) -> SealedLog:
        """Directory of one log of the chain, and the mark up to which all of it is on disk now."""
        if epoch == self.epoch:
            return SealedLog(self.log_writer.log_dir, self.log_writer.synced_mark)
        return self._sealed[epoch]

    def logs(self) -> list[SealedLog]:
        """The logs that lie here, oldest first."""
        return [self.log_of(epoch) for epoch in (*sorted(self._sealed), self.epoch)]

    def marks(self) -> Marks:
        """Where the shard stands."""
        return self.hot.marks()

    @property
    def counts(self) -> Counts:
        return self._committer.counts

    def waiting_acks(self) -> int:
        """How many acks wait for a higher level."""
        return self._ladder.waiting()

    def readonly_fd(self) -> int:
        """A descriptor of the hot set for readers of this host; it stays this object's, who passes on a copy."""
        self._check_alive()
        with self._fail_lock:
            if self._closed:
                raise Unavailable(f"Shard {self.id} is closed.", shard=self.id)
            if self._fd is None:
                self._fd = self.hot.readonly_fd()
            return self._fd

    def set_lease_until(self, valid_until_ns: int) -> None:
        """The lease was extended: readers may answer until then."""
        with self._fail_lock:
            if self._failed is None and not self._closed:
                self.hot.set_lease_until(valid_until_ns)

    def _unsynced(self) -> None:
        if self._syncer is not None:
            self._syncer.ask()

    def _check_alive(self) -> None:
        if self._failed is not None:
            raise self._failed

    # ---- the writer thread -----------------------------------------------------------------------------------------

    def _write_loop(self) -> None:
        try:
            next_look_ns = time.monotonic_ns() + RESIDENCY_PERIOD_NS
            no_cut_before_ns = 0
            while True:
                due_ns = self._committer.cutter.due_ns()
                wake_ns = next_look_ns if due_ns is None else min(max(due_ns, no_cut_before_ns), next_look_ns)
                work = self.inbox.drain(wake_ns)
                if work is None:
                    return
                with self._turn:
                    try:
                        self._do(work)
                        now_ns = time.monotonic_ns()
                        if self._committer.cutter.due(now_ns) and now_ns >= no_cut_before_ns:
                            no_cut_before_ns = now_ns + self._cut_by_age()
                        if now_ns >= next_look_ns:
                            more = self._committer.residency.age_out(time.time_ns())
                            next_look_ns = now_ns + (STEP_PAUSE_NS if more else RESIDENCY_PERIOD_NS)
                    except BaseException as error:
                        self._die(error)  # before anybody else has the turn
                        return
        except BaseException as error:
            self._die(error)

    def _cut_by_age(self) -> int:
        """Close the open batch; returns for how many ns not to try again (the disk is full)."""
        try:
            self._committer.cut()
        except Overloaded as error:
            log.warning("a batch stays open", shard=self.id, error=error.message)
            return DISK_FULL_PAUSE_NS
        return 0

    def _do(self, work: list[Part] | Callable[[], None]) -> None:
        if not isinstance(work, list):
            self._check_alive()
            work()
        elif work:
            try:
                self._check_alive()  # a turn may have failed since `work` was queued
                self._committer.commit(work)
            except BaseException as error:
                typed = self._typed(error)
                for part in work:
                    part.done(typed)  # those already answered ignore it
                raise
        else:
            return
        self._published.notify()

    def _on_writer(self, work: Callable[[], T]) -> T:
        """Run `work` between two groups and return what it returned."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Overloaded as error:
                done.set_exception(error)
            except BaseException as error:
                done.set_exception(self._typed(error))
                raise

        self.inbox.command(run)
        while not wait([done], timeout=0.5).done:
            self._check_alive()
            if not self._writer.is_alive() and not done.done():
                raise Unavailable(f"Shard {self.id} is closed.", shard=self.id)
        return done.result()

    def _die(self, error: BaseException) -> None:
        """Whoever has the turn calls this in it: after a turn that failed nothing is committed, sealed or snapshotted."""
        if self._failed is not None:
            return
        log.error("the shard failed", shard=self.id, table=self.table.name, error=str(error), exc_info=error)
        self.fail(self._typed(error))
        self._on_fatal(to_proxist(error))

    def _typed(self, error: BaseException) -> ProxistError:
        """What clients are told: the lease's error as it is; of anything else not more than that it is over."""
        if isinstance(error, NotOwner):
            return error
        return Unavailable(
            f"Shard {self.id} of table {self.table.name!r} stopped: this node cannot go on and restarts. Send again in a "
            "moment; whether this batch was stored is not known, and its producer number tells.",
            retry_after_s=1.0,
            shard=self.id,
        )
