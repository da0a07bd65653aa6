"""Real captures through the whole system: the same answers whatever tier the rows are in, in whatever order they came."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from control import BY_HAND, QUOTES, TRADES, Control
from doors import Ask, action, by_get, by_session, put, receipt
from golden import MIDNIGHT_NS, asof_query, assert_golden, by_operators, by_sql, read_golden

from proxist.testing.cluster import LocalCluster

TABLES = ("trades", "quotes")
AGGS = [
    {"fn": "vwap", "value": "price", "weight": "size"},
    *({"fn": fn, "value": "price"} for fn in ("count", "sum", "avg", "stddev", "min", "max", "first", "last")),
    {"fn": "ema", "value": "price", "alpha": 0.05},
]
OHLC = [{"fn": fn, "value": "price"} for fn in ("open", "high", "low", "close")]
SHUFFLE_WINDOW, SHUFFLE_SEED = 10_000, 20240808

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("real")) as running:
        yield running


@pytest.fixture(scope="module")
def control(cluster: LocalCluster) -> Iterator[Control]:
    control = Control(cluster.endpoints)
    yield control
    control.close()


@pytest.fixture(scope="module")
def recorded() -> dict[str, pa.Table]:
    """Filled by the first journey, shuffled by the second: the rows as the system gave them back."""
    return {}


def doors(cluster: LocalCluster) -> dict[str, Ask]:
    query = cluster.endpoints["query"][0]
    return {
        "attach": by_get(query["flight"], "attach"),
        "flight": by_get(query["flight"], "flight"),
        "exchange": by_session(query["flight_unix"]),
    }


def create_paused(cluster: LocalCluster, control: Control) -> None:
    for spec in (TRADES, QUOTES):
        action(cluster.endpoints["query"][0]["flight"], "create_table", {**spec, **BY_HAND})
        control.pause(spec["name"])


def replay(cluster: LocalCluster, files: list[Path]) -> None:
    command = [sys.executable, "-m", "proxist.cli.proxist", "replay", "--to", cluster.endpoints["ingest"][0]["flight"]]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def exact_answers(ask: Ask) -> dict[str, pa.Table]:
    """Answers that must be equal to the last bit, receipts aside."""
    queries: dict[str, dict[str, Any]] = {
        "trades": {"scan": {"table": "trades"}},
        "quotes": {"scan": {"table": "quotes", "keys": ["spot:BTCUSDT", "cm:ETHUSD_PERP"]}},
        "asof": asof_query(),
        "nearest": asof_query(direction="nearest", tolerance="5ms", allow_exact=False),
        "last": {"last_by": {"table": "quotes"}},
        "first": {"first_by": {"table": "quotes", "columns": ["ask", "bid"]}},
        "window": {"window": {"table": "trades", "range": "30s", "aggs": AGGS}},
        "rows": {
            "window": {"table": "trades", "rows": 50, "aggs": AGGS, "from": MIDNIGHT_NS, "keys": ["spot:BTCUSDT"]}
        },
        "bars": {"bars": {"table": "trades", "every": "1s", "fill": "prev", "aggs": [*AGGS, *OHLC]}},
        "sql": {"sql": "SELECT symbol, ts, trade_id, price FROM trades ORDER BY size DESC, ts, trade_id LIMIT 500"},
    }
    return {name: ask(query).replace_schema_metadata(None).combine_chunks() for name, query in queries.items()}


def check_everything(cluster: LocalCluster, golden: dict[str, Any], expected: dict[str, pa.Table], moment: str) -> None:
    for door, ask in doors(cluster).items():
        print(f"{moment}: {door}", flush=True)
        assert_golden(by_sql(ask), golden)
        assert_golden(by_operators(ask), golden)
        for name, table in exact_answers(ask).items():
            assert table.equals(expected.setdefault(name, table)), f"{moment}, {door}: {name} differs"


def four_moments(
    cluster: LocalCluster, control: Control, golden: dict[str, Any], expected: dict[str, pa.Table]
) -> None:
    """All rows hot; half persisted, floor at 0; floor in the middle; everything evicted. Rows are already there, cut in half."""
    modes = []

    def check(moment: str) -> None:
        check_everything(cluster, golden, expected, moment)
        answer = doors(cluster)["attach"]({"scan": {"table": "trades"}})
        modes.append(receipt(answer)["mode"])

    assert [m.persisted for t in TABLES for m in control.marks(t)] == [0, 0]
    check("all hot")

    for table in TABLES:
        control.resume(table)
        control.until(
            lambda t=table: all(0 < m.persisted < m.end for m in control.marks(t)), f"half of {table} persisted"
        )
        assert all(m.floor == 0 for m in control.marks(table))
    check("half persisted")

    for table in TABLES:
        control.flush(table)
        control.evict(table, rows=control.end(table) // 2)
        assert all(0 < m.floor < m.persisted == m.end for m in control.marks(table))
    check("floor in the middle")

    for table in TABLES:
        control.evict(table, all=True)
        assert all(m.floor == m.persisted == m.end for m in control.marks(table))
    check("all cold")
    assert modes == ["hot", "hot", "cold+hot", "cold"]


def test_golden_answers_at_four_moments_as_recorded(
    cluster: LocalCluster, control: Control, data_dir: Path, recorded: dict[str, pa.Table]
) -> None:
    files = sorted(p for p in data_dir.glob("*.gz") if not p.name.startswith("hyperliquid"))
    assert len(files) == 10
    create_paused(cluster, control)
    replay(cluster, files[:5])
    for table in TABLES:
        control.cut(table)
    replay(cluster, files[5:])
    expected: dict[str, pa.Table] = {}
    four_moments(cluster, control, read_golden(data_dir / "golden_asof_vwap.csv"), expected)
    ask = doors(cluster)["attach"]
    recorded.update({table: ask({"scan": {"table": table}}) for table in TABLES})
    recorded.update({f"expected {name}": table for name, table in expected.items()})


def write_half_and_half(cluster: LocalCluster, control: Control, name: str, rows: pa.Table) -> None:
    uri, half = cluster.endpoints["ingest"][0]["flight"], rows.num_rows // 2
    for part, first in ((rows.slice(0, half), True), (rows.slice(half), False)):
        with fl.connect(uri) as client:
            writer, reader = client.do_put(fl.FlightDescriptor.for_path(name), rows.schema)
            with writer:
                batches = part.combine_chunks().to_batches(max_chunksize=5000)
                for batch in batches:
                    writer.write_with_metadata(batch, b"{}")
                    assert reader.read() is not None
                writer.done_writing()
        if first:
            control.cut(name)


def shuffled(rows: pa.Table) -> pa.Table:
    """Shuffled within windows of 10,000 rows, the same way at each run."""
    rng = np.random.default_rng(SHUFFLE_SEED)
    starts = range(0, rows.num_rows, SHUFFLE_WINDOW)
    order = [start + rng.permutation(min(SHUFFLE_WINDOW, rows.num_rows - start)) for start in starts]
    return rows.take(np.concatenate(order))


def test_golden_answers_at_four_moments_shuffled(
    cluster: LocalCluster, control: Control, data_dir: Path, recorded: dict[str, pa.Table]
) -> None:
    assert recorded, "runs after the journey as recorded"
    for table in TABLES:
        control.drop(table)
    create_paused(cluster, control)
    for table in TABLES:
        write_half_and_half(cluster, control, table, shuffled(recorded[table].replace_schema_metadata(None)))
    expected = {name.removeprefix("expected "): t for name, t in recorded.items() if name.startswith("expected ")}
    four_moments(cluster, control, read_golden(data_dir / "golden_asof_vwap.csv"), expected)


def test_a_late_row_is_visible_to_the_first_read_after_its_ack(cluster: LocalCluster, control: Control) -> None:
    spec = {**TRADES, "name": "late"}
    uri = cluster.endpoints["query"][0]["flight"]
    action(uri, "create_table", spec)
    schema = pa.schema([("symbol", pa.string()), ("ts", pa.timestamp("ns", "UTC")), ("trade_id", pa.uint64())])
    schema = schema.append(pa.field("price", pa.float64())).append(pa.field("size", pa.float64()))
    schema = schema.append(pa.field("buyer_is_maker", pa.bool_()))

    def row(ts: int, trade_id: int) -> pa.RecordBatch:
        columns = [["A"], pa.array([ts], pa.timestamp("ns", "UTC")), [trade_id], [float(trade_id)], [1.0], [True]]
        return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)

    ingest = cluster.endpoints["ingest"][0]["flight"]
    hour = 3600 * 10**9
    put(ingest, "late", row(100 * hour, 1))
    control.flush("late")
    control.evict("late", all=True)
    for i in range(20):
        put(ingest, "late", row((99 - i) * hour, 2 + i))
        for door, ask in doors(cluster).items():
            first = ask({"first_by": {"table": "late"}}).to_pylist()
            assert first[0]["trade_id"] == 2 + i, door
            assert ask({"scan": {"table": "late"}}).num_rows == i + 2, door
            assert ask({"sql": "SELECT count() AS n FROM late"})["n"].to_pylist() == [i + 2], door
