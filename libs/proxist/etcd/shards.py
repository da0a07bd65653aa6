"""Taking, keeping and giving up shards and tables in etcd: each step is one transaction that compares what it read.

How an owner opens a shard, after its local recovery:

    claim = read_claim(client, shard, node=…)          # epoch to take, predecessor
    create the local log of claim.epoch, on disk
    record = open_shard(client, claim, start=end of the recovered rows, predecessor=…, lease=…)
    accept rows

A local log with an epoch above `claim.record.epoch` was never opened (its transaction was not applied): it holds no
acknowledged row and is deleted.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace

from proxist.errors import LogCorrupt, NotFound, NotOwner, Unavailable
from proxist.etcd import layout
from proxist.etcd.client import EtcdClient
from proxist.etcd.ops import Delete, Get, KeyValue, Op, Put, absent, lease_is, unchanged
from proxist.etcd.records import (
    NO_EPOCH,
    OwnerRecord,
    PersisterRecord,
    ShardRecord,
    TableRecord,
    WatermarkRecord,
    encode,
)
from proxist.failpoints import reach
from proxist.model.ids import Epoch, Offset, ShardId

RESOLVE_TIMEOUT_S = 5.0
RESOLVE_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class ShardClaim:
    """A shard as it was read, and the epoch that its next owner takes."""

    record: ShardRecord
    node: str
    kv: KeyValue

    @property
    def epoch(self) -> Epoch:
        return Epoch(self.record.epoch + 1)


def read_claim(client: EtcdClient, shard: ShardId, *, node: str) -> ShardClaim:
    """Read what opening needs. Raises NotFound where the shard is gone, NotOwner where it is placed on another node."""
    kv = client.get(layout.shard_key(shard))
    if kv is None:
        raise NotFound(f"There is no shard {shard}. Its table was dropped; its local logs may be deleted.", shard=shard)
    record = ShardRecord.from_json(json.loads(kv.value))
    if record.node != node:
        raise NotOwner(
            f"Shard {shard} is placed on node {record.node!r}, not on {node!r}. Send its rows there.",
            shard=shard,
            node=record.node,
        )
    return ShardClaim(record, node, kv)


def open_shard(
    client: EtcdClient, claim: ShardClaim, *, start: Offset, predecessor: Epoch | None, lease: int
) -> ShardRecord:
    """Take `claim.epoch`: seal the predecessor at `start`, open the new log from there, become the owner; atomically.

    `predecessor` is the newest epoch whose log was recovered here, None where there was none. Raises LogCorrupt where
    that is not the shard's newest log (its disk is elsewhere, or lost), NotOwner where somebody else opened it or owns
    it still, and Unavailable where etcd does not answer; then nothing is owned, and the lease must be given up before
    trying again if `details["outcome"]` is "unknown".
    """
    record = claim.record
    if (predecessor or NO_EPOCH) != record.epoch:
        raise LogCorrupt(
            f"Shard {record.shard} goes on from its log of epoch {record.epoch}, but the newest log here is "
            f"{predecessor or 'none'}. Bring back the data directory of node {record.node!r} that holds it.",
            shard=record.shard,
            cause="missing log",
        )
    opened = record.opened(start)
    owner = OwnerRecord(claim.node, opened.epoch)
    compares = [unchanged(claim.kv), absent(layout.owner_key(record.shard))]
    then: list[Op] = [
        Put(layout.shard_key(record.shard), encode(opened.to_json())),
        Put(layout.owner_key(record.shard), encode(owner.to_json()), lease),
    ]
    reach("etcd.open.before")
    try:
        applied = client.txn(compares, then).succeeded
    except Unavailable as unknown:
        applied = _was_applied(client, claim, lease, unknown)
    reach("etcd.open.after")
    if not applied:
        raise _not_owner(client, record.shard, claim.node)
    return opened


def seal_shard(client: EtcdClient, record: ShardRecord, *, end: Offset, lease: int) -> ShardRecord:
    """Seal the open log at `end` and stop being the owner; nothing may be accepted from before the call on.

    Raises NotOwner where the shard was not ours any more under `lease`.
    """
    key, owner = layout.shard_key(record.shard), layout.owner_key(record.shard)
    sealed = record.sealed(end)
    kv = client.get(key)
    if kv is not None and ShardRecord.from_json(json.loads(kv.value)) == record:
        reach("etcd.seal.before")
        result = client.txn(
            [unchanged(kv), lease_is(owner, lease)], [Put(key, encode(sealed.to_json())), Delete(owner)]
        )
        reach("etcd.seal.after")
        if result.succeeded:
            return sealed
    raise _not_owner(client, record.shard, record.node)


def take_persister(client: EtcdClient, shard: ShardId, *, node: str, lease: int) -> bool:
    """Become the persister of a shard for as long as `lease` lives; False where another one is."""
    key = layout.persister_key(shard)
    mine = Put(key, encode(PersisterRecord(node).to_json()), lease)
    result = client.txn([absent(key)], [mine], [Get(key)])
    # Held by this very lease: an earlier attempt was applied and its answer lost.
    return result.succeeded or any(kv.lease == lease for kv in result.reads[0])


def release_persister(client: EtcdClient, shard: ShardId, *, lease: int) -> None:
    """Stop being the persister of a shard; nothing happens where it is another's."""
    key = layout.persister_key(shard)
    client.txn([lease_is(key, lease)], [Delete(key)])


