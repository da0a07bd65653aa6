"""The keys of Proxist in etcd. Values are JSON: `proxist.etcd.records`.

/proxist/v1/nodes/<name>             leased; a process and its doors
/proxist/v1/tables/<tenant>/<name>   spec, state, paused
/proxist/v1/shards/<id>              placement, epoch, chain of logs
/proxist/v1/owners/<id>              leased; exists iff the shard accepts rows
/proxist/v1/watermarks/<id>          persisted, throttled
/proxist/v1/persisters/<id>          leased; who persists the shard
/proxist/v1/ids/table, ids/shard     the last id given out, decimal
"""

from __future__ import annotations

from proxist.model.ids import ShardId

PREFIX = "/proxist/v1/"
NODES, TABLES, SHARDS = PREFIX + "nodes/", PREFIX + "tables/", PREFIX + "shards/"
OWNERS, WATERMARKS, PERSISTERS = PREFIX + "owners/", PREFIX + "watermarks/", PREFIX + "persisters/"
LAST_TABLE_ID, LAST_SHARD_ID = PREFIX + "ids/table", PREFIX + "ids/shard"


def node_key(name: str) -> str:
    return NODES + name


def table_key(tenant: str, name: str) -> str:
    return f"{TABLES}{tenant}/{name}"


def shard_key(shard: ShardId) -> str:
    return f"{SHARDS}{shard}"


def owner_key(shard: ShardId) -> str:
    return f"{OWNERS}{shard}"


def watermark_key(shard: ShardId) -> str:
    return f"{WATERMARKS}{shard}"


def persister_key(shard: ShardId) -> str:
    return f"{PERSISTERS}{shard}"
