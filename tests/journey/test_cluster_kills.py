"""kill -9 of random parts of a whole cluster under load, and every acked row once: by scan, by SQL and in ClickHouse."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clickhouse_connect
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from control import TRADES, Control
from doors import action, by_get, put
from test_kill_each_service import clickhouse_door

from proxist.client import Writer, connect
from proxist.model.slots import key_slot
from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("PROXIST_TEST_CLUSTER_KILLS", "100"))
KILLS_PER_CHECK = 10
PARTS = ("ingest-0", "ingest-0", "persister-0", "persister-0", "query-0", "controlplane-0", "clickhouse", "etcd")
"""Owner and persister twice as often as the others: what they do is what a kill can tear."""
BATCH_ROWS = 25
PAUSE_S = 0.02
"""Between two batches of a sender: the checks read every row."""
QUIET_S_MAX = 180.0
KEYS, SLOTS = 10, 2

Ids = npt.NDArray[np.int64]


def rows(ids: range) -> pa.RecordBatch:
    """All values of a row follow from its id."""
    values = np.arange(ids.start, ids.stop)
    columns = {
        "symbol": pa.array([f"S{i % KEYS}" for i in ids]),
        "ts": pa.array(1_723_161_600_000_000_000 + values * 1_000, pa.timestamp("ns", "UTC")),
        "trade_id": pa.array(values, pa.uint64()),
        "price": pa.array(values * 0.5),
        "size": pa.array(values * 1.0),
        "buyer_is_maker": pa.array(values % 2 == 0),
    }
    return pa.record_batch(columns)


@dataclass
class Sent:
    """What was sent, and what of it was acked. For any thread."""

    acked: list[range] = field(default_factory=list)
    unknown: list[range] = field(default_factory=list)
    """Sent once, without a number, and never acked: each shard's part is there whole or not at all."""
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> range:
        with self._lock:
            self._next += BATCH_ROWS
            return range(self._next - BATCH_ROWS, self._next)

    def tell(self, batch: range, acked: bool) -> None:
        with self._lock:
            (self.acked if acked else self.unknown).append(batch)


