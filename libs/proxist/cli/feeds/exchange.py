"""A simulated exchange: 50 symbols that trade and quote, with the troubles of real feeds, the same ones every time.

Prices are random walks on a tick grid. Activity comes in bursts; some rows share one timestamp; a few come late, with a
time below that of rows already sent. Ids count up per symbol without a gap, so a lost or doubled row shows as a hole.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from proxist.cli.feeds.tables import QUOTES, TRADES

SYMBOLS = 50
_LATE_SHARE = 0.002
_LATE_NS_MAX = 2 * 10**9
_TIE_SHARE = 0.05
_BURST_SHARE = 0.05
_BURST_FACTOR = 8.0


class SimulatedExchange:
    """`step(start_ns, span_ns)` makes the trades and quotes of one stretch of time.

    The same seed and the same calls give the same rows. `late_rows` counts rows whose time was set back.
    """

    def __init__(self, seed: int = 7, symbols: int = SYMBOLS, rows_per_s: int = 100_000) -> None:
        self._random = np.random.default_rng(seed)
        self.symbols = [f"sim:{chr(65 + n % 26)}{chr(65 + n // 26 % 26)}{n:02d}USD" for n in range(symbols)]
        self._dictionary = pa.array(self.symbols, pa.string())
        self._rows_per_s = rows_per_s
        self._price = np.round(self._random.lognormal(4.0, 1.5, symbols), 2) + 1.0
        self._weight = self._random.dirichlet(np.full(symbols, 0.7))
        self._last_id = {TRADES.name: np.zeros(symbols, np.uint64), QUOTES.name: np.zeros(symbols, np.uint64)}
        self.late_rows = 0

    def step(self, start_ns: int, span_ns: int) -> dict[str, pa.RecordBatch]:
        """Rows with times in [start_ns, start_ns + span_ns), late ones before it, in the order of their arrival."""
        factor = _BURST_FACTOR if self._random.random() < _BURST_SHARE else 1.0
        mean = self._rows_per_s * span_ns / 1e9 * factor / (1 - _BURST_SHARE + _BURST_SHARE * _BURST_FACTOR)
        trade_count, quote_count = (1 + int(self._random.poisson(mean * share)) for share in (0.3, 0.7))
        self._price *= np.exp(self._random.normal(0.0, 2e-4, len(self._price)))
        return {
            TRADES.name: self._trades(trade_count, start_ns, span_ns),
            QUOTES.name: self._quotes(quote_count, start_ns, span_ns),
        }

    def _trades(self, count: int, start_ns: int, span_ns: int) -> pa.RecordBatch:
        who, times, ids = self._rows(TRADES.name, count, start_ns, span_ns)
        price = np.round(self._price[who] * (1 + self._random.normal(0, 1e-4, count)), 2)
        size = np.round(self._random.exponential(1.0, count) + 0.001, 3)
        maker = self._random.random(count) < 0.5
        values = [self._names(who), times, ids, pa.array(price), pa.array(size), pa.array(maker)]
        return pa.record_batch(values, schema=TRADES.schema)

    def _quotes(self, count: int, start_ns: int, span_ns: int) -> pa.RecordBatch:
        who, times, ids = self._rows(QUOTES.name, count, start_ns, span_ns)
        middle = self._price[who] * (1 + self._random.normal(0, 5e-5, count))
        half = np.maximum(0.01, self._price[who] * 5e-5)
        bid, ask = np.round(middle - half, 2), np.round(middle + half, 2)
        sizes = [np.round(self._random.exponential(5.0, count) + 0.001, 3) for _ in range(2)]
        values = [self._names(who), times, ids, pa.array(bid), pa.array(sizes[0]), pa.array(ask), pa.array(sizes[1])]
        return pa.record_batch(values, schema=QUOTES.schema)

    def _rows(self, table: str, count: int, start_ns: int, span_ns: int) -> tuple[np.ndarray, pa.Array, pa.Array]:
        who = self._random.choice(len(self.symbols), count, p=self._weight)
        times = start_ns + np.sort(self._random.integers(0, span_ns, count))
        tied = np.flatnonzero(self._random.random(count) < _TIE_SHARE)
        times[tied[tied > 0]] = times[tied[tied > 0] - 1]
        late = self._random.random(count) < _LATE_SHARE
        times[late] -= self._random.integers(1, _LATE_NS_MAX, int(late.sum()))
        self.late_rows += int(late.sum())
        return who, pa.array(times, pa.timestamp("ns", tz="UTC")), pa.array(self._next_ids(table, who))

    def _next_ids(self, table: str, who: np.ndarray) -> np.ndarray:
        """Per symbol 1, 2, 3, … in the order of the rows."""
        by_symbol = np.argsort(who, kind="stable")
        sorted_who = who[by_symbol]
        starts = np.searchsorted(sorted_who, sorted_who)
        ids = np.empty(len(who), np.uint64)
        ids[by_symbol] = self._last_id[table][sorted_who] + (np.arange(len(who)) - starts + 1).astype(np.uint64)
        self._last_id[table] += np.bincount(who, minlength=len(self.symbols)).astype(np.uint64)
        return ids

    def _names(self, who: np.ndarray) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(who.astype(np.int32)), self._dictionary).cast(pa.string())
