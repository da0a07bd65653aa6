"""Placement is balanced, deterministic, and moves nothing that it need not."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxist.etcd import ShardRecord
from proxist.model.ids import Offset, ShardId, TableId
from proxist_controlplane.placement import place
from proxist_controlplane.reconcile import moves

NODES = st.lists(st.integers(0, 20).map(lambda i: f"ingest-{i}"), min_size=1, max_size=8, unique=True)


def shards(count: int, first: int = 1) -> list[ShardId]:
    return [ShardId(i) for i in range(first, first + count)]


@given(count=st.integers(1, 64), nodes=NODES, loads=st.lists(st.integers(0, 30), min_size=8, max_size=8))
@settings(max_examples=150)
def test_a_table_uses_its_nodes_evenly_whatever_they_hold(count: int, nodes: list[str], loads: list[int]) -> None:
    placed = place(shards(count), nodes, dict(zip(nodes, loads, strict=False)))
    own = Counter(placed.values())
    assert set(placed) == set(shards(count))
    assert set(placed.values()) <= set(nodes)
    assert max(own.values()) <= -(-count // len(nodes))


@given(tables=st.lists(st.integers(1, 6), min_size=1, max_size=20), nodes=NODES)
@settings(max_examples=100)
def test_many_tables_together_stay_balanced(tables: list[int], nodes: list[str]) -> None:
    load: Counter[str] = Counter(dict.fromkeys(nodes, 0))
    first = 1
    for count in tables:
        load.update(place(shards(count, first), nodes, load).values())
        first += count
    assert max(load.values()) - min(load.values()) <= max(tables)


def test_the_same_nodes_in_any_order_give_the_same_places() -> None:
    nodes = [f"ingest-{i}" for i in range(5)]
    assert place(shards(20), nodes, {}) == place(shards(20), reversed(nodes), {})


def test_without_nodes_nothing_is_placed() -> None:
    with pytest.raises(ValueError, match="no node"):
        place(shards(1), [], {})


def test_only_shards_that_were_never_opened_leave_a_dead_node() -> None:
    fresh = ShardRecord(ShardId(1), "default", "t", TableId(1), 0, "dead")
    opened = ShardRecord(ShardId(2), "default", "t", TableId(1), 1, "dead").opened(Offset(0))
    alive = ShardRecord(ShardId(3), "default", "t", TableId(1), 2, "alive")
    assert moves([fresh, opened, alive], ["alive", "other"], {"dead"}) == {ShardId(1): "other"}
    assert moves([fresh, opened, alive], [], {"dead"}) == {}
    assert moves([fresh, opened, alive], ["alive"], set()) == {}
