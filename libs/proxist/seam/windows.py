"""Windows and bars: what owners are asked, what is read of keys that RAM does not decide, and the answer's columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from proxist.errors import InvalidArgument
from proxist.hot.ops import OFFSET_COLUMN, HotBars, HotOp, HotScan, HotWindow
from proxist.hot.windows import bars_rows, bars_schema, first_time, input_columns, window_rows, window_schema
from proxist.model.ids import Offset, TimeNs
from proxist.model.query import Agg, Bars, Window
from proxist.model.table import HIDDEN_COLUMNS, Table
from proxist.seam import order
from proxist.seam.columns import Columns, columns_of
from proxist.seam.cuts import ColdCut
from proxist.seam.fill import filled
from proxist.seam.reader import ShardPart, shards_of_rows
from proxist.seam.sources import ColdScan

Keys = tuple[str, ...] | None
"""None: every key."""
_KNOWN_MAX = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """What a table and the aggregates decide, whatever the keys and times."""

    columns: Columns
    """What rows of both sides carry: key, time, seq, the aggregated columns, `_offset`."""
    part: pa.Schema
    """Of a part of the answer: key, time, of a window seq where there is one, the aggregates, of a window `_offset`."""
    answer: pa.Schema


@dataclass(frozen=True, slots=True)
class Windows:
    """One window or bars verb over one table."""

    verb: Window | Bars
    op: HotWindow | HotBars
    """For every key and the newest end."""
    shape: Shape

    @staticmethod
    def of(verb: Window | Bars, table: Table) -> Windows:
        """Raises InvalidArgument for a column that the table has not or whose type cannot be aggregated so, and for a name
        that the answer has already."""
        op: HotWindow | HotBars
        if isinstance(verb, Bars):
            op = HotBars(verb.aggs, verb.every_ns, None, verb.from_ns, verb.to_ns)
        else:
            op = HotWindow(verb.aggs, None, verb.from_ns, verb.to_ns, verb.range_ns, verb.rows)
        # By identity, as in columns_of: the entry keeps its table.
        place = (id(table), type(verb), verb.aggs, isinstance(verb, Bars) and verb.fill != "none")
        known = _known.get(place)
        if known is None:
            if len(_known) >= _KNOWN_MAX:
                _known.clear()
            known = _known[place] = _shape_of(table, op, filled=place[-1])
        return Windows(verb, op, known)

    @property
    def columns(self) -> Columns:
        return self.shape.columns

    def hot_op(self, keys: Keys) -> Callable[[Offset | None], HotOp]:
        return lambda end: replace(self.op, keys=keys, end=end)

    def hot_rows(self, keys: Keys) -> Callable[[Offset | None], HotOp]:
        """The rows that the aggregates of `keys` are made of, and perhaps earlier ones."""
        start, before = self._start_ns, self._before or None
        return lambda end: HotScan(
            keys, self.columns.hot, start, self.verb.to_ns, end=end, ordered=False, before=before
        )

    def cold_rows(self, keys: Keys, cuts: tuple[ColdCut, ...]) -> ColdScan:
        columns, to_ns = self.columns, self.verb.to_ns
        return ColdScan(columns.table, cuts, columns.carried, keys, self._start_ns, to_ns, before=self._before)

    @property
    def _start_ns(self) -> TimeNs:
        return TimeNs(first_time(self.op))

    @property
    def _before(self) -> int:
        """How many rows of each key before `_start_ns` belong to windows by their number."""
        verb = self.verb
        return verb.rows - 1 if isinstance(verb, Window) and verb.rows is not None and verb.from_ns is not None else 0

    def of_part(self, read: ShardPart) -> pa.Table:
        """An owner's answer, in order."""
        schema = self.shape.part
        return pa.Table.from_arrays([read.part.rows.column(name) for name in schema.names], schema=schema)

    def of_rows(self, rows: pa.Table) -> pa.Table:
        """What an owner would answer that had just these rows (with `columns.carried`, in any order), in order."""
        table = self.columns.table
        indices, starts = order.by_key(rows.column(table.spec.key), order.ranks_of(rows, table.spec))
        grouped = rows.combine_chunks().take(indices)
        batch = pa.RecordBatch.from_arrays([_whole(column) for column in grouped.columns], schema=grouped.schema)
        groups = np.append(starts, len(indices))
        if isinstance(self.op, HotBars):
            return pa.Table.from_batches([bars_rows(batch, table.spec, self.op, groups)])
        made = pa.Table.from_batches([window_rows(batch, table.spec, self.op, groups)])
        return made if len(table.shard_ids) == 1 else self._ordered(made)

    def answer(self, parts: list[pa.Table]) -> pa.Table:
        """The parts as one: a window ascending by (time, seq, offset, shard), bars by (start, key) and filled."""
        rows = parts[0] if len(parts) == 1 else self._ordered(pa.concat_tables([self.shape.part.empty_table(), *parts]))
        if isinstance(self.verb, Window):
            return rows.drop_columns([OFFSET_COLUMN])
        if self.verb.fill == "none":
            return rows
        return filled(rows.cast(self.shape.answer), self.verb, self.columns.table.spec)

    def _ordered(self, rows: pa.Table) -> pa.Table:
        table = self.columns.table
        if isinstance(self.verb, Bars):
            return rows.sort_by([(name, "ascending") for name in (table.spec.time, table.spec.key)])
        shards = shards_of_rows(table, rows.column(table.spec.key)) if len(table.shard_ids) > 1 else None
        indices = order.scan_order(order.ranks_of(rows, table.spec), shards)
        return rows if indices is None else rows.take(indices)


_known: dict[tuple[int, type, tuple[Agg, ...], bool], Shape] = {}


def _shape_of(table: Table, op: HotWindow | HotBars, *, filled: bool) -> Shape:
    spec = table.spec
    part = bars_schema(spec, op) if isinstance(op, HotBars) else window_schema(spec, op)
    for agg in op.aggs:
        if agg.name in (spec.key, *spec.order, *HIDDEN_COLUMNS):
            raise InvalidArgument(
                f"An aggregate is named {agg.name!r}, as another column of the answer or a hidden one is. "
                'Name it otherwise with "as".'
            )
    names = {agg.name for agg in op.aggs}
    fields = [field.with_nullable(True) if filled and field.name in names else field for field in part]
    answer = pa.schema([field for field in fields if field.name != OFFSET_COLUMN])
    return Shape(columns_of(table, input_columns(op.aggs)), part, answer)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
