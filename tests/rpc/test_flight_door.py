"""The Flight door and its client over real sockets: answers, errors, slices, cancellation, bounded stop."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from proxist import errors
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.flight_server import BatchStream, Call, FlightDoor, FlightHandler
from proxist.rpc.slices import SLICE_BYTES_MAX, SLICE_ROWS_MAX

ROWS = pa.record_batch({"x": pa.array(range(10))})
T = 10.0


class Handler(FlightHandler):
    """Tickets and commands are `{"want": name}`; `events` lets a test stage what it races against."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.ended = threading.Event()
        self.release = threading.Event()

    def do_get(self, call: Call, ticket: bytes) -> pa.Table | pa.RecordBatch | BatchStream:
        return getattr(self, json.loads(ticket)["want"])(call)

    def table(self, call: Call) -> pa.Table:
        return pa.table([ROWS["x"]], schema=ROWS.schema.with_metadata({"proxist.receipt": "{}"}))

    def empty(self, call: Call) -> pa.Table:
        return self.table(call).slice(0, 0)

    def large(self, call: Call) -> pa.Table:
        return pa.table({"x": range(3 * SLICE_ROWS_MAX), "y": ["a" * 100] * (3 * SLICE_ROWS_MAX)})

    def huge(self, call: Call) -> pa.Table:
        """Far more than the transport takes ahead of a reader (about 6 MB)."""
        return pa.table({"x": np.zeros(16_000_000)})

    def stream(self, call: Call) -> BatchStream:
        big = pa.record_batch({"x": pa.array(range(SLICE_ROWS_MAX + 1))})
        return BatchStream(ROWS.schema, [ROWS, (big, b"the big one"), (ROWS.slice(0, 0), b"alone")])

    def where(self, call: Call) -> pa.Table:
        return pa.table({"local": [call.local], "peer": [call.peer]})

    def missing(self, call: Call) -> pa.Table:
        raise errors.NotFound("Table 'x' is unknown. Known tables are y.", table="x", retry_after_s=2.0)

    def bug(self, call: Call) -> pa.Table:
        raise KeyError("secret")

    def bug_later(self, call: Call) -> BatchStream:
        def batches() -> Iterator[pa.RecordBatch]:
            yield ROWS
            raise KeyError("secret")

        return BatchStream(ROWS.schema, batches())

    def endless(self, call: Call) -> BatchStream:
        def batches() -> Iterator[pa.RecordBatch]:
            try:
                while True:
                    self.entered.set()
                    yield pa.record_batch({"x": pa.array(range(SLICE_ROWS_MAX))})
            finally:
                self.ended.set()

        return BatchStream(ROWS.schema, batches())

    def wait(self, call: Call) -> pa.Table:
        self.entered.set()
        assert self.release.wait(T)
        return self.table(call)

    def do_put(self, call: Call, descriptor: Any, reader: Any, writer: Any) -> None:
        try:
            while True:
                chunk = reader.read_chunk()
                if chunk.data.num_rows == 0:
                    raise errors.InvalidBatch("The batch has no rows. Send at least one.")
                writer.write(pa.py_buffer(json.dumps({"rows": chunk.data.num_rows}).encode()))
        except StopIteration:
            pass
        finally:
            self.ended.set()

    def do_action(self, call: Call, name: str, body: bytes) -> list[bytes]:
        return [json.dumps({"name": name, "body": json.loads(body)}).encode()]

    def get_flight_info(self, call: Call, descriptor: Any) -> fl.FlightInfo:
        return fl.FlightInfo(ROWS.schema, descriptor, [], -1, -1)

    def list_actions(self, call: Call) -> list[tuple[str, str]]:
        return [("flush", "Persist what was acked.")]


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def door(handler: Handler, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlightDoor]:
    door = FlightDoor(handler, "127.0.0.1", 0, tmp_path_factory.mktemp("d") / "f.sock")
    yield door
    handler.release.set()
    door.stop(T)


@pytest.fixture(params=["tcp", "unix"])
def peer(door: FlightDoor, request: pytest.FixtureRequest) -> Iterator[FlightPeer]:
    uri = door.uri if request.param == "tcp" else door.unix_uri
    assert uri is not None
    with FlightPeer(uri) as peer:
        yield peer


def test_a_table_arrives_with_its_schema_metadata(peer: FlightPeer) -> None:
    answer = peer.do_get({"want": "table"}, timeout_s=T)
    assert answer.table["x"].to_pylist() == list(range(10))
    assert answer.metadata == {b"proxist.receipt": b"{}"}


