"""The concurrent parts without a log: inbox, ladder, bounds. Races are staged with events."""

from __future__ import annotations

import threading
import time
from typing import Any

import pyarrow as pa
import pytest

from proxist.errors import InvalidArgument, NotOwner, Overloaded
from proxist.model.ids import Epoch, Offset
from proxist_ingest import bounds as bounds_module
from proxist_ingest import inbox as inbox_module
from proxist_ingest.bounds import Bounds, CutBatch
from proxist_ingest.inbox import Inbox
from proxist_ingest.ladder import Ladder
from proxist_ingest.part import Part
from proxist_ingest.producers import Original

NOTHING = pa.record_batch({"x": pa.array([], pa.int64())})
GONE = NotOwner("gone")


def part(size: int = 1) -> Part:
    return Part(NOTHING, b"", bytes(16), size, "os", lambda _: None)


def at(ordinal: int, end: int = 0) -> Original:
    return Original(Epoch(1), Offset(end), Offset(end), ordinal)


# ---- inbox -----------------------------------------------------------------------------------------------------------


def test_a_group_is_everything_that_waits_up_to_the_next_command() -> None:
    inbox, ran = Inbox("it"), list[int]()
    first, second, third = part(), part(), part()
    inbox.put(first)
    inbox.put(second)
    inbox.command(lambda: ran.append(1))
    inbox.put(third)
    assert inbox.drain(None) == [first, second]
    command: Any = inbox.drain(None)
    command()
    assert ran == [1]
    assert inbox.drain(None) == [third]
    assert inbox.drain(time.monotonic_ns()) == []


def test_a_group_is_bounded_by_bytes_and_a_large_part_passes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "GROUP_BYTES_MAX", 10)
    inbox = Inbox("it")
    parts = [part(6), part(4), part(1), part(99), part(1)]
    for one in parts:
        inbox.put(one)
    assert [inbox.drain(None) for _ in range(4)] == [parts[:2], parts[2:3], parts[3:4], parts[4:]]


def test_a_full_queue_holds_the_sender_and_then_tells_it_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "QUEUE_BYTES_MAX", 10)
    monkeypatch.setattr(inbox_module, "PUT_WAIT_S", 0.05)
    inbox = Inbox("Shard 1")
    inbox.put(part(10))
    with pytest.raises(Overloaded, match="Shard 1") as raised:
        inbox.put(part(1))
    assert raised.value.retry_after_s
    monkeypatch.setattr(inbox_module, "PUT_WAIT_S", 60.0)
    sender = threading.Thread(target=inbox.put, args=(part(1),))
    sender.start()
    assert len(inbox.drain(None) or []) == 1  # type: ignore[arg-type]
    sender.join()
    assert len(inbox.drain(None) or []) == 1  # type: ignore[arg-type]


def test_a_closed_inbox_refuses_drains_and_then_ends() -> None:
    inbox = Inbox("it")
    kept = part()
    inbox.put(kept)
    inbox.close(GONE)
    with pytest.raises(NotOwner):
        inbox.put(part())
    with pytest.raises(NotOwner):
        inbox.command(lambda: None)
    assert inbox.drain(None) == [kept]
    assert inbox.drain(None) is None


# ---- ladder ----------------------------------------------------------------------------------------------------------


def test_a_waiter_is_called_when_its_level_is_reached_and_not_before() -> None:
    ladder, told = Ladder(Offset(0)), list[str]()
    for level in ("mem", "os", "disk", "cold"):
        ladder.wait(level, at(5, end=100), lambda error, level=level: told.append(f"{level} {error}"))  # type: ignore[misc]
    ladder.advance(synced=5)
    assert told == []
    ladder.advance(visible=4)
    assert told == []
    ladder.advance(visible=5)
    assert told == ["mem None", "os None", "disk None"]
    ladder.advance(persisted=Offset(99))
    assert len(told) == 3
    ladder.advance(persisted=Offset(100))
    assert told[3:] == ["cold None"]
    assert ladder.waiting() == 0


