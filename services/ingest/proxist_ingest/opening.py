"""Opening and releasing one shard: recovery, the new log, the transaction in etcd, and the way back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from proxist.errors import NotOwner, ProxistError
from proxist.etcd import Catalog, EtcdClient, ShardRecord, layout
from proxist.etcd.shards import open_shard, read_claim, seal_shard
from proxist.hot.epoch_page import EpochPage
from proxist.hot.snapshots import snapshot_directory
from proxist.model.ids import Offset, ShardId
from proxist.model.table import Table
from proxist.wal import Volume, list_shards, require_fsync, shard_directory
from proxist_ingest.commit import Lease
from proxist_ingest.logtail import WAL_BYTES_MAX
from proxist_ingest.recover import create_log, delete_logs, recover_shard
from proxist_ingest.shard import Shard
from proxist_ingest.snapshotting import SnapshotRule

UNSEALED = (
    "a released shard was not sealed in etcd. Where its table was dropped nothing is missing; else nobody opens it before "
    "this node's lease ends, and then its log is recovered as after a crash"
)

log = structlog.get_logger("proxist.ingest.opening")


@dataclass(frozen=True)
class OpenShard:
    """An owned shard with what is needed to give it back."""

    shard: Shard
    record: ShardRecord
    page: EpochPage


@dataclass(frozen=True)
class Opener:
    """Opens shards of one node."""

    client: EtcdClient
    catalog: Catalog
    node: str
    data_dir: Path
    run_dir: Path
    lease: Lease
    lease_id: Callable[[], int]
    on_fatal: Callable[[ProxistError], None]
    wal_bytes_max: int = WAL_BYTES_MAX
    snapshots: SnapshotRule | None = None
    """None: none are taken."""

    @property
    def volume(self) -> Volume:
        """Where this node's files get their space."""
        return self.snapshots.volume if self.snapshots is not None else Volume()

    def files_of(self, shard_id: ShardId) -> object:
        """What the shard's logs, snapshots and decisions look like now: equal as long as nobody changed a file."""
        found = []
        for directory in (shard_directory(self.data_dir, shard_id), snapshot_directory(self.data_dir, shard_id)):
            for path in sorted(directory.glob("**/*")):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((path.name, status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def open(self, table: Table, shard_id: ShardId) -> OpenShard:
        """Recover and own a shard; it accepts rows on return.

        Raises LogCorrupt (loss; nothing was changed), ConfigError (its level is impossible here), NotOwner and
        Unavailable (etcd). Where etcd's answer is unknown the lease must be given up before the next try.
        """
        if table.spec.durability == "disk":
            require_fsync(self.data_dir, f"table {table.name!r}")
        claim = read_claim(self.client, shard_id, node=self.node)
        watermark = self.catalog.watermark(shard_id)
        persisted = watermark.persisted if watermark else Offset(0)
        recovered = recover_shard(self.data_dir, table, claim.record, claim.epoch, persisted, _progress)
        volume = None if self.snapshots is None else self.snapshots.volume
        try:
            writer = create_log(self.data_dir, table, shard_id, claim.epoch, recovered, volume=volume)
            try:
                record = open_shard(
                    self.client, claim, start=recovered.end, predecessor=recovered.newest, lease=self.lease_id()
                )
                page = EpochPage(self.run_dir / "epochs" / str(shard_id), writable=True)
                page.publish(claim.epoch)
            except BaseException:
                writer.close(sync=False)
                raise
        except BaseException:
            recovered.hot.close()
            raise
        recovered.hot.set_lease_until(self.lease.valid_until_ns)
        shard = Shard(
            table,
            shard_id,
            claim.epoch,
            writer,
            recovered.hot,
            recovered.carried,
            self.lease,
            self.on_fatal,
            sealed=recovered.sealed,
            epoch_page_path=str(page.path),
            wal_bytes_max=self.wal_bytes_max,
            snapshots=self.snapshots,
            behind=recovered.behind,
        )
        shard.start()
        log.info("shard open", shard=shard_id, table=table.name, epoch=claim.epoch, end=recovered.end)
        return OpenShard(shard, record, page)

    def release(self, opened: OpenShard, why: str) -> None:
        """Stop accepting rows, finish what was accepted, and say so in etcd: nobody owns the shard on return, or it is
        logged why that is not so. Raises Unavailable (etcd)."""
        shard = opened.shard
        try:
            on_disk = shard.stop(why)
        finally:
            opened.page.close()
        end = shard.log_writer.end
        if not on_disk:
            log.error(UNSEALED, shard=shard.id, table=shard.table.name, error="the shard failed")
            return
        try:
            seal_shard(self.client, opened.record, end=end, lease=self.lease_id())
        except NotOwner as error:
            log.warning(UNSEALED, shard=shard.id, table=shard.table.name, error=error.message)
        except ProxistError as error:
            log.error(UNSEALED, shard=shard.id, table=shard.table.name, error=error.message)
            raise
        else:
            log.info("shard released", shard=shard.id, table=shard.table.name, end=end, why=why)

    def orphans(self) -> list[ShardId]:
        """Shards with files here that the catalog does not know."""
        known = {record.shard for record in self.catalog.shards()}
        return [shard for shard in list_shards(self.data_dir) if shard not in known]

    def delete_orphans(self) -> None:
        """Delete the files of shards whose tables were dropped, here or while this node was away.

        Ids are never reused and etcd counts them: a shard that etcd has given out and no longer knows was dropped. One
        above its counter belongs to another (or an older) etcd and is kept.
        """
        for shard in self.orphans():
            counter = self.client.get(layout.LAST_SHARD_ID)
            if self.client.get(layout.shard_key(shard)) is not None:
                continue  # the catalog is behind
            if counter is None or shard > int(counter.value):
                log.debug("files of a shard that etcd never knew are kept", shard=shard)
                continue
            delete_logs(self.data_dir, shard)
            log.info("files of a dropped table are deleted", shard=shard)


def _progress(line: str) -> None:
    log.info(line)
