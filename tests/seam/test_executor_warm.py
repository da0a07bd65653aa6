"""Rows that are in neither tier, between persisted and the floor: what the executor asks of whom."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from naive_tiers import Tiers, batch_of, make_tiers, scanned
from test_executor_model import ask

from proxist.errors import Unavailable
from proxist.hot.ops import HotScan
from proxist.seam.reader import WARM_TRIES

SCAN = {"scan": {"table": "trades"}}
ROWS = 20


def warm(floor: int, persisted: int, **more: Any) -> Tiers:
    made = make_tiers(**more)
    for number in range(ROWS):
        made.write("ABC"[number % 3], number, 0, number)
    made.move(1, floor, persisted)
    return made


def wanted(made: Tiers) -> list[dict[str, Any]]:
    rows = scanned(made.rows(), HotScan(), made.seq)
    return batch_of(list(rows), ("ts", "symbol", "id", "price"), made.table_).to_pylist()


def test_every_split_in_three_gives_the_same_rows_and_counts_add_up() -> None:
    for floor in range(ROWS + 1):
        for persisted in range(ROWS + 1):
            made = warm(floor, persisted)
            answer = ask(made, SCAN)
            assert answer.rows.to_pylist() == wanted(made)
            below = min(floor, persisted)
            assert (answer.receipt.rows_hot, answer.receipt.rows_cold) == (ROWS - below, below)
            assert (made.warm_reads, made.statements) == (int(floor > persisted), int(below > 0))
            (cut,) = answer.receipt.to_json()["cut"]
            assert (cut["seam"], cut.get("floor")) == (below, floor if floor > persisted else None)


def test_a_log_that_lets_go_of_rows_under_a_read_is_read_again_at_the_same_end() -> None:
    made = warm(16, 4)
    made.moving = 3
    answer = ask(made, SCAN)
    assert answer.rows.to_pylist() == wanted(made)
    assert (made.warm_reads, made.moving) == (4, 0)
    assert 4 < answer.receipt.cuts[0].seam < 16
    assert ask(made, SCAN, as_of=str(answer.receipt.token)).rows.equals(answer.rows)


@pytest.mark.parametrize("details", [{"reason": "persisted"}, {}], ids=["again and again", "at once"])
def test_a_log_that_cannot_be_read_is_an_error_and_no_short_answer(details: dict[str, Any]) -> None:
    made = warm(16, 4)

    def refused(*_: Any) -> Any:
        made.warm_reads += 1
        raise Unavailable("the log is not there", **details)

    made.warm = refused  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="the log is not there"):
        ask(made, SCAN)
    assert made.warm_reads == (WARM_TRIES if details else 1)
    best = ask(made, SCAN, completeness="best_effort")
    assert best.rows.num_rows == 0
    assert best.receipt.missing == ("shard 1 of table 'trades': the log is not there",)


@pytest.mark.parametrize("direction", ["backward", "forward", "nearest"])
def test_probes_of_several_shards_find_their_warm_rows(direction: str) -> None:
    made, resident = warm(0, 0, shards=3), warm(0, 0, shards=3)
    for number, shard in made.shards.items():
        made.move(number, shard.end, shard.end // 2)
    times = pa.array([3, 10, 11, 12, 19, 2], pa.timestamp("ns", "UTC"))
    probes = pa.table({"ts": times, "symbol": ["A", "B", "C", "A", "C", "none"]})
    verb = {"asof": {"left": {"probe": True}, "right": {"table": "trades"}, "direction": direction}}
    assert ask(made, verb, probes).rows.equals(ask(resident, verb, probes).rows)
    assert made.warm_reads > 0
