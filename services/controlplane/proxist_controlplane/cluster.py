"""What every command needs: etcd, the catalog that follows it, and fresh reads of single records."""

from __future__ import annotations

import json

from proxist.errors import NotFound, Unavailable
from proxist.etcd import Catalog, EtcdClient, TableRecord, layout
from proxist.model.ids import ShardId
from proxist.model.table import DEFAULT_TENANT

FIRST_SYNC_TIMEOUT_S = 1.0


class Cluster:
    """etcd as the control plane sees it. While etcd is away reads answer from the last state that was seen."""

    def __init__(self, client: EtcdClient, catalog: Catalog) -> None:
        self.client = client
        self._catalog = catalog

    @property
    def catalog(self) -> Catalog:
        """Raises Unavailable where etcd has not answered once since this process started."""
        if self._catalog.mirror.resync_count == 0:
            self._catalog.mirror.wait_synced(FIRST_SYNC_TIMEOUT_S)
        return self._catalog

    def table(self, tenant: str, name: str) -> TableRecord:
        """The table as etcd has it now, or as it was last seen while etcd is away. Raises NotFound."""
        catalog = self.catalog
        if not catalog.mirror.synced:
            return catalog.table(tenant, name)
        try:
            kv = self.client.get(layout.table_key(tenant or DEFAULT_TENANT, name))
        except Unavailable:
            return catalog.table(tenant, name)
        if kv is not None:
            return TableRecord.from_json(json.loads(kv.value))
        known = ", ".join(sorted(t.table.name for t in catalog.tables(tenant or DEFAULT_TENANT))) or "none yet"
        raise NotFound(f"There is no table {name!r}. Tables are: {known}. Create it, or correct the name.", table=name)

    def unowned(self, shards: tuple[ShardId, ...]) -> list[ShardId]:
        """Those of `shards` that accept no rows now."""
        return [shard for shard in shards if self._catalog.owner(shard) is None]

    def where(self, shards: list[ShardId]) -> str:
        """Where shards are placed, for messages: "3 on ingest-0, 4 on ingest-1 (not alive)"."""
        parts = []
        for shard in shards:
            try:
                node = self._catalog.shard(shard).node
            except NotFound:
                continue
            parts.append(f"{shard} on {node}" + ("" if self._catalog.node(node) else " (not alive)"))
        return ", ".join(parts)
