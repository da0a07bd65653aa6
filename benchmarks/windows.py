"""S3: windows and bars on a hot set of this process."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.bench import Bench, filled
from benchmarks.report import Budget, at_most
from benchmarks.rows import HOUR_NS, T0_NS, make_rows
from benchmarks.timing import Ask, in_turns, turning
from proxist.hot.ops import HotBars, HotWindow
from proxist.hot.reader import HotReader
from proxist.model.ids import TimeNs
from proxist.model.query import Agg

US = 1e-6
RANGES = 64
MINUTES_5_NS = 300 * 10**9
HOUR = (TimeNs(T0_NS), TimeNs(T0_NS + HOUR_NS))
VWAP = Agg("vwap", "price", "size", name="vwap")
OHLC = tuple(Agg(fn, "price", name=fn) for fn in ("open", "high", "low", "close"))
SUM_LIKE, OTHER = at_most(10 * US), at_most(100 * US)
ANY_RANGE = {
    "s3.sum_any_range": (Agg("sum", "price"), SUM_LIKE),
    "s3.vwap_any_range": (VWAP, SUM_LIKE),
    "s3.minmax_any_range": (Agg("min", "price"), OTHER),
    "s3.stddev_any_range": (Agg("stddev", "price"), OTHER),
}


def measure(bench: Bench) -> None:
    count = bench.size.rows
    bench.report.section(f"windows, in process: any range of one key with {count:,} rows; series of the busy key")
    alone = make_rows(count, 1)
    with filled(iter([alone.table]), count, 1) as hot:
        reader = hot.reader()
        try:
            _any_range(bench, reader, alone.busy, alone.table["ts"].cast("int64").to_numpy())
        finally:
            reader.close()
    with filled(iter([bench.rows.table]), count, bench.size.keys) as hot:
        reader = hot.reader()
        try:
            _series(bench, reader)
        finally:
            reader.close()


def _any_range(bench: Bench, reader: HotReader, key: str, times: npt.NDArray[np.int64]) -> None:
    """One value: prepared, over ranges that end with the last row; as Arrow, over ranges that end anywhere."""
    for id, (agg, budget) in ANY_RANGE.items():
        handles = [reader.prepare_window(key, agg, range_ns) for _, range_ns in _ranges(times, len(times) - 1)]
        for handle in handles:  # its sums are made by its first read
            reader.read(handle)
        _line(bench, id, f"{agg.fn} over any range, prepared", turning(reader.read, handles), budget=budget)
        ops = [_window(key, agg, *one) for one in _ranges(times, len(times) // 2)]
        _line(bench, f"{id}_arrow", f"{agg.fn} over any range, as Arrow", turning(reader.run, ops))


def _series(bench: Bench, reader: HotReader) -> None:
    key = (bench.rows.busy,)
    series = HotWindow((VWAP,), key, *HOUR, range_ns=MINUTES_5_NS)
    found = reader.run(series).rows.num_rows
    values = np.random.default_rng(4).normal(100, 1, found)
    for id, what, op in (
        ("s3.vwap_series", f"5-minute rolling VWAP, {found:,} rows", series),
        ("s3.bars_1h", f"bars of 1 s over one hour, {found:,} rows: VWAP", HotBars((VWAP,), 10**9, key, *HOUR)),
        ("s3.bars_1h_ohlc", "the same: open, high, low, close", HotBars(OHLC, 10**9, key, *HOUR)),
    ):
        ask = turning(reader.run, [op])
        _line(bench, id, what, ask, lambda: np.cumsum(values), budget=at_most(300 * US))


def _line(bench: Bench, id: str, what: str, ask: Ask, floor: Ask | None = None, budget: Budget | None = None) -> None:
    runs = in_turns(ask, floor, runs=bench.size.runs, for_s=bench.size.run_s)
    bench.report.add(id, what, runs, floor_name="cumulative sum", budget=budget)


def _window(key: str, agg: Agg, at: int, range_ns: int) -> HotWindow:
    return HotWindow((agg,), (key,), TimeNs(at), TimeNs(at + 1), range_ns=range_ns)


def _ranges(times: npt.NDArray[np.int64], least: int) -> list[tuple[int, int]]:
    """(end, range) with the end at row `least` or later: from a thousandth of the rows before it to all of them."""
    random = np.random.default_rng(5)
    ends = times[random.integers(least, len(times), RANGES)]
    shares = 10 ** random.uniform(-3, 0, RANGES)
    return [(int(end), max(1, int((end - times[0]) * share))) for end, share in zip(ends, shares, strict=True)]
