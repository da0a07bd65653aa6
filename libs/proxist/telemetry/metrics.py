"""Every metric of Proxist: its name, its kind, its labels, its buckets and what it says. docs/metrics.md is this file.

Names end with their base unit (seconds, bytes, rows …); counters get `_total` on the page. Labels are bounded: tables
and shards that exist, verbs, levels, states. A key (a symbol), a query's text, a path or a caller's spelling is never one.
"""

from __future__ import annotations

from proxist.telemetry.spec import counter as _counter
from proxist.telemetry.spec import gauge as _gauge
from proxist.telemetry.spec import histogram as _histogram

INGEST, QUERY, PERSISTER, CONTROLPLANE = ROLES = ("ingest", "query", "persister", "controlplane")
TABLE = ("tenant", "table")
SHARD = (*TABLE, "shard")

LATENCY_S = (
    0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
)  # fmt: skip
"""From a null round trip on one host (50 µs) to a stuck disk; an ack and a hot read lie where the buckets are narrow."""
QUERY_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0,
)  # fmt: skip
"""Up to `query_s_max`'s default and beyond."""
STORE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Calls to etcd and ClickHouse; 5 is a bound because an alert asks for it."""
BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
"""Up to the batches that one group commit takes at most."""
ROWS = (1.0, 10.0, 100.0, 1_000.0, 5_000.0, 10_000.0, 25_000.0, 50_000.0, 100_000.0, 250_000.0, 1_000_000.0)
"""Up to INSERT_ROWS_MAX."""


# ---- every program -------------------------------------------------------------------------------------------------

BUILD_INFO = _gauge(
    "proxist_build_info",
    "Always 1; its labels say which version runs as which node.",
    "version",
    "role",
    "name",
    roles=ROLES,
)
INSECURE = _gauge(
    "proxist_insecure",
    "Whether the node was told `insecure: true`, so that it serves other machines without TLS and tokens (1), or not (0).",
    roles=ROLES,
)
LEASE_HELD = _gauge(
    "proxist_lease_held",
    "Whether the node holds its lease in etcd now (1) or not (0); without it an ingest node owns nothing.",
    roles=ROLES,
)
LEASE_REMAINING = _gauge(
    "proxist_lease_remaining_seconds",
    "Time until the node's lease ends if no keepalive is answered any more; 0 where none is held.",
    roles=ROLES,
)
LEASE_GAINS = _counter(
    "proxist_lease_gains", "Leases that the node took since its process started: 1 in good health.", roles=ROLES
)
LEASE_LOSSES = _counter(
    "proxist_lease_losses",
    "Leases that the node lost since its process started: etcd forgot them, or answered no keepalive in time.",
    roles=ROLES,
)
ETCD_SYNCED = _gauge(
    "proxist_etcd_synced",
    "Whether the node's copy of the catalog in etcd is current (1) or may be old because etcd does not answer (0).",
    roles=ROLES,
)
ETCD_RESYNCS = _counter(
    "proxist_etcd_resyncs",
    "Times that the whole catalog was read from etcd, the first one and one more after every break of the watch.",
    roles=ROLES,
)
ETCD_SECONDS = _histogram(
    "proxist_etcd_call_seconds", "Time of one call to etcd, failed ones included.", STORE_S, roles=ROLES
)
ETCD_FAILURES = _counter(
    "proxist_etcd_call_failures", "Calls to etcd that failed or were not answered in time.", roles=ROLES
)

# ---- ingest: rows coming in ----------------------------------------------------------------------------------------

_I = (INGEST,)
INGEST_ROWS = _counter(
    "proxist_ingest_rows", "Rows accepted (logged and visible) since this owner opened the shard.", *SHARD, roles=_I
)
INGEST_BYTES = _counter(
    "proxist_ingest_bytes", "Bytes of accepted batches as they are encoded for the log.", *SHARD, roles=_I
)
INGEST_BATCHES = _counter(
    "proxist_ingest_batches", "Batches accepted; a batch over several shards counts once in each.", *SHARD, roles=_I
)
INGEST_REPEATS = _counter(
    "proxist_ingest_repeats",
    "Batches that a producer sent again and that were answered with their first ack; nothing was stored twice.",
    *SHARD,
    roles=_I,
)
INGEST_DEDUPLICATED = _counter(
    "proxist_ingest_deduplicated_rows",
    "Rows left out because the key had that seq or a later one already; only tables with `dedup: seq` have any.",
    *SHARD,
    roles=_I,
)
INGEST_REFUSED_BATCHES = _counter(
    "proxist_ingest_refused_batches",
    "Batches that passed validation and were refused by the shard, by error code; their sender was told.",
    *SHARD,
    "code",
    roles=_I,
)
INGEST_REFUSED_ROWS = _counter(
    "proxist_ingest_refused_rows",
    "Rows of refused batches, by error code: unless their sender sends them again they are dropped.",
    *SHARD,
    "code",
    roles=_I,
)
INGEST_ACK_SECONDS = _histogram(
    "proxist_ingest_ack_seconds",
    "Time from a batch's arrival at the door to the moment at which its rows reached the level that is acked (mem, os, disk, cold).",
    LATENCY_S,
    "tenant",
    "table",
    "level",
    roles=_I,
)
INGEST_INVALID_BATCHES = _counter(
    "proxist_ingest_invalid_batches",
    "Batches that were refused at the door, before they reached a shard, because they break a rule of the table; by error code. Their sender was told.",
    *TABLE,
    "code",
    roles=_I,
)
INGEST_INVALID_ROWS = _counter(
    "proxist_ingest_invalid_rows",
    "Rows of batches that were refused at the door, by error code: a repeat is refused again, so they are dropped unless their sender mends them.",
    *TABLE,
    "code",
    roles=_I,
)
INGEST_WAITING_ACKS = _gauge(
    "proxist_ingest_waiting_acks", "Acks that wait until their rows climb to a higher level.", *SHARD, roles=_I
)
INGEST_QUEUE_BYTES = _gauge(
    "proxist_ingest_queue_bytes", "Encoded bytes of batches that wait for the shard's writer.", *SHARD, roles=_I
)
INGEST_QUEUE_LIMIT = _gauge(
    "proxist_ingest_queue_limit_bytes",
    "Bytes that may wait for a shard's writer; a sender is held at it, and refused after a few seconds.",
    roles=_I,
)
INGEST_QUEUE_BATCHES = _gauge(
    "proxist_ingest_queue_batches", "Batches that wait for the shard's writer.", *SHARD, roles=_I
)
INGEST_GROUP_BATCHES = _histogram(
    "proxist_ingest_group_batches",
    "Batches that one group commit wrote to the log and flushed together.",
    BATCHES,
    *TABLE,
    roles=_I,
)

# ---- ingest: log and marks -----------------------------------------------------------------------------------------

INGEST_SYNC_SECONDS = _histogram(
    "proxist_ingest_sync_seconds", "Time of one flush of the log to disk (fdatasync).", LATENCY_S, *TABLE, roles=_I
)
INGEST_WAL_BYTES = _gauge(
    "proxist_ingest_wal_bytes",
    "Bytes that the shard's log segments take on disk, older logs of the chain included; segments are preallocated.",
    *SHARD,
    roles=_I,
)
INGEST_WAL_SEGMENTS = _gauge("proxist_ingest_wal_segments", "Segment files of the shard's logs.", *SHARD, roles=_I)
INGEST_SNAPSHOTS = _counter(
    "proxist_ingest_snapshots", "Snapshots that were taken, read back and found good.", *SHARD, roles=_I
)
INGEST_SNAPSHOT_FAILURES = _counter(
    "proxist_ingest_snapshot_failures", "Snapshots that could not be taken; they are tried again.", *SHARD, roles=_I
)
INGEST_SNAPSHOT_SECONDS = _gauge(
    "proxist_ingest_snapshot_seconds", "How long the newest snapshot took to write and read back.", *SHARD, roles=_I
)
INGEST_SNAPSHOT_AGE = _gauge("proxist_ingest_snapshot_age_seconds", "Age of the newest snapshot.", *SHARD, roles=_I)
INGEST_SNAPSHOT_BYTES = _gauge("proxist_ingest_snapshot_bytes", "Size of the newest snapshot.", *SHARD, roles=_I)
INGEST_SNAPSHOT_LOG = _gauge(
    "proxist_ingest_snapshot_log_bytes",
    "Log written since the newest snapshot; it is taken by these.",
    *SHARD,
    roles=_I,
)
INGEST_WAL_UNSYNCED = _gauge(
    "proxist_ingest_wal_unsynced_rows",
    "Rows written to the log's file that are not flushed to disk yet; 0 between groups at level disk.",
    *SHARD,
    roles=_I,
)
INGEST_UNPERSISTED = _gauge(
    "proxist_ingest_unpersisted_rows",
    "Depth of the log: accepted rows that ClickHouse has not confirmed (end - persisted).",
    *SHARD,
    roles=_I,
)
INGEST_PERSIST_LAG = _gauge(
    "proxist_ingest_persist_lag_seconds",
    "Age of the oldest accepted row that ClickHouse has not confirmed; 0 where all are. After a restart it counts from there. It grows too while no persister runs.",
    *SHARD,
    roles=_I,
)
INGEST_END = _gauge(
    "proxist_ingest_end_offset", "First offset of the shard that is not assigned yet.", *SHARD, roles=_I
)
INGEST_PERSISTED = _gauge(
    "proxist_ingest_persisted_offset", "Every row of the shard below this offset is in ClickHouse.", *SHARD, roles=_I
)
INGEST_FLOOR = _gauge(
    "proxist_ingest_floor_offset", "Every row of the shard at or above this offset is in memory.", *SHARD, roles=_I
)
INGEST_EPOCH = _gauge(
    "proxist_ingest_epoch",
    "Epoch under which this node owns the shard; every opening takes the next one.",
    *SHARD,
    roles=_I,
)
INGEST_DISK_FREE = _gauge(
    "proxist_ingest_disk_free_bytes", "Bytes free for this user on the volume of `data_dir`.", roles=_I
)
INGEST_DISK_SIZE = _gauge("proxist_ingest_disk_size_bytes", "Size of the volume of `data_dir`.", roles=_I)

# ---- ingest: the hot set -------------------------------------------------------------------------------------------

HOT_ROWS = _gauge("proxist_hot_rows", "Rows in memory (end - floor); boundary rows are not counted.", *SHARD, roles=_I)
WARM_ROWS = _gauge(
    "proxist_warm_rows", "Rows in the log alone: out of memory, not yet in ClickHouse.", *SHARD, roles=_I
)
WARM_BYTES = _gauge("proxist_warm_bytes", "Bytes of the log segments that hold warm rows.", *SHARD, roles=_I)
HOT_BYTES = _gauge("proxist_hot_bytes", "Bytes of blocks and payloads in use in the shard's hot set.", *SHARD, roles=_I)
HOT_LIMIT = _gauge(
    "proxist_hot_limit_bytes",
    "Bytes that the shard's hot set may use: its part of the table's `hot_bytes`.",
    *SHARD,
    roles=_I,
)
HOT_BLOCKS = _gauge(
    "proxist_hot_blocks", "Blocks in use in the shard's hot set; each belongs to one key.", *SHARD, roles=_I
)
HOT_KEYS = _gauge("proxist_hot_keys", "Keys that the shard's hot set has seen.", *SHARD, roles=_I)
HOT_EVICTED_ROWS = _counter(
    "proxist_hot_evicted_rows",
    "Rows that left memory since this owner opened the shard; ClickHouse has them, or they are warm.",
    *SHARD,
    roles=_I,
)
HOT_EVICTIONS = _counter(
    "proxist_hot_evictions",
    "Steps by which the floor was moved; each makes the reads that are under way begin again.",
    *SHARD,
    roles=_I,
)
HOT_ATTACHES = _counter(
    "proxist_hot_attaches", "Times that a reader of this host was given the shard's memory.", *SHARD, roles=_I
)
HOT_RETRIES = _counter(
    "proxist_hot_read_retries",
    "Reads in the owner's own process that began again because rows were evicted under them.",
    *SHARD,
    roles=_I,
)

# ---- persister -----------------------------------------------------------------------------------------------------

_P = (PERSISTER,)
PERSIST_INSERTS = _counter("proxist_persister_inserts", "Inserts that ClickHouse confirmed.", *SHARD, roles=_P)
PERSIST_ROWS = _counter("proxist_persister_rows", "Rows of inserts that ClickHouse confirmed.", *SHARD, roles=_P)
PERSIST_SECONDS = _histogram(
    "proxist_persister_insert_seconds",
    "Time of one insert into ClickHouse, by outcome (ok, failed).",
    STORE_S,
    "outcome",
    roles=_P,
)
PERSIST_INSERT_ROWS = _histogram("proxist_persister_insert_rows", "Rows of one confirmed insert.", ROWS, roles=_P)
PERSIST_VERIFY_SECONDS = _histogram(
    "proxist_persister_verify_seconds", "Time of reading one batch back from ClickHouse.", STORE_S, roles=_P
)
PERSIST_VERIFIED = _counter(
    "proxist_persister_verified_rows", "Rows that were read back and are what was sent.", *SHARD, roles=_P
)
PERSIST_MISMATCHES = _counter(
    "proxist_persister_verify_failures",
    "Read-backs that found something else than what was sent, by outcome: missing (confirmed rows that are not there), differs (other values), unexplained (rows of no log, or stored twice).",
    "outcome",
    roles=_P,
)
PERSIST_LAG_ROWS = _gauge(
    "proxist_persister_lag_rows", "Rows that the owner has sent and ClickHouse has not confirmed.", *SHARD, roles=_P
)
PERSIST_LAG = _gauge(
    "proxist_persister_lag_seconds",
    "Time for which the persister has held a batch of the shard that ClickHouse has not confirmed; 0 where it waits for the next.",
    *SHARD,
    roles=_P,
)
PERSIST_QUEUE = _gauge(
    "proxist_persister_queue_rows",
    "Use of the persister's queue, which is one batch: rows of the batch in hand. What waits behind it stays in the owner's log.",
    *SHARD,
    roles=_P,
)
PERSIST_RETRIES = _counter("proxist_persister_retries", "Attempts that failed and were tried again.", *SHARD, roles=_P)
PERSIST_STATE = _gauge(
    "proxist_persister_shard_state",
    "1 for the state that the shard's persisting is in, 0 for the others; STOPPED waits for an operator.",
    *SHARD,
    "state",
    roles=_P,
)
SINK_STATE = _gauge(
    "proxist_persister_sink_state",
    "1 for the state of ClickHouse as the persister sees it (OK, DEGRADED, DOWN), 0 for the others.",
    "state",
    roles=_P,
)
SINK_FAILURES = _counter("proxist_persister_failures", "Statements of the persister that failed.", roles=_P)

# ---- ClickHouse, from both sides that talk to it -------------------------------------------------------------------

_C = (QUERY, PERSISTER)
CLICKHOUSE_STATEMENTS = _counter(
    "proxist_clickhouse_statements", "Statements sent to ClickHouse; pings are not statements.", roles=_C
)
CLICKHOUSE_SECONDS = _histogram(
    "proxist_clickhouse_statement_seconds",
    "Time of one statement to ClickHouse, failed ones included.",
    STORE_S,
    roles=_C,
)
CLICKHOUSE_FAILURES = _counter(
    "proxist_clickhouse_failures",
    "Statements to ClickHouse that raised an error, by what is known of them: none (it cannot have had an effect), failed (ClickHouse refused it), unknown.",
    "outcome",
    roles=_C,
)

# ---- query ---------------------------------------------------------------------------------------------------------

_Q = (QUERY,)
QUERIES = _counter(
    "proxist_query_queries", "Queries by verb and outcome: ok, or the error's code.", "verb", "outcome", roles=_Q
)
QUERY_SECONDS = _histogram(
    "proxist_query_seconds",
    "Time of one query in this node, by verb (the operator) and plan (operator, sql-hot, sql-union; none where it failed).",
    QUERY_S,
    "verb",
    "plan",
    roles=_Q,
)
QUERY_ANSWERS = _counter(
    "proxist_query_answers",
    "Answers by plan and by what they were made of: hot (memory alone), cold (ClickHouse alone), cold+hot.",
    "plan",
    "mode",
    roles=_Q,
)
QUERY_ROWS = _counter("proxist_query_rows", "Rows that answers were made of, by tier (hot, cold).", "tier", roles=_Q)
QUERY_RUNNING = _gauge("proxist_query_running", "Queries that run now.", roles=_Q)
QUERY_ATTACHED = _gauge(
    "proxist_query_attached_shards",
    "Shards whose memory is mapped into this node: it is one attached reader of each.",
    roles=_Q,
)
QUERY_RETRIES = _counter(
    "proxist_query_hot_retries", "Attached reads that began again because the owner evicted rows under them.", roles=_Q
)

# ---- control plane -------------------------------------------------------------------------------------------------

_O = (CONTROLPLANE,)
CONTROL_TABLES = _gauge("proxist_controlplane_tables", "Tables, those that are being dropped included.", roles=_O)
CONTROL_SHARDS = _gauge("proxist_controlplane_shards", "Shards of all tables.", roles=_O)
CONTROL_UNOWNED = _gauge(
    "proxist_controlplane_shards_unowned", "Shards that accept no rows now, because no node owns them.", roles=_O
)
CONTROL_UNPERSISTED = _gauge("proxist_controlplane_shards_unpersisted", "Shards that no persister holds now.", roles=_O)
CONTROL_EPOCH = _gauge(
    "proxist_controlplane_shard_epoch",
    "The shard's newest epoch: it grows by one whenever a node opens the shard.",
    *SHARD,
    roles=_O,
)
CONTROL_NODES = _gauge("proxist_controlplane_nodes", "Nodes that are alive, by role.", "role", roles=_O)
