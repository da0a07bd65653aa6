"""The four dashboards: overview, ingest, persist, query."""

from __future__ import annotations

from typing import Any

from proxist.monitoring.panels import Panel, Rows, dashboard

T = 'tenant=~"$tenant",table=~"$table"'
"""The variables of a dashboard that shows tables."""
TABLES = (("tenant", "proxist_ingest_epoch"), ("table", "proxist_ingest_epoch"))


def _by(metric: str, labels: str, how: str = "sum") -> str:
    return f"{how} by ({labels}) ({metric}{{{T}}})"


def _rate(metric: str, labels: str, window: str = "1m", match: str = T) -> str:
    return f"sum by ({labels}) (rate({metric}{{{match}}}[{window}]))"


def _quantiles(metric: str, labels: str, legend: str, match: str = T) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"histogram_quantile({q}, sum by (le, {labels}) (rate({metric}_bucket{{{match}}}[1m])))", f"p{name} {legend}")
        for q, name in ((0.5, "50"), (0.99, "99"))
    )


# A panel is a line of a table.
# fmt: off
OVERVIEW: Rows = (
    (
        "Now",
        (
            Panel("Rows in", "cps", (("sum(proxist:ingest_rows:rate1m)", ""),), "Rows accepted per second.", "stat"),
            Panel("Ack p99", "s", (("max(proxist:ingest_ack_seconds:p99)", ""),), "The slowest table and level.", "stat"),
            Panel("Persist lag", "s", (("max(proxist:persist_lag_seconds:max)", ""),), "Age of the oldest row that ClickHouse has not confirmed.", "stat"),
            Panel("Answers from memory alone", "percentunit", (("proxist:query_hot_only:ratio", ""),), "Share of answers that needed no ClickHouse.", "stat"),
            Panel("Shards without owner", "short", (("max(proxist_controlplane_shards_unowned)", ""),), "They accept no rows.", "stat"),
            Panel("Nodes", "short", (("max by (role) (proxist_controlplane_nodes)", "{{role}}"),), "Alive, by role.", "stat"),
        ),
    ),
    (
        "Rows",
        (
            Panel("Rows in", "cps", (("proxist:ingest_rows:rate1m", "{{table}}"),), "Accepted rows per second, by table."),
            Panel("Rows into ClickHouse", "cps", (("proxist:persist_rows:rate1m", "{{table}}"),), "Confirmed rows per second, by table."),
            Panel("Queries", "reqps", (("sum by (verb) (rate(proxist_query_queries_total[1m]))", "{{verb}}"),), "Queries per second, by verb."),
        ),
    ),
    (
        "Latency",
        (
            Panel("Ack", "s", (("proxist:ingest_ack_seconds:p50", "p50 {{table}} {{level}}"), ("proxist:ingest_ack_seconds:p99", "p99 {{table}} {{level}}")), "From a batch's arrival to its level."),
            Panel("Query", "s", (("proxist:query_seconds:p50", "p50 {{verb}} {{plan}}"), ("proxist:query_seconds:p99", "p99 {{verb}} {{plan}}")), "In the query node, by verb and plan."),
            Panel("Persist lag", "s", (("proxist:persist_lag_seconds:max", "{{table}}"), ("proxist:persist_lag_sla:seconds", "SLA")), "Age of the oldest row that ClickHouse has not confirmed."),
        ),
    ),
    (
        "Cluster",
        (
            Panel("Leases lost", "short", (("sum by (instance) (increase(proxist_lease_losses_total[15m]))", "{{instance}}"),), "In 15 minutes, by node."),
            Panel("Shard openings", "short", (("sum by (table) (changes(proxist_controlplane_shard_epoch[15m]))", "{{table}}"),), "In 15 minutes: restarts and moves of owners."),
            Panel("etcd calls p99", "s", (("histogram_quantile(0.99, sum by (le, instance) (rate(proxist_etcd_call_seconds_bucket[5m])))", "{{instance}}"),), "Time of calls to etcd."),
            Panel("etcd in reach", "short", (("min by (instance) (proxist_etcd_synced)", "{{instance}}"),), "1 while the node's view of etcd is current."),
        ),
    ),
    (
        "Processes",
        (
            Panel("CPU", "percentunit", (("sum by (instance) (rate(process_cpu_seconds_total[1m]))", "{{instance}}"),), "Cores in use."),
            Panel("Resident memory", "bytes", (("sum by (instance) (process_resident_memory_bytes)", "{{instance}}"),), "Touched shared memory is part of it."),
            Panel("Open files", "short", (("sum by (instance) (process_open_fds)", "{{instance}}"),), "File descriptors in use."),
        ),
    ),
)

