"""Owner processes that die under load, senders that remember what was acked, and the invariants that must hold after."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ingest_nodes import flags
from ingest_rows import TRADES, rows

from proxist.errors import TransientError
from proxist.hot.ops import HotScan
from proxist.hot.reader import HotReader
from proxist.model.ids import ShardId
from proxist.model.table import Table
from proxist.model.token import parse_token
from proxist.rpc.attached import request_fd
from proxist.rpc.flight_client import FlightPeer, PutStream
from proxist.testing.nursery import Life, Nursery

SPEC = {**TRADES, "shards": 2, "hot_bytes": "32MiB"}
SETTINGS = {"snapshot_mib": 1, "ballast_mib": 1}
"""A snapshot in every life that follows another, and little disk."""
KEYS = 12
BATCH_ROWS_MAX = 40
WINDOW = 6
STREAM_S_MAX = 60.0


@dataclass
class Batch:
    """Rows [first, end) of the test's own numbering, which is their trade_id."""

    producer: str | None
    number: int
    first: int
    end: int
    token: str | None = None
    """Of its ack; None while it has none."""

    def rows(self) -> pa.RecordBatch:
        return rows(self.end - self.first, first=self.first, keys=KEYS)


@dataclass
class Oracle:
    """Every batch that was ever sent, in order of its ids. For any thread."""

    rng: random.Random
    batches: list[Batch] = field(default_factory=list)
    acked: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def batch(self, producer: str | None, number: int) -> Batch:
        """The next batch of a producer, of a random size."""
        with self._lock:
            first = self.batches[-1].end if self.batches else 0
            made = Batch(producer, number, first, first + self.rng.randint(1, BATCH_ROWS_MAX))
            self.batches.append(made)
            return made

    def ack(self, batch: Batch, said: Mapping[str, Any]) -> None:
        assert said["rows"] == batch.end - batch.first, f"{batch} was acked with {said['rows']} rows"
        with self._lock:
            if batch.token is not None:
                assert said["token"] == batch.token, f"{batch} was acked again with another token"
                return
            batch.token = said["token"]
            self.acked += 1


class Sender:
    """Sends batches, numbered or not, a window at a time, until its stream breaks; over as many lives as it is run."""

    _names = itertools.count()

    def __init__(self, oracle: Oracle, numbered: bool, durability: str) -> None:
        self._oracle = oracle
        self._name = f"p{next(self._names)}" if numbered else None
        self._durability = durability
        self._number = 0
        self._pending: deque[Batch] = deque()

    def abandon(self) -> None:
        """Never send again what is not acked: whether it is there is then for all time as the kill left it."""
        self._pending.clear()
        self._number = 0
        if self._name is not None:
            self._name = f"p{next(self._names)}"

    def run(self, uri: str, stopping: threading.Event, batches: int | None = None) -> None:
        """Until `stopping`, `batches` acks, or the end of the owner. Raises an error that is not a passing one."""
        if self._name is None:
            self._pending.clear()
        left = itertools.count() if batches is None else iter(range(batches))
        with FlightPeer(uri) as peer, contextlib.suppress(TransientError):
            stream = peer.do_put(["trades"], rows(0).schema, timeout_s=STREAM_S_MAX)
            try:
                self._send(stream, stopping, left)
            finally:
                stream.close()  # raises the error that it ended with

    def _send(self, stream: PutStream, stopping: threading.Event, left: Iterator[int]) -> None:
        for batch in self._pending:
            stream.write(batch.rows(), self._metadata(batch))
        while not stopping.is_set() or self._pending:
            more = not stopping.is_set() and next(left, None) is not None
            if more:
                batch = self._oracle.batch(self._name, self._number)
                self._number += 1
                self._pending.append(batch)
                stream.write(batch.rows(), self._metadata(batch))
            if not self._pending:
                break
            if not more or len(self._pending) >= WINDOW:
                said = stream.read_ack()
                if said is None or "error" in said:
                    return  # the stream ends, and so does what was sent on it
                self._oracle.ack(self._pending.popleft(), said)
        stream.done_writing()

    def _metadata(self, batch: Batch) -> dict[str, Any]:
        said: dict[str, Any] = {"durability": self._durability}
        return said if batch.producer is None else {**said, "producer": batch.producer, "seq": batch.number}


