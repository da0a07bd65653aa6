"""The DoExchange session: many queries on one stream, errors inside it, one schema per direction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from proxist import errors
from proxist.rpc.flight_client import Exchange, FlightPeer
from proxist.rpc.flight_server import Call, FlightDoor, FlightHandler
from proxist.rpc.session import SessionAnswer, serve_session
from proxist.rpc.slices import SLICE_ROWS_MAX

T = 10.0
ROWS = pa.table({"x": range(3)}).replace_schema_metadata({"proxist.receipt": "{}"})


class Handler(FlightHandler):
    def do_exchange(self, call: Call, descriptor: Any, reader: Any, writer: Any) -> None:
        assert json.loads(descriptor.command) == {"session": True}
        serve_session(call, reader, writer, self.answer)

    def answer(self, query: dict[str, Any], probes: pa.RecordBatch | None) -> SessionAnswer:
        want = query.get("want")
        if want == "error":
            raise errors.NotFound("Table 'x' is unknown.", table="x")
        if want == "bug":
            raise KeyError("secret")
        if want == "probes":
            assert probes is not None
            return SessionAnswer(pa.table({"x": probes["k"]}), {"rows": probes.num_rows})
        if want == "empty":
            return SessionAnswer(ROWS.slice(0, 0), {})
        if want == "many":
            return SessionAnswer(pa.table({"x": range(2 * SLICE_ROWS_MAX + 1)}), {"rows": "many"})
        if want == "other":
            return SessionAnswer(pa.table({"y": [1.0]}), {})
        return SessionAnswer(ROWS, {"seen": query["id"]})


@pytest.fixture
def session() -> Iterator[Exchange]:
    door = FlightDoor(Handler(), "127.0.0.1", 0)
    with FlightPeer(door.uri) as peer:
        exchange = peer.do_exchange({"session": True}, timeout_s=60.0)
        yield exchange
        exchange.done_writing()
        with pytest.raises(StopIteration):
            exchange.read()
        exchange.close()
    assert door.stop(T) == []


def ask(session: Exchange, query: dict[str, Any], probes: pa.RecordBatch | None = None) -> tuple[Any, dict[str, Any]]:
    """(rows or None, the last message's metadata); checks that every message names the query."""
    session.write(query, probes)
    batches = []
    while True:
        chunk = session.read()
        if chunk.batch is not None:
            batches.append(chunk.batch)
        metadata = json.loads(chunk.metadata or b"{}")
        assert metadata["id"] == query.get("id")
        if metadata.get("last"):
            return (pa.Table.from_batches(batches) if batches else None), metadata


def test_queries_without_probes_are_metadata_only_messages(session: Exchange) -> None:
    for query_id in (1, "two", [3]):
        rows, last = ask(session, {"id": query_id})
        assert rows["x"].to_pylist() == [0, 1, 2]
        assert last == {"id": query_id, "last": True, "receipt": {"seen": query_id}}


def test_probes_come_with_the_request_and_may_come_later(session: Exchange) -> None:
    ask(session, {"id": 1})
    for n in (1, 5):
        rows, last = ask(session, {"id": n, "want": "probes"}, pa.record_batch({"k": pa.array(range(n))}))
        assert rows["x"].to_pylist() == list(range(n))
        assert last["receipt"] == {"rows": n}


def test_a_failed_query_leaves_the_session_open(session: Exchange) -> None:
    rows, last = ask(session, {"id": 1, "want": "error"})
    assert rows is None
    assert last["error"] == {"code": "NOT_FOUND", "message": "Table 'x' is unknown.", "details": {"table": "x"}}
    _, last = ask(session, {"id": 2, "want": "bug"})
    assert last["error"]["code"] == "INTERNAL"
    assert "secret" not in json.dumps(last)
    assert ask(session, {"id": 3})[0].num_rows == 3


def test_an_empty_answer_is_a_batch_without_rows(session: Exchange) -> None:
    rows, last = ask(session, {"id": 1, "want": "empty"})
    assert (rows.num_rows, rows.schema.names) == (0, ["x"])
    assert last["last"] is True


def test_a_large_answer_comes_in_slices_and_the_last_has_the_receipt(session: Exchange) -> None:
    rows, last = ask(session, {"id": 1, "want": "many"})
    assert rows["x"].to_pylist() == list(range(2 * SLICE_ROWS_MAX + 1))
    assert last["receipt"] == {"rows": "many"}


def test_another_answer_schema_is_refused_and_named(session: Exchange) -> None:
    ask(session, {"id": 1})
    _, last = ask(session, {"id": 2, "want": "other"})
    assert last["error"]["code"] == "SCHEMA_MISMATCH"
    assert "(x int64)" in last["error"]["message"]
    assert "(y double)" in last["error"]["message"]
    assert ask(session, {"id": 3})[0].num_rows == 3


@pytest.mark.parametrize("request_bytes", [b"no json", b"[1]", b"\xff\xfe"])
def test_a_request_that_is_no_query_is_answered(session: Exchange, request_bytes: bytes) -> None:
    session.write(request_bytes)
    answer = json.loads(session.read().metadata or b"{}")
    assert (answer["id"], answer["last"], answer["error"]["code"]) == (None, True, "INVALID_ARGUMENT")
    assert ask(session, {"id": 3})[0].num_rows == 3


def test_a_client_that_vanishes_frees_the_session() -> None:
    door = FlightDoor(Handler(), "127.0.0.1", 0)
    with FlightPeer(door.uri) as peer:
        exchange = peer.do_exchange({"session": True}, timeout_s=60.0)
        ask(exchange, {"id": 1})
        exchange.cancel()
        with pytest.raises(errors.Unavailable):
            exchange.read()
    assert door.stop(T) == []
