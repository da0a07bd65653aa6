"""What /metrics shows, read from the catalog when it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from proxist.etcd import Catalog


def registry_of(catalog: Catalog) -> CollectorRegistry:
    """A registry of its own, so that several control planes fit into one process."""
    registry = CollectorRegistry()

    def gauge(name: str, help_text: str, read: Callable[[], float]) -> None:
        Gauge(f"proxist_controlplane_{name}", help_text, registry=registry).set_function(read)

    def unowned() -> int:
        return sum(catalog.owner(shard.shard) is None for shard in catalog.shards())

    gauge("etcd_synced", "1 while the view of etcd is current", lambda: catalog.mirror.synced)
    gauge("etcd_resyncs", "How often etcd was read anew", lambda: catalog.mirror.resync_count)
    gauge("tables", "Tables, those that are being dropped included", lambda: len(catalog.tables()))
    gauge("shards", "Shards of all tables", lambda: len(catalog.shards()))
    gauge("shards_unowned", "Shards that accept no rows now", unowned)
    gauge("nodes", "Live nodes", lambda: len(catalog.nodes()))
    return registry
