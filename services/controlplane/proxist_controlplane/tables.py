"""Creating, describing and dropping tables: transactions on etcd, then waiting for the other services to follow."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from proxist.errors import AlreadyExists, DeadlineExceeded, InvalidArgument, Unavailable
from proxist.etcd import NodeRecord, ShardRecord, TableRecord, layout
from proxist.etcd.ops import KeyValue, Op, Put, absent, mod_is
from proxist.etcd.records import encode
from proxist.etcd.shards import change_table
from proxist.model.ids import ShardId, TableId
from proxist.model.table import DEFAULT_TENANT, Table, TableSpec
from proxist_controlplane.cluster import Cluster
from proxist_controlplane.deadline import Deadline
from proxist_controlplane.placement import place

NOT_PLACEABLE = ("draining", "fenced", "stopping")
"""States of an ingest node that gets no new shards."""


class Tables:
    """Safe to call from many threads, and from several control planes at once: every write compares what it read."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def create(self, tenant: str, spec: TableSpec, deadline: Deadline) -> TableRecord:
        """Create a table and return once every shard accepts rows; an equal one is waited for in the same way.

        Raises AlreadyExists for another spec under the name, Unavailable where no ingest node is alive or the name is
        still being dropped, DeadlineExceeded where the shards do not come up in time; the table exists then, and the
        call may be repeated.
        """
        tenant = _checked(tenant or DEFAULT_TENANT)
        record = self._existing(tenant, spec)
        while record is None:
            record = self._insert(tenant, spec, self._placeable(deadline)) or self._existing(tenant, spec)
        self._wait_owned(record.table, deadline)
        return record

    def describe(self, tenant: str, name: str) -> TableRecord:
        """Raises NotFound."""
        return self._cluster.table(tenant, name)

    def all(self, tenant: str) -> list[TableRecord]:
        """A tenant's tables, or everybody's where none is named."""
        return self._cluster.catalog.tables(tenant or None)

    def drop(self, tenant: str, name: str, deadline: Deadline) -> None:
        """Drop a table and return once its name is free. Raises NotFound, and DeadlineExceeded that says what is pending.

        From the first step on no row is accepted, and the drop goes on by itself whatever happens to this call.
        """
        tenant = tenant or DEFAULT_TENANT
        record = self._cluster.table(tenant, name)
        if record.state == "active":
            record = change_table(self._cluster.client, tenant, name, state="dropping")
        key, id_ = layout.table_key(tenant, name), record.table.id

        def gone() -> bool:
            now = self._cluster.catalog.mirror.get(key)
            return now is None or TableRecord.from_json(json.loads(now.value)).table.id != id_

        if not self._cluster.catalog.wait_until(lambda _: gone(), deadline.left_s):
            raise self._drop_pending(record.table)

    # ---- creating --------------------------------------------------------------------------------------------------

    def _existing(self, tenant: str, spec: TableSpec) -> TableRecord | None:
        """The table of that name, which must be the same and not on its way out."""
        kv = self._cluster.client.get(layout.table_key(tenant, spec.name))
        if kv is None:
            return None
        record = TableRecord.from_json(json.loads(kv.value))
        if record.state != "active":
            raise Unavailable(
                f"Table {spec.name!r} is still being dropped. Create it again when the drop is done.", retry_after_s=1.0
            )
        if difference := differs(record.table.spec, spec):
            raise AlreadyExists(
                f"Table {spec.name!r} exists with another spec: {difference}. Use the same spec, another name, or drop it."
            )
        return record

    def _placeable(self, deadline: Deadline) -> list[NodeRecord]:
        catalog = self._cluster.catalog

        def alive() -> list[NodeRecord]:
            return [n for n in catalog.nodes("ingest") if n.state not in NOT_PLACEABLE]

        if not catalog.wait_until(lambda _: bool(alive()), deadline.left_s):
            raise Unavailable(
                "No ingest node is alive to take the table's shards. Start one: `proxist ingest`.", retry_after_s=1.0
            )
        return alive()

    def _insert(self, tenant: str, spec: TableSpec, nodes: Sequence[NodeRecord]) -> TableRecord | None:
        """Allocate ids and write table and shards in one transaction; None where another writer was faster."""
        client = self._cluster.client
        table_ids, shard_ids = client.get(layout.LAST_TABLE_ID), client.get(layout.LAST_SHARD_ID)
        table_id, first = TableId(_number(table_ids) + 1), _number(shard_ids) + 1
        shards = tuple(ShardId(first + slot) for slot in range(spec.shards))
        load = Counter(shard.node for shard in self._cluster.catalog.shards())
        placed = place(shards, [n.name for n in nodes], load)
        record = TableRecord(Table(table_id, tenant, spec, shards))
        then: list[Op] = [
            Put(layout.table_key(tenant, spec.name), encode(record.to_json())),
            Put(layout.LAST_TABLE_ID, str(table_id).encode()),
            Put(layout.LAST_SHARD_ID, str(shards[-1]).encode()),
        ]
        for slot, shard in enumerate(shards):
            at = ShardRecord(shard, tenant, spec.name, table_id, slot, placed[shard])
            then.append(Put(layout.shard_key(shard), encode(at.to_json())))
        compares = [
            absent(layout.table_key(tenant, spec.name)),
            mod_is(layout.LAST_TABLE_ID, table_ids.mod_revision if table_ids else 0),
            mod_is(layout.LAST_SHARD_ID, shard_ids.mod_revision if shard_ids else 0),
        ]
        return record if client.txn(compares, then).succeeded else None

    def _wait_owned(self, table: Table, deadline: Deadline) -> None:
        if self._cluster.catalog.wait_until(lambda _: not self._cluster.unowned(table.shard_ids), deadline.left_s):
            return
        waiting = self._cluster.where(self._cluster.unowned(table.shard_ids))
        raise DeadlineExceeded(
            f"Table {table.name!r} exists, but not all of its shards accept rows yet: {waiting or 'reading etcd'}. "
            "Start those ingest nodes or look into their logs; creating the same table again waits for it."
        )

    def _drop_pending(self, table: Table) -> DeadlineExceeded:
        held = [shard for shard in table.shard_ids if self._cluster.catalog.owner(shard) is not None]
        pending = (
            f"ingest nodes still release shards {self._cluster.where(held)}"
            if held
            else "the table in ClickHouse is not dropped yet; are the persister and ClickHouse up?"
        )
        return DeadlineExceeded(
            f"Table {table.name!r} takes no rows any more, but its name is not free yet: {pending} "
            "The drop goes on by itself; `pxctl tables` shows when it is done."
        )


def differs(old: TableSpec, new: TableSpec) -> str:
    """The first field in which two specs differ, for a message; empty where they are equal."""
    before, after = old.to_json(), new.to_json()
    for field in before:
        if before[field] != after[field]:
            return f"`{field}` is {before[field]!r} there and {after[field]!r} here"
    return ""


def _checked(tenant: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", tenant):
        raise InvalidArgument(
            f"Tenant {tenant!r} is not a name. Use letters, digits and _, not beginning with a digit, 64 at most."
        )
    return tenant


def _number(kv: KeyValue | None) -> int:
    return int(kv.value) if kv is not None else 0
