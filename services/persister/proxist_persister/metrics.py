"""What /metrics says of a persister: read when it is asked for, so that workers only keep their Progress."""

from __future__ import annotations

import time

from proxist.clickhouse import ClickHouse
from proxist.telemetry import metrics as m
from proxist.telemetry.figures import Scrape, Source
from proxist_persister import progress as states
from proxist_persister.keeper import Keeper
from proxist_persister.sink import Sink

SINK_STATES = ("OK", "DEGRADED", "DOWN")
SHARD_STATES = (
    states.WAITING,
    states.READING_BACK,
    states.FOLLOWING,
    states.RETRYING,
    states.PAUSED,
    states.STOPPED,
)


def persister_figures(keeper: Keeper, sink: Sink) -> Source:
    """The workers that hold their shard, and the sink."""

    def add(scrape: Scrape) -> None:
        for worker in keeper.held():
            labels = (worker.table.tenant, worker.table.name, str(worker.shard))
            _add_shard(scrape, worker.board.progress, labels)
        state = sink.state
        for name in SINK_STATES:
            scrape.add(m.SINK_STATE, state == name, name)
        scrape.add(m.SINK_FAILURES, sink.failures)
        for outcome, seconds in sink.insert_seconds.items():
            scrape.histogram(m.PERSIST_SECONDS, seconds, outcome)
        scrape.histogram(m.PERSIST_INSERT_ROWS, sink.insert_rows)
        scrape.histogram(m.PERSIST_VERIFY_SECONDS, sink.verify_seconds)
        for kind, count in sink.mismatches.items():
            scrape.add(m.PERSIST_MISMATCHES, count, kind)

    return add


def clickhouse_figures(clickhouse: ClickHouse) -> Source:
    """Every statement of the process."""

    def add(scrape: Scrape) -> None:
        scrape.add(m.CLICKHOUSE_STATEMENTS, clickhouse.statements)
        scrape.histogram(m.CLICKHOUSE_SECONDS, clickhouse.statement_seconds)
        for outcome, count in clickhouse.failures.items():
            scrape.add(m.CLICKHOUSE_FAILURES, count, outcome)

    return add


def _add_shard(scrape: Scrape, now: states.Progress, labels: tuple[str, ...]) -> None:
    scrape.add(m.PERSIST_INSERTS, now.inserts, *labels)
    scrape.add(m.PERSIST_ROWS, now.rows, *labels)
    scrape.add(m.PERSIST_VERIFIED, now.verified, *labels)
    scrape.add(m.PERSIST_RETRIES, now.retries, *labels)
    scrape.add(m.PERSIST_LAG_ROWS, max(0, now.end - now.persisted), *labels)
    held_ns = time.monotonic_ns() - now.in_hand_since_ns if now.in_hand_rows else 0
    scrape.add(m.PERSIST_LAG, held_ns / 1e9, *labels)
    scrape.add(m.PERSIST_QUEUE, now.in_hand_rows, *labels)
    for name in SHARD_STATES:
        scrape.add(m.PERSIST_STATE, now.state == name, *labels, name)
