"""Proxist's state in etcd. In: endpoints. Out: typed records that stay current, leases, and atomic changes.

    EtcdClient    key-values, transactions, leases, watches; every call has a deadline
    KeptLease     a lease with the instant until which its holder may act
    NodeSession   a service's lease and node record, taken again after each loss
    Mirror        a local copy of all keys under a prefix, mended after any break
    Catalog       the mirror as typed records: tables, shards, owners, nodes
    shards        opening, sealing and changing shards and tables, each in one transaction
    local         the etcd binary of local mode and tests

A write is durable when the call returns: etcd has fsynced it on a majority. A local copy may lag behind it; wait for
the revision (`Mirror.wait_revision`) where that matters.
"""

from proxist.etcd.catalog import Catalog
from proxist.etcd.client import EtcdClient
from proxist.etcd.lease import KeptLease
from proxist.etcd.mirror import Mirror
from proxist.etcd.records import (
    LogRecord,
    NodeRecord,
    OwnerRecord,
    PersisterRecord,
    ShardRecord,
    TableRecord,
    WatermarkRecord,
)
from proxist.etcd.session import NodeSession

__all__ = [
    "Catalog",
    "EtcdClient",
    "KeptLease",
    "LogRecord",
    "Mirror",
    "NodeRecord",
    "NodeSession",
    "OwnerRecord",
    "PersisterRecord",
    "ShardRecord",
    "TableRecord",
    "WatermarkRecord",
]
