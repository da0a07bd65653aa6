"""Keeps the set of open shards equal to what the catalog places on this node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from proxist.errors import ConfigError, LogCorrupt, NotFound, NotOwner, Overloaded, ProxistError, Unavailable
from proxist.etcd import Catalog, ShardRecord, TableRecord
from proxist.etcd.mirror import Subscription
from proxist.model.ids import ShardId
from proxist_ingest.opening import Opener, OpenShard
from proxist_ingest.shard import Shard

OPENING_WAIT_S = 2.0
PERIOD_S = 1.0
"""How soon a shard that could not be opened for a passing reason is tried again."""

log = structlog.get_logger("proxist.ingest.keeper")
Refusals = Mapping[ShardId, ProxistError]


class _Refused(NamedTuple):
    """A shard that cannot be opened before an operator acts, and what its files and its record in etcd were like when
    that was found."""

    error: ConfigError | LogCorrupt | Overloaded
    seen: object


class Keeper:
    """One thread; `_lock` guards `_open` and `_opening`. Reads of open shards are lock-free."""

    def __init__(
        self,
        opener: Opener,
        catalog: Catalog,
        on_fatal: Callable[[ProxistError], None],
        on_refused: Callable[[Refusals], None] = lambda _: None,
    ) -> None:
        """`on_fatal`: nothing can be kept any more. `on_refused` is told all shards that cannot be opened before an
        operator acts (a damaged log, a level that this disk has not, a full disk), whenever these change; the others go
        on."""
        self._opener = opener
        self._catalog = catalog
        self._on_fatal = on_fatal
        self._on_refused = on_refused
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        self._open: dict[ShardId, OpenShard] = {}
        self._opening: ShardId | None = None
        self._refused: dict[ShardId, _Refused] = {}
        self._pressed = False
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._first_pass = threading.Event()
        self._subscription: Subscription | None = None
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin; `wait_first_pass` tells when everything that is placed here is open."""
        self._subscription = self._catalog.mirror.subscribe(lambda _: self._wake.set())
        self._thread.start()

    def wait_first_pass(self, timeout_s: float) -> bool:
        """True once every shard that was placed here at the start is open (or was given up with a logged reason)."""
        return self._first_pass.wait(timeout_s)

    def stop(self) -> None:
        """Open and release nothing any more; joins the thread. The shards stay open."""
        self._stop.set()
        self._wake.set()
        if self._subscription is not None:
            self._subscription.close()
        if self._thread.ident is not None:
            self._thread.join()

    def get(self, shard: ShardId) -> Shard | None:
        """The open shard, if this node owns it.

        One that is being opened is waited for, OPENING_WAIT_S at most: etcd names this node as its owner a moment before
        the opening is done here, and who learned it from there may come that early.
        """
        opened = self._open.get(shard)
        if opened is None:
            if self._opening == shard:
                with self._lock:
                    self._moved.wait_for(lambda: self._opening != shard, OPENING_WAIT_S)
            opened = self._open.get(shard)  # again: the opening may have ended between the two looks
        return None if opened is None else opened.shard

    def shards(self) -> list[Shard]:
        """The open shards, by id."""
        return [opened.shard for _, opened in sorted(self._open.items())]

    def refusals(self) -> Refusals:
        """The shards that are placed here and cannot be opened before an operator acts, with the reason."""
        return {shard: refused.error for shard, refused in sorted(self._refused.items())}

    def close_shards(self) -> None:
        """End every shard: finish what was accepted, or, after a failure, just end. What one raises is logged, and the
        others end too."""
        for shard_id, opened in list(self._open.items()):
            try:
                opened.shard.stop()
            except Exception:
                log.exception("a shard did not end in good order; the next start recovers its log", shard=shard_id)
            opened.page.close()
        self._set({})

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                if self._catalog.mirror.synced and self._pass():
                    self._first_pass.set()
            except ProxistError as error:
                if _passing(error):
                    log.warning("shards were not all opened; trying again", error=error.message)
                else:
                    self._on_fatal(error)
                    return
            except Exception as error:
                log.exception("keeping shards failed")
                self._on_fatal(Unavailable(f"This node cannot keep its shards ({type(error).__name__}); it restarts."))
                return
            self._wake.wait(PERIOD_S)

    def _pass(self) -> bool:
        """Open what is missing, release what is too much; True when all is as it should be."""
        self._keep_ballast()
        wanted = self._wanted()
        self._forget_refused(wanted)
        for shard_id, opened in list(self._open.items()):
            if shard_id not in wanted and not self._stop.is_set():
                self._remove(shard_id, opened)
        if self._stop.is_set():
            return False
        self._opener.delete_orphans()  # before any opening: their space may be what it needs
        for shard_id, record in wanted.items():
            if self._stop.is_set():
                return False
            if shard_id not in self._open:
                self._add(shard_id, record)
        return True

    def _wanted(self) -> dict[ShardId, TableRecord]:
        return {
            record.shard: table
            for record in self._catalog.shards()
            if record.node == self._opener.node
            and (table := self._table_of(record)) is not None
            and table.state == "active"
        }

    def _table_of(self, record: ShardRecord) -> TableRecord | None:
        try:
            table = self._catalog.table(record.tenant, record.table)
        except NotFound:
            return None
        return table if table.table.id == record.table_id else None

    def _add(self, shard_id: ShardId, record: TableRecord) -> None:
        try:
            seen = (self._opener.files_of(shard_id), self._catalog.shard(shard_id))
        except NotFound:
            return  # dropped meanwhile
        refused = self._refused.get(shard_id)
        if refused is not None and isinstance(refused.error, LogCorrupt) and refused.seen == seen:
            return  # nobody has accepted the loss, or brought a file back
        self._opening = shard_id
        try:
            opened = self._opener.open(record.table, shard_id)
        except (ConfigError, LogCorrupt, Overloaded) as error:
            # One table's level is impossible on this disk, one log is damaged, or there is no room for the next one:
            # the other shards go on.
            self._refuse(shard_id, _Refused(error, seen))
            return
        except NotFound:
            return  # dropped meanwhile
        else:
            self._set({**self._open, shard_id: opened})
            if self._refused.pop(shard_id, None) is not None:
                self._on_refused(self.refusals())
        finally:
            with self._lock:
                self._opening = None
                self._moved.notify_all()

    def _refuse(self, shard_id: ShardId, refused: _Refused) -> None:
        before = self._refused.get(shard_id)
        self._refused[shard_id] = refused
        if before is None or before.error.message != refused.error.message:
            log.error("a shard cannot be opened", shard=shard_id, error=refused.error.message)
            self._on_refused(self.refusals())

    def _forget_refused(self, wanted: Mapping[ShardId, TableRecord]) -> None:
        """Those that were dropped, or moved to another node."""
        gone = [shard for shard in self._refused if shard not in wanted]
        for shard in gone:
            del self._refused[shard]
        if gone:
            self._on_refused(self.refusals())

    def _keep_ballast(self) -> None:
        """Make the ballast again once there is room: rows are refused without it."""
        try:
            pressed = not self._opener.volume.restore_ballast()
        except OSError as error:
            log.warning("the ballast cannot be made", error=str(error))
            return
        if pressed != self._pressed:
            self._pressed = pressed
            if pressed:
                log.error("the disk is full: rows are refused until there is room", path=str(self._opener.data_dir))
            else:
                log.info("the disk has room again: rows are taken", path=str(self._opener.data_dir))

    def _remove(self, shard_id: ShardId, opened: OpenShard) -> None:
        rest = {key: value for key, value in self._open.items() if key != shard_id}
        self._set(rest)  # first, so that nobody finds it any more
        self._opener.release(opened, "was dropped or moved")

    def _set(self, shards: dict[ShardId, OpenShard]) -> None:
        with self._lock:
            self._open = shards


def _passing(error: ProxistError) -> bool:
    """Whether trying again may help. Not where etcd's answer is unknown: then the lease must go first."""
    return isinstance(error, NotOwner | Unavailable | Overloaded) and error.details.get("outcome") != "unknown"
