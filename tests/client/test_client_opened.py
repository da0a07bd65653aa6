"""`proxist.open`: one process, no server; what a write returned for is there at the next opening."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from client_fakes import SPEC, rows

import proxist
from proxist.client import opened
from proxist.errors import (
    AlreadyExists,
    DirectoryLocked,
    InvalidArgument,
    NotFound,
    Overloaded,
    SchemaMismatch,
    Unavailable,
)
from proxist.hot.writer import HotSet
from proxist.wal import LogWriter
from proxist.wal.record import RecordIn

CRASH = """
import os, sys
sys.path.insert(0, sys.argv[2])
import proxist
from client_fakes import SPEC, rows
database = proxist.open(sys.argv[1])
table = database.create_table(SPEC)
for turn in range(5):
    table.write(rows(100, first=100 * turn), durability="disk" if turn % 2 else "os")
print("acked", flush=True)
os.kill(os.getpid(), 9)
"""


def test_the_verbs_answer_as_on_a_cluster(tmp_path: Path) -> None:
    with proxist.open(tmp_path / "ticks") as database:
        table = database.create_table(SPEC)
        assert table.write(rows(1_000, symbols=20)).rows == 1_000
        assert table.scan().to_arrow().equals(rows(1_000, symbols=20).cast(table.spec.schema))
        assert table.last_by(["S3", "S7"], ["price"]).to_pydict() == {
            "symbol": ["S3", "S7"],
            "price": [983 / 4, 987 / 4],
        }
        assert table.first_by("S3", "trade_id", at=500)["trade_id"].to_pylist() == [503]
        assert table.scan("S3", start=100, stop=124)["trade_id"].to_pylist() == [103, 123]
        probes = pa.table({"symbol": ["S1", "S2", "none"], "ts": pa.array([50, 1, 5], pa.timestamp("ns", "UTC"))})
        assert table.asof(probes, ["trade_id"])["trade_id"].to_pylist() == [41, None, None]
        assert table.asof(table, ["price"], allow_exact=False)["price_right"].null_count == 20
        bars = table.bars("S3", {"fn": "count", "value": "price"}, every=100)
        assert sum(bars.to_arrow().columns[2].to_pylist()) == 50
        assert table.scan().receipt["mode"] == "hot"


def test_late_rows_and_ties_are_in_order(tmp_path: Path) -> None:
    with proxist.open(tmp_path) as database:
        table = database.create_table(SPEC)
        table.write(rows(10, first=100, symbols=1))
        table.write(rows(10, first=50, symbols=1))
        late = pa.table({**{n: rows(1, first=109, symbols=1)[n] for n in ("symbol", "ts", "trade_id")}, "price": [7.0]})
        table.write(late)
        assert table.scan()["trade_id"].to_pylist() == [*range(50, 60), *range(100, 110), 109]
        assert table.last_by("S0")["price"].to_pylist() == [7.0]


def test_rows_are_there_at_the_next_opening_and_tokens_still_hold(tmp_path: Path) -> None:
    token, written = None, 0
    for opening in range(4):
        with proxist.open(tmp_path) as database:
            table = database.create_table(SPEC)
            assert table.scan()["trade_id"].to_pylist() == list(range(written))
            if opening != 2:  # an opening that writes nothing leaves nothing
                ack = table.write(rows(50, first=written))
                token, written = token or ack.token, written + 50
            assert table.scan(as_of=token)["trade_id"].to_pylist() == list(range(50))
    with proxist.open(tmp_path) as database:
        assert [spec.name for spec in database.tables()] == ["trades"]
        assert database.table("trades").scan().num_rows == 150


def test_acked_rows_survive_kill_9(tmp_path: Path) -> None:
    crashed = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert (crashed.stdout, crashed.returncode) == ("acked\n", -9), crashed.stderr
    with proxist.open(tmp_path) as database:
        assert database.table("trades").scan()["trade_id"].to_pylist() == list(range(500))


def test_a_directory_has_one_process(tmp_path: Path) -> None:
    with proxist.open(tmp_path), pytest.raises(DirectoryLocked, match="one process"):
        proxist.open(tmp_path)
    proxist.open(tmp_path).close()


def test_prepared_reads_work_here_too(tmp_path: Path) -> None:
    with proxist.open(tmp_path) as database:
        table = database.create_table(SPEC)
        table.write(rows(1_000, symbols=20))
        latest = table.prepare_last_by(["S3", "none"], ["price"])
        assert latest.read() == 1
        assert latest.arrays["price"].tolist() == [983 / 4, 0.0]
        then = table.prepare_asof(["S1", "S2"], ["trade_id"], direction="forward")
        assert then.read(np.array([50, 990])) == 1
        assert then.arrays["trade_id"].tolist() == [61, 0]
        table.write(rows(20, first=1_000, symbols=20))
        assert latest.read() == 1
        assert latest.arrays["price"][0] == 1003 / 4


def test_a_full_table_refuses_rows_and_keeps_what_it_has(tmp_path: Path) -> None:
    spec = {**SPEC, "hot_bytes": "1MiB"}
    with proxist.open(tmp_path) as database:
        table, written = database.create_table(spec), 0
        refused = None
        while refused is None and written < 1_000_000:
            try:
                written += table.write(rows(2_000, first=written)).rows
            except Overloaded as error:
                refused = error
        assert "hot_bytes" in str(refused)
        assert table.scan().num_rows == written > 0
    with proxist.open(tmp_path) as database:
        assert database.table("trades").scan().num_rows == written


def test_what_is_wrong_is_refused_by_name(tmp_path: Path) -> None:
    with proxist.open(tmp_path) as database:
        table = database.create_table(SPEC)
        with pytest.raises(AlreadyExists, match="another spec"):
            database.create_table({**SPEC, "hot_bytes": "1GiB"})
        with pytest.raises(NotFound, match="trades"):
            database.table("nosuch").scan()
        with pytest.raises(SchemaMismatch, match="price"):
            table.write(rows(3).drop_columns("price"))
        with pytest.raises(InvalidArgument, match="durability|Durability"):
            table.write(rows(3), durability="cold")
        with pytest.raises(InvalidArgument, match="SQL"):
            database.sql("SELECT 1")
        table.drop()
        with pytest.raises(NotFound):
            table.scan()
        assert database.create_table(SPEC).scan().num_rows == 0


def test_a_closed_directory_takes_nothing_and_keeps_its_tables(tmp_path: Path) -> None:
    database = proxist.open(tmp_path)
    table = database.create_table(SPEC)
    table.write(rows(10))
    latest = table.prepare_last_by(["S1"])
    latest.read()
    database.close()
    uses: list[Callable[[], object]] = [
        lambda: database.create_table({**SPEC, "name": "other"}),
        lambda: database.drop_table("trades"),
        lambda: database.flush("trades"),
        database.tables,
        lambda: table.write(rows(1)),
        table.scan,
        latest.read,
    ]
    with proxist.open(tmp_path) as other:  # somebody else has the lock now
        for use in uses:
            with pytest.raises(Unavailable, match="directory is closed. Open it again"):
                use()
        assert other.table("trades").write(rows(10, first=10)).rows == 10
    database.close()
    with proxist.open(tmp_path) as database:
        assert [spec.name for spec in database.tables()] == ["trades"]
        assert database.table("trades").scan().num_rows == 20


@pytest.mark.parametrize(
    ("owner", "method", "after"),
    [
        (LogWriter, "append", False),
        (LogWriter, "append", True),
        (HotSet, "append", False),
        (HotSet, "append", True),
        (LogWriter, "sync", False),
        (HotSet, "publish", False),
    ],
)
def test_a_write_that_was_interrupted_stops_the_table_until_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, after: bool
) -> None:
    monkeypatch.setattr(opened, "BATCH_ROWS", 4)
    real = getattr(owner, method)

    def interrupted(*args: object) -> None:
        if after:
            real(*args)
        raise KeyboardInterrupt

    with proxist.open(tmp_path) as database:
        table = database.create_table(SPEC)
        table.write(rows(10))
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, interrupted)
            with pytest.raises(KeyboardInterrupt):
                table.write(rows(10, first=10), durability="disk")
        for use in (lambda: table.write(rows(10, first=20)), lambda: database.flush("trades")):
            with pytest.raises(Unavailable, match="'trades' takes no writes.*open it again"):
                use()
        assert table.scan()["trade_id"].to_pylist() == list(range(10))
    logged = (owner, method, after) != (LogWriter, "append", False)
    kept = list(range(20 if logged else 10))
    with proxist.open(tmp_path) as database:
        table = database.table("trades")
        assert table.scan()["trade_id"].to_pylist() == kept
        token = table.write(rows(10, first=20)).token
    with proxist.open(tmp_path) as database:
        found = database.table("trades").scan(as_of=token)
        assert found["trade_id"].to_pylist() == [*kept, *range(20, 30)]


def test_a_flush_that_was_interrupted_stops_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with proxist.open(tmp_path) as database:
        table = database.create_table(SPEC)
        table.write(rows(10), durability="os")
        with monkeypatch.context() as patch:
            patch.setattr(LogWriter, "sync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                database.flush("trades")
        with pytest.raises(Unavailable, match="open it again"):
            database.flush("trades")


def test_a_disk_without_room_takes_all_of_a_write_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "BATCH_ROWS", 4)
    real, room = LogWriter.append, ["for one append"]

    def append(log: LogWriter, records: list[RecordIn]) -> int:
        if not room:
            raise Overloaded("The disk has no room.")
        room.pop()
        return real(log, records)

    with proxist.open(tmp_path) as database:
        table = database.create_table(SPEC)
        table.write(rows(3))
        with monkeypatch.context() as patch:
            patch.setattr(LogWriter, "append", append)
            assert table.write(rows(10, first=3)).batches == 3
            with pytest.raises(Overloaded, match="no room"):
                table.write(rows(10, first=13))
        assert table.scan()["trade_id"].to_pylist() == list(range(13))
        table.write(rows(10, first=13))
        assert table.scan()["trade_id"].to_pylist() == list(range(23))
    with proxist.open(tmp_path) as database:
        assert database.table("trades").scan()["trade_id"].to_pylist() == list(range(23))


def test_a_write_without_rows_changes_nothing(tmp_path: Path) -> None:
    with proxist.open(tmp_path) as database:
        table = database.create_table(SPEC)
        assert table.write(rows(0)).rows == 0
        table.write(rows(3))
        assert table.write(rows(0)).rows == 0
    with proxist.open(tmp_path) as database:
        assert database.table("trades").scan().num_rows == 3


def test_a_drop_waits_for_the_write_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, dropped = opened.conform, threading.Event()

    def conform(*args: object, **named: object) -> pa.Table:
        threads.append(threading.Thread(target=lambda: (database.drop_table("trades"), dropped.set())))
        threads[0].start()
        assert not dropped.wait(0.2)
        return real(*args, **named)

    threads: list[threading.Thread] = []
    with proxist.open(tmp_path) as database:
        table = database.create_table(SPEC)
        with monkeypatch.context() as patch:
            patch.setattr(opened, "conform", conform)
            assert table.write(rows(10)).rows == 10
        threads[0].join(10)
        assert dropped.is_set()
        with pytest.raises(NotFound):
            table.scan()
        assert not list(tmp_path.rglob("*.wal"))


def test_a_prepared_read_follows_a_table_that_was_dropped_and_made_again(tmp_path: Path) -> None:
    with proxist.open(tmp_path) as database:
        table = database.create_table(SPEC)
        table.write(rows(10))
        latest = table.prepare_last_by(["S1", "S2"], ["trade_id"])
        assert latest.read() == 2
        table.drop()
        with pytest.raises(NotFound, match="trades"):
            latest.read()
        database.create_table(SPEC).write(rows(3, first=100, symbols=100))
        assert latest.read() == 2
        table.drop()
        table = database.create_table(SPEC)
        ack = table.write(rows(2))
        assert latest.read() == 1
        assert latest.found.tolist() == [True, False]
        assert latest.arrays["trade_id"].tolist() == [1, 0]
        assert latest.token == ack.token
