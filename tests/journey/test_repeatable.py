"""A query asked again with its token gives the same answer, whatever moved between the tiers meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from control import TRADES, Control
from doors import Ask, action, by_get, receipt

from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

QUERIES, SEED, SYMBOLS, BATCH, BATCHES = 1000, 5, 40, 500, 400
AGGS = [
    {"fn": "vwap", "value": "price", "weight": "size"},
    {"fn": "ema", "value": "price", "alpha": 0.1},
    *({"fn": fn, "value": "price"} for fn in ("sum", "stddev", "min", "last")),
]
START_NS, STEP_NS = 1_723_161_600_000_000_000, 1_000_000


def rows(first: int, rng: np.random.Generator) -> pa.RecordBatch:
    """Row i is at START + i ms, some up to a second late, ties included."""
    i = np.arange(first, first + BATCH)
    late = np.where(rng.random(BATCH) < 0.05, rng.integers(0, 1000, BATCH), 0)
    return pa.record_batch(
        {
            "symbol": pa.array([f"S{k:02d}" for k in rng.integers(0, SYMBOLS, BATCH)]),
            "ts": pa.array(START_NS + (i - late) // 2 * 2 * STEP_NS, pa.timestamp("ns", "UTC")),
            "trade_id": pa.array(i, pa.uint64()),
            "price": pa.array(rng.random(BATCH)),
            "size": pa.array(rng.integers(1, 1000, BATCH).astype(float)),
            "buyer_is_maker": pa.array(rng.random(BATCH) < 0.5),
        }
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("repeat")) as running:
        yield running


def random_query(rng: random.Random) -> dict[str, Any]:
    low = START_NS + rng.randrange(BATCH * BATCHES) * STEP_NS
    high = low + rng.randrange(1, 20_000) * STEP_NS
    keys = [f"S{k:02d}" for k in rng.sample(range(SYMBOLS), rng.randrange(1, 5))]
    where = f"ts >= fromUnixTimestamp64Nano({low}) AND ts < fromUnixTimestamp64Nano({high})"
    part = {"table": "trades", "keys": keys, "from": low, "to": high}
    queries: list[dict[str, Any]] = [
        {"sql": f"SELECT count() AS n, sum(size) AS s FROM trades WHERE {where}"},
        {
            "sql": f"SELECT symbol, count() AS n, sum(size) AS s FROM trades WHERE {where} GROUP BY symbol ORDER BY symbol"
        },
        {"last_by": {"table": "trades", "keys": keys, "at": high}},
        {"last_by": {"table": "trades"}},
        {"scan": part},
        {"asof": {"left": part, "right": {"table": "trades", "columns": ["trade_id"]}, "allow_exact": False}},
        {"window": {**part, **rng.choice(({"range": "5s"}, {"rows": 200})), "aggs": AGGS}},
        {"bars": {**part, "every": "100ms", "fill": rng.choice(("none", "prev")), "aggs": AGGS}},
    ]
    return rng.choice(queries)


def stream(uri: str, stop: threading.Event, failures: list[BaseException]) -> None:
    rng = np.random.default_rng(SEED)
    try:
        with fl.connect(uri) as client:
            first = rows(0, rng)
            writer, reader = client.do_put(fl.FlightDescriptor.for_path("trades"), first.schema)
            with writer:
                for number in range(BATCHES):
                    writer.write_with_metadata(rows(number * BATCH, rng), b"{}")
                    reader.read()
                    if stop.is_set():
                        break
                writer.done_writing()
    except BaseException as error:
        failures.append(error)


def test_the_same_token_gives_the_same_answer_later(cluster: LocalCluster) -> None:
    control = Control(cluster.endpoints)
    query, ingest = cluster.endpoints["query"][0]["flight"], cluster.endpoints["ingest"][0]["flight"]
    action(query, "create_table", {**TRADES, "hot_window": "500ms"})
    ask: Ask = by_get(query, "auto")
    rng, stop, failures = random.Random(SEED), threading.Event(), []
    print(f"seed {SEED}")
    writer = threading.Thread(target=stream, args=(ingest, stop, failures))
    writer.start()
    asked: list[tuple[dict[str, Any], pa.Table]] = []
    try:
        control.until(lambda: control.end("trades") > 0, "the first rows")
        for _ in range(QUERIES):
            question = random_query(rng)
            asked.append((question, ask(question)))
    finally:
        stop.set()
        writer.join()
    assert not failures, failures
    modes = {receipt(answer)["mode"] for _, answer in asked}
    print(f"{len(asked)} queries, modes {sorted(modes)}")
    control.flush("trades")
    control.evict("trades", all=True)
    for question, answer in asked:
        again = ask({**question, "as_of": receipt(answer)["token"]})
        assert again.replace_schema_metadata(None).equals(answer.replace_schema_metadata(None)), question
    control.close()
