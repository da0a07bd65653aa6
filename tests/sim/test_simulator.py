"""Whole clusters on a simulated machine, one seed each: what Proxist promises holds at every step, whatever goes wrong.

PROXIST_SIM_SEED=n plays that seed alone and prints its trace; PROXIST_SIM_SEEDS and PROXIST_SIM_SEEDS_SLOW say how many.
"""

from __future__ import annotations

import os

import pytest
from sim_run import Outcome, run

ONE = os.environ.get("PROXIST_SIM_SEED")
SEEDS = int(os.environ.get("PROXIST_SIM_SEEDS", "200"))
SEEDS_SLOW = int(os.environ.get("PROXIST_SIM_SEEDS_SLOW", "3000"))


def play(seeds: range) -> None:
    outcomes = [checked(run(seed)) for seed in seeds]
    print(
        f"{len(outcomes)} seeds ({seeds}): {sum(o.steps for o in outcomes)} steps, {sum(o.acks for o in outcomes)} acks, "
        f"{sum(o.answers for o in outcomes)} queries, {sum(o.checks for o in outcomes)} checks of all marks"
    )
    assert all(outcome.checks for outcome in outcomes)
    assert sum(o.acks for o in outcomes) > len(outcomes), "hardly anything was written"
    assert sum(o.answers for o in outcomes) > len(outcomes), "hardly anything was read"


def checked(outcome: Outcome) -> Outcome:
    if ONE is not None:
        print(outcome)
    assert outcome.violation is None, str(outcome)
    return outcome


def test_every_promise_holds_at_every_step_of_every_seed() -> None:
    play(range(SEEDS) if ONE is None else range(int(ONE), int(ONE) + 1))


def test_a_seed_replays_exactly() -> None:
    first, second = run(7), run(7)
    assert first.trace == second.trace
    assert first.trace_hash == second.trace_hash
    assert run(8).trace_hash != first.trace_hash


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_thousands_of_seeds_hold_too() -> None:
    play(range(SEEDS, SEEDS + SEEDS_SLOW))
