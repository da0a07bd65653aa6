"""S6: from the ack to ClickHouse, while rows come at a steady rate; the parts that this leaves; the highest rate that holds."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pyarrow import flight

from benchmarks.bench import Bench, spec_with
from benchmarks.cluster import connect
from benchmarks.feeder import live
from benchmarks.report import at_most
from benchmarks.timing import Run
from proxist.testing.cluster import LocalCluster

RATE = 100_000
BATCH_ROWS = 1_000
P50_S, P99_S, PARTS, HOLDS_S = 0.050, 0.200, 20, 1.0
WARM_SHARE = 0.1
"""The beginning does not count: the first inserts create what later ones use."""
STEP_SHARE = 0.1
PARTS_EVERY_S = 0.5
DRAIN_S_MAX = 120.0


def measure(bench: Bench, cluster: LocalCluster) -> None:
    report, size = bench.report, bench.size
    report.section(f"from ack to persisted at {RATE:,} rows/s, for {size.lag_s:.0f} s")
    lags, parts = persisting(cluster, "lag", RATE, size.lag_s, bench.size.keys)
    report.add("s6.lag_p50", "ack to persisted: p50", [Run(_share(lags, 0.50))], budget=at_most(P50_S))
    report.add("s6.lag_p99", "ack to persisted: p99", [Run(_share(lags, 0.99))], budget=at_most(P99_S))
    report.add("s6.parts", "active parts, at most", [Run(float(parts))], unit="parts", budget=at_most(PARTS))
    held = float(RATE) if _share(lags, 0.99) <= HOLDS_S else 0.0
    for rate in size.lag_rates:
        found, _ = persisting(cluster, f"lag_{rate}", rate, max(5.0, STEP_SHARE * size.lag_s), bench.size.keys)
        p99_s = _share(found, 0.99)
        report.add(f"s6.lag_p99_at_{rate}", f"ack to persisted at {rate:,} rows/s: p99", [Run(p99_s)])
        if p99_s > HOLDS_S:
            break
        held = float(rate)
    tried = ", ".join(f"{rate:,}" for rate in (RATE, *size.lag_rates))
    report.add("s6.max_rate", f"highest rate whose p99 stays within 1 s, of {tried}", [Run(held)], unit="rows/s")


def persisting(cluster: LocalCluster, name: str, rate: float, for_s: float, keys: int) -> tuple[list[float], int]:
    """Write at `rate` at level `disk`, with acks of level `cold`: (seconds from the one to the other, most parts)."""
    with connect(cluster) as connection:
        table = connection.create_table(spec_with(name))
        owner = connection.table_map(name, fresh=True).owners[0]
        assert owner is not None
        with counting_parts(cluster, name) as parts, flight.connect(owner) as client:
            lags = _written(client, name, rate, for_s, keys)
        table.drop()
    return lags[int(WARM_SHARE * len(lags)) :], max(parts, default=0)


def _written(client: flight.FlightClient, name: str, rate: float, for_s: float, keys: int) -> list[float]:
    batches = live(keys, BATCH_ROWS)
    first = next(batches)
    writer, reader = client.do_put(flight.FlightDescriptor.for_path(name), first.schema)
    count = max(1, int(rate * for_s / BATCH_ROWS))
    found: list[float] = []
    thread = threading.Thread(target=_read_acks, args=(reader, count, found), name="acks", daemon=True)
    thread.start()
    began = time.perf_counter()
    for number in range(1, count + 1):
        early = began + number * BATCH_ROWS / rate - time.perf_counter()
        if early > 0:
            time.sleep(early)
        wire = {"producer": "bench", "seq": number, "acks": ["cold"]}
        writer.write_with_metadata(next(batches), json.dumps(wire).encode())
    writer.done_writing()
    thread.join(for_s + DRAIN_S_MAX)
    ended = not thread.is_alive()
    writer.close() if ended else client.close()
    if not ended:
        raise TimeoutError(f"after {DRAIN_S_MAX:.0f} s {count - len(found):,} of {count:,} batches are not persisted")
    return found


def _read_acks(reader: Any, count: int, found: list[float]) -> None:
    """The first acks come in order; a later one names its batch in `of`."""
    acked: list[float] = []
    while len(found) < count:
        told: dict[str, Any] = json.loads(pa.py_buffer(reader.read()).to_pybytes())
        now = time.perf_counter()
        if "of" in told:
            found.append(now - acked[told["of"] - 1])
        else:
            acked.append(now)


@contextmanager
def counting_parts(cluster: LocalCluster, table: str) -> Iterator[list[int]]:
    """Active parts of a table in ClickHouse, asked twice a second until the block ends."""
    text = f"SELECT count() FROM system.parts WHERE active AND table = '{table}'"
    url = f"{cluster.endpoints['clickhouse']}/?{urllib.parse.urlencode({'query': text})}"
    found: list[int] = []
    ended = threading.Event()

    def count() -> None:
        while not ended.wait(PARTS_EVERY_S):
            found.append(int(urllib.request.urlopen(url, timeout=60).read()))

    thread = threading.Thread(target=count, name="parts")
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _share(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
