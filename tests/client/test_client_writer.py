"""The pipelined writer over real sockets: every row once, whatever breaks."""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa
import pytest
from client_fakes import FakeCluster, rows

import proxist
from proxist.errors import (
    InvalidBatch,
    NotFound,
    Overloaded,
    ProducerConflict,
    ProxistError,
    SchemaMismatch,
    Unavailable,
)
from proxist.model.slots import key_slot
from proxist.model.token import parse_token


def connect(cluster: FakeCluster, **settings: Any) -> proxist.Connection:
    return proxist.connect(cluster.nodes["query-0"].uri, **settings)


def once(error: ProxistError, at_seq: int) -> Any:
    """A fault that strikes the first time that number `at_seq` comes."""
    struck = threading.Event()

    def fault(told: dict[str, Any]) -> ProxistError | None:
        if told["seq"] == at_seq and not struck.is_set():
            struck.set()
            return error
        return None

    return fault


def test_a_write_is_acked_with_rows_level_and_token(one_owner: FakeCluster) -> None:
    with connect(one_owner) as connection:
        ack = connection.table("trades").write(rows(10))
    assert (ack.rows, ack.batches, ack.duplicates, ack.durability) == (10, 1, 0, "disk")
    assert parse_token(ack.token).marks[one_owner.table.shard_ids[0]].end == 10
    assert sorted(one_owner.stored()) == list(range(10))


def test_each_row_goes_to_the_owner_of_its_slot_and_each_number_to_every_slot(three_slots: FakeCluster) -> None:
    with connect(three_slots) as connection, connection.table("trades").writer(producer="feed") as writer:
        for first in range(0, 60, 3):
            writer.send(rows(3, first, symbols=20))
        ack = writer.flush()
    assert ack.rows == 60
    assert set(parse_token(ack.token).marks) == set(three_slots.table.shard_ids)
    assert sorted(three_slots.stored()) == list(range(60))
    for node in three_slots.nodes.values():
        for told, batch in zip(node.metadata, node.accepted, strict=True):
            assert three_slots.owner_of(told["slot"]) is node
            assert all(key_slot(key, 3) == told["slot"] for key in batch["symbol"].to_pylist())
    numbers = sorted((m["seq"], m["slot"]) for node in three_slots.nodes.values() for m in node.metadata)
    assert numbers == [(seq, slot) for seq in range(1, 21) for slot in range(3)]


def test_a_batch_says_that_it_is_alone_where_no_other_is_on_its_way(one_owner: FakeCluster) -> None:
    owner, gate = one_owner.nodes["ingest-0"], threading.Event()

    def hold(told: dict[str, Any]) -> None:
        assert told["seq"] != 2 or gate.wait(20)

    owner.fault = hold
    with connect(one_owner) as connection, connection.table("trades").writer() as writer:
        writer.write(rows(1))
        writer.send(rows(1, 1))
        writer.send(rows(1, 2))
        gate.set()
        writer.flush()
    assert [told.get("alone", False) for told in owner.metadata] == [True, True, False]


def test_a_full_window_takes_more_once_a_quarter_of_it_is_acked(one_owner: FakeCluster) -> None:
    owner, acked, gate = one_owner.nodes["ingest-0"], threading.Semaphore(0), threading.Event()

    def hold(told: dict[str, Any]) -> None:
        assert told["seq"] != 3 or gate.wait(20)

    def told(_rows: int, _seconds: float) -> None:
        acked.release()

    owner.fault = hold
    with connect(one_owner) as connection, connection.table("trades").writer(window=8, on_ack=told) as writer:
        for n in range(8):
            writer.send(rows(1, n))
        assert acked.acquire(timeout=20)
        assert acked.acquire(timeout=20)
        writer.send(rows(1, 8))  # two of eight are acked, and no other will be
        gate.set()
    assert sorted(one_owner.stored()) == list(range(9))


@pytest.mark.parametrize("error", [Overloaded("full", retry_after_s=0.01), Unavailable("gone")])
def test_a_passing_refusal_in_the_middle_stores_every_row_once(three_slots: FakeCluster, error: ProxistError) -> None:
    three_slots.nodes["ingest-0"].fault = once(error, 5)
    with connect(three_slots) as connection, connection.table("trades").writer() as writer:
        for first in range(0, 2000, 100):
            writer.send(rows(100, first))
        assert writer.flush().rows == 2000
    assert sorted(three_slots.stored()) == list(range(2000))


def test_a_batch_whose_ack_was_lost_is_sent_again_and_stored_once(one_owner: FakeCluster) -> None:
    lost = threading.Event()

    def lose(told: dict[str, Any]) -> bool:
        if told["seq"] == 3 and not lost.is_set():
            lost.set()
            return True
        return False

    one_owner.nodes["ingest-0"].lose_ack = lose
    with connect(one_owner) as connection, connection.table("trades").writer() as writer:
        for first in range(0, 50, 10):
            writer.send(rows(10, first))
        ack = writer.flush()
    assert (ack.rows, ack.batches) == (50, 5)
    assert ack.duplicates >= 1
    assert sorted(one_owner.stored()) == list(range(50))


def test_an_owner_that_restarts_loses_and_doubles_nothing(one_owner: FakeCluster) -> None:
    owner = one_owner.nodes["ingest-0"]
    with connect(one_owner) as connection, connection.table("trades").writer(window=8) as writer:
        for number in range(60):
            if number in (20, 40):
                owner.stop()
                restart = threading.Thread(target=owner.start)
                restart.start()
            writer.send(rows(50, number * 50))
            if number in (20, 40):
                restart.join()
        assert writer.flush().rows == 3000
    assert sorted(one_owner.stored()) == list(range(3000))


