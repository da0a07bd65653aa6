"""One real shard with log, hot set, snapshots, persister's delivery and executor, against a plain list of its rows."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from naive_tiers import Row, by_key, matches, scanned
from sim_clickhouse import SimClickHouse
from sim_clients import row_of
from sim_cluster import batch_of_rows
from sim_run import quiet
from sim_threads import Sim

import proxist.wal.recover
from proxist.errors import ProducerGap, ProxistError
from proxist.etcd.records import ShardRecord
from proxist.hot.ops import HotAsof, HotFirstBy, HotLastBy, HotOp, HotPart, HotScan, Probes
from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.model.query import parse_query
from proxist.model.table import Table, parse_spec
from proxist.seam import Chain, Executor, Log
from proxist.testing.faulty_files import FaultyFiles
from proxist.wal import Volume
from proxist_ingest.follow import follow
from proxist_ingest.part import Answer, PartAck, make_part
from proxist_ingest.recover import create_log, recover_shard
from proxist_ingest.shard import EvictTo, Shard
from proxist_ingest.snapshotting import SnapshotRule
from proxist_ingest.validate import normalise
from proxist_persister.batches import read_batch
from proxist_persister.coverage import Stored
from proxist_persister.delivery import Delivery
from proxist_persister.sink import Sink

STEPS = int(os.environ.get("PROXIST_SHARD_STEPS", "10000"))
STEPS_SLOW = int(os.environ.get("PROXIST_SHARD_STEPS_SLOW", "100000"))
STEPS_PER_EXAMPLE = 200
KEYS = ("A", "B", "C", "é")
DAY_NS = 1_723_161_600_000_000_000
SEGMENT_BYTES = 4096
VALUES = st.tuples(st.sampled_from(KEYS), st.integers(-3, 12), st.integers(0, 30), st.none() | st.integers(0, 99))
counted = itertools.count()


class Lease:
    valid_until_ns = 2**62


class OneShard(RuleBasedStateMachine):
    """Every rule is a step; every read is compared with the list."""

    @initialize(kind=st.sampled_from(("seq", "dedup", "plain")))
    def open_first(self, kind: str) -> None:
        self.root = Path(
            tempfile.mkdtemp(prefix="proxist-shard-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        )
        self.table = make_table(kind)
        self.seq = kind != "plain"
        self.rows: list[Row] = []
        self.acks: dict[tuple[str, int], tuple[PartAck, list[Any]]] = {}
        self.last: dict[str, int] = {}
        self.seqs: dict[str, int] = {}
        self.tokens: list[tuple[str, list[Row]]] = []
        self.images = itertools.count(1)
        self.random = Random(7)
        self.clickhouse = SimClickHouse(Sim(0), self.table)
        self.clickhouse.create_table(self.table)
        self.sink = Sink(self.clickhouse)  # type: ignore[arg-type]
        self.record = ShardRecord(ShardId(1), "default", self.table.name, self.table.id, 0, "n")
        (self.root / "disk").mkdir()
        self.files = FaultyFiles(self.root / "disk")
        self.patch = patch.object(proxist.wal.recover, "OsFiles", lambda: self.files)
        self.patch.start()
        self.open()

    def open(self) -> None:
        """Recover, take the next epoch: what `Opener` does, without etcd."""
        epoch, data_dir = Epoch(self.record.epoch + 1), self.files.root
        found = recover_shard(data_dir, self.table, self.record, epoch, Offset(0), lambda _: None)
        volume = Volume(data_dir, files=self.files, ballast_bytes=0, segment_bytes=SEGMENT_BYTES)
        log = create_log(data_dir, self.table, ShardId(1), epoch, found, segment_bytes=SEGMENT_BYTES, volume=volume)
        self.record = self.record.opened(found.end)
        assert found.end == len(self.rows), "every row was acked as on disk, and none was refused"
        found.hot.set_lease_until(Lease.valid_until_ns)
        self.shard = Shard(
            self.table, ShardId(1), epoch, log, found.hot, found.carried, Lease(), self.died,
            sealed=found.sealed, snapshots=SnapshotRule(data_dir, volume), behind=found.behind,
        )  # fmt: skip
        self.shard.inbox.command = lambda run: run()  # type: ignore[method-assign]  # its threads are never started

    def died(self, error: ProxistError) -> None:
        raise AssertionError(f"the shard failed: {error.message}")

    def teardown(self) -> None:
        if hasattr(self, "shard"):
            self.kill()
            self.patch.stop()
            shutil.rmtree(self.root, ignore_errors=True)

    # ---- writing ---------------------------------------------------------------------------------------------------

    def send(self, values: list[Any], producer: str | None = None, number: int = 0) -> Answer:
        rows = [(key, DAY_NS + at * 1000, id_, price) for key, at, id_, price in values]
        told: list[Answer] = []
        batch = normalise(batch_of_rows(self.table, rows), self.table.spec)
        self.shard.write(make_part(batch, "disk", told.append, producer=producer, number=number), alone=True)
        return told[0]

    def accepted(self, values: list[Any], answer: Answer) -> None:
        assert isinstance(answer, PartAck), answer
        assert not answer.duplicate
        first = len(self.rows)
        for key, at, id_, price in values:
            if self.table.spec.dedup == "seq":
                if id_ <= self.seqs.get(key, -1):
                    continue
                self.seqs[key] = id_
            self.rows.append(Row(key, DAY_NS + at * 1000, id_, price, 1, len(self.rows), self.shard.epoch))
        assert (answer.end - answer.rows, answer.end) == (first, len(self.rows))

    @rule(values=st.lists(VALUES, max_size=6))
    def write(self, values: list[Any]) -> None:
        next(counted)
        if values:
            self.accepted(values, self.send(values))

    @rule(values=st.lists(VALUES, max_size=4), producer=st.sampled_from(("p", "q")))
    def write_numbered(self, values: list[Any], producer: str) -> None:
        next(counted)
        number = self.last.get(producer, 0) + 1
        answer = self.send(values, producer, number)
        self.accepted(values, answer)
        assert isinstance(answer, PartAck)
        self.last[producer] = number
        self.acks[producer, number] = answer, values

    @precondition(lambda self: self.acks)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        next(counted)
        producer, number = data.draw(st.sampled_from(sorted(self.acks)))
        first, values = self.acks[producer, number]
        answer = self.send(values, producer, number)
        assert isinstance(answer, PartAck), answer
        assert answer.duplicate
        assert (answer.rows, answer.end, answer.epoch) == (first.rows, first.end, first.epoch)

    @precondition(lambda self: self.last)
    @rule(data=st.data(), values=st.lists(VALUES, max_size=2))
    def skip_a_number(self, data: st.DataObject, values: list[Any]) -> None:
        next(counted)
        producer = data.draw(st.sampled_from(sorted(self.last)))
        assert isinstance(self.send(values, producer, self.last[producer] + 2), ProducerGap)

    # ---- persisting, evicting, ending ------------------------------------------------------------------------------

    @rule()
    def flush(self) -> None:
        next(counted)
        assert self.shard.flush() == len(self.rows)

    @rule(batches=st.integers(1, 3), told=st.booleans(), part=st.booleans())
    def persist(self, batches: int, told: bool, part: bool) -> None:
        """The next batches; perhaps some of a batch is there already, perhaps the owner is not told."""
        next(counted)
        start = self.shard.marks().persisted
        for _ in range(batches):
            if self.shard.bounds.exposed <= start:
                return
            rows, _metadata = next(iter(follow(self.shard, start).messages))
            offsets = rows["_offset"].to_pylist()
            batch = read_batch(ShardId(1), Offset(offsets[0]), Offset(offsets[-1] + 1), [rows])
            delivery = Delivery(self.sink, self.table, ShardId(1), batch)
            stored: Stored = delivery.read_back()
            delivery.insert_missing(stored, lambda: None, lambda _: None)
            assert delivery.is_whole(delivery.read_back())
            start = batch.end
            if told:
                self.shard.advance_persisted(self.shard.epoch, start)

    @rule(keep=st.none() | st.integers(0, 20))
    def evict(self, keep: int | None) -> None:
        next(counted)
        marks = self.shard.evict(EvictTo(rows=keep))
        assert marks.floor <= marks.persisted <= marks.end

    @rule()
    def snapshot(self) -> None:
        next(counted)
        assert self.shard.snapshots is not None
        assert self.shard.snapshots.take() is not None

    @rule(how=st.sampled_from(("in good order", "killed", "without power")))
    def end(self, how: str) -> None:
        """The owner ends, and the next one takes over what the disk has."""
        next(counted)
        if how == "in good order":
            self.shard.stop()
            self.record = self.record.sealed(Offset(len(self.rows)))
        else:
            self.kill()
        if how == "without power":
            image = self.root / f"image-{next(self.images)}"
            self.files.crash_image(image, self.random)
            shutil.rmtree(self.files.root)
            self.files = FaultyFiles(image)
        self.open()

    def kill(self) -> None:
        self.shard.fail(ProxistError("killed"))
        self.shard.stop()

    # ---- reading ---------------------------------------------------------------------------------------------------

    @rule()
    def scan(self) -> None:
        next(counted)
        answer = self.ask({"scan": {"table": "trades", "columns": ["symbol", "ts", "id", "price", "_log", "_offset"]}})
        found = [row_of(one) for one in answer.rows.to_pylist()]
        assert found == sorted(self.rows, key=lambda row: row.order(self.seq))
        self.tokens.append((str(answer.receipt.token), list(self.rows)))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), limit=st.none() | st.integers(0, 5), low=st.integers(-3, 12))
    def scan_as_of(self, data: st.DataObject, limit: int | None, low: int) -> None:
        next(counted)
        token, rows = data.draw(st.sampled_from(self.tokens))
        at = DAY_NS + low * 1000
        verb = {"table": "trades", "columns": ["_offset"], "from": at} | ({} if limit is None else {"limit": limit})
        wanted = scanned(rows, HotScan(from_ns=at, limit=limit), self.seq)  # type: ignore[arg-type]
        assert self.ask({"scan": verb}, as_of=token).rows["_offset"].to_pylist() == [row.offset for row in wanted]

    @rule(
        at=st.none() | st.integers(-4, 13),
        last=st.booleans(),
        keys=st.none() | st.lists(st.sampled_from(KEYS), max_size=2),
    )
    def one_by(self, at: int | None, last: bool, keys: list[str] | None) -> None:
        next(counted)
        time = None if at is None else DAY_NS + at * 1000
        verb: dict[str, Any] = {"table": "trades", "columns": ["_offset"]}
        verb |= ({} if time is None else {"at": time}) | ({} if keys is None else {"keys": keys})
        rows = [row for row in self.rows if keys is None or row.symbol in keys]
        wanted = by_key(rows, (HotLastBy if last else HotFirstBy)(at_ns=time), self.seq)  # type: ignore[arg-type]
        answer = self.ask({"last_by" if last else "first_by": verb})
        assert answer.rows["_offset"].to_pylist() == [row.offset for row in wanted]

    @rule(
        probes=st.lists(st.tuples(st.sampled_from(KEYS), st.integers(-4, 13)), min_size=1, max_size=4),
        direction=st.sampled_from(("backward", "forward", "nearest")),
        exact=st.booleans(),
    )
    def asof(self, probes: list[tuple[str, int]], direction: str, exact: bool) -> None:
        next(counted)
        keys, times = [key for key, _ in probes], np.array([DAY_NS + at * 1000 for _, at in probes], np.int64)
        verb = {"left": {"probe": True}, "right": {"table": "trades", "columns": ["_offset"]}, "direction": direction}
        sent = pa.table({"symbol": keys, "ts": pa.array(times, pa.timestamp("ns", "UTC"))})
        op = HotAsof(direction=direction, allow_exact=exact)
        wanted = matches(self.rows, Probes(pa.array(keys), times), op, self.seq).values()
        answer = self.ask({"asof": verb | {"allow_exact": exact}}, sent)
        assert answer.rows["_offset"].to_pylist() == [None if row is None else row.offset for row in wanted]

    def ask(self, verb: dict[str, Any], probes: pa.Table | None = None, **beside: Any) -> Any:
        return Executor(self.catalog, self.catalog, self.clickhouse).run(parse_query(verb | beside), "default", probes)

    @property
    def catalog(self) -> _Catalog:
        return _Catalog(self)


class _Catalog:
    """What the executor asks: the table, its one chain, and its hot side."""

    def __init__(self, machine: OneShard) -> None:
        self._machine = machine

    def table(self, tenant: str, name: str) -> Table:
        return self._machine.table

    def chain(self, shard: ShardId, at_least: Epoch) -> Chain:
        return Chain(shard, tuple(Log(one.epoch, one.start, one.end, one.state) for one in self._machine.record.logs))

    def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        return self._machine.shard.run(op, probes)


def make_table(kind: str) -> Table:
    spec = {
        "name": "trades",
        "time": "ts",
        "key": "symbol",
        "seq": None if kind == "plain" else "id",
        "columns": [
            {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
            {"name": "symbol", "type": "string"},
            {"name": "id", "type": "uint64"},
            {"name": "price", "type": "int64", "nullable": True},
        ],
        "hot_bytes": "4MiB",
        "flush": {"rows": 9, "age": "1h"},
    }
    return Table(TableId(1), "default", parse_spec(spec | ({"dedup": "seq"} if kind == "dedup" else {})), (ShardId(1),))


def play(steps: int) -> None:
    before = next(counted)
    profile = settings(
        max_examples=max(1, steps * 3 // (2 * STEPS_PER_EXAMPLE)),
        stateful_step_count=STEPS_PER_EXAMPLE,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    with quiet():
        run_state_machine_as_test(OneShard, settings=profile)
    done = next(counted) - before
    print(f"{done} steps of one shard against a list")
    assert done >= steps, "the examples were cut short"


def test_a_shard_is_its_list_whatever_happens_to_it() -> None:
    play(STEPS)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_shard_is_its_list_for_long() -> None:
    play(STEPS_SLOW)
