"""Which shards are to be persisted and which tables are to be dropped, from what the catalog says. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proxist.etcd import TableRecord
from proxist.model.ids import ShardId
from proxist.model.table import Table


@dataclass(frozen=True, slots=True)
class Job:
    """One shard to persist; `paused` keeps the lease and sends nothing."""

    table: Table
    shard: ShardId
    paused: bool


def jobs(tables: Iterable[TableRecord]) -> dict[ShardId, Job]:
    """The shards of every active table."""
    return {
        shard: Job(record.table, shard, record.paused)
        for record in tables
        if record.state == "active"
        for shard in record.table.shard_ids
    }


def droppable(
    tables: Iterable[TableRecord],
    owned: Callable[[ShardId], bool],
    persisted_elsewhere: Callable[[ShardId], bool],
) -> list[Table]:
    """Tables being dropped whose rows have stopped: no shard has an owner, and no other persister holds one.

    Another persister's insert that came after the drop would land in a new table of the same name.
    """
    return [
        record.table
        for record in tables
        if record.state == "dropping"
        and not any(owned(shard) or persisted_elsewhere(shard) for shard in record.table.shard_ids)
    ]