def test_an_empty_answer_has_its_schema(peer: FlightPeer) -> None:
    answer = peer.do_get({"want": "empty"}, timeout_s=T)
    assert (answer.table.num_rows, answer.table.schema.names) == (0, ["x"])
    assert b"proxist.receipt" in answer.metadata


def test_no_message_is_larger_than_the_slice(peer: FlightPeer) -> None:
    stream = peer.stream({"want": "large"}, timeout_s=T)
    batches = [chunk.batch for chunk in stream if chunk.batch is not None]
    assert sum(batch.num_rows for batch in batches) == 3 * SLICE_ROWS_MAX
    assert max(batch.num_rows for batch in batches) <= SLICE_ROWS_MAX
    assert max(batch.nbytes for batch in batches) <= SLICE_BYTES_MAX * 1.1
    assert pa.Table.from_batches(batches)["x"].to_pylist() == list(range(3 * SLICE_ROWS_MAX))


def test_app_metadata_comes_with_the_last_slice_of_its_batch(peer: FlightPeer) -> None:
    chunks = list(peer.stream({"want": "stream"}, timeout_s=T))
    assert [(chunk.batch.num_rows, chunk.metadata) for chunk in chunks if chunk.batch is not None] == [
        (10, None),
        (SLICE_ROWS_MAX, None),
        (1, b"the big one"),
        (0, b"alone"),
    ]


def test_a_handler_knows_which_socket_the_caller_took(door: FlightDoor) -> None:
    assert door.unix_uri is not None
    for uri, local, name in ((door.uri, False, "127.0.0.1"), (door.unix_uri, True, "unix")):
        with FlightPeer(uri) as peer:
            row = peer.do_get({"want": "where"}, timeout_s=T).table.to_pylist()[0]
        assert row["local"] is local
        assert name in row["peer"]


def test_an_error_keeps_class_message_and_details(peer: FlightPeer) -> None:
    with pytest.raises(errors.NotFound) as raised:
        peer.do_get({"want": "missing"}, timeout_s=T)
    assert raised.value.to_json() == {
        "code": "NOT_FOUND",
        "message": "Table 'x' is unknown. Known tables are y.",
        "retry_after_s": 2.0,
        "details": {"table": "x"},
    }


@pytest.mark.parametrize("want", ["bug", "bug_later"])
def test_a_bug_shows_an_id_and_no_traceback(door: FlightDoor, want: str, capsys: pytest.CaptureFixture[str]) -> None:
    with fl.connect(door.uri) as client, pytest.raises(fl.FlightInternalError) as raised:
        client.do_get(fl.Ticket(json.dumps({"want": want}))).read_all()
    text = str(raised.value)
    assert "secret" not in text
    assert ".py" not in text
    error_id = json.loads(raised.value.extra_info)["details"]["error_id"]
    assert error_id in text
    log = capsys.readouterr().err
    assert error_id in log
    assert "KeyError: 'secret'" in log


def test_what_is_not_served_is_refused_by_name(peer: FlightPeer) -> None:
    with pytest.raises(errors.InvalidArgument, match="ListFlights is not served here"):
        peer.list_flights(timeout_s=T)
    exchange = peer.do_exchange({"session": True}, timeout_s=T)
    with pytest.raises(errors.InvalidArgument, match="DoExchange is not served here"):
        exchange.read()
    with pytest.raises(errors.InvalidArgument, match="DoExchange is not served here"):
        exchange.close()


def test_actions_and_flight_info(peer: FlightPeer) -> None:
    assert peer.do_action("flush", {"table": "t"}, timeout_s=T) == [{"name": "flush", "body": {"table": "t"}}]
    assert peer.get_flight_info({"sql": "SELECT 1"}, timeout_s=T).schema == ROWS.schema


def test_a_put_is_acked_batch_by_batch(peer: FlightPeer) -> None:
    with peer.do_put(["trades"], ROWS.schema, timeout_s=T) as put:
        for rows in (3, 4):
            put.write(ROWS.slice(0, rows), {"seq": rows})
        assert [put.read_ack(), put.read_ack()] == [{"rows": 3}, {"rows": 4}]
        put.done_writing()
        assert put.read_ack() is None


def test_a_refused_put_raises_its_class_from_the_ack(peer: FlightPeer) -> None:
    put = peer.do_put(["trades"], ROWS.schema, timeout_s=T)
    put.write(ROWS.slice(0, 0))
    with pytest.raises(errors.InvalidBatch, match="no rows"):
        put.read_ack()


