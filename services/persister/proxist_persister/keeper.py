"""Which workers run: a thread that follows the catalog, starts and ends them, and drops tables."""

from __future__ import annotations

import threading
import time

import structlog

from proxist.errors import DeadlineExceeded, NotFound, ProxistError
from proxist.etcd import TableRecord
from proxist.etcd.mirror import Subscription
from proxist.etcd.shards import change_table, release_persister, take_persister
from proxist.model.ids import ShardId
from proxist.model.table import DEFAULT_TENANT, Table
from proxist_persister.plan import droppable, jobs
from proxist_persister.worker import ShardWorker, Tools

_log = structlog.get_logger("proxist.persister")

PERIOD_S = 1.0
SEE_PAUSE_S = 1.0
KNOWN_WAIT_S = 2.0
"""How long a table is waited for that etcd's mirror has not shown yet; it lags by milliseconds."""


class Keeper:
    """Owns the workers. `start` once, `stop` once."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self._lock = threading.Lock()  # guards _workers and _ending
        self._workers: dict[ShardId, ShardWorker] = {}
        self._ending: dict[ShardId, ShardWorker] = {}
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._subscription: Subscription | None = None
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._subscription = self.tools.catalog.mirror.subscribe(lambda _: self._wake.set())
        self._thread.start()

    def stop(self, grace_s: float) -> list[str]:
        """End all workers behind their inserts in flight; names the shards that still have one after `grace_s`."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._subscription is not None:
            self._subscription.close()
        deadline = time.monotonic() + grace_s
        workers = self.workers() + list(self._ending.values())
        for worker in workers:
            worker.request_stop()
        ended = [worker.join(max(0.0, deadline - time.monotonic())) for worker in workers]
        return [f"insert of shard {w.shard}" for w, done in zip(workers, ended, strict=True) if not done]

    def workers(self, tenant: str | None = None, table: str | None = None) -> list[ShardWorker]:
        """By shard; of one table where it is named."""
        with self._lock:
            all_ = [self._workers[shard] for shard in sorted(self._workers)]
        return [w for w in all_ if table is None or (w.table.name == table and w.table.tenant == tenant)]

    def worker(self, tenant: str, table: str, shard: ShardId) -> ShardWorker:
        """The worker of a table's shard; of a table that was just made it is waited for a moment. Raises NotFound where
        there is no such shard of it."""

        def found() -> ShardWorker | None:
            return next((w for w in self.workers(tenant or DEFAULT_TENANT, table) if w.shard == shard), None)

        if found() is None:
            self.tools.catalog.wait_until(lambda _: found() is not None, KNOWN_WAIT_S)
        if (worker := found()) is not None:
            return worker
        self.tools.catalog.table(tenant or DEFAULT_TENANT, table)  # says which tables there are
        raise NotFound(
            f"Table {table!r} has no shard {shard} that is persisted here. List its shards with `pxctl shards {table}`.",
            shard=shard,
        )

    def held(self) -> list[ShardWorker]:
        """The workers whose shard no other persister holds."""
        holders = {worker: self.tools.catalog.persister(worker.shard) for worker in self.workers()}
        return [w for w, holder in holders.items() if holder is None or holder.node == self.tools.node]

    def poke(self) -> None:
        """The node's lease was gained or lost."""
        for worker in self.workers():
            worker.poke()
        self._wake.set()

    def pause(self, tenant: str, table: str, timeout_s: float) -> None:
        """On return the flag is in etcd, so that it holds across restarts, and no insert of this process is in flight.

        Raises NotFound for the table, DeadlineExceeded where an insert's outcome is not known yet: the flag then holds
        all the same.
        """
        deadline = time.monotonic() + timeout_s
        self._set_flag(tenant, table, paused=True)
        workers = self._set_paused(tenant, table, paused=True)
        late = [w for w in workers if not w.board.wait_not_at_work(max(0.0, deadline - time.monotonic()))]
        if late:
            raise DeadlineExceeded(
                f"Table {table!r} is marked as paused, but the insert in flight of shard {late[0].shard} was not confirmed "
                f"in time ({late[0].board.progress.last_error or 'it is still running'}). Check ClickHouse, and pause again.",
                retry_after_s=1.0,
                shard=late[0].shard,
            )

    def resume(self, tenant: str, table: str) -> None:
        """Lets a paused table go on, and tries again what stopped one of its shards. Raises NotFound."""
        self._set_flag(tenant, table, paused=False)
        for worker in self._set_paused(tenant, table, paused=False):
            worker.resume()

    def _set_paused(self, tenant: str, table: str, *, paused: bool) -> list[ShardWorker]:
        """The flag, which our catalog shows, at the table's workers; behind a pass that may still go by an older view."""
        workers = self.workers(tenant or DEFAULT_TENANT, table)
        with self._lock:
            for worker in workers:
                worker.set_paused(paused)
        return workers

    def _set_flag(self, tenant: str, table: str, *, paused: bool) -> None:
        """In etcd, and seen by our catalog: else a pass over an older view would undo it here."""
        tenant = tenant or DEFAULT_TENANT
        change_table(self.tools.client, tenant, table, paused=paused)
        self.tools.catalog.wait_until(lambda c: c.table(tenant, table).paused == paused, SEE_PAUSE_S)

    # ---- the keeper's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                if self.tools.catalog.mirror.resync_count:
                    self._pass()
            except ProxistError as error:
                _log.warning("a pass over the catalog was put off", error=error.message)
                self._stop.wait(PERIOD_S)
            except Exception:
                _log.exception("a pass over the catalog failed")
                self._stop.wait(PERIOD_S)
            self._wake.wait(PERIOD_S)

    def _pass(self) -> None:
        with self._lock:
            tables = self.tools.catalog.tables()  # under the lock: what is older than a command is applied before it
            wanted = jobs(tables)
            ended = {shard for shard, worker in self._workers.items() if not worker.alive}
            for shard in (self._workers.keys() - wanted.keys()) | ended:
                worker = self._workers.pop(shard)
                worker.request_stop()
                self._ending[shard] = worker
            self._ending = {shard: worker for shard, worker in self._ending.items() if not worker.join(0.0)}
            for shard, job in wanted.items():
                if shard not in self._workers and shard not in self._ending:
                    self._workers[shard] = worker = ShardWorker(job, self.tools)
                    worker.start()
                elif shard in self._workers:
                    self._workers[shard].set_paused(job.paused)
                    self._workers[shard].poke()
        self._drop(tables)

    def _drop(self, tables: list[TableRecord]) -> None:
        catalog = self.tools.catalog
        for table in droppable(
            tables,
            lambda shard: catalog.owner(shard) is not None or shard in self._ending,
            lambda shard: (holder := catalog.persister(shard)) is not None and holder.node != self.tools.node,
        ):
            if self._leads(table):
                self._drop_one(table)

    def _leads(self, table: Table) -> bool:
        """One persister drops a table: the one that holds its first shard."""
        lease = self.tools.lease()
        if lease is None or lease.lost:
            return False
        first = table.shard_ids[0]
        return self.tools.catalog.persister(first) is not None or take_persister(
            self.tools.client, first, node=self.tools.node, lease=lease.id
        )

    def _release(self, shard: ShardId) -> None:
        lease = self.tools.lease()
        if lease is None or lease.lost:
            return
        try:
            release_persister(self.tools.client, shard, lease=lease.id)
        except ProxistError as error:
            _log.info("the shard's lease ends with the node's", shard=shard, error=error.message)

    def _drop_one(self, table: Table) -> None:
        try:
            self.tools.sink.drop(table)
            change_table(self.tools.client, table.tenant, table.name, state="dropped")
        except NotFound:
            return  # the control plane was faster
        except ProxistError as error:
            _log.warning("the table is not dropped yet", table=table.name, error=error.message)
            return
        finally:
            self._release(table.shard_ids[0])
        _log.info("table dropped in ClickHouse", tenant=table.tenant, table=table.name)
