"""The recording rules and the alerts, as values. Each alert has a runbook and a unit test; the tests hold that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RUNBOOKS = "docs/operations/runbooks"
PERSIST_LAG_SLA_S = 30
"""How old a row may become before ClickHouse has it. To change it in a deployment, change the one recording rule."""
ROUTINE_REFUSALS = "NOT_OWNER|STALE|PRODUCER_GAP"
"""What senders repeat by themselves: while an owner changes, and after a stream broke in the middle."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert: `expr` must hold for `hold`; `summary` and `description` are templates of Prometheus."""

    name: str
    expr: str
    hold: str
    severity: str
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        """Path of its page in the repository."""
        return f"{RUNBOOKS}/{self.name}.md"

    def rule(self) -> dict[str, Any]:
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.hold,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "description": self.description, "runbook_url": self.runbook},
        }


def _quantile(q: float, metric: str, by: str, window: str = "5m") -> str:
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket[{window}])))"


RECORDING = {
    "proxist:persist_lag_sla:seconds": f"vector({PERSIST_LAG_SLA_S})",
    "proxist:ingest_rows:rate1m": "sum by (tenant, table) (rate(proxist_ingest_rows_total[1m]))",
    "proxist:ingest_ack_seconds:p50": _quantile(0.5, "proxist_ingest_ack_seconds", "tenant, table, level"),
    "proxist:ingest_ack_seconds:p99": _quantile(0.99, "proxist_ingest_ack_seconds", "tenant, table, level"),
    "proxist:ingest_wal_bytes:sum": "sum by (instance) (proxist_ingest_wal_bytes)",
    "proxist:ingest_disk_free:ratio": "proxist_ingest_disk_free_bytes / proxist_ingest_disk_size_bytes",
    "proxist:persist_lag_seconds:max": "max by (tenant, table) (proxist_ingest_persist_lag_seconds)",
    "proxist:persist_rows:rate1m": "sum by (tenant, table) (rate(proxist_persister_rows_total[1m]))",
    "proxist:persist_insert_seconds:p99": _quantile(0.99, "proxist_persister_insert_seconds", "instance"),
    "proxist:query_seconds:p50": _quantile(0.5, "proxist_query_seconds", "verb, plan"),
    "proxist:query_seconds:p99": _quantile(0.99, "proxist_query_seconds", "verb, plan"),
    "proxist:query_hot_only:ratio": (
        'sum(rate(proxist_query_answers_total{mode="hot"}[5m])) / sum(rate(proxist_query_answers_total[5m]))'
    ),
}
"""Name -> expression. `instance` is Prometheus' own label."""

