"""A connection on the owner's host reads in its own process: the same answers, through writes, eviction and restarts."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from client_fakes import SPEC, rows

import proxist
from proxist.client.attach import Attaching, Elsewhere
from proxist.client.local import LocalReads
from proxist.client.topology import Topology, parse_topology
from proxist.errors import ConfigError, InvalidArgument, PermissionDenied, Unavailable
from proxist.hot.host import this_host_id
from proxist.model.ids import ShardId, TableId
from proxist.model.table import Table as TableEntry
from proxist.model.table import parse_spec
from proxist.rpc.attach import AttachDoor
from proxist.testing.cluster import LocalCluster

cluster_test = pytest.mark.cluster
SYMBOLS = [f"S{i}" for i in range(20)]


@pytest.fixture
def near(cluster: LocalCluster) -> Iterator[proxist.Connection]:
    with proxist.connect(cluster.endpoints["query"][0]["flight"], attach="require") as connection:
        yield connection


@pytest.fixture
def far(cluster: LocalCluster) -> Iterator[proxist.Connection]:
    with proxist.connect(cluster.endpoints["query"][0]["flight"], attach="never") as connection:
        yield connection


@pytest.fixture(params=[1, 3])
def table(request: pytest.FixtureRequest, near: proxist.Connection) -> Iterator[proxist.Table]:
    """Rows stay in RAM for a second after they came: reads meet evictions."""
    name = f"near_{abs(hash(request.node.name)) % 10**9}"
    made = near.create_table({**SPEC, "name": name, "shards": request.param, "hot_window": "1s"})
    yield made
    made.drop()


def answers(table: proxist.Table, seed: int, token: str | None) -> list[Any]:
    """One of each verb, all of them as of `token`."""
    rng = np.random.default_rng(seed)
    at = int(rng.integers(0, 20_000))
    keys = rng.choice(SYMBOLS, 40)
    probes = pa.table({"symbol": keys, "ts": pa.array(rng.integers(0, 20_000, 40), pa.timestamp("ns", "UTC"))})
    return [
        table.last_by(as_of=token), table.last_by(["S3", "none"], ["price"], at=at, as_of=token),
        table.first_by(at=at, as_of=token), table.scan(start=at, as_of=token), table.scan("S7", limit=9, as_of=token),
        table.asof(probes, as_of=token), table.asof(probes, ["price"], direction="forward", as_of=token),
        table.asof(probes, direction="nearest", tolerance=50, as_of=token),
        table.bars("S3", {"fn": "avg", "value": "price"}, every=100, start=at, stop=at + 1_000, as_of=token),
    ]  # fmt: skip


@cluster_test
def test_answers_are_flights_while_rows_come_and_go(table: proxist.Table, far: proxist.Connection) -> None:
    table.write(rows(1_000, symbols=20))
    stop = threading.Event()

    def write() -> None:
        first = 1_000
        while not stop.is_set() and first < 20_000:
            table.write(rows(200, first=first, symbols=20))
            first += 200

    writer = threading.Thread(target=write)
    writer.start()
    other, local = far.table(table.name), 0
    try:
        for seed in range(12):
            token = table.last_by().token
            for mine, theirs in zip(answers(table, seed, token), answers(other, seed, token), strict=True):
                assert mine.equals(theirs)
                assert mine.token == theirs.token
                local += mine.receipt["mode"] == "hot"
            now = table.last_by(["S3", "none", "S11"], ["price"])  # the one question that has a way of its own
            assert now.equals(other.last_by(["S3", "none", "S11"], ["price"], as_of=now.token))
    finally:
        stop.set()
        writer.join()
    assert local


@cluster_test
def test_last_rows_of_a_few_keys_are_flights_to_the_type(near: proxist.Connection, far: proxist.Connection) -> None:
    extra = [
        {"name": "flag", "type": "bool", "nullable": True}, {"name": "fee", "type": "float", "nullable": True},
        {"name": "seen", "type": "timestamp[ms]"}, {"name": "lots", "type": "int16"}, {"name": "venue", "type": "string"},
    ]  # fmt: skip
    table = near.create_table({**SPEC, "name": "near_types", "columns": SPEC["columns"] + extra})
    count = 60
    written = rows(count, symbols=12)
    for name, column in {
        "flag": pa.array([None if i % 5 == 0 else i % 2 == 0 for i in range(count)]),
        "fee": pa.array(
            [None if i % 3 == 0 else float("nan") if i % 4 == 0 else i / 8 for i in range(count)], pa.float32()
        ),
        "seen": pa.array([i - 30 for i in range(count)], pa.timestamp("ms")),
        "lots": pa.array([i - 30 for i in range(count)], pa.int16()),
        "venue": pa.array([f"v{i % 4}" for i in range(count)]),
    }.items():
        written = written.append_column(name, column)
    table.write(written)
    other = far.table(table.name)
    for keys in (["S3"], ["S9", "S10", "none", "S9", "S1"], ["none"]):
        for columns in (
            None,
            ["fee"],
            ["flag", "seen", "lots", "ts", "symbol"],
            ["price", "_offset"],
            ["venue", "fee"],
        ):
            mine, theirs = table.last_by(keys, columns), other.last_by(keys, columns)
            mine.to_arrow().validate(full=True)
            assert mine.schema.equals(theirs.schema)
            for name in mine.column_names:  # NaN equals NaN here
                assert repr(mine[name].to_pylist()) == repr(theirs[name].to_pylist())
            assert mine.receipt == theirs.receipt
    table.drop()


@cluster_test
def test_prepared_reads_are_the_verbs_whether_rows_are_in_ram_or_not(
    table: proxist.Table, far: proxist.Connection
) -> None:
    rng = np.random.default_rng(4)
    table.write(rows(2_000, symbols=20))
    keys, times = rng.choice(SYMBOLS, 100).tolist(), rng.integers(-5, 2_100, 100)
    price = np.zeros(100)
    latest, then = table.prepare_last_by(), table.prepare_asof(keys, ["price", "ts"], out={"price": price})
    other = far.table(table.name).prepare_asof(keys, ["price", "ts"])
    assert set(latest.keys) == set(SYMBOLS)
    for turn in range(3):
        assert latest.read() == 20
        assert latest.arrays["trade_id"].tolist() == table.last_by()["trade_id"].to_pylist()
        assert then.read(times) == other.read(times)
        assert np.array_equal(then.found, other.found)
        assert np.array_equal(then.arrays["ts"], other.arrays["ts"])
        assert np.array_equal(price, other.arrays["price"])
        table.write(rows(20, first=2_000 + 20 * turn, symbols=20))
        if turn == 1:
            table.flush()
            deadline = time.monotonic() + 60
            while table.scan().receipt["mode"] == "hot":  # until rows have left RAM
                assert time.monotonic() < deadline
                table.write(rows(20, first=2_000 + 20 * turn, symbols=20))


@cluster_test
def test_attached_reads_need_no_query_node(cluster: LocalCluster, near: proxist.Connection) -> None:
    table = near.create_table({**SPEC, "name": "near_alone"})
    table.write(rows(100))
    latest = table.prepare_last_by(["S1"], ["price"])
    with cluster.stopped("query-0"):
        assert table.last_by("S1")["trade_id"].to_pylist() == [96]
        assert table.scan().num_rows == 100
        assert latest.read() == 1
        assert latest.arrays["price"][0] == 24.0
    table.drop()


@cluster_test
@pytest.mark.timeout(240)
def test_a_killed_owner_is_followed_without_an_error(tmp_path: Path) -> None:
    with (
        LocalCluster(tmp_path) as cluster,
        proxist.connect(cluster.endpoints["query"][0]["flight"], attach="auto") as connection,
    ):
        assert connection.attaching.wait(60.0)
        table = connection.create_table({**SPEC, "name": "trades"})
        table.write(rows(100))
        latest = table.prepare_last_by(["S1", "S2"], ["trade_id"])
        before = attached_epoch(connection, table)
        killed = cluster.kill("ingest-0")
        deadline = time.monotonic() + 90.0
        while True:
            assert table.scan()["trade_id"].to_pylist() == list(range(100))
            assert table.last_by(["S1", "S2"])["trade_id"].to_pylist() == [96, 97]
            assert latest.read() == 2
            assert latest.arrays["trade_id"].tolist() == [96, 97]
            if cluster.status()["ingest-0"]["pid"] != killed and attached_epoch(connection, table) > before:
                break
            assert time.monotonic() < deadline, "the new owner was never attached"
        table.write(rows(100, first=100))
        assert latest.read() == 2
        assert latest.arrays["trade_id"].tolist() == [196, 197]


def attached_epoch(connection: proxist.Connection, table: proxist.Table) -> int:
    """Of the owner that is attached now; 0 where none is."""
    local = connection.attaching.reads()
    assert local is not None
    (shard,) = connection.table_map(table.name, fresh=True).table.shard_ids
    return local.host.epoch(shard)


class _Door:
    """A topology with one shard whose owner is this process, behind an attach door that refuses."""

    def __init__(self, run_dir: Path) -> None:
        self.door = AttachDoor(run_dir / "o.attach", self._refuse)
        entry = TableEntry(TableId(1), "default", parse_spec(SPEC), (ShardId(7),))
        node = {
            "name": "o",
            "role": "ingest",
            "flight": "grpc://h:1",
            "attach": str(self.door.path),
            "host_id": this_host_id(),
        }
        shard = {
            "slot": 0,
            "shard": 7,
            "node": "o",
            "epoch": 1,
            "logs": [{"epoch": 1, "start": 0, "end": None, "state": "open"}],
        }
        self.known = parse_topology({"nodes": [node], "tables": [{"table": entry.to_json(), "shards": [shard]}]})

    def topology(self, *, fresh: bool = False) -> Topology:
        return self.known

    @staticmethod
    def _refuse(shard: int) -> tuple[int, dict[str, Any]]:
        raise PermissionDenied("You may not attach to shard 7. Use Flight.", shard=shard)


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[_Door]:
    made = _Door(tmp_path / "run")
    yield made
    made.door.stop(10.0)


def test_a_refused_attach_is_flights_to_answer_or_an_error_where_it_is_required(refusing: _Door) -> None:
    query = {"last_by": {"table": "trades"}}
    auto = LocalReads(refusing.topology, None, required=False)
    with pytest.raises(Elsewhere):
        auto.answer(query, None, 10.0)
    auto.close()
    required = LocalReads(refusing.topology, None, required=True)
    with pytest.raises(PermissionDenied, match="may not attach"):
        required.answer(query, None, 10.0)
    with pytest.raises(Elsewhere):
        required.answer({"sql": "SELECT 1"}, None, 10.0)
    required.close()


def test_without_numba_auto_is_flight_and_require_names_the_extra(
    refusing: _Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    auto = Attaching("auto", refusing.topology, None)
    assert auto.wait(10.0) is False
    auto.close()
    with pytest.raises(ConfigError, match=r"proxist\[attach\]"):
        Attaching("require", refusing.topology, None).check()


def test_require_says_so_where_no_owner_is_on_this_host() -> None:
    elsewhere = Topology({}, (), (), None)
    with pytest.raises(Unavailable, match="attach"):
        Attaching("require", lambda **_: elsewhere, None).check()
    with pytest.raises(InvalidArgument, match="never"):
        Attaching("sometimes", lambda **_: elsewhere, None)


def test_neither_import_nor_connect_loads_numba() -> None:
    code = "import sys, proxist; proxist.connect; print('numba' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert shown.stdout == "False\n"
