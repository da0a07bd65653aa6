"""The rows that every engine gets: one hour of trades of many keys, with ties and late starters; and probes into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
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
COLUMNS = ("price", "size")
PROBES = 1_000
BUSY_ROWS = 4_000
T0_NS = 1_723_161_600 * 10**9
HOUR_NS = 3_600 * 10**9
PIECE_ROWS = 1_000_000
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    table: pa.Table
    keys: list[str]
    probes: pa.RecordBatch
    """PROBES rows (symbol, ts), at random, ascending in time."""
    busy: str
    """The key with BUSY_ROWS rows over the hour (a fifth of all where there are fewer), each at a time of its own."""
    far: str
    """A key with rows at the very beginning only."""

    @property
    def count(self) -> int:
        return int(self.table.num_rows)


def make_rows(count: int, key_count: int, seed: int = 1) -> Rows:
    """`count` rows in time order over one hour: every second row has its predecessor's time
    and another key, times are whole µs."""
    keys = key_names(key_count)
    table = pa.concat_tables(stream_rows(count, key_count, seed)).combine_chunks()
    return Rows(table, keys, make_probes(keys, PROBES), busy=keys[0], far=keys[-1])


def make_probes(keys: list[str], count: int, seed: int = 7) -> pa.RecordBatch:
    """Keys at random, times at random within the hour and whole µs, ascending."""
    random = np.random.default_rng(seed)
    times = np.sort(T0_NS + random.integers(0, HOUR_NS // 1_000, count) * 1_000)
    names = pa.array(keys).take(pa.array(random.integers(0, len(keys), count)))
    return pa.record_batch({"symbol": names, "ts": pa.array(times, pa.timestamp("ns", tz="UTC"))})


def stream_rows(count: int, key_count: int, seed: int = 1, *, hour: int = 0) -> Iterator[pa.Table]:
    """The rows of `make_rows` piece by piece; those of `hour` 1 follow them, and so on."""
    names = pa.array(key_names(key_count))
    step_ns = max(1, HOUR_NS // count // 1_000) * 1_000
    for begin in range(0, count, PIECE_ROWS):
        numbers = np.arange(begin, min(begin + PIECE_ROWS, count))
        random = np.random.default_rng((seed, begin))
        times = T0_NS + hour * HOUR_NS + numbers // 2 * 2 * step_ns
        yield pa.table(
            {
                "symbol": names.take(pa.array(_codes(numbers, count, key_count, random))),
                "ts": pa.array(times, pa.timestamp("ns", tz="UTC")),
                "trade_id": pa.array((hour * count + numbers).astype(np.uint64)),
                "price": pa.array(np.round(100 + random.normal(0, 1, len(numbers)).cumsum() * 0.01, 2)),
                "size": pa.array(np.round(random.exponential(1.0, len(numbers)), 3) + 0.001),
            },
            schema=SPEC.schema,
        )


def key_names(count: int) -> list[str]:
    return [f"SYM{n:06d}" for n in range(count)]


def _codes(numbers: Ints, count: int, key_count: int, random: np.random.Generator) -> Ints:
    """Key 0 is the busy one, on even numbers; the last key is the far one. Rows of equal time are of different keys,
    since other engines break such ties otherwise."""
    if key_count < 4:
        return np.zeros(len(numbers), np.int64)
    codes = random.integers(1, key_count - 1, len(numbers))
    pairs = len(numbers) // 2 * 2
    evens, odds = codes[0:pairs:2], codes[1:pairs:2]
    odds[odds == evens] = odds[odds == evens] % (key_count - 2) + 1
    codes[numbers % max(6, count // BUSY_ROWS // 2 * 2) == 0] = 0
    codes[(numbers < 1_000) & (numbers % 10 == 5)] = key_count - 1
    return codes