ALERTS = (
    Alert(
        "ProxistInsertSlow",
        "proxist:persist_insert_seconds:p99 > 5",
        "2m",
        "warning",
        "Inserts into ClickHouse take longer than 5 s",
        "The 99th percentile of inserts of {{ $labels.instance }} is {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "ProxistWalGrowing",
        "proxist:ingest_wal_bytes:sum > on (instance) 0.5 * proxist_ingest_disk_size_bytes"
        " or sum by (instance) (deriv(proxist_ingest_wal_bytes[1h])) * 86400"
        " > on (instance) proxist_ingest_disk_free_bytes",
        "10m",
        "warning",
        "The logs of an ingest node fill its volume",
        "The logs of {{ $labels.instance }} take more than half of their volume, or fill it within a day at their rate.",
    ),
    Alert(
        "ProxistRowsDropped",
        "sum by (tenant, table, code)"
        f' (increase(proxist_ingest_refused_rows_total{{code!~"{ROUTINE_REFUSALS}"}}[5m])) > 0'
        " or sum by (tenant, table, code)"
        f' (increase(proxist_ingest_invalid_batches_total{{code!~"{ROUTINE_REFUSALS}"}}[5m])) > 0',
        "0m",
        "critical",
        "Rows of a table are refused",
        "Rows of table {{ $labels.table }} were refused with {{ $labels.code }} in the last five minutes; unless their "
        "sender repeats them they are lost.",
    ),
    Alert(
        "ProxistClickHouseUnreachable",
        'max by (instance) (proxist_persister_sink_state{state="DOWN"}) == 1',
        "1m",
        "critical",
        "ClickHouse does not answer the persister",
        "{{ $labels.instance }} has had no answer from ClickHouse. Rows stay in the owners' logs, and queries that need "
        "history fail.",
    ),
    Alert(
        "ProxistPersistLag",
        "proxist:persist_lag_seconds:max > on () group_left () proxist:persist_lag_sla:seconds",
        "1m",
        "warning",
        "Rows reach ClickHouse later than they should",
        "The oldest row of table {{ $labels.table }} that ClickHouse has not confirmed is {{ $value | humanizeDuration }} "
        "old.",
    ),
    Alert(
        "ProxistWarmRows",
        "max by (tenant, table, shard) (proxist_warm_rows) > 0",
        "1m",
        "warning",
        "Rows leave memory before ClickHouse has them",
        "{{ $value | humanize }} rows of shard {{ $labels.shard }} of table {{ $labels.table }} are in its owner's log "
        "alone. They are read from there, slowly, and take disk until ClickHouse catches up.",
    ),
    Alert(
        "ProxistSnapshotFailing",
        "max by (tenant, table, shard) (increase(proxist_ingest_snapshot_failures_total[5m])) > 0",
        "10m",
        "warning",
        "A shard takes no snapshot",
        "Snapshots of shard {{ $labels.shard }} of table {{ $labels.table }} fail: its log is not shortened, and its next "
        "start reads more of it.",
    ),
    Alert(
        "ProxistPersistStopped",
        'max by (tenant, table, shard) (proxist_persister_shard_state{state="STOPPED"}) == 1',
        "0m",
        "critical",
        "Persisting of a shard has stopped",
        "Shard {{ $labels.shard }} of table {{ $labels.table }} is not persisted until an operator acts.",
    ),
    Alert(
        "ProxistNoPersister",
        "max by (instance) (proxist_controlplane_shards_unpersisted) > 0",
        "2m",
        "warning",
        "Shards have no persister",
        "{{ $value }} shards are held by no persister.",
    ),
    Alert(
        "ProxistLeaseFlapping",
        "max by (tenant, table, shard) (changes(proxist_controlplane_shard_epoch[15m])) > 3"
        " or max by (instance) (increase(proxist_lease_losses_total[15m])) > 2",
        "0m",
        "warning",
        "Owners or leases change again and again",
        "A shard was opened, or a node's lease was lost, {{ $value | humanize }} times in 15 minutes.",
    ),
    Alert(
        "ProxistShardUnowned",
        "max by (instance) (proxist_controlplane_shards_unowned) > 0",
        "1m",
        "critical",
        "Shards accept no rows",
        "{{ $value }} shards have no owner.",
    ),
    Alert(
        "ProxistEtcdUnreachable",
        "min by (instance) (proxist_etcd_synced) == 0",
        "1m",
        "critical",
        "A node does not reach etcd",
        "{{ $labels.instance }} works on an old copy of the catalog; an ingest node stops when its lease ends.",
    ),
    Alert(
        "ProxistDiskFull",
        "proxist:ingest_disk_free:ratio < 0.1 or predict_linear(proxist_ingest_disk_free_bytes[1h], 4 * 3600) < 0",
        "5m",
        "critical",
        "The volume of an ingest node is nearly full",
        "The volume of {{ $labels.instance }} has less than a tenth free, or fills within four hours.",
    ),
)


def recording_rules() -> list[dict[str, Any]]:
    return [{"record": name, "expr": expr} for name, expr in RECORDING.items()]


def alert_rules() -> list[dict[str, Any]]:
    return [alert.rule() for alert in ALERTS]
