"""Rows are placed in their order beside the thread that reads them; what fails there stops the reading."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ingest_rows import rows, table

from proxist.errors import Overloaded
from proxist.hot.ops import HotScan
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist_ingest.logtail import LogTail
from proxist_ingest.placer import GROUPS_MAX, Placer
from proxist_ingest.residency import Residency
from proxist_ingest.switching import BRISK, BRISK_S

NEVER_NS = 2**62
SHARD = ShardId(1)


@pytest.fixture
def hot() -> Iterator[HotSet]:
    with HotSet.create(table().spec, SHARD, Epoch(1), Offset(0), hot_bytes=2**20) as made:
        made.set_lease_until(NEVER_NS)
        yield made


def placer_of(hot: HotSet, *, logged: bool = True) -> Placer:
    tail = LogTail(Path(), lambda: hot.appended_end if logged else Offset(0))
    return Placer(hot, Residency(table(), SHARD, hot, tail), "shard 1")


def ids(hot: HotSet) -> list[int]:
    """Of the rows in memory, in offset order; each is the row's offset too."""
    reader = hot.reader()
    found = reader.run(HotScan()).rows
    reader.close()
    assert found["_offset"].to_pylist() == found["trade_id"].to_pylist()
    return [int(one) for one in found["trade_id"].to_pylist()]


def placing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("place")]


def test_groups_are_placed_in_their_order_and_published_when_settled(hot: HotSet) -> None:
    with placer_of(hot) as placer:
        for first in range(0, 6_000, 300):
            placer.place(Offset(first), [rows(100, first=first), rows(200, first=first + 100)], 7, Offset(first))
        placer.settle()
        assert hot.marks().end == hot.appended_end == 6_000
        assert hot.marks().persisted == 5_700
    assert not placing()
    assert ids(hot) == list(range(6_000))


def test_what_does_not_fit_at_once_goes_in_batch_by_batch(hot: HotSet) -> None:
    with placer_of(hot) as placer:
        placer.place(Offset(0), [rows(1_000, first=first) for first in range(0, 60_000, 1_000)], 7, Offset(0))
        placer.settle()
    marks = hot.marks()
    assert 0 < marks.floor < marks.end == 60_000
    assert ids(hot) == list(range(marks.floor, 60_000))


def test_where_there_is_no_room_the_reading_ends_and_nothing_is_placed_behind(hot: HotSet) -> None:
    given = []

    def fill() -> None:
        with placer_of(hot, logged=False) as placer:
            for first in range(0, 1_000_000, 1_000):
                given.append(first)
                placer.place(Offset(first), [rows(1_000, first=first)], 7, Offset(0))

    with pytest.raises(Overloaded, match="shard 1"):
        fill()
    assert not placing()
    end = hot.appended_end
    assert 0 < end <= given[-1] <= end + GROUPS_MAX * 1_000
    assert ids(hot) == list(range(end))


def test_the_interpreter_changes_hands_sooner_until_the_last_one_is_out(hot: HotSet) -> None:
    usual = sys.getswitchinterval()
    with placer_of(hot):
        assert sys.getswitchinterval() == pytest.approx(BRISK_S)
        with BRISK:
            assert sys.getswitchinterval() == pytest.approx(BRISK_S)
        assert sys.getswitchinterval() == pytest.approx(BRISK_S)
    assert sys.getswitchinterval() == pytest.approx(usual)