class Load:
    """Senders against one cluster that go on over every kill; inside `quiet` all of them wait, with nothing in flight."""

    def __init__(self, cluster: LocalCluster, sent: Sent) -> None:
        self._cluster = cluster
        self._sent = sent
        self._go, self._stop = threading.Event(), threading.Event()
        self._idle = threading.Semaphore(0)
        self._errors: list[BaseException] = []
        self._open = ExitStack()
        works: list[Callable[[], None]] = [*(self._writer(n) for n in range(3)), self._unnumbered]
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in works]
        self._go.set()
        for thread in self._threads:
            thread.start()

    def pause(self) -> None:
        """On return nothing is in flight. Raises what a sender met that is no passing refusal."""
        self._go.clear()
        for _ in self._threads:
            assert self._idle.acquire(timeout=QUIET_S_MAX), "a sender is stuck"
        if self._errors:
            raise self._errors[0]

    def resume(self) -> None:
        self._go.set()

    def end(self) -> None:
        self._stop.set()
        self._go.set()
        for thread in self._threads:
            thread.join(QUIET_S_MAX)
        self._open.close()

    def _run(self, work: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                work()
            except BaseException as error:
                self._errors.append(error)
                self._go.clear()
            if not self._go.is_set():
                self._idle.release()
                self._go.wait()
            self._stop.wait(PAUSE_S)

    def _writer(self, number: int) -> Callable[[], None]:
        """A batch through the SDK, which sends it again under its number for as long as that takes."""
        connection = self._open.enter_context(connect(self._cluster.endpoints["query"][0]["flight"], attach="never"))
        writer = Writer(connection, "trades", producer=f"feed-{number}", retry_s=QUIET_S_MAX)
        self._open.callback(writer.close, abandon=True)

        def send() -> None:
            batch = self._sent.take()
            writer.write(rows(batch), timeout_s=QUIET_S_MAX)
            self._sent.tell(batch, acked=True)

        return send

    def _unnumbered(self) -> None:
        """A batch without a number, sent once."""
        batch = self._sent.take()
        try:
            ack = put(self._cluster.endpoints["ingest"][0]["flight"], "trades", rows(batch))
        except (fl.FlightError, pa.ArrowException, AttributeError):  # no ack: its end came before
            self._sent.tell(batch, acked=False)
        else:
            self._sent.tell(batch, acked="error" not in ack)


def check(ids: Ids, sent: Sent, slot_of: Callable[[int], int], way: str) -> None:
    """Every acked row once; of the others each shard's part whole or absent."""
    found, times = np.unique(ids, return_counts=True)
    assert not (times > 1).any(), f"{way}: rows twice, first {found[times > 1][:5]}"
    here = set(found.tolist())
    for batch in sent.acked:
        lost = set(batch) - here
        assert not lost, f"{way}: {len(lost)} rows of the acked batch {batch} are lost"
        here -= set(batch)
    for batch in sent.unknown:
        parts: dict[int, list[int]] = {}
        for i in batch:
            parts.setdefault(slot_of(i), []).append(i)
        for slot, part in parts.items():
            count = len(here & set(part))
            assert count in (0, len(part)), f"{way}: {count} of {len(part)} rows of {batch} in slot {slot}"
        here -= set(batch)
    assert not here, f"{way}: {len(here)} rows that nobody sent"


def check_stored(stored: pa.Table, slot_of: Callable[[int], int]) -> None:
    """What ClickHouse holds: offsets without a hole, each batch's part of a shard in order and in one piece."""
    shards = np.asarray(stored["_log"]).astype(np.uint64) >> np.uint64(24)
    offsets, ids = np.asarray(stored["_offset"]), np.asarray(stored["trade_id"])
    for shard in np.unique(shards):
        of_shard = shards == shard
        order = np.argsort(offsets[of_shard])
        assert np.array_equal(offsets[of_shard][order], np.arange(of_shard.sum())), (
            f"shard {shard}: holes in the offsets"
        )
        in_order = ids[of_shard][order]
        batches = in_order // BATCH_ROWS
        starts = np.flatnonzero(np.diff(batches, prepend=-1))
        assert len(np.unique(batches[starts])) == len(starts), f"shard {shard}: a batch is in two pieces"
        within = np.flatnonzero(np.diff(batches) == 0)
        assert (in_order[within + 1] > in_order[within]).all(), f"shard {shard}: rows of a batch are out of order"


def settle(cluster: LocalCluster, control: Control, sent: Sent, rng: random.Random) -> int:
    """Every part ready and every row persisted; then look at the rows in each way there is. How many there are."""
    for part in set(PARTS):
        cluster.wait_ready(part, timeout_s=QUIET_S_MAX)
    control.until(lambda: control.flush("trades") is None, "everything persisted", QUIET_S_MAX)
    if rng.random() < 0.5:
        control.until(lambda: control.evict("trades", rows=rng.choice((0, 500))) is None, "evicted", QUIET_S_MAX)
    ask = by_get(cluster.endpoints["query"][0]["flight"], "auto")
    client = clickhouse_connect.get_client(**clickhouse_door(cluster), autogenerate_session_id=False)
    stored = client.query_arrow("SELECT trade_id, _log, _offset FROM default.trades")
    client.close()

    def slot_of(i: int) -> int:
        return key_slot(f"S{i % KEYS}", SLOTS)

    check(np.asarray(stored["trade_id"]), sent, slot_of, "ClickHouse")
    check_stored(stored, slot_of)
    for way, query in {
        "scan": {"scan": {"table": "trades", "columns": ["trade_id"]}},
        "sql": {"sql": "SELECT trade_id FROM trades"},
    }.items():
        answers: list[Any] = []

        def answered(query: dict[str, Any] = query, answers: list[Any] = answers) -> bool:
            try:
                answers.append(ask(query))
            except fl.FlightUnavailableError:  # the node that asks is just told who owns the shards now
                return False
            return True

        control.until(answered, f"an answer by {way}", QUIET_S_MAX)
        check(np.asarray(answers[0]["trade_id"]).astype(np.int64), sent, slot_of, way)
    return int(stored.num_rows)


def test_kills_of_random_parts_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    rng, killed, held, sent = random.Random(seed), Counter[str](), 0, Sent()
    print(f"seed {seed}, {KILLS} kills")
    with LocalCluster(tmp_path) as cluster:
        control = Control(cluster.endpoints)
        action(cluster.endpoints["query"][0]["flight"], "create_table", {**TRADES, "shards": SLOTS})
        load = Load(cluster, sent)
        try:
            while killed.total() < KILLS:
                for victim in rng.sample(sorted(set(PARTS)), 2) if rng.random() < 0.2 else [rng.choice(PARTS)]:
                    cluster.wait_ready(victim, timeout_s=QUIET_S_MAX)
                    cluster.kill(victim)
                    killed[victim] += 1
                if rng.random() < 0.7:  # else the next kill comes while parts still start
                    acked = len(sent.acked)
                    cluster.until(lambda: len(sent.acked) >= acked + 5, "the senders get acks again", QUIET_S_MAX)
                threading.Event().wait(rng.uniform(0.0, 0.5))
                if killed.total() % KILLS_PER_CHECK == 0 or killed.total() >= KILLS:
                    load.pause()
                    held = settle(cluster, control, sent, rng)
                    load.resume()
        finally:
            load.end()
            print(
                f"{killed.total()} kills {dict(killed)}: {len(sent.acked)} batches acked, {len(sent.unknown)} not, {held} rows"
            )
        control.close()
    assert len(sent.acked) > KILLS, "the cluster acked hardly anything"