def test_an_idle_writer_survives_a_restart_of_its_owner(one_owner: FakeCluster) -> None:
    owner = one_owner.nodes["ingest-0"]
    with connect(one_owner) as connection:
        table = connection.table("trades")
        table.write(rows(5))
        owner.stop()
        owner.start()
        assert table.write(rows(5, 5)).rows == 5
    assert sorted(one_owner.stored()) == list(range(10))


def test_the_writer_gives_up_with_a_typed_error_when_no_owner_comes_back(one_owner: FakeCluster) -> None:
    with connect(one_owner, timeout_s=2.0) as connection:
        writer = connection.table("trades").writer(retry_s=0.3)
        writer.write(rows(1))
        one_owner.nodes["ingest-0"].stop()
        with pytest.raises(Unavailable, match="does not answer"):
            writer.write(rows(1, 1))
        with pytest.raises(Unavailable):
            writer.send(rows(1, 2))
        with pytest.raises(Unavailable):
            writer.close()


def test_a_refused_batch_ends_the_writer_with_the_owners_error(one_owner: FakeCluster) -> None:
    one_owner.nodes["ingest-0"].fault = once(InvalidBatch("Row 3 is later than 2262."), 2)
    with connect(one_owner) as connection:
        writer = connection.table("trades").writer()
        writer.write(rows(1))
        with pytest.raises(InvalidBatch, match="2262"):
            writer.write(rows(1, 1))
        writer.close(abandon=True)
        # the connection's own writer is another one, and is made anew after it failed
        one_owner.nodes["ingest-0"].fault = once(InvalidBatch("again"), 1)
        with pytest.raises(InvalidBatch, match="again"):
            connection.table("trades").write(rows(1, 1))
        assert connection.table("trades").write(rows(1, 1)).rows == 1


def test_a_named_producer_goes_on_after_what_every_slot_has(three_slots: FakeCluster) -> None:
    with connect(three_slots) as connection:
        table = connection.table("trades")
        with table.writer(producer="feed") as writer:
            for number in range(3):
                writer.send(rows(9, number * 9))
        with table.writer(producer="feed") as again:
            assert again.next_seq == 4
            again.send(rows(9, 27))
        with table.writer(producer="feed", first_seq=4) as repeated:
            assert repeated.write(rows(9, 27)).duplicates == 1
        with pytest.raises(ProducerConflict), table.writer(producer="feed", first_seq=4) as other:
            other.write(rows(9, 100))
    assert sorted(three_slots.stored()) == list(range(36))


def test_the_window_bounds_what_is_unacked(one_owner: FakeCluster) -> None:
    release, seen = threading.Event(), threading.Semaphore(0)

    def hold(_: dict[str, Any]) -> None:
        seen.release()
        release.wait(20)

    one_owner.nodes["ingest-0"].fault = hold
    with connect(one_owner) as connection, connection.table("trades").writer(window=2) as writer:
        sent = [writer.send(rows(1, n)) for n in range(2)]
        third = threading.Thread(target=lambda: sent.append(writer.send(rows(1, 2))))
        third.start()
        assert seen.acquire(timeout=20)
        third.join(0.05)
        assert third.is_alive()
        assert not sent[0].done
        release.set()
        third.join(20)
        assert writer.flush().rows == 3
    assert len(sent) == 3


def test_many_threads_write_one_table(one_owner: FakeCluster) -> None:
    with connect(one_owner) as connection:
        table = connection.table("trades")
        threads = [
            threading.Thread(target=lambda n=n: [table.write(rows(2, n * 20 + k * 2)) for k in range(10)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(one_owner.stored()) == list(range(80))


def test_no_rows_send_no_batch(one_owner: FakeCluster) -> None:
    with connect(one_owner) as connection:
        ack = connection.table("trades").write(rows(0))
    assert (ack.rows, ack.batches, ack.first_seq) == (0, 0, None)
    assert one_owner.nodes["ingest-0"].metadata == []


def test_rows_that_do_not_fit_are_refused_before_anything_is_sent(one_owner: FakeCluster) -> None:
    good = rows(2)
    bad = {
        "'price'.*missing": good.drop_columns(["price"]),
        "'colour'.*not in table": good.append_column("colour", pa.array(["r", "g"])),
        "'price'.*is double, but the rows have int64": good.set_column(3, "price", pa.array([1, 2])),
    }
    with connect(one_owner) as connection:
        table = connection.table("trades")
        for message, batch in bad.items():
            with pytest.raises(SchemaMismatch, match=message):
                table.write(batch)
        with pytest.raises(InvalidBatch, match=r"'symbol'.*1 nulls"):
            table.write(good.set_column(0, "symbol", pa.array(["A", None])))
        with pytest.raises(NotFound, match=r"'nosuch'.*trades"):
            connection.table("nosuch").write(good)
    assert one_owner.nodes["ingest-0"].metadata == []


def test_a_dropped_tables_writer_fails_instead_of_writing_into_its_successor(one_owner: FakeCluster) -> None:
    with connect(one_owner) as connection:
        writer = connection.table("trades").writer()
        writer.write(rows(1))
        owner = one_owner.nodes["ingest-0"]
        owner.fault = once(Unavailable("sealed"), 2)
        wire = one_owner.table.to_json()
        one_owner.table = type(one_owner.table)(
            wire["id"] + 1, "default", one_owner.table.spec, one_owner.table.shard_ids
        )
        with pytest.raises(NotFound, match="created anew"):
            writer.write(rows(1, 1))
        writer.close(abandon=True)
