"""The control plane. In: operators' commands over gRPC. Out: transactions on etcd, and calls to owners and persisters.

It is not on the path of a row: ingest, persister and query go on without it. What it writes is durable in etcd before
a command returns. The only thing that it does unasked is `reconcile`.

    servicer    one method per command
    tables      create, describe, list, drop         placement   which node gets which shard
    owners      watermarks, flush, evict             persisting  pause, resume
    status      every node and store                 reconcile   ends drops, moves shards that were never opened
    cluster     etcd and the catalog                 peers       gRPC to the other services
"""
