"""Every failpoint of the registry hit once with a kill, in a real process, and nothing lost or doubled behind it.

Which points there are comes from the registry: one that the drill of its area does not reach fails its test.
"""

from __future__ import annotations

import random
import signal
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
from proxist.model.ids import ShardId
from proxist.pb import ingest_pb2 as pb
from proxist.pb import ingest_pb2_grpc as pb_grpc
from proxist.rpc.grpc_client import connect
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.etcd import LocalEtcd
from proxist.testing.nursery import Life, Nursery

PERSISTERS = ("persister.", "etcd.watermarks.")
OWNERS = ("wal.append.", "wal.segment.", "wal.sync.", "wal.seal.", "wal.rename.", "commit.", "etcd.open.", "etcd.seal.")
TIMES = {"wal.append.": 4, "wal.sync.": 4, "commit.publish.": 2, "commit.answer.": 2}
"""Points of every group are not killed at the first time, so that there are acked rows before."""
pytestmark = pytest.mark.timeout(240)


def _spec(point: str) -> str:
    times = next((times for begin, times in TIMES.items() if point.startswith(begin)), 1)
    return f"{point}=kill@{times}"


def _of(areas: tuple[str, ...]) -> list[str]:
    return [name for name in POINTS if name.startswith(areas)]


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


# ---- owners ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", _of(OWNERS))
def test_an_owner_killed_there_loses_and_doubles_nothing(
    point: str, owners: Nursery, etcd: LocalEtcd, client: EtcdClient, tmp_path: Path, rng: random.Random
) -> None:
    client.delete("/proxist/", prefix=True)
    table = create_table(client, {**SPEC, "shards": 1, "flush": {"rows": 30}}, ["ingest-0"])
    owner, oracle = OwnerUnderKills(owners, tmp_path, etcd.address, table), Oracle(rng)
    senders = [Sender(oracle, numbered, "disk") for numbered in (True, True, False)]
    life = owner.start(_spec(point))
    if (ready := life.ready()) is not None:
        _live_through(life, ready, senders, client)
    assert life.wait() == -signal.SIGKILL, f"this drill does not reach {point}"
    change_table(client, "default", "trades", state="active")
    life = owner.start()
    ready = life.ready()
    assert ready is not None, life.tail()
    owner.check(ready, oracle)
    Load(senders, ready["flight"], 2).join()
    owner.check(ready, oracle)
    life.kill()


def _live_through(life: Life, ready: dict[str, str], senders: list[Sender], client: EtcdClient) -> None:
    """What an owner does in its life, each step as far as it still lives: write, persist, give the shard away, stop."""
    Load(senders, ready["flight"], 4).join()
    with connect(ready["grpc"]) as channel:
        stub = pb_grpc.IngestServiceStub(channel)
        try:
            end = stub.Flush(pb.FlushRequest(table="trades", wait=False), timeout=WAIT_S).shards[0].end
            stub.AdvancePersisted(pb.AdvancePersistedRequest(shard=1, epoch=1, persisted=end), timeout=WAIT_S)
        except TransientError:
            return
    Load(senders, ready["flight"], 4).join()
    change_table(client, "default", "trades", state="dropping")  # its owner gives it back, its persister will drop it
    _until(lambda: not life.alive or client.get(layout.owner_key(ShardId(1))) is None, "the shard is given away")
    life.send(signal.SIGTERM)


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
