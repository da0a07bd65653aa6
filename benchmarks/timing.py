"""How a figure is taken: several runs, each of short slices in turn with its floor, so that both meet the same noise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

Ask = Callable[[], object]
SLICE_S = 0.01
"""A slice is as many calls as fit into this time, at least one."""
WARM_CALLS, WARM_S = 20, 0.3
SAMPLES_MAX = 1_000_000


@dataclass(frozen=True)
class Latency:
    """Seconds."""

    p50_s: float
    p99_s: float
    count: int


@dataclass(frozen=True)
class Run:
    """One run of a line in the line's unit, beside the floor that was measured in turn with it."""

    p50: float
    p99: float | None = None
    floor: float | None = None


def latency(call: Ask, *, for_s: float = 0.6, calls_max: int = 5_000, warm: int = 20) -> Latency:
    """Call again and again for `for_s` seconds, at least 5 times, after `warm` calls that do not count."""
    for _ in range(warm):
        call()
    took: list[int] = []
    until = time.perf_counter() + for_s
    while (len(took) < calls_max and time.perf_counter() < until) or len(took) < 5:
        began = time.perf_counter_ns()
        call()
        took.append(time.perf_counter_ns() - began)
    return _latency(took)


def in_turns(ask: Ask, floor: Ask | None = None, *, runs: int = 3, for_s: float = 0.2) -> list[Run]:
    """`runs` runs of about `for_s` seconds for `ask`, and as much for `floor`, slice by slice; p50 and p99 in seconds."""
    for call in (ask, floor):
        _warm(call)
    return [_run(ask, floor, for_s) for _ in range(runs)]


def by_rounds(measure: Callable[[], float], floor: Callable[[], float] | None = None, *, runs: int = 3) -> list[Run]:
    """As `in_turns`, for figures that measure themselves (rates): each run is the floor, then the figure."""
    found = []
    for _ in range(runs):
        least = floor() if floor is not None else None
        found.append(Run(measure(), floor=least))
    return found


def of_p99(runs: list[Run]) -> list[Run]:
    """The same runs with their p99 as the figure."""
    return [Run(run.p99 or 0.0, None, run.floor) for run in runs]


def ratios(runs: list[Run]) -> list[Run]:
    """Each run as a multiple of its floor."""
    return [Run(run.p50 / run.floor) for run in runs if run.floor]


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def turning(ask: Callable[[Any], object], over: Iterable[Any]) -> Ask:
    """Calls `ask` with the next one of `over` each time: what is asked is not always in the caches."""
    items: Iterator[Any] = cycle(list(over))
    return lambda: ask(next(items))


def _warm(call: Ask | None) -> None:
    if call is None:
        return
    until = time.perf_counter() + WARM_S
    for _ in range(WARM_CALLS):
        call()
        if time.perf_counter() > until:
            break


def _run(ask: Ask, floor: Ask | None, for_s: float) -> Run:
    took: list[int] = []
    least: list[int] = []
    while sum(took) < for_s * 1e9 and len(took) < SAMPLES_MAX:
        if floor is not None:
            _slice(floor, least)
        _slice(ask, took)
    found = _latency(took)
    return Run(found.p50_s, found.p99_s, _latency(least).p50_s if least else None)


def _slice(call: Ask, took: list[int]) -> None:
    clock = time.perf_counter_ns
    until = clock() + int(SLICE_S * 1e9)
    while True:
        began = clock()
        call()
        ended = clock()
        took.append(ended - began)
        if ended >= until:
            return


def _latency(took: list[int]) -> Latency:
    took = sorted(took)
    return Latency(took[len(took) // 2] / 1e9, took[min(len(took) - 1, len(took) * 99 // 100)] / 1e9, len(took))
