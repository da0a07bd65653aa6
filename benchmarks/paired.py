"""Variants of one call, compared turn by turn: what disturbs a shared machine disturbs neighbouring turns alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from benchmarks.report import Latency, latency

ROUNDS = 40
TURN_S = 0.1
"""Short beside what disturbs (another test's start, a page flush), long beside a call."""


@dataclass(frozen=True)
class Variant:
    """`call` is timed, inside `around()`: one per turn."""

    call: Callable[[], object]
    around: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Compared:
    """`typical`: medians over the turns. `difference`: median over the rounds of (its p50 / the base's p50 - 1), with the
    bounds between which that median lies with 95 %."""

    typical: Latency
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.difference:+.1f} % ({100 * self.low:+.1f} … {100 * self.high:+.1f})"


def compare(variants: Mapping[str, Variant], rounds: int = ROUNDS, turn_s: float = TURN_S) -> dict[str, Compared]:
    """Each variant beside the first one. Every round has a turn of each, forwards and backwards by turns."""
    turns: dict[str, list[Latency]] = {name: [] for name in variants}
    for one in variants.values():
        latency(one.call, for_s=turn_s)
    for n in range(rounds):
        for name in list(variants)[:: 1 if n % 2 == 0 else -1]:
            with variants[name].around():
                turns[name].append(latency(variants[name].call, for_s=turn_s, warm=2))
    base = next(iter(turns.values()))
    return {name: _compared(found, base) for name, found in turns.items()}


def _compared(turns: list[Latency], base: list[Latency]) -> Compared:
    pairs = zip(turns, base, strict=True)
    differences = sorted(mine.p50_s / its.p50_s - 1 for mine, its in pairs)
    # The sign test's interval: the true median lies between these two of the sorted differences.
    outside = max(0, math.floor((len(differences) - 1.96 * math.sqrt(len(differences))) / 2))
    typical = Latency(
        statistics.median(one.p50_s for one in turns),
        statistics.median(one.p99_s for one in turns),
        sum(one.count for one in turns),
    )
    return Compared(typical, statistics.median(differences), differences[outside], differences[-1 - outside])