INGEST: Rows = (
    (
        "Rows",
        (
            Panel("Rows", "cps", ((_rate("proxist_ingest_rows_total", "table"), "{{table}}"),), "Accepted per second."),
            Panel("Bytes", "Bps", ((_rate("proxist_ingest_bytes_total", "table"), "{{table}}"),), "As encoded for the log."),
            Panel("Refused rows", "cps", ((_rate("proxist_ingest_refused_rows_total", "table, code"), "{{table}} {{code}}"), (_rate("proxist_ingest_invalid_rows_total", "table, code"), "{{table}} {{code}} at the door")), "By error code; their sender was told."),
            Panel("Repeats", "cps", ((_rate("proxist_ingest_repeats_total", "table"), "{{table}} batches"), (_rate("proxist_ingest_deduplicated_rows_total", "table"), "{{table}} rows by seq")), "What was sent again and not stored twice."),
        ),
    ),
    (
        "Acks",
        (
            Panel("Ack latency", "s", _quantiles("proxist_ingest_ack_seconds", "table, level", "{{table}} {{level}}"), "From a batch's arrival to the level that is acked."),
            Panel("Flush to disk", "s", _quantiles("proxist_ingest_sync_seconds", "instance", "{{instance}}"), "fdatasync."),
            Panel("Batches per group commit", "short", ((f"{_rate('proxist_ingest_group_batches_sum', 'table')} / {_rate('proxist_ingest_group_batches_count', 'table')}", "{{table}}"),), "Mean size of a group."),
            Panel("Queue before the writer", "bytes", ((_by("proxist_ingest_queue_bytes", "table", "max"), "{{table}}"), ("max(proxist_ingest_queue_limit_bytes)", "limit")), "The fullest shard of each table."),
        ),
    ),
    (
        "Log",
        (
            Panel("Log on disk", "bytes", ((_by("proxist_ingest_wal_bytes", "instance"), "{{instance}}"),), "Segments of all shards, preallocated."),
            Panel("Depth", "short", ((_by("proxist_ingest_unpersisted_rows", "table"), "{{table}}"),), "Rows that ClickHouse has not confirmed."),
            Panel("Acks that wait", "short", ((_by("proxist_ingest_waiting_acks", "table"), "{{table}}"),), "For a higher level."),
            Panel("Log since the newest snapshot", "bytes", ((_by("proxist_ingest_snapshot_log_bytes", "table", "max"), "{{table}}"), (_by("proxist_ingest_snapshot_bytes", "table", "max"), "{{table}} snapshot")), "What a start reads at most beside rows in memory; and the snapshot's size. The largest shard of each table."),
            Panel("Snapshots", "short", (("sum by (table) (increase(proxist_ingest_snapshots_total[15m]))", "{{table}}"), ("sum by (table) (increase(proxist_ingest_snapshot_failures_total[15m]))", "{{table}} failed"), (_by("proxist_ingest_snapshot_seconds", "table", "max"), "{{table}} seconds"), (_by("proxist_ingest_snapshot_age_seconds", "table", "max"), "{{table}} age, s")), "Taken and failed in 15 minutes; how long the newest one took, and its age."),
            Panel("Disk free", "percentunit", (("proxist:ingest_disk_free:ratio", "{{instance}}"),), "Of the volume of data_dir."),
        ),
    ),
    (
        "Hot set",
        (
            Panel("Rows in memory", "short", ((_by("proxist_hot_rows", "table"), "{{table}}"), (_by("proxist_warm_rows", "table"), "{{table}} warm")), "end - floor; warm: out of memory, not yet in ClickHouse."),
            Panel("Log of warm rows", "bytes", ((_by("proxist_warm_bytes", "table"), "{{table}}"),), "Segments that hold them."),
            Panel("Memory in use", "percentunit", ((f"{_by('proxist_hot_bytes', 'table')} / {_by('proxist_hot_limit_bytes', 'table')}", "{{table}}"),), "Of hot_bytes."),
            Panel("Blocks", "short", ((_by("proxist_hot_blocks", "table"), "{{table}}"), (_by("proxist_hot_keys", "table"), "{{table}} keys")), "In use; and keys."),
            Panel("Evicted rows", "cps", ((_rate("proxist_hot_evicted_rows_total", "table"), "{{table}}"), (_rate("proxist_hot_evictions_total", "table"), "{{table}} steps")), "Per second, and in how many steps."),
        ),
    ),
    (
        "Readers",
        (
            Panel("Attached shards", "short", (("sum by (instance) (proxist_query_attached_shards)", "{{instance}}"),), "Mapped by query nodes: one reader each."),
            Panel("Reads that began again", "cps", ((_rate("proxist_hot_read_retries_total", "table"), "{{table}}"), ("sum by (instance) (rate(proxist_query_hot_retries_total[1m]))", "attached, {{instance}}")), "Because rows were evicted under them."),
        ),
    ),
)

