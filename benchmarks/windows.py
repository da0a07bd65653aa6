"""S3: windows and bars on a hot set of this process."""

from __future__ import annotations

import numpy as np

from benchmarks.bench import Bench, filled
from benchmarks.report import at_most
from benchmarks.rows import HOUR_NS, T0_NS, make_rows
from benchmarks.timing import Ask, in_turns, turning
from proxist.hot.ops import HotBars, HotWindow
from proxist.hot.reader import HotReader
from proxist.model.query import Agg

US = 1e-6
RANGES = 256
MINUTES_5_NS = 300 * 10**9
VWAP = Agg("vwap", "price", "size", name="vwap")


def measure(bench: Bench) -> None:
    count = bench.size.rows
    bench.report.section(f"windows, in process: any range of one key with {count:,} rows; series of a key with 4,000")
    alone = make_rows(count, 1)
    with filled(iter([alone.table]), count, 1) as hot:
        reader = hot.reader()
        try:
            times = alone.table["ts"].cast("int64").to_numpy()
            _ranges(bench, reader, alone.busy, times)
        finally:
            reader.close()
    with filled(iter([bench.rows.table]), count, bench.size.keys) as hot:
        reader = hot.reader()
        try:
            _series(bench, reader)
        finally:
            reader.close()


def _ranges(bench: Bench, reader: HotReader, key: str, times: np.ndarray) -> None:  # type: ignore[type-arg]
    sums = (Agg("sum", "size"), Agg("count"), Agg("avg", "price"))
    spread = (Agg("min", "price"), Agg("max", "price"), Agg("stddev", "price"))
    for id, what, aggs, budget in (
        ("s3.sum_any_range", "sum, count, avg over any range", sums, at_most(10 * US)),
        ("s3.vwap_any_range", "vwap over any range", (VWAP,), at_most(10 * US)),
        ("s3.minmax_any_range", "min, max, stddev over any range", spread, at_most(100 * US)),
    ):
        ask = turning(reader.run, [_window(key, aggs, *one) for one in _any(times)])
        _line(bench, id, what, ask, budget)


def _series(bench: Bench, reader: HotReader) -> None:
    key, hour = bench.rows.busy, (T0_NS, T0_NS + HOUR_NS)
    series = HotWindow((VWAP,), (key,), *hour, range_ns=MINUTES_5_NS)
    fns = ("open", "high", "low", "close")
    ohlc = (*(Agg(fn, "price", name=fn) for fn in fns), VWAP, Agg("count"))
    bars = HotBars(ohlc, 10**9, (key,), *hour)
    found = reader.run(series).rows.num_rows
    _line(
        bench, "s3.vwap_series", f"5-minute rolling VWAP, {found:,} rows", lambda: reader.run(series), at_most(300 * US)
    )
    _line(bench, "s3.bars_1h", "bars of 1 s over one hour", lambda: reader.run(bars), at_most(300 * US))


def _line(bench: Bench, id: str, what: str, ask: Ask, budget: object) -> None:
    size = bench.size
    bench.report.add(id, what, in_turns(ask, runs=size.runs, for_s=size.run_s), budget=budget)  # type: ignore[arg-type]


def _window(key: str, aggs: tuple[Agg, ...], at: int, range_ns: int) -> HotWindow:
    return HotWindow(aggs, (key,), at, at + 1, range_ns=range_ns)


def _any(times: np.ndarray) -> list[tuple[int, int]]:  # type: ignore[type-arg]
    """(time, range): from a handful of rows to all of them. Every second row shares its predecessor's time."""
    random = np.random.default_rng(5)
    ends = np.sort(random.integers(len(times) // 2, len(times), RANGES))
    shares = 10 ** random.uniform(-3, 0, RANGES)
    return [
        (int(times[end]), max(1, int((times[end] - times[0]) * share))) for end, share in zip(ends, shares, strict=True)
    ]
