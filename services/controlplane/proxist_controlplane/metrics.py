"""What /metrics says of the cluster: read from the catalog when it is asked for."""

from __future__ import annotations

from collections import Counter

from proxist.etcd import Catalog
from proxist.telemetry import metrics as m
from proxist.telemetry.figures import Scrape, Source


def cluster_figures(catalog: Catalog) -> Source:
    """Tables, shards and nodes as etcd has them."""

    def add(scrape: Scrape) -> None:
        shards = catalog.shards()
        scrape.add(m.CONTROL_TABLES, len(catalog.tables()))
        scrape.add(m.CONTROL_SHARDS, len(shards))
        scrape.add(m.CONTROL_UNOWNED, sum(catalog.owner(shard.shard) is None for shard in shards))
        scrape.add(m.CONTROL_UNPERSISTED, sum(catalog.persister(shard.shard) is None for shard in shards))
        for shard in shards:
            scrape.add(m.CONTROL_EPOCH, shard.epoch, shard.tenant, shard.table, shard.shard)
        alive = Counter(node.role for node in catalog.nodes())
        for role in m.ROLES:
            scrape.add(m.CONTROL_NODES, alive[role], role)

    return add