def put_watermarks(client: EtcdClient, marks: dict[ShardId, WatermarkRecord]) -> None:
    """Write persisted marks of many shards in one transaction; the caller throttles, and only ever moves them up."""
    reach("etcd.watermarks.before")
    client.txn([], [Put(layout.watermark_key(s), encode(m.to_json())) for s, m in marks.items()])
    reach("etcd.watermarks.after")


def change_table(
    client: EtcdClient, tenant: str, name: str, *, state: str | None = None, paused: bool | None = None
) -> TableRecord:
    """Change a table's state or pause flag, whoever else writes it at the same time; raises NotFound.

    A persister that has dropped the ClickHouse table of a `dropping` one whose shards have no owner left says so with
    `state="dropped"`.
    """
    key = layout.table_key(tenant, name)
    while True:
        kv = client.get(key)
        if kv is None:
            raise NotFound(f"There is no table {name!r}. List tables with `pxctl tables`.", table=name)
        record = TableRecord.from_json(json.loads(kv.value))
        changed = replace(
            record,
            state=record.state if state is None else state,
            paused=record.paused if paused is None else paused,
        )
        if changed == record or client.txn([unchanged(kv)], [Put(key, encode(changed.to_json()))]).succeeded:
            return changed


def _was_applied(client: EtcdClient, claim: ShardClaim, lease: int, unknown: Unavailable) -> bool:
    """Whether the opening of `claim`, whose answer was lost, was applied; if not, it never will be.

    A read alone cannot tell: the request may still be on its way. So the shard's key is written again as it was, on
    the same condition; after that the opening's own condition can no longer hold.
    """
    deadline = time.monotonic() + RESOLVE_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if client.txn([unchanged(claim.kv)], [Put(claim.kv.key, claim.kv.value)]).succeeded:
                return False
            owner = client.get(layout.owner_key(claim.record.shard))
            return owner is not None and owner.lease == lease
        except Unavailable:
            time.sleep(RESOLVE_PAUSE_S)
    raise unknown


def _not_owner(client: EtcdClient, shard: ShardId, node: str) -> NotOwner:
    kv = client.get(layout.owner_key(shard))
    owner = OwnerRecord.from_json(json.loads(kv.value)) if kv is not None else None
    now = f"node {owner.node!r} owns it under epoch {owner.epoch}" if owner else "it was opened by another start"
    return NotOwner(
        f"Shard {shard} cannot be taken by node {node!r}: {now}. Read its record again.",
        retry_after_s=1.0,
        shard=shard,
        node=owner.node if owner else None,
        epoch=owner.epoch if owner else None,
    )
