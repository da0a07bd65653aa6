"""Replay against a fake cluster over real sockets: resumed after a break, recognised when it was sent."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from client_fakes import FakeCluster, rows

import proxist
from proxist.cli.feeds import columnar
from proxist.cli.feeds.feed import FeedBatch
from proxist.cli.feeds.player import FeedClock, Player, parse_speed
from proxist.cli.replay import main
from proxist.errors import InvalidArgument, InvalidBatch, NotFound


@pytest.fixture
def capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """2,000 rows in 20 batches."""
    monkeypatch.setattr(columnar, "ROWS_MAX", 100)
    pq.write_table(rows(2_000), tmp_path / "day.parquet")
    return tmp_path / "day.parquet"


def test_a_file_is_sent_once_and_recognised_the_second_time(three_slots: FakeCluster, capture: Path) -> None:
    with proxist.connect(three_slots.nodes["ingest-0"].uri) as connection:
        first = Player(connection).play(capture, table="trades")
        second = Player(connection).play(capture, table="trades")
    assert (first.sent, first.known) == ({"trades": 2_000}, {})
    assert (second.sent, second.known) == ({}, {"trades": 2_000})
    assert sorted(three_slots.stored()) == list(range(2_000))


def test_a_file_that_was_sent_in_half_is_resumed(three_slots: FakeCluster, capture: Path) -> None:
    owner = three_slots.nodes["ingest-0"]
    owner.fault = lambda told: InvalidBatch("stop here") if told["seq"] == 7 else None
    with proxist.connect(three_slots.nodes["query-0"].uri) as connection:
        with pytest.raises(InvalidBatch):
            Player(connection).play(capture, table="trades")
        owner.fault = lambda _: None
        report = Player(connection).play(capture, table="trades")
    assert report.known == {"trades": 600}
    assert report.sent == {"trades": 1_400}
    assert sorted(three_slots.stored()) == list(range(2_000))


def test_the_cluster_going_away_in_the_middle_loses_nothing(one_owner: FakeCluster, capture: Path) -> None:
    owner = one_owner.nodes["ingest-0"]
    seen: list[int] = []

    def interrupt(position: int, _: int) -> None:
        seen.append(position)
        if len(seen) in (5, 11):
            for node in one_owner.nodes.values():
                node.stop()
            for node in one_owner.nodes.values():
                node.start()

    with proxist.connect(owner.uri) as connection:
        Player(connection, on_progress=interrupt).play(capture, table="trades")
    assert sorted(one_owner.stored()) == list(range(2_000))
    assert seen == sorted(seen)


def test_a_table_that_is_not_there_is_refused_with_the_command(one_owner: FakeCluster, capture: Path) -> None:
    with (
        proxist.connect(one_owner.nodes["query-0"].uri) as connection,
        pytest.raises(NotFound, match=r"'nosuch'.*pxctl create-table"),
    ):
        Player(connection).play(capture, table="nosuch")


def test_a_paced_replay_waits_for_each_batchs_time() -> None:
    waits: list[float] = []

    class Recorder(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    batch = rows(1).to_batches()[0]
    clock = FeedClock(10.0, Recorder())
    for first_ns in (0, 10**12, 2 * 10**12, 5):
        clock.wait_for(FeedBatch("trades", batch, first_ns, 0))
    assert [round(wait_s) for wait_s in waits] == [100, 200]  # a file that begins earlier starts its own clock
    FeedClock(None, Recorder()).wait_for(FeedBatch("trades", batch, 10**18, 0))
    assert len(waits) == 2


def test_speeds() -> None:
    assert parse_speed("max") is None
    assert (parse_speed("1x"), parse_speed("10x"), parse_speed("0.5x")) == (1.0, 10.0, 0.5)
    for text in ("", "fast", "0x", "-1x", "nan"):
        with pytest.raises(InvalidArgument, match="Speed"):
            parse_speed(text)


def test_the_command_says_what_was_sent_and_ends_errors_in_one_line(
    one_owner: FakeCluster, capture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = one_owner.nodes["ingest-0"].uri
    with pytest.raises(SystemExit) as done:
        main(["--to", to, "--table", "trades", str(capture)])
    assert done.value.code == 0
    assert "trades: 2,000 rows acknowledged" in capsys.readouterr().out
    with pytest.raises(SystemExit) as failed:
        main(["--to", to, "--format", "orc", str(capture)])
    assert failed.value.code == 64
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: Format 'orc' is not known.")
