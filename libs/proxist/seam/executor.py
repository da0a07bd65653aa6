"""The operators over the shards of a table: hot first, then exactly the cold statement that RAM could not spare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from proxist.errors import InvalidArgument, TransientError, Unavailable
from proxist.hot.ops import HotFirstBy, HotLastBy, HotOp, HotScan, Probes
from proxist.model.ids import Offset, ShardId
from proxist.model.query import Asof, Bars, FirstBy, LastBy, Query, Scan, Window
from proxist.model.receipt import Receipt
from proxist.model.table import Table
from proxist.seam import order
from proxist.seam.asof import AsofJoin, merge_matches, probes_of
from proxist.seam.columns import Columns, columns_of
from proxist.seam.cuts import ColdCut
from proxist.seam.reader import ReadRules, ShardPart, ShardReader, shards_of, shards_of_rows
from proxist.seam.sources import (
    Catalog,
    ColdFirstBy,
    ColdLastBy,
    ColdOp,
    ColdScan,
    ColdSource,
    HotSource,
    Step,
    no_step,
)
from proxist.seam.windows import Keys, Windows


@dataclass(frozen=True, slots=True)
class Answer:
    """`rows` with the answer's own schema (no metadata), and what they were made of."""

    rows: pa.Table
    receipt: Receipt


