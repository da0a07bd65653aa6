"""The rows that every engine gets: trades of many keys, in time order, with ties; and probes into them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from proxist.model.table import TableSpec, parse_spec

SPEC: TableSpec = parse_spec(
    {
        "name": "bench",
        "time": "ts",
        "key": "symbol",
        "seq": "trade_id",
        "columns": [
            {"name": "symbol", "type": "string"},
            {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
            {"name": "trade_id", "type": "uint64"},
            {"name": "price", "type": "double"},
            {"name": "size", "type": "double"},
        ],
        "hot_bytes": "4GiB",
    }
)
PROBES = 1_000
T0_NS = 1_723_161_600 * 10**9
STEP_NS = 20_000


@dataclass(frozen=True)
class Rows:
    table: pa.Table
    keys: list[str]
    probes: pa.RecordBatch
    """PROBES rows (symbol, ts), at random."""

    @property
    def count(self) -> int:
        return int(self.table.num_rows)


def make_rows(count: int, key_count: int, seed: int = 1) -> Rows:
    random = np.random.default_rng(seed)
    keys = [f"SYM{n:05d}" for n in range(key_count)]
    names = pa.array(keys)
    times = T0_NS + np.arange(count) // 2 * 2 * STEP_NS  # every second row has its predecessor's time
    table = pa.table(
        {
            "symbol": names.take(pa.array(random.integers(0, key_count, count))),
            "ts": pa.array(times, pa.timestamp("ns", tz="UTC")),
            "trade_id": pa.array(np.arange(count, dtype=np.uint64)),
            "price": pa.array(np.round(100 + random.normal(0, 1, count).cumsum() * 0.01, 2)),
            "size": pa.array(np.round(random.exponential(1.0, count), 3)),
        },
        schema=SPEC.schema,
    )
    probes = pa.record_batch(
        {
            "symbol": names.take(pa.array(random.integers(0, key_count, PROBES))),
            "ts": pa.array(random.integers(T0_NS, T0_NS + count * STEP_NS, PROBES), pa.timestamp("ns", tz="UTC")),
        }
    )
    return Rows(table, keys, probes)