def test_an_empty_record_is_not_on_disk_just_because_the_rows_below_it_are() -> None:
    ladder, told = Ladder(Offset(100)), list[Any]()
    ladder.advance(visible=7, synced=6)
    ladder.wait("disk", at(7, end=100), told.append)
    ladder.wait("cold", at(7, end=100), told.append)
    assert told == []
    ladder.advance(synced=7)
    assert told == [None, None]


def test_what_was_recovered_is_on_disk_already() -> None:
    ladder, told = Ladder(Offset(50)), list[Any]()
    ladder.wait("disk", at(0, end=100), told.append)
    ladder.wait("cold", at(0, end=50), told.append)
    assert told == [None, None]
    ladder.wait("cold", at(0, end=51), told.append)
    assert len(told) == 2


def test_a_failed_ladder_tells_every_waiter_and_later_ones() -> None:
    ladder, told = Ladder(Offset(0)), list[Any]()
    ladder.wait("disk", at(1), told.append)
    ladder.fail(GONE)
    ladder.wait("os", at(1), told.append)
    ladder.advance(visible=9, synced=9)
    assert told == [GONE, GONE]


# ---- bounds ----------------------------------------------------------------------------------------------------------


def test_followers_see_a_batch_only_once_it_is_exposed() -> None:
    bounds = Bounds(Offset(0))
    bounds.cut(Epoch(1), Offset(10))
    bounds.cut(Epoch(1), Offset(10))
    bounds.cut(Epoch(2), Offset(25))
    assert bounds.after(Offset(0), 0.0) is None
    bounds.expose(Offset(10))
    assert bounds.after(Offset(0), 0.0) == CutBatch(Epoch(1), Offset(0), Offset(10))
    assert bounds.after(Offset(10), 0.0) is None
    bounds.expose(Offset(25))
    assert bounds.after(Offset(10), 0.0) == CutBatch(Epoch(2), Offset(10), Offset(25))
    assert bounds.after(Offset(25), 0.0) is None


@pytest.mark.parametrize("offset", [5, 11, 26])
def test_following_from_the_middle_of_a_batch_is_refused(offset: int) -> None:
    bounds = Bounds(Offset(0))
    for end in (10, 25):
        bounds.cut(Epoch(1), Offset(end))
    with pytest.raises(InvalidArgument, match=str(offset)):
        bounds.after(Offset(offset), 0.0)


def test_a_waiting_follower_wakes_when_a_batch_is_exposed_and_when_the_shard_ends() -> None:
    bounds, got, first = Bounds(Offset(0)), list[Any](), threading.Event()
    bounds.cut(Epoch(1), Offset(3))

    def take() -> None:
        got.append(bounds.after(Offset(0), 60.0))
        first.set()
        try:
            bounds.after(Offset(3), 60.0)
        except NotOwner as error:
            got.append(error)

    follower = threading.Thread(target=take)
    follower.start()
    bounds.expose(Offset(3))
    assert first.wait(10)
    bounds.close(GONE)
    follower.join()
    assert got == [CutBatch(Epoch(1), Offset(0), Offset(3)), GONE]


def test_bounds_far_below_persisted_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds_module, "PERSISTED_KEPT", 4)
    bounds = Bounds(Offset(0))
    for end in range(10, 310, 10):
        bounds.cut(Epoch(1), Offset(end))
    bounds.expose(Offset(300))
    bounds.forget_below(Offset(200))
    assert bounds.is_bound(Offset(200))
    assert not bounds.is_bound(Offset(100))
    assert bounds.after(Offset(200), 0.0) == CutBatch(Epoch(1), Offset(200), Offset(210))
    assert bounds.after(Offset(160), 0.0) == CutBatch(Epoch(1), Offset(160), Offset(170))
