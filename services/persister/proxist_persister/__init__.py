"""The persister: the only writer to ClickHouse. It holds nothing that it cannot rebuild.

In comes each shard's follow stream (batches that the owner cut, all on disk there); out go inserts, one per batch and
partition, and the mark `persisted`: to the owner at once, to etcd throttled. A row is durable in ClickHouse when its
insert is confirmed; `persisted` passes a batch only when all its inserts are.

    batches      what an insert is: rows of a batch by partition, sorted, with their token      (pure)
    coverage     what ClickHouse has: which rows are missing, which no log explains             (pure)
    policy       when to try again, when to stop, how the sink is doing                         (pure)
    plan         which shards to persist, which tables to drop, from the catalog                (pure)
    owner        the shard's owner: marks, follow stream, advancing persisted
    sink         ClickHouse with its health and counts
    watermarks   persisted marks to etcd, a few times a second
    worker       one shard's thread: lease, read-back, follow, insert, advance
    keeper       which workers run: follows the catalog, drops tables
    servicer, service, metrics, config           gRPC, life, /metrics, settings
"""