def test_a_refused_put_raises_its_class_from_a_later_write(peer: FlightPeer, handler: Handler) -> None:
    put = peer.do_put(["trades"], ROWS.schema, timeout_s=T)
    put.write(ROWS.slice(0, 0))
    assert handler.ended.wait(T)

    def write_on() -> None:
        while True:  # the refusal overtakes what is still being sent
            put.write(ROWS)

    with pytest.raises(errors.InvalidBatch, match="no rows"):
        write_on()


def test_a_silent_server_ends_in_deadline_exceeded(peer: FlightPeer, handler: Handler) -> None:
    with pytest.raises(errors.DeadlineExceeded, match="within the deadline"):
        peer.do_get({"want": "wait"}, timeout_s=0.2)
    handler.release.set()


def test_a_cancelled_stream_ends_on_both_sides(peer: FlightPeer, handler: Handler) -> None:
    stream = peer.stream({"want": "endless"}, timeout_s=T)
    assert next(stream).batch is not None
    stream.cancel()
    with pytest.raises(errors.Unavailable):
        list(stream)
    assert handler.ended.wait(T)


def test_no_server_is_unavailable_and_a_server_that_returns_is_found(handler: Handler, free_ports: Any) -> None:
    port = free_ports(1)[0]
    with FlightPeer(f"grpc://127.0.0.1:{port}") as peer:
        with pytest.raises(errors.Unavailable, match=f"grpc://127.0.0.1:{port} does not answer"):
            peer.do_get({"want": "table"}, timeout_s=T)
        for _ in range(2):
            door = FlightDoor(handler, "127.0.0.1", port)
            rows = _until_answered(peer)
            assert rows == 10
            assert door.stop(T) == []


def _until_answered(peer: FlightPeer) -> int:
    """The transport waits up to a second between its attempts to connect."""
    waiting = threading.Event()
    for _ in range(200):
        try:
            return int(peer.do_get({"want": "table"}, timeout_s=T).table.num_rows)
        except errors.Unavailable:
            waiting.wait(0.02)
    raise AssertionError("the server was not found again")


def test_a_taken_port_is_named_with_rule_and_remedy(handler: Handler) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(errors.PortTaken, match=rf"Port {port} on 127.0.0.1 \(`flight_port`\) is taken") as raised:
            FlightDoor(handler, "127.0.0.1", port)
    assert raised.value.details == {"port": port, "host": "127.0.0.1"}


def test_an_address_that_is_not_of_this_machine_is_a_config_error(handler: Handler) -> None:
    with pytest.raises(errors.ConfigError, match="Choose an address of this machine"):
        FlightDoor(handler, "192.0.2.1", 0)


def test_a_unix_path_that_is_too_long_is_named(handler: Handler, tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="107"):
        FlightDoor(handler, "127.0.0.1", 0, tmp_path / ("x" * 120))


def test_calls_beyond_the_limit_are_refused_not_queued(handler: Handler) -> None:
    door = FlightDoor(handler, "127.0.0.1", 0, calls_max=1)
    with FlightPeer(door.uri) as peer:
        first = threading.Thread(target=lambda: peer.do_get({"want": "wait"}, timeout_s=T))
        first.start()
        assert handler.entered.wait(T)
        with pytest.raises(errors.Overloaded, match="1 calls are open here"):
            peer.do_get({"want": "table"}, timeout_s=T)
        handler.release.set()
        first.join()
        assert peer.do_get({"want": "table"}, timeout_s=T).table.num_rows == 10
    assert door.stop(T) == []


def test_stop_is_bounded_behind_an_unread_stream(handler: Handler) -> None:
    """Flight's own shutdown would wait for the reader for ever."""
    door = FlightDoor(handler, "127.0.0.1", 0)
    peer = FlightPeer(door.uri)
    stream = peer.stream({"want": "huge"}, timeout_s=60.0)
    assert next(stream).batch is not None
    assert door.stop(0.2) == ["Flight's shutdown"]
    stream.cancel()  # only the reader's end frees the thread
    assert door.stop(T) == []
    peer.close()


def test_stop_ends_a_handler_that_asks(handler: Handler) -> None:
    door = FlightDoor(handler, "127.0.0.1", 0)
    with FlightPeer(door.uri) as peer:
        stream = peer.stream({"want": "endless"}, timeout_s=60.0)
        reading = threading.Event()
        ends: list[BaseException] = []

        def read() -> None:
            try:
                while True:
                    next(stream)
                    reading.set()
            except (errors.ProxistError, StopIteration) as error:
                ends.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        assert reading.wait(T)
        assert door.stop(T) == []
        reader.join(T)
        assert isinstance(ends[0], errors.Unavailable)
    assert handler.ended.is_set()