class Executor:
    """Runs the operators of one query over both sides.

    `cold` None: there is no history here (an ingest node); a query that needs it ends in Unavailable, whose message
    carries `elsewhere()`, a sentence that names a query node. Not thread-safe: one query, one executor.
    """

    def __init__(
        self,
        catalog: Catalog,
        hot: HotSource,
        cold: ColdSource | None,
        *,
        elsewhere: Callable[[], str] = lambda: "Ask a query node.",
        step: Step = no_step,
    ) -> None:
        self._catalog = catalog
        self._hot = hot
        self._cold = cold
        self._elsewhere = elsewhere
        self._step = step
        self._rows_hot = self._rows_cold = 0
        self._cold_used = self._hot_used = False

    def run(self, query: Query, tenant: str, probes: pa.Table | None = None) -> Answer:
        """The answer to `query`; `probes` are the caller's rows where an asof's left is none of ours.

        Raises NotFound, InvalidArgument, TokenLost, Stale, Unavailable, and what `step` raises.
        """
        self._rows_hot = self._rows_cold = 0
        self._cold_used = self._hot_used = False
        reader = ShardReader(self._catalog, self._hot, ReadRules.of(query), self._step)
        verb, tables = query.verb, {}
        if isinstance(verb, Scan):
            table = tables[verb.table] = self._catalog.table(tenant, verb.table)
            rows = self._scan(reader, verb, columns := columns_of(table, verb.columns))
            rows = columns.project(rows)
        elif isinstance(verb, LastBy | FirstBy):
            table = tables[verb.table] = self._catalog.table(tenant, verb.table)
            rows = self._one_by(reader, verb, table)
        elif isinstance(verb, Asof):
            rows = self._asof(reader, verb, tenant, probes, tables)
        elif isinstance(verb, Window | Bars):
            table = tables[verb.table] = self._catalog.table(tenant, verb.table)
            rows = self._windows(reader, Windows.of(verb, table))
        else:
            raise InvalidArgument(f"This node answers operators, not `sql`. {self._elsewhere()}")
        return Answer(rows, self._receipt(reader, tables))

    def _receipt(self, reader: ShardReader, tables: dict[str, Table]) -> Receipt:
        return Receipt(
            cuts=reader.cuts,
            rows_hot=self._rows_hot,
            rows_cold=self._rows_cold,
            cold_used=self._cold_used,
            hot_used=self._hot_used or self._rows_hot > 0 or not self._cold_used,
            schema_version={name: table.schema_version for name, table in tables.items()},
            missing=tuple(reader.missing),
        )

    def _scan(self, reader: ShardReader, verb: Scan, columns: Columns) -> pa.Table:
        """The rows of a scan with the carried columns, in Order, limited."""

        def op(keys: tuple[str, ...] | None) -> Callable[[Offset | None], HotOp]:
            return lambda end: HotScan(keys, columns.hot, verb.from_ns, verb.to_ns, verb.limit, end=end)

        reads, cold = self._read_keys(reader, columns, shards_of(columns.table, verb.keys), op)
        if cold is not None:
            keys, cuts = cold
            cold_op = ColdScan(columns.table, cuts, columns.carried, keys, verb.from_ns, verb.to_ns, verb.limit)
            cold_rows = self._read_cold(reader, cold_op, columns)
        else:
            cold_rows = None
        rows, hot_count = _joined(columns, reads, cold_rows)
        ranks = order.ranks_of(rows, columns.table.spec)
        indices = order.scan_order(ranks, _shard_of_rows(columns.table, reads, rows, cold_rows))
        if indices is None:
            rows = rows if verb.limit is None else rows.slice(0, verb.limit)
            self._count(min(rows.num_rows, hot_count), rows.num_rows)
            return rows
        indices = indices if verb.limit is None else indices[: verb.limit]
        self._count(int(np.count_nonzero(indices < hot_count)), len(indices))
        return rows.take(indices)

    def _one_by(self, reader: ShardReader, verb: LastBy | FirstBy, table: Table) -> pa.Table:
        columns = columns_of(table, verb.columns, key_first=True)
        last = isinstance(verb, LastBy)
        hot_op, cold_op = (HotLastBy, ColdLastBy) if last else (HotFirstBy, ColdFirstBy)

        def op(keys: tuple[str, ...] | None) -> Callable[[Offset | None], HotOp]:
            return lambda end: hot_op(keys, columns.hot, verb.at_ns, end)

        reads, cold = self._read_keys(reader, columns, shards_of(columns.table, verb.keys), op)
        cold_rows = None
        if cold is not None:
            keys, cuts = cold
            cold_rows = self._read_cold(reader, cold_op(table, cuts, columns.carried, keys, verb.at_ns), columns)
        if cold_rows is None and len(reads) == 1 and reads[0].warm is None:  # a part is ascending by key
            self._count(reads[0].part.rows.num_rows, reads[0].part.rows.num_rows)
            return columns.alone(reads[0])
        rows, hot_count = _joined(columns, reads, cold_rows)
        keys_column = rows.column(table.spec.key)
        indices = order.one_per_key(keys_column, order.ranks_of(rows, table.spec), last=last)
        self._count(int(np.count_nonzero(indices < hot_count)), len(indices))
        return columns.project(rows.take(indices))

    def _asof(
        self, reader: ShardReader, verb: Asof, tenant: str, sent: pa.Table | None, tables: dict[str, Table]
    ) -> pa.Table:
        right = tables[verb.right] = self._catalog.table(tenant, verb.right)
        join = AsofJoin.of(verb, right)
        if verb.left is None:
            if sent is None:
                raise InvalidArgument("`left` is a probe, but no probe rows came. Send them with the query.")
            left_rows, probes = sent, probes_of(sent, right.spec)
        else:
            left = tables[verb.left.table] = self._catalog.table(tenant, verb.left.table)
            columns = columns_of(left, verb.left.columns)
            rows = self._scan(reader, verb.left, columns)
            left_rows, probes = columns.project(rows), probes_of(rows, left.spec)
        return join.answer(left_rows, self._matches(reader, join, probes))

    def _matches(self, reader: ShardReader, join: AsofJoin, probes: Probes) -> pa.Table:
        """One row of the right table per probe, null where unmatched."""
        columns, reads, parts = join.columns, [], []
        cuts: list[ColdCut] = []
        ask_cold: list[order.Indices] = []
        for shard, at in join.by_shard(probes).items():
            share = probes if at is None else Probes(probes.keys.take(pa.array(at)), probes.times_ns[at])
            read = reader.read(columns.table, shard, join.hot_op, share)
            if read is None:
                continue
            reads.append(read)
            parts.append(at)
            need = read.part.cold.probes
            if need is not None and len(need) and read.cold is not None:
                cuts.append(read.cold)
                ask_cold.append(need if at is None else at[need])
        cold_rows = None
        if cuts:
            asked = np.sort(np.concatenate(ask_cold))
            share = Probes(probes.keys.take(pa.array(asked)), probes.times_ns[asked])
            op = join.cold_op(tuple(cuts), share)
            cold_rows = self._read_cold(reader, op, columns, keep="_probe")
            if cold_rows is not None:
                at_probe = order.numbers(cold_rows.column("_probe"), pa.int64())
                cold_rows = (cold_rows.drop_columns("_probe"), asked[at_probe])
        rows, hot_matched, matched = merge_matches(columns, reads, parts, cold_rows, probes, join.direction)
        self._count(hot_matched, matched)
        return rows

    def _windows(self, reader: ShardReader, windows: Windows) -> pa.Table:
        """Of a key that RAM decides the owner's answer; of the others the same, computed here from rows of both sides."""
        columns, shares = windows.columns, shards_of(windows.columns.table, windows.verb.keys)
        reads = [
            read
            for shard, share in shares.items()
            if (read := reader.read(columns.table, shard, windows.hot_op(share))) is not None
        ]
        undecided = {
            read.shard: shares[read.shard] if read.part.cold.keys is None else read.part.cold.keys
            for read in reads
            if read.part.cold
        }
        if None in undecided.values():  # the one cold statement reads every key: then of each shard that it reads
            undecided = dict.fromkeys(undecided)
            reads = [read for read in reads if read.shard not in undecided]
        answers = [windows.of_part(read) for read in reads]
        decided = sum(answer.num_rows for answer in answers)
        self._count(decided, decided)
        if undecided:
            answers.append(self._from_rows(reader, windows, undecided))
        return windows.answer(answers)

    def _from_rows(self, reader: ShardReader, windows: Windows, shares: Mapping[ShardId, Keys]) -> pa.Table:
        columns = windows.columns
        reads, cold = self._read_keys(reader, columns, shares, windows.hot_rows)
        cold_rows = None if cold is None else self._read_cold(reader, windows.cold_rows(*cold), columns)
        rows, hot_count = _joined(columns, reads, cold_rows)
        answer = windows.of_rows(rows)
        self._hot_used = self._hot_used or hot_count > 0
        self._count(0 if cold_rows is not None else answer.num_rows, answer.num_rows)
        return answer

    def _read_keys(
        self,
        reader: ShardReader,
        columns: Columns,
        shares: Mapping[ShardId, Keys],
        op: Callable[[Keys], Callable[[Offset | None], HotOp]],
    ) -> tuple[list[ShardPart], tuple[Keys, tuple[ColdCut, ...]] | None]:
        """The hot parts of the shards, each asked for its share, and the keys and cuts that must be read cold, if any."""
        reads: list[ShardPart] = []
        needed: list[str] = []
        everything, cuts = False, []
        for shard, share in shares.items():
            read = reader.read(columns.table, shard, op(share))
            if read is None:
                continue
            reads.append(read)
            if read.part.cold and read.cold is not None:
                cuts.append(read.cold)
                wanted = share if read.part.cold.keys is None else read.part.cold.keys
                everything = everything or wanted is None
                needed.extend(wanted or ())
        if not cuts:
            return reads, None
        return reads, (None if everything else tuple(needed), tuple(cuts))

    def _read_cold(self, reader: ShardReader, op: ColdOp, columns: Columns, keep: str | None = None) -> pa.Table | None:
        """The one cold statement of an operator; None where history does not answer and best effort will do."""
        self._step()
        if self._cold is None:
            raise Unavailable(
                f"The query needs history of table {columns.table.name!r}, which this node does not read. "
                f"{self._elsewhere()}"
            )
        try:
            rows = self._cold.read(op)
        except TransientError as error:
            if not reader.best_effort:
                raise
            reader.missing.append(f"history of table {columns.table.name!r}: {error.message}")
            return None
        self._cold_used = True
        clean = columns.from_cold(rows)
        return clean if keep is None else clean.append_column(keep, rows.column(keep))

    def _count(self, hot: int, both: int) -> None:
        self._rows_hot += hot
        self._rows_cold += both - hot


def _joined(columns: Columns, reads: list[ShardPart], cold: pa.Table | None) -> tuple[pa.Table, int]:
    """The rows of all parts, the owners' first, and how many those are."""
    tables = [table for read in reads for table in columns.from_owner(read)]
    hot_count = sum(table.num_rows for table in tables)
    if cold is not None:
        tables.append(cold)
    if not tables:
        return columns.carried_schema.empty_table(), 0
    return (tables[0] if len(tables) == 1 else pa.concat_tables(tables)), hot_count


def _shard_of_rows(
    table: Table, reads: list[ShardPart], rows: pa.Table, cold: pa.Table | None
) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    """Each row's shard, the last word where rows of two shards tie; None where there is but one shard."""
    if len(table.shard_ids) == 1:
        return None
    shards = [np.full(read.num_rows, read.shard, np.int64) for read in reads]
    if cold is not None:
        shards.append(shards_of_rows(table, cold.column(table.spec.key)))
    return np.concatenate(shards) if shards else np.zeros(rows.num_rows, np.int64)
