"""Every failpoint of the registry hit once with a kill, in a real process, and nothing lost or doubled behind it.

Which points there are comes from the registry: one that the drill of its area does not reach fails its test.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ingest_nodes import WAIT_S, create_table, flags
from kills import SPEC, Load, Oracle, OwnerUnderKills, Sender

from proxist.clickhouse import ClickHouse
from proxist.errors import TransientError
from proxist.etcd import EtcdClient, layout
from proxist.etcd.shards import change_table
from proxist.failpoints import POINTS
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.pb import ingest_pb2 as pb
from proxist.pb import ingest_pb2_grpc as pb_grpc
from proxist.rpc.grpc_client import connect
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.etcd import LocalEtcd
from proxist.testing.nursery import Life, Nursery
from proxist.wal import log_directory
from proxist.wal.decision import AcceptedLoss, read_decision

PERSISTERS = ("persister.", "etcd.watermarks.")
DECISIONS = ("wal.accept.",)
OWNERS = ("wal.", "volume.", "commit.", "snapshot.", "truncate.", "etcd.open.", "etcd.seal.")
TIMES = {"wal.append.": 4, "wal.sync.": 4, "commit.publish.": 2, "commit.answer.": 2}
"""Points of every group are not killed at the first time, so that there are acked rows before."""
FULL = {"volume.ballast.": "snapshot.write.before=error:ENOSPC@1;"}
"""What must go wrong for a point to be reached."""
LIVES_MAX = 6
"""Three snapshots must be there before anything is given up."""
pytestmark = pytest.mark.timeout(240)


def _spec(point: str) -> str:
    times = next((times for begin, times in TIMES.items() if point.startswith(begin)), 1)
    before = next((before for begin, before in FULL.items() if point.startswith(begin)), "")
    return f"{before}{point}=kill@{times}"


def _of(areas: tuple[str, ...]) -> list[str]:
    return [name for name in POINTS if name.startswith(areas)]


def _of_owners() -> list[str]:
    return [name for name in _of(OWNERS) if not name.startswith(DECISIONS)]


@pytest.fixture(scope="module")
def etcd() -> Iterator[LocalEtcd]:
    with LocalEtcd() as running:
        yield running


@pytest.fixture(scope="module")
def client(etcd: LocalEtcd) -> Iterator[EtcdClient]:
    with EtcdClient([etcd.address]) as connected:
        yield connected


@pytest.fixture(scope="module")
def owners() -> Iterator[Nursery]:
    with Nursery("proxist_ingest") as running:
        yield running


def test_every_point_has_a_drill_that_reaches_it() -> None:
    """A new point belongs to an area whose drill is here; that the drill reaches it is what its own test shows."""
    assert set(POINTS) == {*_of_owners(), *_of(DECISIONS), *_of(PERSISTERS)}


# ---- owners ----------------------------------------------------------------------------------------------------------


class OneOwner:
    """A node whose lives go on from test to test, so that old logs and snapshots are there; begun anew after a failure."""

    def __init__(self, owners: Nursery, etcd: LocalEtcd, client: EtcdClient, directory: Path) -> None:
        client.delete("/proxist/", prefix=True)
        table = create_table(client, {**SPEC, "shards": 1, "flush": {"rows": 30}}, ["ingest-0"])
        self.owner = OwnerUnderKills(owners, directory, etcd.address, table)
        self.oracle = Oracle(random.Random(1))
        self.senders = [Sender(self.oracle, numbered, "disk") for numbered in (True, True, False)]


@pytest.fixture(scope="module")
def kept() -> list[OneOwner]:
    """The owner of the test before, where that passed."""
    return []


@pytest.fixture
def one(
    kept: list[OneOwner], owners: Nursery, etcd: LocalEtcd, client: EtcdClient, tmp_path_factory: pytest.TempPathFactory
) -> OneOwner:
    return kept.pop() if kept else OneOwner(owners, etcd, client, tmp_path_factory.mktemp("owner"))


@pytest.mark.parametrize("point", _of_owners())
def test_an_owner_killed_there_loses_and_doubles_nothing(
    point: str, one: OneOwner, kept: list[OneOwner], client: EtcdClient
) -> None:
    owner, oracle, senders = one.owner, one.oracle, one.senders
    for _ in range(LIVES_MAX):
        life = owner.start(_spec(point))
        if (ready := life.ready()) is not None:
            owner.check(ready, oracle)
            _live_through(life, ready, senders, client if point.startswith("etcd.seal.") else None)
        if life.wait() == -signal.SIGKILL:
            break
        assert life.wait() == 0, life.tail()
    else:
        raise AssertionError(f"this drill does not reach {point}")
    change_table(client, "default", "trades", state="active")
    life = owner.start()
    ready = life.ready()
    assert ready is not None, life.tail()
    owner.check(ready, oracle)
    Load(senders, ready["flight"], 2).join()
    owner.check(ready, oracle)
    life.kill()
    kept.append(one)


def _live_through(life: Life, ready: dict[str, str], senders: list[Sender], client: EtcdClient | None) -> None:
    """What an owner does in its life, as far as it comes: write, hear what is persisted, evict, with `client` give the
    shard away, and stop, which takes a snapshot."""
    Load(senders, ready["flight"], 4).join()
    with connect(ready["grpc"]) as channel, contextlib.suppress(TransientError):
        stub = pb_grpc.IngestServiceStub(channel)
        mark = stub.Flush(pb.FlushRequest(table="trades", wait=False), timeout=WAIT_S).shards[0]
        known = pb.AdvancePersistedRequest(shard=1, epoch=mark.epoch, persisted=mark.end)
        stub.AdvancePersisted(known, timeout=WAIT_S)
        stub.Evict(pb.EvictRequest(table="trades", all=True), timeout=WAIT_S)
    Load(senders, ready["flight"], 4).join()
    if client is not None:
        change_table(client, "default", "trades", state="dropping")  # its owner gives it back, its persister drops it
        _until(lambda: not life.alive or client.get(layout.owner_key(ShardId(1))) is None, "the shard is given away")
    life.send(signal.SIGTERM)


@pytest.mark.parametrize("point", _of(DECISIONS))
def test_an_operators_decision_cut_short_there_is_whole_or_absent(point: str, tmp_path: Path) -> None:
    log = log_directory(tmp_path, Epoch(7))
    log.mkdir(parents=True)
    env = {**os.environ, "PROXIST_FAILPOINTS": _spec(point)}
    done = subprocess.run([sys.executable, "-c", DECIDE, str(log)], env=env, timeout=WAIT_S, check=False)
    assert done.returncode == -signal.SIGKILL
    made = AcceptedLoss(Offset(10), 3, ((Offset(10), Offset(20)),), 1)
    assert read_decision(log) == (made if point.endswith(".after") else None)


DECIDE = """
import sys
from pathlib import Path
from proxist import failpoints
from proxist.wal import OsFiles
from proxist.wal.decision import AcceptedLoss, write_decision
failpoints.arm_from_environment()
write_decision(Path(sys.argv[1]), AcceptedLoss(10, 3, ((10, 20),), 1), OsFiles())
"""


# ---- persisters ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClickHouse]:
    with LocalClickHouse(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture(scope="module")
def persisters() -> Iterator[Nursery]:
    with Nursery("proxist_persister") as running:
        yield running


class Sink:
    """One owner that lives on, and persisters that come and go."""

    def __init__(self, owners: Nursery, persisters: Nursery, etcd: LocalEtcd, store: LocalClickHouse, at: Path) -> None:
        self._persisters = persisters
        self._at = at
        with EtcdClient([etcd.address]) as client:
            client.delete("/proxist/", prefix=True)
            table = create_table(client, {**SPEC, "shards": 1, "flush": {"rows": 30}}, ["ingest-0"])
        self.oracle = Oracle(random.Random(1))
        self.sender = Sender(self.oracle, True, "disk")
        life = OwnerUnderKills(owners, at, etcd.address, table).start()
        ready = life.ready()
        assert ready is not None, life.tail()
        self.flight = ready["flight"]
        own = {"flight_port", "stop_grace_s"}
        self._flags = [
            flag
            for flag in flags(at, etcd.address, "persister-0")
            if flag[2:].split("=")[0].replace("-", "_") not in own
        ]
        self._flags.append(f"--clickhouse={store.url}")

    def persister(self, failpoints: str = "") -> Life:
        env = {"PROXIST_FAILPOINTS": failpoints} if failpoints else {}
        return self._persisters.start(self._flags, self._at / "persister.log", env)


@pytest.fixture(scope="module")
def sink(
    owners: Nursery,
    persisters: Nursery,
    etcd: LocalEtcd,
    clickhouse: LocalClickHouse,
    tmp_path_factory: pytest.TempPathFactory,
) -> Sink:
    return Sink(owners, persisters, etcd, clickhouse, tmp_path_factory.mktemp("sink"))


@pytest.mark.parametrize("point", _of(PERSISTERS))
def test_a_persister_killed_there_leaves_every_row_to_its_successor_once(
    point: str, sink: Sink, clickhouse: LocalClickHouse
) -> None:
    Load([sink.sender], sink.flight, 5).join()
    life = sink.persister(_spec(point))
    assert life.wait(WAIT_S) == -signal.SIGKILL, f"this drill does not reach {point}"
    successor = sink.persister()
    store = clickhouse.client()
    total = sink.oracle.batches[-1].end
    _until(lambda: len(_stored(store)) >= total, "all rows are stored")
    assert _stored(store) == list(range(total)), "not every row once and in order"
    successor.kill()
    store.close()


def _stored(store: ClickHouse) -> list[int]:
    """trade_id of every row in ClickHouse, by offset."""
    if store.query("SELECT name FROM system.tables WHERE name = 'trades'").num_rows == 0:
        return []
    return list(store.query("SELECT trade_id FROM default.trades ORDER BY _offset")["trade_id"].to_pylist())


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what}"
        time.sleep(0.01)
