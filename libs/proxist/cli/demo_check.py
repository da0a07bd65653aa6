"""The demo's closing check: every acknowledged row is there once, partly hot and partly cold, counted in four ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxist.cli.control import control_plane, watermark_row
from proxist.cli.feeds.tables import MARKET_TABLES
from proxist.clickhouse import ClickHouse
from proxist.client.connection import Connection
from proxist.pb import controlplane_pb2 as pb

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Count:
    """One table: rows acked, rows in RAM (at or above the floor), rows below it as ClickHouse counts them, rows that a
    query counts, and distinct (key, seq) pairs as a query counts them (None where the feed does not promise them).
    """

    table: str
    acked: int
    hot: int
    cold: int
    queried: int
    distinct: int | None

    @property
    def holds(self) -> bool:
        return self.acked == self.hot + self.cold == self.queried and self.distinct in (None, self.acked)

    def __str__(self) -> str:
        verdict = "as many as were acknowledged" if self.holds else f"but {self.acked:,} were acknowledged"
        distinct = "" if self.distinct is None else f", {self.distinct:,} different ids"
        return (
            f"{self.table}: {self.hot:,} hot + {self.cold:,} cold = {self.hot + self.cold:,} rows, "
            f"a query counts {self.queried:,}{distinct}: {verdict}"
        )


def check(endpoints: Mapping[str, Any], connection: Connection, acked: Mapping[str, int], *, ids: bool) -> list[Count]:
    """Persist everything, evict the older half, and count. `ids`: (key, seq) is unique in what was sent.

    Raises what the cluster raises where a step fails.
    """
    counts = []
    with control_plane(endpoints["controlplane"]["grpc"], TIMEOUT_S) as control:
        for table in sorted(acked):
            control.call("Flush", pb.FlushRequest(table=table, timeout_ms=int(control.left_s * 900)))
            evicted = control.call("Evict", pb.EvictRequest(table=table, rows=acked[table] // 2))
            marks = [watermark_row(mark) for mark in evicted.watermarks]
            hot = sum(mark["end"] - mark["floor"] for mark in marks)
            cold = _count_cold(endpoints["clickhouse"], table, marks)
            queried, distinct = _count_by_query(connection, table, ids)
            counts.append(Count(table, acked[table], hot, cold, queried, distinct))
    return counts


def _count_cold(clickhouse: str, table: str, marks: list[dict[str, Any]]) -> int:
    """ClickHouse asked directly, past Proxist: rows of each shard below its floor."""
    server = ClickHouse(clickhouse)
    try:
        parts = [f"(intDiv(_log, 16777216) = {mark['shard']} AND _offset < {mark['floor']})" for mark in marks]
        answer = server.query(f"SELECT count() AS n FROM default.{table} WHERE {' OR '.join(parts)}")
        return int(answer["n"][0].as_py())
    finally:
        server.close()


def _count_by_query(connection: Connection, table: str, ids: bool) -> tuple[int, int | None]:
    spec = MARKET_TABLES[table]
    distinct = f", uniqExact({spec.key}, {spec.seq}) AS ids" if ids else ""
    row = connection.sql(f"SELECT count() AS n{distinct} FROM {table}").to_pylist()[0]
    return int(row["n"]), int(row["ids"]) if ids else None
