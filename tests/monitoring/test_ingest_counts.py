"""What a shard counts beside its rows: how old the oldest unpersisted row is, and what was refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxist.errors import NotOwner, Overloaded
from proxist.model.ids import Offset
from proxist_ingest.counts import ARRIVALS_APART_NS, Arrivals, Refusals

SECOND = 10**9


def test_the_oldest_row_that_is_not_persisted_has_the_age() -> None:
    arrivals = Arrivals()
    assert arrivals.oldest_ns() is None
    for i in range(1, 4):
        arrivals.note(Offset(10 * i), i * SECOND)
    assert arrivals.oldest_ns() == 1 * SECOND
    arrivals.persisted(Offset(9))
    assert arrivals.oldest_ns() == 1 * SECOND, "a part of the group is not persisted"
    arrivals.persisted(Offset(20))
    assert arrivals.oldest_ns() == 3 * SECOND
    arrivals.persisted(Offset(30))
    assert arrivals.oldest_ns() is None


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 2 * ARRIVALS_APART_NS)), min_size=1), st.data())
def test_the_age_is_never_too_small_and_hardly_too_large(steps: list[tuple[int, int]], data: st.DataObject) -> None:
    arrivals, came, end, now = Arrivals(), [], 0, 0
    for rows, pause_ns in steps:
        end, now = end + rows, now + pause_ns
        came.append((end, now))
        arrivals.note(Offset(end), now)
    persisted = data.draw(st.integers(0, end))
    arrivals.persisted(Offset(persisted))
    exact = next((at for upper, at in came if upper > persisted), None)
    oldest = arrivals.oldest_ns()
    if exact is None:
        assert oldest is None
    else:
        assert oldest is not None
        assert exact - max(ARRIVALS_APART_NS, now // 1024) <= oldest <= exact


def test_an_outage_of_a_day_keeps_few_entries() -> None:
    arrivals = Arrivals()
    for i in range(86_400 * 4):
        arrivals.note(Offset(i + 1), i * SECOND // 4)
    assert len(arrivals._groups) < 20_000
    assert arrivals.oldest_ns() == 0


def test_refusals_begin_at_zero_and_add_up() -> None:
    refusals = Refusals()
    assert ("OVERLOADED", 0, 0) in refusals.read()
    refusals.add(Overloaded("full"), 10)
    refusals.add(Overloaded("full"), 5)
    refusals.add(NotOwner("moved"), 1)
    assert ("OVERLOADED", 2, 15) in refusals.read()
    assert ("NOT_OWNER", 1, 1) in refusals.read()
