"""ClickHouse away for longer than memory has room: what is asked is what a table with room for everything says, from the
owner's log while ClickHouse is down, over three places while it comes back, from history at last."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from control import TRADES, Control, metrics_page, pxctl_says
from doors import Ask, action, by_get, put, receipt

import proxist
from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

START_NS, STEP_NS, BATCH = 1_723_161_600_000_000_000, 1_000_000, 1_000
SMALL, ROOMY = "trades", "roomy"
AGGS = [{"fn": fn, "value": "price"} for fn in ("sum", "min", "first")] + [{"fn": "count"}]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("away")) as running:
        yield running


def rows(first: int) -> pa.RecordBatch:
    """Row i is at START + i ms, some up to a second late, ties included; 20 symbols."""
    rng = np.random.default_rng(first)
    i = np.arange(first, first + BATCH)
    late = np.where(rng.random(BATCH) < 0.05, rng.integers(0, 1000, BATCH), 0)
    return pa.record_batch(
        {
            "symbol": pa.array([f"S{k:02d}" for k in rng.integers(0, 20, BATCH)]),
            "ts": pa.array(START_NS + (i - late) // 2 * 2 * STEP_NS, pa.timestamp("ns", "UTC")),
            "trade_id": pa.array(i, pa.uint64()),
            "price": pa.array(rng.random(BATCH)),
            "size": pa.array(rng.integers(1, 1000, BATCH).astype(float)),
            "buyer_is_maker": pa.array(rng.random(BATCH) < 0.5),
        }
    )


def at(row: int) -> int:
    return START_NS + row * STEP_NS


def questions(first: int, end: int) -> list[dict[str, Any]]:
    """Every operator and SQL over rows from `first` to `end`, none of which needs a row that is a second older."""
    low, high = at(first + 3_000), at((2 * first + end) // 3)
    part = {"table": SMALL, "keys": ["S01", "S07", "S19"], "from": low, "to": high}
    where = f"ts >= fromUnixTimestamp64Nano({low}) AND ts < fromUnixTimestamp64Nano({high})"
    return [
        {"scan": part},
        {"scan": {"table": SMALL, "from": low, "limit": 500, "columns": ["symbol", "trade_id", "_offset"]}},
        {"last_by": {"table": SMALL}},
        {"last_by": {"table": SMALL, "at": high}},
        {"first_by": {"table": SMALL, "at": low}},
        {"asof": {"left": part, "right": {"table": SMALL, "columns": ["trade_id"]}, "allow_exact": False}},
        {"asof": {"left": part, "right": {"table": SMALL}, "direction": "forward"}},
        {"window": {**part, "range": "1s", "aggs": AGGS}},
        {"bars": {**part, "every": "500ms", "aggs": AGGS}},
        {"sql": f"SELECT count() AS n, sum(size) AS s, sum(trade_id) AS t FROM {SMALL} WHERE {where}"},
        {
            "sql": f"SELECT symbol, count() AS n, max(trade_id) AS t FROM {SMALL} WHERE {where} GROUP BY symbol ORDER BY symbol"
        },
    ]


def everything() -> list[dict[str, Any]]:
    """Questions that reach from the first row to the last."""
    return [
        {"scan": {"table": SMALL, "columns": ["trade_id", "symbol", "price"]}},
        {"window": {"table": SMALL, "keys": ["S03"], "rows": 50, "aggs": AGGS}},
        {"bars": {"table": SMALL, "every": "5s", "aggs": AGGS}},
        {"first_by": {"table": SMALL}},
        {"sql": f"SELECT symbol, count() AS n, sum(trade_id) AS t FROM {SMALL} GROUP BY symbol ORDER BY symbol"},
    ]


def roomy(question: Any) -> Any:
    """The same of the other table."""
    if isinstance(question, dict):
        return {name: roomy(value) for name, value in question.items()}
    return question.replace(SMALL, ROOMY) if isinstance(question, str) else question


def same(ask: Ask, asked: list[dict[str, Any]]) -> list[tuple[dict[str, Any], pa.Table]]:
    answers = [(question, ask(question)) for question in asked]
    for question, answer in answers:
        wanted = ask(roomy(question)).replace_schema_metadata(None)
        assert answer.replace_schema_metadata(None).equals(wanted), question
    return answers


class Writes:
    def __init__(self, cluster: LocalCluster) -> None:
        self._uri = cluster.endpoints["ingest"][0]["flight"]
        self.count = 0

    def more(self, batches: int) -> None:
        """Of both tables the same."""
        for _ in range(batches):
            for table in (SMALL, ROOMY):
                put(self._uri, table, rows(self.count))
            self.count += BATCH


def warm_rows(control: Control) -> int:
    return sum(max(0, mark.floor - mark.persisted) for mark in control.marks(SMALL))


def test_answers_are_those_of_a_table_with_room_for_everything(cluster: LocalCluster) -> None:
    control, writes = Control(cluster.endpoints), Writes(cluster)
    query = cluster.endpoints["query"][0]["flight"]
    for name, size in ((SMALL, "1MiB"), (ROOMY, "64MiB")):
        action(query, "create_table", {**TRADES, "name": name, "hot_bytes": size})
    attached, remote = by_get(query, "attach"), by_get(query, "flight")
    writes.more(10)
    control.flush(SMALL)
    control.flush(ROOMY)
    before = writes.count
    with cluster.stopped("clickhouse"):
        writes.more(40)
        assert warm_rows(control) > 10_000
        asked = [pair for ask in (attached, remote) for pair in same(ask, questions(before, writes.count))]
        with proxist.connect(query, attach="auto") as client:
            for question in questions(before, writes.count):
                assert client.query(question).to_arrow().equals(client.query(roomy(question)).to_arrow()), question
        modes = {receipt(answer)["mode"] for _, answer in asked}
        assert modes == {"hot"}, "something needed history"
        assert any("floor" in cut for _, answer in asked for cut in receipt(answer)["cut"])
        shown = pxctl_says(cluster, "status")
        assert "warm" in shown
        page = metrics_page(cluster, cluster.endpoints["ingest"][0]["http"])
        (line,) = re.findall(rf'^proxist_warm_rows\{{[^}}]*table="{SMALL}"[^}}]*\}} (\S+)$', page, re.MULTILINE)
        assert float(line) == warm_rows(control)
    rounds = 0
    while control.marks(SMALL)[0].persisted < writes.count:  # while the persister catches up
        asked += same(attached, everything())
        rounds += 1
        assert rounds < 1_000, "the persister does not catch up"
    asked += same(remote, everything() + questions(before, writes.count))
    print(f"{len(asked)} answers, {rounds} rounds during the catch-up")

    control.pause(SMALL)  # warm rows while history can be read
    writes.more(40)
    assert warm_rows(control) > 10_000
    asked += same(attached, everything() + questions(before, writes.count))
    assert {receipt(answer)["mode"] for _, answer in asked} >= {"hot", "cold+hot"}
    control.resume(SMALL)
    control.flush(SMALL)
    control.evict(SMALL, all=True)
    assert warm_rows(control) == 0
    for question, answer in asked[::2]:
        again = remote({**question, "as_of": receipt(answer)["token"]})
        assert again.replace_schema_metadata(None).equals(answer.replace_schema_metadata(None)), question
    control.close()
