"""Who uses the simulated cluster: producers that number their batches and repeat them, and readers of every verb."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from naive_tiers import Row, by_key, matches, scanned
from sim_cluster import Cluster, IngestProcess, batch_of_rows
from sim_etcd import SimEtcdClient
from sim_faces import Event
from sim_oracle import Oracle, Sent, Violation
from sim_threads import sim

from proxist.errors import (
    NotOwner,
    ProducerConflict,
    ProducerGap,
    ProxistError,
    TokenLost,
    TransientError,
    Unavailable,
)
from proxist.etcd import Catalog, layout
from proxist.etcd.mirror import Mirror
from proxist.hot.ops import HotAsof, HotFirstBy, HotLastBy, HotOp, HotPart, HotScan, Probes
from proxist.hot.reader import HotReader
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.query import parse_query
from proxist.model.table import Table
from proxist.seam import Executor
from proxist_ingest.part import Answer, PartAck, make_part
from proxist_ingest.validate import normalise
from proxist_query.catalog import NodeCatalog

KEYS = ("A", "B", "C", "D", "é")
DAY_NS = 1_723_161_600_000_000_000
ANSWER_S_MAX = 12.0
PACE_S = 1.0
"""Between two questions of a query process, at most."""


@dataclass
class Ids:
    """Numbers of rows, ascending over all producers."""

    last: int = 0

    def take(self) -> int:
        self.last += 1
        return self.last


@dataclass
class Producer:
    """One client that writes numbered batches and repeats each until all its parts are acked."""

    cluster: Cluster
    oracle: Oracle
    name: str
    batches: int
    ids: Ids
    level: str | None = None
    done: bool = False
    acked: int = 0

    def run(self) -> None:
        table, number = self.cluster.table, 0
        for _ in range(self.batches):
            number += 1
            sim().pause(0.2)
            parts = self._parts(table, number)
            complete = [self._deliver(part) for part in parts]
            if not all(complete):
                # A loss of power took batches of a level below disk: their producer begins anew.
                self.name, number = f"{self.name}'", 0
        self.done = True

    def _parts(self, table: Table, number: int) -> list[Sent]:
        random = sim().random
        rows: dict[ShardId, list[tuple[str, int, int, int | None]]] = {shard: [] for shard in table.shard_ids}
        for _ in range(random.choice((1, 1, 2, 3, 8))):
            key, id_ = random.choice(KEYS), self.ids.take()
            ts = DAY_NS + random.choice((0, id_, id_ - 50, random.randrange(100))) * 1000
            if random.random() < 0.1:
                ts += 86_400 * 10**9 * random.choice((-1, 1))
            shard = table.shard_ids[table.slot_of(key)]
            rows[shard].append((key, ts, id_, None if id_ % 7 == 0 else id_ * 3))
        parts = [Sent(shard, self.name, number, tuple(found)) for shard, found in rows.items()]
        for part in parts:
            self.oracle.sending(part)
        return parts

    def _deliver(self, part: Sent) -> bool:
        """Send until it is acked; False where the owner lacks what the producer had acks for."""
        table = self.cluster.table
        rows = normalise(batch_of_rows(table, list(part.rows)), table.spec)
        acks = 0
        wanted = 1 if sim().random.random() > 0.1 else 2  # now and then one more than is needed
        while acks < wanted:
            try:
                answer, node = self._send(part, rows)
            except (Unavailable, TransientError):
                sim().pause(0.5)
                continue
            if isinstance(answer, PartAck):
                self.oracle.acked(part, answer, node)
                acks += 1
                self.acked += 1
            elif isinstance(answer, ProducerGap | ProducerConflict):
                if self._may_have_lost(part):
                    return False
                raise Violation(f"{part}: {answer.message}")
            elif not isinstance(answer, TransientError):
                raise Violation(f"{part}: {type(answer).__name__}: {answer.message}")
            else:
                sim().pause(0.5)
        return True

    def _may_have_lost(self, part: Sent) -> bool:
        return any(self.oracle.may_lack(p) for p in self.oracle.sent if p.producer == part.producer)

    def _route(self, shard: ShardId) -> IngestProcess:
        """The owner; now and then one that was, since shard maps are old at times."""
        former = [n for n in self.cluster.retired if n.alive and any(one.id == shard for one in n.shards())]
        if former and sim().random.random() < 0.5:
            return former[-1]
        found = self.cluster.owner(shard)
        if found is None:
            raise Unavailable("nobody owns the shard")
        return found[0]

    def _send(self, part: Sent, rows: pa.RecordBatch) -> tuple[Answer, IngestProcess]:
        node = self._route(part.shard)
        level = self.level or self.cluster.table.spec.durability
        told: list[Answer] = []
        came = Event()

        def done(answer: Answer) -> None:
            told.append(answer)
            came.set()

        made = make_part(rows, level, done, producer=part.producer, number=part.number)
        alone = sim().random.random() < 0.5
        node.call(lambda: node.shard(part.shard).write(made, alone=alone))
        if not came.wait(ANSWER_S_MAX):
            raise Unavailable("no answer came")
        sim().pause(self.cluster.network.latency_s_max)
        if sim().random.random() < self.cluster.network.lost_answer:
            raise Unavailable("the ack was lost on its way")
        return told[0], node


@dataclass
class Query:
    """A query process: attached to the owners that its own catalog knows, and to ClickHouse."""

    cluster: Cluster
    oracle: Oracle
    answers: int = 0
    refused: int = 0
    _readers: dict[ShardId, HotReader] = field(default_factory=dict)
    _tokens: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)
    stop: bool = False

    def run(self) -> None:
        client: Any = SimEtcdClient(self.cluster.etcd)
        self.catalog = Catalog(Mirror(client, layout.PREFIX).start())
        self._view = NodeCatalog(self.catalog)
        while not self.stop:
            sim().pause(PACE_S)
            try:
                self.ask()
            except (TransientError, NotOwner):
                self.refused += 1
            except ProxistError as error:
                if "There is no" not in error.message:
                    raise Violation(f"a query is refused: {type(error).__name__}: {error.message}") from error

    # Catalog of the executor
    def table(self, tenant: str, name: str) -> Table:
        return self._view.table(tenant, name)

    def chain(self, shard: ShardId, at_least: Epoch) -> Any:
        return self._view.chain(shard, at_least)

    # HotSource
    def run_hot(
        self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int
    ) -> HotPart:
        deadline_ns = sim().now_ns + wait_ns
        while True:
            reader = self._readers.get(shard) or self._attach(shard)
            try:
                part = reader.run(op, probes)
            except Unavailable:
                self._readers.pop(shard).close()
                reader = self._attach(shard)
                part = reader.run(op, probes)
            if min_end is None or part.end >= min_end or sim().now_ns >= deadline_ns:
                return part
            sim().pause(0.05)

    def _attach(self, shard: ShardId) -> HotReader:
        owner = self.catalog.owner(shard)
        if owner is None:
            raise NotOwner(f"Shard {shard} has no owner.")
        node = self.cluster.node(owner.node)
        fd = node.call(lambda: os.dup(node.shard(shard).readonly_fd()))
        page = self.cluster.root / f"host-{owner.node}" / "epochs" / str(shard)
        try:
            reader = HotReader.attach(fd, str(page))
        finally:
            os.close(fd)
        self._readers[shard] = reader
        return reader

    # ---- one question ----------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """A scan of everything; then another verb, and an older token, as of instants that are known."""
        acked = [p for p in self.oracle.sent if p.level and not p.lost]
        columns = ["symbol", "ts", "id", "price", "_log", "_offset"]
        answer = self._execute({"scan": {"table": self.cluster.table.name, "columns": columns}})
        rows = [row_of(found) for found in answer.rows.to_pylist()]
        ends = {cut.shard: int(cut.end) for cut in answer.receipt.cuts}
        self.oracle.scanned(rows, ends, [p for p in acked if not p.lost], order=True)
        self.answers += 1
        token = str(answer.receipt.token)
        self._one_verb(rows, token)
        self._tokens.append((token, answer.rows.to_pylist()))
        if sim().random.random() < 0.5:
            return
        old_token, old_rows = sim().random.choice(self._tokens)
        try:
            again = self._execute({"scan": {"table": self.cluster.table.name, "columns": columns}}, as_of=old_token)
        except TokenLost:
            if not any(p.lost for p in self.oracle.sent) and not self._lost_in_doubt:
                raise
            self._tokens.remove((old_token, old_rows))
            return
        if again.rows.to_pylist() != old_rows:
            raise Violation(f"token {old_token} gives other rows than before")

    @property
    def _lost_in_doubt(self) -> bool:
        return self.cluster.table.spec.durability != "disk"

    def _one_verb(self, rows: list[Row], token: str) -> None:
        random, name = sim().random, self.cluster.table.name
        at = DAY_NS + random.randrange(-10, 300) * 1000 if random.random() < 0.5 else None
        low = DAY_NS + random.randrange(200) * 1000
        verb = random.choice(("last_by", "first_by", "scan", "asof"))
        keys = None if random.random() < 0.5 else [random.choice(KEYS)]
        asked: dict[str, Any] = {"table": name, "columns": ["id", "_offset"]} | ({"keys": keys} if keys else {})
        mine = [row for row in rows if keys is None or row.symbol in keys]
        wanted: list[Row | None]
        probes = None
        if verb in ("last_by", "first_by"):
            asked |= {"at": at} if at is not None else {}
            op = (HotLastBy if verb == "last_by" else HotFirstBy)(at_ns=at)  # type: ignore[arg-type]
            wanted = list(by_key(mine, op, True))
        elif verb == "scan":
            asked |= {"from": low, "to": low + 60_000, "limit": 5}
            wanted = list(scanned(mine, HotScan(from_ns=low, to_ns=low + 60_000, limit=5), True))  # type: ignore[arg-type]
        else:
            keys_of = [random.choice(KEYS) for _ in range(4)]
            times = np.array([DAY_NS + random.randrange(300) * 1000 for _ in range(4)], np.int64)
            direction = random.choice(("backward", "forward", "nearest"))
            asked = {
                "left": {"probe": True},
                "right": {"table": name, "columns": ["id", "_offset"]},
                "direction": direction,
            }
            probes = pa.table({"symbol": keys_of, "ts": pa.array(times, pa.timestamp("ns", "UTC"))})
            wanted = list(matches(rows, Probes(pa.array(keys_of), times), HotAsof(direction=direction), True).values())
        answer = self._execute({verb: asked}, probes, as_of=token)
        found = [row["_offset"] for row in answer.rows.to_pylist()]
        if found != [None if row is None else row.offset for row in wanted]:
            raise Violation(f"{verb} {asked}: offsets {found}, wanted {[w and w.offset for w in wanted]}")

    def _execute(self, verb: dict[str, Any], probes: pa.Table | None = None, as_of: str | None = None) -> Any:
        hot = _Hot(self)
        query = parse_query(verb | ({"as_of": as_of} if as_of else {}))
        return Executor(self, hot, self.cluster.clickhouse).run(query, "default", probes)

    def close(self) -> None:
        for reader in self._readers.values():
            with contextlib.suppress(Exception):
                reader.close()


@dataclass
class _Hot:
    query: Query

    def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        return self.query.run_hot(shard, op, probes, min_end, wait_ns)


def row_of(found: dict[str, Any]) -> Row:
    log = found["_log"]
    return Row(found["symbol"], _ns(found["ts"]), found["id"], found["price"], log >> 24, found["_offset"], log % 2**24)


def _ns(time: Any) -> int:
    return int(time.value) if hasattr(time, "value") else int(time.timestamp() * 10**6) * 1000
