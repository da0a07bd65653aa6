"""Sessions that nobody asks anything: they hold up no stop, and a query node keeps few of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from proxist.client.session import Session
from proxist.client.wire import Wire
from proxist.errors import Unavailable
from proxist.hot.ops import HotScan
from proxist.model.ids import ShardId
from proxist.rpc.flight_server import Call, FlightDoor, FlightHandler
from proxist.rpc.session import SessionAnswer, serve_session
from proxist_query import remote
from proxist_query.remote import Remote

WAIT_S = 20.0
HEAD = {"epoch": 1, "seam": 0, "end": 3, "floor": 0, "persisted": 0, "cold": {"keys": []}}


class Owner(FlightHandler):
    """Answers at once, or when `gate` is opened."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.waiting = threading.Event()
        self.lock = threading.Lock()
        self.open = self.most_open = 0

    def do_exchange(self, call: Call, descriptor: Any, reader: Any, writer: Any) -> None:
        with self.lock:
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            serve_session(call, reader, writer, self.answer)
        finally:
            with self.lock:
                self.open -= 1

    def answer(self, query: dict[str, Any], probes: pa.RecordBatch | None) -> SessionAnswer:
        if "last_by" in query:
            self.waiting.set()
            assert self.gate.wait(WAIT_S)
        return SessionAnswer(pa.table({"x": range(3)}), HEAD)


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def door(owner: Owner) -> Iterator[FlightDoor]:
    opened = FlightDoor(owner, "127.0.0.1", 0)
    yield opened
    owner.gate.set()
    assert opened.stop(WAIT_S) == []


def stopping(door: FlightDoor) -> threading.Thread:
    thread = threading.Thread(target=door.stop, args=(10 * WAIT_S,))
    thread.start()
    return thread


def test_a_stop_does_not_wait_for_an_idle_session(door: FlightDoor) -> None:
    with Wire(door.uri) as wire, Session(wire, timeout_s=WAIT_S) as session:
        assert session.query({"scan": {"table": "t"}}).num_rows == 3
        stopper = stopping(door)
        stopper.join(WAIT_S)
        assert not stopper.is_alive(), "it waited for a client that asks nothing"


def test_a_stop_waits_for_a_session_that_is_asked(door: FlightDoor, owner: Owner) -> None:
    answers: list[int] = []
    with Wire(door.uri) as wire, Session(wire, timeout_s=WAIT_S) as session:
        asker = threading.Thread(target=lambda: answers.append(session.query({"last_by": {"table": "t"}}).num_rows))
        asker.start()
        assert owner.waiting.wait(WAIT_S)
        stopper = stopping(door)
        owner.gate.set()
        asker.join(WAIT_S)
        assert answers == [3]
    stopper.join(WAIT_S)
    assert not stopper.is_alive()


def test_closing_a_session_ends_the_query_that_is_under_way(door: FlightDoor, owner: Owner) -> None:
    errors: list[BaseException] = []
    with Wire(door.uri) as wire:
        session = Session(wire, timeout_s=10 * WAIT_S)

        def ask() -> None:
            try:
                session.query({"last_by": {"table": "t"}})
            except Unavailable as error:
                errors.append(error)

        asker = threading.Thread(target=ask)
        asker.start()
        assert owner.waiting.wait(WAIT_S)
        closer = threading.Thread(target=session.close)
        closer.start()
        for thread in (asker, closer):
            thread.join(WAIT_S)
            assert not thread.is_alive()
        assert len(errors) == 1
        with pytest.raises(Unavailable, match="closed"):
            session.query({"scan": {"table": "t"}})


def test_a_query_node_keeps_few_streams_to_an_owner_and_none_for_ever(
    door: FlightDoor, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Remote()
    for shard in range(3 * remote.IDLE_MAX):
        assert reads.run(door.uri, ShardId(shard), HotScan(), None, None, 0).rows.num_rows == 3
    assert owner.most_open <= remote.IDLE_MAX + 1
    monkeypatch.setattr(remote, "IDLE_S_MAX", -1.0)
    reads.run(door.uri, ShardId(0), HotScan(), None, None, 0)
    assert not reads._owners, "an owner that nobody asks keeps its channel"
    reads.close()
    with pytest.raises(Unavailable, match="stopping"):
        reads.run(door.uri, ShardId(0), HotScan(), None, None, 0)
