"""Store and forward: what `send` took is stored once, through outages of the cluster and kills of the client."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import spool_feeder
from client_fakes import SPEC, FakeCluster, rows

import proxist
from proxist.client.spool_segment import Segment
from proxist.errors import (
    DeadlineExceeded,
    InvalidArgument,
    InvalidBatch,
    NotFound,
    ProxistError,
    SpoolFull,
    Unavailable,
)
from proxist.testing.cluster import LocalCluster

WAIT_S = 60.0


def connect(cluster: FakeCluster, **settings: Any) -> proxist.Connection:
    return proxist.connect(cluster.nodes["query-0"].uri, read_retry_s=0.1, **settings)


def writer(connection: proxist.Connection, spool: Path, **settings: Any) -> proxist.SpooledWriter:
    return connection.table("trades").writer(spool=spool, producer="feed", **settings)


def all_down(cluster: FakeCluster) -> None:
    for node in cluster.nodes.values():
        node.stop()


def all_up(cluster: FakeCluster) -> None:
    for node in cluster.nodes.values():
        node.start()


def test_rows_go_through_the_spool_to_the_owners_and_leave_it(three_slots: FakeCluster, tmp_path: Path) -> None:
    with connect(three_slots) as connection, writer(connection, tmp_path) as feed:
        sent = [feed.send(rows(10, first)) for first in range(0, 200, 10)]
        assert [one.wait(WAIT_S).first_seq for one in sent] == list(range(1, 21))
        ack = feed.flush(WAIT_S)
        assert (ack.rows, ack.batches, ack.first_seq, ack.last_seq) == (200, 20, 1, 20)
        assert (feed.unacked, feed.next_seq) == (0, 21)
    assert sorted(three_slots.stored()) == list(range(200))


def test_an_outage_only_delays_rows(three_slots: FakeCluster, tmp_path: Path) -> None:
    with connect(three_slots) as connection, writer(connection, tmp_path) as feed:
        feed.send(rows(100)).wait(WAIT_S)
        all_down(three_slots)
        for first in range(100, 1_000, 100):
            feed.send(rows(100, first))
        with pytest.raises(DeadlineExceeded, match="in the spool"):
            feed.flush(0.05)
        assert feed.unacked == 9
        all_up(three_slots)
        feed.flush(WAIT_S)
    assert sorted(three_slots.stored()) == list(range(1_000))


def test_a_client_starts_without_the_cluster_once_it_has_a_spool(one_owner: FakeCluster, tmp_path: Path) -> None:
    with connect(one_owner) as connection:
        writer(connection, tmp_path).close()
    all_down(one_owner)
    with connect(one_owner, lazy=True) as connection:
        with pytest.raises(Unavailable, match="its first opening needs the cluster"):
            writer(connection, tmp_path / "new")
        with writer(connection, tmp_path) as feed:
            feed.send(rows(5))
    with connect(one_owner, lazy=True) as connection, writer(connection, tmp_path) as feed:
        feed.send(rows(5, 5))
        assert feed.unacked == 2
        all_up(one_owner)
        feed.flush(WAIT_S)
    assert one_owner.stored() == list(range(10))


def test_a_batch_whose_ack_the_client_never_saw_is_stored_once(one_owner: FakeCluster, tmp_path: Path) -> None:
    node = one_owner.nodes["ingest-0"]
    node.lose_ack = lambda told: told["seq"] == 3
    with connect(one_owner) as connection, writer(connection, tmp_path) as feed:
        for first in range(0, 50, 10):
            feed.send(rows(10, first))
        with pytest.raises(DeadlineExceeded):
            feed.flush(0.3)
    node.lose_ack = lambda _: False
    with connect(one_owner) as connection, writer(connection, tmp_path) as feed:
        feed.flush(WAIT_S)
    assert one_owner.stored() == list(range(50))


def test_a_full_spool_refuses_with_its_own_type_and_goes_on_when_the_cluster_is_back(
    one_owner: FakeCluster, tmp_path: Path
) -> None:
    with connect(one_owner) as connection, writer(connection, tmp_path, spool_bytes=40_000) as feed:
        all_down(one_owner)
        taken = 0
        with pytest.raises(SpoolFull):  # noqa: PT012
            while True:
                feed.send(rows(10, taken))
                taken += 10
        all_up(one_owner)
        feed.flush(WAIT_S)
        feed.send(rows(10, taken)).wait(WAIT_S)
    assert one_owner.stored() == list(range(taken + 10))


def test_rows_that_the_cluster_refuses_end_the_writer_and_stay(one_owner: FakeCluster, tmp_path: Path) -> None:
    refusal = InvalidBatch("Time is out of range.")
    one_owner.nodes["ingest-0"].fault = lambda told: refusal if told["seq"] == 2 else None
    with connect(one_owner) as connection, writer(connection, tmp_path) as feed:
        feed.send(rows(10)).wait(WAIT_S)
        sent = feed.send(rows(10, 10))
        with pytest.raises(InvalidBatch):
            sent.wait(WAIT_S)
        with pytest.raises(InvalidBatch):
            feed.send(rows(10, 20))
        assert (feed.unacked, feed.failed) == (1, feed.failed)
    one_owner.nodes["ingest-0"].fault = lambda _: None
    with connect(one_owner) as connection, writer(connection, tmp_path) as feed:
        feed.flush(WAIT_S)
    assert one_owner.stored() == list(range(20))


@pytest.mark.parametrize("cause", [OSError(errno.EIO, "Input/output error"), pa.ArrowInvalid("Not a batch")])
def test_whatever_ends_the_forwarding_is_told_to_every_call(
    one_owner: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> None:
    def failing(*_: object) -> None:
        raise cause

    with connect(one_owner) as connection:
        with writer(connection, tmp_path) as feed:
            feed.send(rows(10)).wait(WAIT_S)
            monkeypatch.setattr(Segment, "read", failing)
            sent = feed.send(rows(10, 10))
            for call in (lambda: sent.wait(WAIT_S), lambda: feed.flush(WAIT_S), lambda: feed.send(rows(10, 20))):
                with pytest.raises(Unavailable, match="cannot be forwarded any more") as told:
                    call()
                assert str(tmp_path) in told.value.message
                assert str(cause) in told.value.message
            assert feed.unacked == 1
        monkeypatch.undo()
        with writer(connection, tmp_path) as feed:
            feed.flush(WAIT_S)
    assert one_owner.stored() == list(range(20))


def test_acks_that_cannot_be_noted_do_not_stop_the_forwarding(
    one_owner: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    with connect(one_owner) as connection:
        with writer(connection, tmp_path) as feed:

            def failing(fd: int, raw: bytes, position: int) -> int:
                if fd == feed._spool._acked_fd:
                    raise OSError(errno.EIO, "Input/output error")
                return real(fd, raw, position)

            monkeypatch.setattr(os, "pwrite", failing)
            for first in range(0, 50, 10):
                feed.send(rows(10, first))
            feed.flush(WAIT_S)
            assert (feed.unacked, feed.failed) == (0, None)
        monkeypatch.undo()
        with writer(connection, tmp_path) as feed:
            assert (feed.unacked, feed.next_seq) == (5, 6)
            assert feed.flush(WAIT_S).duplicates == 5
    assert one_owner.stored() == list(range(50))


def test_a_table_that_was_made_again_gets_no_rows_of_the_one_before(one_owner: FakeCluster, tmp_path: Path) -> None:
    with connect(one_owner) as connection:
        writer(connection, tmp_path).close()
        one_owner.table = type(one_owner.table)(
            type(one_owner.table.id)(one_owner.table.id + 1), "default", one_owner.table.spec, one_owner.table.shard_ids
        )
        with writer(connection, tmp_path) as feed:
            sent = feed.send(rows(3))
            with pytest.raises(NotFound, match="created anew"):
                sent.wait(WAIT_S)
    assert one_owner.stored() == []


def test_what_a_spool_needs_is_said(one_owner: FakeCluster, tmp_path: Path) -> None:
    with connect(one_owner) as connection:
        with pytest.raises(InvalidArgument, match="needs a `producer` name"):
            connection.table("trades").writer(spool=tmp_path)
        with pytest.raises(InvalidArgument, match="`spool_durability` is 'mem'"):
            writer(connection, tmp_path, spool_durability="mem")
        writer(connection, tmp_path).close()
        with pytest.raises(InvalidArgument, match="is of table 'trades', not 'quotes'"):
            connection.table("quotes").writer(spool=tmp_path, producer="feed")


def feed_until_killed(uri: str, table: str, spool: Path, batches: int, kill_after: int | None) -> tuple[int, bool]:
    """The highest number that was taken, and whether all are acked."""
    command = [sys.executable, spool_feeder.__file__, uri, table, str(spool), str(batches)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    taken, acked = 0, False
    for seen, line in enumerate(process.stdout, 1):
        word, number = line.split()
        taken, acked = (int(number), acked) if word == "taken" else (taken, True)
        if seen == kill_after:
            process.kill()
    process.stdout.close()
    assert process.wait() == (0 if acked else -9)
    return taken, acked


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "kills", [3, pytest.param(int(os.environ.get("PROXIST_TEST_CLIENT_KILLS", "100")), marks=pytest.mark.slow)]
)
def test_a_client_that_is_killed_again_and_again_loses_and_doubles_nothing(
    cluster: LocalCluster, tmp_path: Path, rng: random.Random, kills: int
) -> None:
    uri = cluster.endpoints["query"][0]["flight"]
    name = f"spooled{kills}"
    with proxist.connect(uri) as connection:
        table = connection.create_table({**SPEC, "name": name, "shards": 2})
        highest = 0
        for at in range(kills):
            goal = highest + 400
            taken, _ = feed_until_killed(uri, name, tmp_path / "spool", goal, rng.randrange(1, 300))
            highest = max(highest, taken)
            if at == kills // 2:
                cluster.kill("ingest-0")
        _, acked = feed_until_killed(uri, name, tmp_path / "spool", highest + 10, None)
        assert acked
        stored = _stored(table)
        print(f"{kills} kills, {highest + 10} batches, {len(stored)} rows")
        assert stored == list(range(spool_feeder.ROWS, (highest + 11) * spool_feeder.ROWS))
        table.drop()


def _stored(table: proxist.Table) -> list[int]:
    try:
        return sorted(table.scan(columns=["trade_id"])["trade_id"].to_pylist())
    except ProxistError as error:
        raise AssertionError(error.message) from error
