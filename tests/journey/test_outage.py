"""A long outage of ClickHouse under load: nothing lost, memory bounded, reads exact throughout, then the catch-up.

PROXIST_OUTAGE_S, PROXIST_OUTAGE_ROWS_S and PROXIST_OUTAGE_HOT say how long, how many rows per second are offered, and the table's
`hot_bytes`; the numbers are printed.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clickhouse_connect
import numpy as np
import pyarrow as pa
import pytest
from control import TRADES, Control
from test_kill_each_service import clickhouse_door

import proxist
from proxist.model.units import parse_bytes
from proxist.testing.cluster import LocalCluster

OUTAGE_S = float(os.environ.get("PROXIST_OUTAGE_S", "60"))
ROWS_S = int(os.environ.get("PROXIST_OUTAGE_ROWS_S", "50000"))
HOT = os.environ.get("PROXIST_OUTAGE_HOT", "32MiB")
RSS_SLACK_BYTES = 512 * 2**20
"""What an owner takes beside `hot_bytes`, whatever it is sent."""

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(int(20 * OUTAGE_S) + 600)]

START_NS, STEP_NS, KEYS, BATCH = 1_723_161_600_000_000_000, 1_000_000, 50, 5_000
SYMBOLS = pa.array([f"S{i % KEYS:02d}" for i in range(BATCH)])


def rows(first: int) -> pa.RecordBatch:
    """Row i, of which everything follows: symbol i mod 50, a millisecond after the row before."""
    i = np.arange(first, first + BATCH)
    return pa.record_batch(
        {
            "symbol": SYMBOLS,
            "ts": pa.array(START_NS + i * STEP_NS, pa.timestamp("ns", "UTC")),
            "trade_id": pa.array(i, pa.uint64()),
            "price": pa.array((i * 7919 % 1000) / 8),
            "size": pa.array((i % 97).astype(float)),
            "buyer_is_maker": pa.array(i % 2 == 0),
        }
    )


def at(row: int) -> int:
    return START_NS + row * STEP_NS


@dataclass
class Feed:
    """Writes at the offered rate until told to stop; `acked` rows are promised."""

    uri: str
    acked: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        try:
            with proxist.connect(self.uri) as client:
                table, due = client.table("trades"), time.monotonic()
                while not self.stop.is_set():
                    table.write(rows(self.acked))
                    self.acked += BATCH
                    due = max(due + BATCH / ROWS_S, time.monotonic() - 1.0)
                    self.stop.wait(max(0.0, due - time.monotonic()))
        except BaseException as error:
            self.failures.append(error)


@dataclass
class Readers:
    """Asks for rows from `first` on, and holds each answer against what follows from the rows' numbers."""

    uri: str
    feed: Feed
    first: int
    seed: int
    stop: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    floors: int = 0
    """Answers of which rows were warm."""

    def run(self) -> None:
        rng = random.Random(self.seed)
        checks = (self.scan, self.last_by, self.asof, self.sql, self.bars)
        try:
            with proxist.connect(self.uri, attach="auto") as client:
                while not self.stop.is_set():
                    began = time.monotonic()
                    answer = rng.choice(checks)(client, rng)
                    self.seconds.append(time.monotonic() - began)
                    self.floors += any("floor" in cut for cut in answer.receipt["cut"])
        except BaseException as error:
            self.failures.append(error)

    def scan(self, client: Any, rng: random.Random) -> Any:
        low, key = self.some_row(rng), rng.randrange(KEYS)
        answer = client.query(
            {"scan": {"table": "trades", "keys": [f"S{key:02d}"], "from": at(low), "to": at(low + 2_000)}}
        )
        ids = answer.to_arrow()["trade_id"].to_pylist()
        assert ids == [i for i in range(low, min(low + 2_000, self.first + 10**12)) if i % KEYS == key][: len(ids)]
        assert len(ids) >= sum(i % KEYS == key for i in range(low, min(low + 2_000, self.sure)))
        return answer

    def last_by(self, client: Any, rng: random.Random) -> Any:
        row = self.some_row(rng)
        answer = client.query({"last_by": {"table": "trades", "at": at(row), "columns": ["trade_id"]}})
        assert sorted(answer.to_arrow()["trade_id"].to_pylist()) == list(range(row - KEYS + 1, row + 1))
        return answer

    def asof(self, client: Any, rng: random.Random) -> Any:
        asked = [(self.some_row(rng), rng.randrange(KEYS)) for _ in range(20)]
        probes = pa.record_batch(
            {
                "symbol": pa.array([f"S{key:02d}" for _, key in asked]),
                "ts": pa.array([at(row) for row, _ in asked], pa.timestamp("ns", "UTC")),
            }
        )
        right = {"table": "trades", "columns": ["trade_id"]}
        answer = client.query({"asof": {"left": {"probe": True}, "right": right}}, probes)
        wanted = [row - (row - key) % KEYS for row, key in asked]
        assert answer.to_arrow()["trade_id"].to_pylist() == wanted
        return answer

    def sql(self, client: Any, rng: random.Random) -> Any:
        low = self.some_row(rng)
        high = min(low + 20_000, self.sure)
        answer = client.query(
            {
                "sql": "SELECT count() AS n, sum(trade_id) AS t, sum(size) AS s FROM trades WHERE "
                f"ts >= fromUnixTimestamp64Nano({at(low)}) AND ts < fromUnixTimestamp64Nano({at(high)})"
            }
        )
        i = np.arange(low, high)
        assert answer.to_arrow().to_pylist() == [{"n": len(i), "t": int(i.sum()), "s": float((i % 97).sum())}]
        return answer

    def bars(self, client: Any, rng: random.Random) -> Any:
        low = self.some_row(rng) // 1000 * 1000
        high = min(low + 3_000, self.sure // 1000 * 1000)
        aggs = [{"fn": "count", "as": "n"}, {"fn": "max", "value": "trade_id", "as": "m"}]
        asked = {"table": "trades", "keys": ["S07"], "from": at(low), "to": at(high), "every": "1s", "aggs": aggs}
        answer = client.query({"bars": asked})
        found = [(bar["n"], bar["m"]) for bar in answer.to_arrow().to_pylist()]
        assert found == [(1000 // KEYS, second + 1000 - KEYS + 7) for second in range(low, high, 1000)]
        return answer

    @property
    def sure(self) -> int:
        """Rows below it were acked before the question."""
        return self.feed.acked

    def some_row(self, rng: random.Random) -> int:
        return rng.randrange(self.first + 1_000, self.sure - 1)


def resident_bytes(pid: int) -> int:
    """Of a process, the memory that it shares included."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def watch(seconds: float, look: Callable[[], None], parts: tuple[Feed, Readers]) -> None:
    """Look four times a second for so long, and fail at once where a part has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        look()
        for part in parts:
            assert not part.failures, part.failures
        parts[0].stop.wait(0.25)


def test_an_outage_that_memory_has_no_room_for(tmp_path: Path) -> None:
    seed = 11
    with LocalCluster(tmp_path) as cluster:
        control = Control(cluster.endpoints)
        query = cluster.endpoints["query"][0]["flight"]
        with proxist.connect(query) as client:
            client.create_table({**TRADES, "hot_bytes": HOT, "shards": 1})
            for number in range(4):
                client.write("trades", rows(number * BATCH))
        control.flush("trades")
        feed = Feed(query, acked=4 * BATCH)
        readers = Readers(query, feed, feed.acked, seed)
        threads = [threading.Thread(target=part.run) for part in (feed, readers)]
        pid = cluster.pid("ingest-0")
        memory: list[int] = [resident_bytes(pid)]
        warm: list[int] = [0]

        def look() -> None:
            memory.append(resident_bytes(pid))
            (mark,) = control.marks("trades")
            warm.append(max(0, mark.floor - mark.persisted))

        try:
            with cluster.stopped("clickhouse"):
                threads[0].start()
                control.until(lambda: feed.acked > readers.first + 5_000, "the first rows of the outage")
                threads[1].start()
                began, before = time.monotonic(), feed.acked
                watch(OUTAGE_S, look, (feed, readers))
                live = (feed.acked - before) / (time.monotonic() - began)
            outage_reads, outage_floors, slowest = len(readers.seconds), readers.floors, max(readers.seconds)
            assert max(warm) > 0, "memory had room for the whole outage"
            assert outage_floors > 0, "nothing was read from the log"
            behind, took_s, rate, live_then = catch_up(control, feed, look, readers)
        finally:
            feed.stop.set()
            readers.stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        assert not feed.failures + readers.failures, feed.failures + readers.failures
        control.flush("trades")
        print(
            f"\nseed {seed}: {OUTAGE_S:g} s without ClickHouse at {live:,.0f} rows/s into {HOT}; {feed.acked:,} rows; "
            f"{max(warm):,} warm at most; owner {memory[0] / 2**20:.0f} to {max(memory) / 2**20:.0f} MiB; "
            f"{outage_reads} reads meanwhile ({outage_floors} of the log, {slowest:.2f} s the slowest), "
            f"{len(readers.seconds) - outage_reads} after it ({max(readers.seconds[outage_reads:]):.2f} s); "
            f"catch-up of {behind:,} rows in {took_s:.1f} s at {rate:,.0f} rows/s beside {live_then:,.0f} that came"
        )
        assert max(memory) < memory[0] + parse_bytes(HOT, "PROXIST_OUTAGE_HOT") + RSS_SLACK_BYTES
        control.evict("trades", all=True)
        assert_all_there(cluster, query, feed.acked)
        assert rate >= 2 * live_then, f"the catch-up is {rate:,.0f} rows/s, beside {live_then:,.0f} that come"
        control.close()


def catch_up(
    control: Control, feed: Feed, look: Callable[[], None], readers: Readers
) -> tuple[int, float, float, float]:
    """Until ClickHouse is seconds behind the rows that still come: (rows it was behind, seconds, rows/s, rows/s that came)."""
    (mark,) = control.marks("trades")
    began, acked, persisted = time.monotonic(), feed.acked, mark.persisted
    behind = mark.end - mark.persisted
    deadline = began + 10 * OUTAGE_S + 300
    while mark.end - mark.persisted > max(2 * ROWS_S, behind // 20):
        assert time.monotonic() < deadline, f"{mark.end - mark.persisted} rows are still behind"
        watch(0.5, look, (feed, readers))
        (mark,) = control.marks("trades")
    took_s = time.monotonic() - began
    return behind, took_s, (mark.persisted - persisted) / took_s, (feed.acked - acked) / took_s


def assert_all_there(cluster: LocalCluster, query: str, count: int) -> None:
    """By Proxist and by ClickHouse itself: each row once, with its own values."""
    i = np.arange(count)
    sums = {
        "n": count,
        "ids": count,
        "t": int(i.sum()),
        "p": float((i * 7919 % 1000).sum() / 8),
        "s": float((i % 97).sum()),
    }
    text = "SELECT count() AS n, uniqExact(trade_id) AS ids, sum(trade_id) AS t, sum(price) AS p, sum(size) AS s FROM "
    with proxist.connect(query) as client:
        assert client.sql(text + "trades").to_arrow().to_pylist() == [sums]
        last = client.last_by("trades", columns=["trade_id"]).to_arrow()
        assert sorted(last["trade_id"].to_pylist()) == list(range(count - KEYS, count))
    direct = clickhouse_connect.get_client(**clickhouse_door(cluster), autogenerate_session_id=False)
    try:
        assert direct.query_arrow(text + "default.trades").to_pylist() == [sums]
        offsets = direct.query("SELECT count(), uniqExact(_offset), max(_offset) FROM default.trades").result_rows
        assert offsets == [(count, count, count - 1)]
    finally:
        direct.close()
