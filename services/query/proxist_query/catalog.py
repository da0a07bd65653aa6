"""The executor's view of etcd's catalog."""

from __future__ import annotations

from proxist.errors import Unavailable
from proxist.etcd.catalog import Catalog
from proxist.model.ids import Epoch, ShardId
from proxist.model.table import Table
from proxist.seam import Chain, Log

CHAIN_WAIT_S = 2.0
"""How long a chain is waited for that the mirror has not shown yet; it lags by milliseconds."""


class NodeCatalog:
    """Tables and chains from the mirror. Thread-safe."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def names(self) -> list[tuple[str, str]]:
        """(tenant, table) of every table."""
        return [(record.table.tenant, record.table.name) for record in self._catalog.tables()]

    def table(self, tenant: str, name: str) -> Table:
        """Raises NotFound that names the known tables, and Unavailable while it is not known whether there is one."""
        return self._catalog.known_table(tenant, name).table

    def chain(self, shard: ShardId, at_least: Epoch) -> Chain:
        """The shard's logs, up to epoch `at_least` or later. Raises Unavailable where the mirror does not show them."""
        record = self._catalog.shard(shard)
        if record.epoch < at_least:
            if not self._catalog.wait_until(lambda catalog: catalog.shard(shard).epoch >= at_least, CHAIN_WAIT_S):
                raise Unavailable(
                    f"Epoch {at_least} of shard {shard} is not known here yet: the copy of etcd is behind. Try again.",
                    retry_after_s=0.5,
                    shard=shard,
                )
            record = self._catalog.shard(shard)
        return Chain(shard, tuple(Log(one.epoch, one.start, one.end, one.state) for one in record.logs))
