"""What the demo has seen so far: rows and acks per table, latencies, marks, prices. Filled by threads, read by the view."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LATENCIES_KEPT = 4_000
RATE_WINDOW_S = 3.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds over the last LATENCIES_KEPT calls; None before the first."""

    count: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class Snapshot:
    """One moment of the demo."""

    elapsed_s: float
    acked: Mapping[str, int]
    rows_per_s: Mapping[str, float]
    ack: Latency
    queries: Mapping[str, Latency]
    marks: tuple[Mapping[str, Any], ...]
    prices: tuple[Mapping[str, Any], ...]
    late_rows: int
    problem: str | None


class _Samples:
    def __init__(self) -> None:
        self.count = 0
        self._kept: deque[float] = deque(maxlen=LATENCIES_KEPT)

    def add(self, seconds: float) -> None:
        self.count += 1
        self._kept.append(seconds)

    def summary(self) -> Latency:
        if not self._kept:
            return Latency(0, None, None)
        ordered = sorted(self._kept)
        p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1_000 for share in (0.5, 0.99))
        return Latency(self.count, p50, p99)


@dataclass
class Stats:
    """`_lock` guards everything; each method is brief."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _started_s: float = field(default_factory=time.monotonic)
    _acked: dict[str, int] = field(default_factory=dict)
    _history: deque[tuple[float, dict[str, int]]] = field(default_factory=deque)
    _ack: _Samples = field(default_factory=_Samples)
    _queries: dict[str, _Samples] = field(default_factory=dict)
    _marks: tuple[Mapping[str, Any], ...] = ()
    _prices: tuple[Mapping[str, Any], ...] = ()
    _late_rows: int = 0
    _problem: str | None = None

    def acked(self, table: str, rows: int, took_s: float) -> None:
        with self._lock:
            self._acked[table] = self._acked.get(table, 0) + rows
            self._ack.add(took_s)

    def queried(self, name: str, took_s: float) -> None:
        with self._lock:
            self._queries.setdefault(name, _Samples()).add(took_s)

    def set_marks(self, marks: Iterable[Mapping[str, Any]]) -> None:
        with self._lock:
            self._marks = tuple(marks)

    def set_prices(self, prices: Iterable[Mapping[str, Any]]) -> None:
        with self._lock:
            self._prices = tuple(prices)

    def set_late_rows(self, count: int) -> None:
        with self._lock:
            self._late_rows = count

    def set_problem(self, text: str | None) -> None:
        """Shown until it is None again: the demo goes on."""
        with self._lock:
            self._problem = text

    def acked_rows(self) -> dict[str, int]:
        with self._lock:
            return dict(self._acked)

    def snapshot(self) -> Snapshot:
        now_s = time.monotonic()
        with self._lock:
            if not self._history:
                self._history.append((self._started_s, {}))
            self._history.append((now_s, dict(self._acked)))
            while len(self._history) > 2 and now_s - self._history[1][0] > RATE_WINDOW_S:
                self._history.popleft()
            then_s, then = self._history[0]
            span_s = max(now_s - then_s, 1e-9)
            return Snapshot(
                elapsed_s=now_s - self._started_s,
                acked=dict(self._acked),
                rows_per_s={name: (rows - then.get(name, 0)) / span_s for name, rows in self._acked.items()},
                ack=self._ack.summary(),
                queries={name: samples.summary() for name, samples in self._queries.items()},
                marks=self._marks,
                prices=self._prices,
                late_rows=self._late_rows,
                problem=self._problem,
            )
