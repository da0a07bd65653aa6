"""ClickHouse in memory: blocks that are inserted whole, tokens that are remembered, and every way in which it lies."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from naive_tiers import Row, batch_of, by_key, last_before, matches, scanned
from sim_threads import Process, Sim

from proxist.clickhouse.content import compared, compared_schema
from proxist.clickhouse.ddl import partition_of
from proxist.errors import NotFound, Unavailable
from proxist.model.ids import TIME_MAX, TIME_MIN, Epoch, LogId, Offset, ShardId, epoch_of_log, log_id, shard_of_log
from proxist.model.table import Table
from proxist.seam.sources import ColdAsof, ColdOp, ColdScan

CALL_S_MAX = 0.01
LATE_S_MAX = 9.0
"""How long an insert whose sender has given up may still be on its way."""


@dataclass
class ClickHouseFaults:
    """Chances per insert, and whether it answers at all."""

    refused: float = 0.0
    lost_answer: float = 0.0
    late: float = 0.0
    """The sender gets no answer; the insert is carried out some seconds later."""
    lie: float = 0.0
    """OK without having stored anything."""
    down: bool = False


@dataclass
class SimClickHouse:
    """One table of one server, for persisters (as `ClickHouse`) and for queries (as `ColdSource`)."""

    sim: Sim
    table: Table
    faults: ClickHouseFaults = field(default_factory=ClickHouseFaults)
    dedup_window: int = 10_000

    def __post_init__(self) -> None:
        self.server = Process("clickhouse")
        self.created = False
        self.rows: list[Row] = []
        self.stored: Counter[tuple[int, int]] = Counter()
        """Copies of each (log, offset)."""
        self.by_shard: dict[int, dict[int, Row]] = {shard: {} for shard in self.table.shard_ids}
        self.tokens: deque[str] = deque(maxlen=self.dedup_window)
        self.inserts = 0
        self._blocks: list[pa.Table] = []

    # ---- as the persister sees it ----------------------------------------------------------------------------------

    def create_table(self, table: Table) -> None:
        self._call()
        self.created = True

    def drop_table(self, table: Table) -> None:
        raise AssertionError("no table is dropped here")

    def query(self, sql: str, *_: object, **__: object) -> pa.Table:
        """The one statement of the persister: whether the table is there."""
        assert "system.tables" in sql, sql
        self._call()
        return pa.table({"n": [int(self.created)]})

    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        times = pc.min_max(rows[table.spec.time].cast(pa.int64()))
        assert partition_of(times["min"].as_py()) == partition_of(times["max"].as_py()), "one insert, one partition"
        self._call()
        faults, chance = self.faults, self.sim.random.random()
        if chance < faults.refused:
            raise Unavailable("ClickHouse has too many parts", outcome="failed")
        chance -= faults.refused
        if chance < faults.late:
            delay_s = self.sim.random.random() * LATE_S_MAX
            self.sim.say(f"clickhouse: insert {token} comes {delay_s:.3f} s late")
            self.sim.spawn(self.server, lambda: self._later(delay_s, rows, token), "late insert")
            self.sim.pause(1.0)
            raise Unavailable("ClickHouse did not answer in time", outcome="unknown")
        chance -= faults.late
        if chance < faults.lie:
            self.sim.say(f"clickhouse: OK to {token}, and nothing is stored")
            return
        self.apply(rows, token)
        self.sim.pause(CALL_S_MAX)
        if chance - faults.lie < faults.lost_answer:
            self.sim.say(f"clickhouse: {token} is stored, and the answer is lost")
            raise Unavailable("ClickHouse did not answer in time", outcome="unknown")

    def offsets_present(
        self, table: Table, shard: ShardId, at_or_above: Offset, below: Offset | None = None
    ) -> pa.Table:
        self._call()
        found = sorted(
            (offset, log, copies)
            for (log, offset), copies in self.stored.items()
            if shard_of_log(LogId(log)) == shard and offset >= at_or_above and (below is None or offset < below)
        )
        columns = {
            "_log": [log for _, log, _ in found],
            "_offset": [offset for offset, _, _ in found],
            "copies": [copies for *_, copies in found],
        }
        return pa.table({name: pa.array(values, pa.uint64()) for name, values in columns.items()})

    def rows_present(
        self,
        table: Table,
        shard: ShardId,
        first: Offset,
        end: Offset,
        times_ns: tuple[int, int] | None = None,
        timeout_s: float | None = None,
    ) -> pa.Table:
        self._call()
        schema = compared_schema(table.spec)
        low, high = times_ns or (TIME_MIN, TIME_MAX)
        kept = []
        for block in self._blocks:
            times = block[table.spec.time].cast(pa.int64()).to_pylist()
            rows = zip(block["_log"].to_pylist(), block["_offset"].to_pylist(), times, strict=True)
            at = [
                place
                for place, (log, offset, time) in enumerate(rows)
                if shard_of_log(log) == shard and first <= offset < end and low <= time <= high
            ]
            if at:
                kept.append(compared(block.take(at)).select(schema.names))
        found = pa.concat_tables(kept).cast(schema) if kept else schema.empty_table()
        order = pc.sort_indices(found, [("_offset", "ascending"), ("_log", "ascending")])
        return found.take(order).combine_chunks()

    def _call(self) -> None:
        self.sim.check_alive()
        self.sim.pause(CALL_S_MAX)
        if self.faults.down:
            raise Unavailable("ClickHouse does not answer", outcome="none")

    def _later(self, delay_s: float, rows: pa.Table, token: str) -> None:
        self.sim.block(delay_s)
        self.apply(rows, token)

    def apply(self, rows: pa.Table, token: str) -> None:
        """What the server itself does with a block."""
        if not self.created:
            raise NotFound("ClickHouse has no such table", outcome="failed")
        if token in self.tokens:
            self.sim.say(f"clickhouse: {token} again, dropped")
            return
        self.tokens.append(token)
        self.inserts += 1
        self._blocks.append(rows)
        spec = self.table.spec
        columns = [rows[name].to_pylist() for name in (spec.key, "id", "price", "_log", "_offset")]
        times = rows[spec.time].cast(pa.int64()).to_pylist()
        for symbol, id_, price, log, offset, ts in zip(*columns, times, strict=True):
            self.stored[log, offset] += 1
            row = Row(symbol, ts, id_, price, shard_of_log(log), offset, epoch_of_log(log))
            self.rows.append(row)
            self.by_shard[row.shard][offset] = row
        self.sim.say(f"clickhouse: {token}, {rows.num_rows} rows")

    # ---- as a query sees it ----------------------------------------------------------------------------------------

    def read(self, op: ColdOp) -> pa.Table:
        self._call()
        cuts = {cut.shard: cut for cut in op.cuts}
        seq = self.table.spec.seq is not None
        rows = [
            row
            for row in self.rows
            if row.shard in cuts
            and cuts[ShardId(row.shard)].holds(log_id(ShardId(row.shard), Epoch(row.epoch)), row.offset)
        ]
        if isinstance(op, ColdAsof):
            found = matches(rows, op.probes, op, seq)
            hits = [(i, row) for i, row in found.items() if row is not None]
            answer = pa.Table.from_batches([batch_of([row for _, row in hits], op.columns, self.table)])
            return answer.append_column("_probe", pa.array([i for i, _ in hits], pa.int64()))
        asked = [row for row in rows if op.keys is None or row.symbol in op.keys]
        answered = scanned(asked, op, seq) if isinstance(op, ColdScan) else by_key(asked, op, seq)
        if isinstance(op, ColdScan) and op.before:
            assert op.from_ns is not None
            answered += last_before(asked, op.from_ns, op.before, seq)
        return pa.Table.from_batches([batch_of(answered, op.columns, self.table)])