class Load:
    """A thread per sender, against one life."""

    def __init__(self, senders: list[Sender], uri: str, batches: int | None = None) -> None:
        self._stopping = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(sender, uri, batches)) for sender in senders]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No new batches; on return every sender has its acks, or its stream has broken."""
        self._stopping.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(2 * STREAM_S_MAX)
            assert not thread.is_alive(), "a sender hangs"
        if self._errors:
            raise self._errors[0]

    def _run(self, sender: Sender, uri: str, batches: int | None) -> None:
        try:
            sender.run(uri, self._stopping, batches)
        except BaseException as error:
            self._errors.append(error)


class OwnerUnderKills:
    """One node with one table, in a directory of its own; lives come one after the other."""

    def __init__(self, nursery: Nursery, directory: Path, etcd: str, table: Table, **settings: Any) -> None:
        self._nursery = nursery
        self._directory = directory
        self._flags = flags(directory, etcd, "ingest-0", **SETTINGS, **settings)
        self._table = table
        directory.mkdir(parents=True, exist_ok=True)

    def start(self, failpoints: str = "") -> Life:
        env = {"PROXIST_FAILPOINTS": failpoints} if failpoints else {}
        return self._nursery.start(self._flags, self._directory / "node.log", env)

    def check(self, ready: Mapping[str, str], oracle: Oracle) -> None:
        """Every acked row once, in order, with its content, below its token; other batches' parts whole or absent. Rows
        below the floor, which the test had said are persisted, are not looked for."""
        for shard in self._table.shard_ids:
            floor, held = _held(ready["attach"], shard)
            slot = self._table.shard_ids.index(shard)
            check_shard(
                floor, held, shard, {f"S{k}" for k in range(KEYS) if self._table.slot_of(f"S{k}") == slot}, oracle
            )


def _held(attach: str, shard: ShardId) -> tuple[int, pa.RecordBatch]:
    """The floor, and every row in an owner's memory, in offset order."""
    descriptor, info = request_fd(attach, shard)
    try:
        reader = HotReader.attach(descriptor, info["epoch_page"])
    finally:
        os.close(descriptor)
    try:
        part = reader.run(HotScan())
        return part.seam, part.rows.sort_by("_offset")
    finally:
        reader.close()


def check_shard(floor: int, held: pa.RecordBatch, shard: ShardId, keys: set[str], oracle: Oracle) -> None:
    """The invariants of one shard. `held`: its rows from `floor` on in offset order; `keys`: those that belong there."""
    ids = held["trade_id"].to_numpy()
    assert np.array_equal(held["_offset"].to_numpy(), floor + np.arange(len(ids))), (
        f"shard {shard}: a hole in the offsets"
    )
    assert len(np.unique(ids)) == len(ids), f"shard {shard}: a row is there twice"
    # Every value follows from the id.
    assert np.array_equal(held["price"].to_numpy(), ids * 0.5), f"shard {shard}: a row changed"
    assert held["symbol"].to_pylist() == [f"S{i % KEYS}" for i in ids.tolist()], f"shard {shard}: a row changed"
    numbers: dict[str, list[int]] = {}
    place = {int(i): at for at, i in enumerate(ids)}
    for batch in oracle.batches:
        expected = [i for i in range(batch.first, batch.end) if f"S{i % KEYS}" in keys]
        if not expected:
            continue
        end = None if batch.token is None else parse_token(batch.token).marks[shard].end
        if end is not None and end <= floor:
            continue
        at = [place.pop(i) for i in expected if i in place]
        assert len(at) in (0, len(expected)), f"shard {shard}: {len(at)} of {len(expected)} rows of {batch}"
        assert batch.token is None or at, f"shard {shard}: {batch} was acked and is lost"
        if not at:
            continue
        assert at == list(range(at[0], at[0] + len(at))), f"shard {shard}: the rows of {batch} are out of order"
        if end is not None:
            assert end == floor + at[-1] + 1, f"shard {shard}: {batch} is not at its ack"
        if batch.producer is not None:
            numbers.setdefault(batch.producer, []).append(at[0])
    assert not place, f"shard {shard}: {len(place)} rows that nobody sent"
    for producer, places in numbers.items():
        assert places == sorted(places), f"shard {shard}: the batches of {producer} are out of order"


def wait_acked(oracle: Oracle, more: int, life: Life) -> None:
    """Until that many more batches are acked, or the life ends by itself. Raises AssertionError where neither comes."""
    wanted, deadline = oracle.acked + more, time.monotonic() + STREAM_S_MAX
    while oracle.acked < wanted and life.alive:
        assert time.monotonic() < deadline, f"nothing is acked\n{life.tail()}"
        time.sleep(0.001)
