"""How benchmarks compare."""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.paired import Compared, _compared
from benchmarks.report import Latency


def turns(rng: random.Random, factor: float, machine: list[float]) -> list[Latency]:
    """A call that takes `factor` of a millisecond on a machine that is `machine` times slower turn by turn."""
    found = [factor * slow * rng.uniform(0.98, 1.02) / 1e3 for slow in machine]
    return [Latency(one, 2 * one, 10) for one in found]


def test_a_small_difference_is_found_on_a_machine_whose_speed_changes_tenfold(rng: random.Random) -> None:
    machine = [rng.uniform(1, 10) for _ in range(40)]
    base = turns(rng, 1.0, machine)
    same, slower = _compared(turns(rng, 1.0, machine), base), _compared(turns(rng, 1.05, machine), base)
    assert abs(same.difference) < 0.015
    assert abs(slower.difference - 0.05) < 0.015
    assert same.low < same.difference < same.high < slower.low < slower.difference < slower.high
    assert slower.typical.count == 400


def test_the_bounds_are_two_of_the_differences_around_the_median() -> None:
    base = [Latency(1.0, 1.0, 1)] * 9
    found = _compared([Latency(1.0 + n / 100, 1.0, 1) for n in range(9)], base)
    assert [round(100 * one) for one in (found.low, found.difference, found.high)] == [1, 4, 7]
    assert str(Compared(found.typical, 0.01, -0.02, 0.034)) == "+1.0 % (-2.0 … +3.4)"