PERSIST: Rows = (
    (
        "Lag",
        (
            Panel("Lag", "s", ((_by("proxist_ingest_persist_lag_seconds", "table, shard", "max"), "{{table}} {{shard}}"), ("proxist:persist_lag_sla:seconds", "SLA")), "Age of the oldest row that ClickHouse has not confirmed, as its owner sees it."),
            Panel("Rows behind", "short", ((_by("proxist_ingest_unpersisted_rows", "table"), "{{table}}"),), "end - persisted."),
            Panel("Batch in hand", "short", ((_by("proxist_persister_queue_rows", "table"), "{{table}} rows"), (_by("proxist_persister_lag_seconds", "table", "max"), "{{table}} seconds")), "Rows of the batch that is being inserted, and for how long."),
        ),
    ),
    (
        "Inserts",
        (
            Panel("Insert latency", "s", _quantiles("proxist_persister_insert_seconds", "outcome", "{{outcome}}", ""), "One insert into ClickHouse."),
            Panel("Read-back latency", "s", _quantiles("proxist_persister_verify_seconds", "instance", "{{instance}}", ""), "One batch read back and compared; what is persisted was."),
            Panel("Rows per insert", "short", (("sum(rate(proxist_persister_insert_rows_sum[1m])) / sum(rate(proxist_persister_insert_rows_count[1m]))", "mean"),), "Of confirmed inserts."),
            Panel("Inserts", "cps", ((_rate("proxist_persister_inserts_total", "table"), "{{table}}"),), "Confirmed per second; ClickHouse wants few and large ones."),
            Panel("Rows", "cps", ((_rate("proxist_persister_rows_total", "table"), "{{table}}"),), "Confirmed per second."),
        ),
    ),
    (
        "Health",
        (
            Panel("ClickHouse", "short", (("max by (instance, state) (proxist_persister_sink_state)", "{{instance}} {{state}}"),), "1 for its state."),
            Panel("Shards by state", "short", ((_by("proxist_persister_shard_state", "state"), "{{state}}"),), "STOPPED waits for an operator."),
            Panel("Retries", "cps", ((_rate("proxist_persister_retries_total", "table"), "{{table}}"),), "Attempts that failed and were tried again."),
            Panel("Read-backs that differ", "cps", (("sum by (instance, outcome) (rate(proxist_persister_verify_failures_total[1m]))", "{{instance}} {{outcome}}"),), "By what was found: missing rows are inserted again, the rest stops the shard."),
            Panel("Failed statements", "cps", (("sum by (instance, outcome) (rate(proxist_clickhouse_failures_total[1m]))", "{{instance}} {{outcome}}"), ("sum by (instance) (rate(proxist_persister_failures_total[1m]))", "{{instance}} persister")), "Per second, by what is known of them."),
        ),
    ),
)

QUERY: Rows = (
    (
        "Queries",
        (
            Panel("Queries", "reqps", (("sum by (verb) (rate(proxist_query_queries_total[1m]))", "{{verb}}"),), "Per second, by verb."),
            Panel("Errors", "reqps", (('sum by (outcome) (rate(proxist_query_queries_total{outcome!="ok"}[1m]))', "{{outcome}}"),), "Per second, by code."),
            Panel("Running", "short", (("sum by (instance) (proxist_query_running)", "{{instance}}"),), "Now."),
        ),
    ),
    (
        "Latency",
        (
            Panel("By verb and plan", "s", _quantiles("proxist_query_seconds", "verb, plan", "{{verb}} {{plan}}", ""), "In the query node."),
            Panel("ClickHouse statements", "s", _quantiles("proxist_clickhouse_statement_seconds", "instance", "{{instance}}", ""), "Time of a statement."),
        ),
    ),
    (
        "Tiers",
        (
            Panel("Answers from memory alone", "percentunit", (("proxist:query_hot_only:ratio", "share"),), "Needed no ClickHouse."),
            Panel("Answers", "reqps", (("sum by (plan, mode) (rate(proxist_query_answers_total[1m]))", "{{plan}} {{mode}}"),), "By plan, and by what they were made of."),
            Panel("Rows", "cps", (("sum by (tier) (rate(proxist_query_rows_total[1m]))", "{{tier}}"),), "Taken from each tier."),
            Panel("ClickHouse statements", "reqps", (("sum by (instance) (rate(proxist_clickhouse_statements_total[1m]))", "{{instance}}"),), "Per second."),
        ),
    ),
    (
        "Memory of owners",
        (
            Panel("Attached shards", "short", (("sum by (instance) (proxist_query_attached_shards)", "{{instance}}"),), "Mapped into the node."),
            Panel("Reads that began again", "cps", (("sum by (instance) (rate(proxist_query_hot_retries_total[1m]))", "{{instance}}"),), "Because rows were evicted under them."),
        ),
    ),
)
# fmt: on


def dashboards() -> dict[str, dict[str, Any]]:
    """File name -> Grafana's JSON."""
    return {
        "overview": dashboard("proxist-overview", "Proxist: overview", OVERVIEW),
        "ingest": dashboard("proxist-ingest", "Proxist: ingest", INGEST, variables=TABLES),
        "persist": dashboard("proxist-persist", "Proxist: persist", PERSIST, variables=TABLES),
        "query": dashboard("proxist-query", "Proxist: query", QUERY),
    }
