"""Windows and bars in this process, each beside numpy's cumulative sum of the same rows."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.report import Report, latency
from benchmarks.rows import SPEC, T0_NS
from proxist.hot.ops import HotBars, HotWindow
from proxist.hot.reader import HotReader
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId, TimeNs
from proxist.model.query import Agg

KEYS, HOURS, ROWS_PER_HOUR = 20, 25, 4_000
HOUR_NS = 3_600 * 10**9
LEASE_NS = 3_600 * 10**9
STEP_NS = HOUR_NS // ROWS_PER_HOUR
LAST_NS = T0_NS + (HOURS * ROWS_PER_HOUR - 1) * STEP_NS
KEY = "SYM00007"
VWAP = Agg("vwap", "price", "size")
BUDGET_SUM_S, BUDGET_OTHER_S, BUDGET_SERIES_S = 10e-6, 100e-6, 300e-6


def measure(report: Report) -> None:
    """Budgets: a sum-like value 10 µs, another 100 µs, whatever the range; a series or bars of 4,000 rows 300 µs."""
    report.section(f"windows, in process: {KEYS} keys of {ROWS_PER_HOUR:,} rows an hour, {HOURS} hours")
    with HotSet.create(SPEC, ShardId(1), Epoch(1), Offset(0)) as hot:
        hot.set_lease_until(time.monotonic_ns() + LEASE_NS)
        _fill(hot)
        reader = hot.reader()
        try:
            for hours in (1, HOURS):
                _values(report, reader, hours)
            _series(report, reader)
        finally:
            reader.close()


def _fill(hot: HotSet) -> None:
    random, keys, end = np.random.default_rng(3), pa.array([f"SYM{n:05d}" for n in range(KEYS)]), Offset(0)
    for hour in range(HOURS):
        count = KEYS * ROWS_PER_HOUR
        number = np.arange(hour * count, (hour + 1) * count)
        batch = pa.record_batch(
            {
                "symbol": keys.take(pa.array(number % KEYS)),
                "ts": pa.array(T0_NS + number // KEYS * STEP_NS, pa.timestamp("ns", tz="UTC")),
                "trade_id": pa.array(number.astype(np.uint64)),
                "price": pa.array(np.round(100 + random.normal(0, 1, count), 2)),
                "size": pa.array(np.round(random.exponential(1.0, count), 3)),
            },
            schema=SPEC.schema,
        )
        end = hot.append(batch, end, 0)
        hot.publish(end)


def _values(report: Report, reader: HotReader, hours: int) -> None:
    floor, range_ns = _cumulative_sum(hours * ROWS_PER_HOUR), hours * HOUR_NS
    for agg in (Agg("sum", "price"), VWAP, Agg("min", "price"), Agg("stddev", "price")):
        budget = BUDGET_SUM_S if agg.fn in ("sum", "vwap") else BUDGET_OTHER_S
        prepared = reader.prepare_window(KEY, agg, range_ns)
        _line(report, f"{agg.fn} of {hours} h, prepared", lambda p=prepared: reader.read(p), floor, budget)
        op = HotWindow((agg,), (KEY,), TimeNs(LAST_NS), None, range_ns)
        _line(report, f"{agg.fn} of {hours} h, one window", lambda o=op: reader.run(o), floor, BUDGET_OTHER_S)


def _series(report: Report, reader: HotReader) -> None:
    first, floor = TimeNs(LAST_NS - HOUR_NS + 1), _cumulative_sum(ROWS_PER_HOUR)
    ohlc = tuple(Agg(fn, "price") for fn in ("open", "high", "low", "close"))
    asked: dict[str, Any] = {
        "VWAP of 5 minutes at each of 4,000 rows": HotWindow((VWAP,), (KEY,), first, None, 300 * 10**9),
        "bars of 1 s of an hour, VWAP": HotBars((VWAP,), 10**9, (KEY,), first),
        "bars of 1 s of an hour, open high low close": HotBars(ohlc, 10**9, (KEY,), first),
    }
    for what, op in asked.items():
        _line(report, what, lambda o=op: reader.run(o), floor, BUDGET_SERIES_S)


def _line(report: Report, what: str, call: Any, floor_s: float, budget_s: float) -> None:
    found = latency(call)
    verdict = "hit" if found.p50_s <= budget_s else "miss"
    report.timed(what, found, floor_s, f"budget {budget_s * 1e6:.0f} µs: {verdict}")


def _cumulative_sum(count: int) -> float:
    values = np.random.default_rng(4).normal(100, 1, count)
    return latency(lambda: np.cumsum(values)).p50_s
