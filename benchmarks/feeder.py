"""A writer in a process of its own: `python -m benchmarks.feeder URI …` writes live rows until its stdin ends.

It says "feeding" when the first batch is acknowledged, and at the end how many rows it wrote and how many per second.
"""

from __future__ import annotations

import proxist.rpc.env  # before pyarrow and grpc are loaded

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import proxist
from benchmarks.rows import stream_rows

LAP_ROWS = 200_000
STEP_NS = 100
"""Between rows: less than the fastest writer needs, so that times never pass the clock."""


def live(keys: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Endless batches in time order from now on; a lap's rows differ from the last one's in time and number only."""
    lap = pa.concat_tables(stream_rows(LAP_ROWS, keys)).combine_chunks()
    begin, number = time.time_ns(), 0
    ticks = np.arange(LAP_ROWS) * STEP_NS
    at = lap.column_names.index("ts")
    while True:
        times = pa.array(begin + number * STEP_NS + ticks, pa.timestamp("ns", tz="UTC"))
        ids = pc.add(lap["trade_id"], pa.scalar(LAP_ROWS, pa.uint64()))
        lap = lap.set_column(at, lap.schema.field(at), times).set_column(at + 1, lap.schema.field(at + 1), ids)
        yield from lap.to_batches(max_chunksize=batch_rows)
        number += LAP_ROWS


def pump(
    writer: Any, batches: Iterator[pa.RecordBatch], batch_rows: int, stop: Any, rate: float = 0.0
) -> tuple[int, float]:
    """Send until `stop()`, at most `rate` rows per second: (rows that were acknowledged, seconds)."""
    sent, began = 0, time.perf_counter()
    while not stop():
        if rate and (early := began + sent / rate - time.perf_counter()) > 0:
            time.sleep(early)
        batch = next(batches)
        writer.send(batch, batch_rows=batch_rows)
        sent += batch.num_rows
    rows = writer.flush().rows
    return rows, time.perf_counter() - began


def _at_end_of_stdin(then: Callable[[], None]) -> None:
    sys.stdin.read()
    then()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feeder", description=__doc__)
    parser.add_argument("uri")
    parser.add_argument("--table", required=True)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--batch-rows", type=int, default=1_000)
    given = parser.parse_args()
    ended = threading.Event()
    threading.Thread(target=_at_end_of_stdin, args=(ended.set,), name="stdin", daemon=True).start()
    with proxist.connect(given.uri, attach="never") as connection, connection.table(given.table).writer() as writer:
        batches = live(given.keys, given.batch_rows)
        writer.write(next(batches))
        writer.flush()
        print("feeding", flush=True)
        rows, took_s = pump(writer, batches, given.batch_rows, ended.is_set, given.rate)
    print(rows, rows / took_s, flush=True)


if __name__ == "__main__":
    main()
