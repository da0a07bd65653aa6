"""The as-of join: which right rows are candidates for which left row, and the answer's columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from proxist.errors import InvalidArgument
from proxist.hot.ops import OFFSET_COLUMN, HotAsof, HotOp, Probes
from proxist.model.ids import Offset, ShardId
from proxist.model.query import Asof
from proxist.model.table import Table, TableSpec
from proxist.model.types import accepts
from proxist.seam import order
from proxist.seam.columns import Columns, columns_of
from proxist.seam.cuts import ColdCut
from proxist.seam.reader import ShardPart
from proxist.seam.sources import ColdAsof
from proxist.seam.warm import PROBE_COLUMN

RIGHT_SUFFIX = "_right"


@dataclass(frozen=True, slots=True)
class AsofJoin:
    """The right side of one as-of: its columns and its rule."""

    columns: Columns
    direction: str
    tolerance_ns: int | None
    allow_exact: bool

    @staticmethod
    def of(verb: Asof, right: Table) -> AsofJoin:
        """Columns by default: all but the key, which the left row has, and the time, which only naming brings."""
        spec = right.spec
        asked = verb.columns
        if asked is None:
            asked = tuple(c.name for c in spec.columns if c.name not in (spec.key, spec.time))
        return AsofJoin(
            columns_of(right, asked, key_carried=False), verb.direction, verb.tolerance_ns, verb.allow_exact
        )

    def hot_op(self, end: Offset | None) -> HotOp:
        return HotAsof(self.columns.hot, self.direction, self.tolerance_ns, self.allow_exact, end)

    def cold_op(self, cuts: tuple[ColdCut, ...], probes: Probes) -> ColdAsof:
        return ColdAsof(
            self.columns.table,
            cuts,
            self.columns.carried,
            probes,
            self.direction,
            self.tolerance_ns,
            self.allow_exact,
        )

    def by_shard(self, probes: Probes) -> dict[ShardId, order.Indices | None]:
        """Which probes (ascending indices) go to which shard of the right table; None means all of them."""
        table = self.columns.table
        if len(table.shard_ids) == 1:
            return {table.shard_ids[0]: None}
        of_probe = table.slots_of(probes.keys)
        return {table.shard_ids[slot]: np.flatnonzero(of_probe == slot) for slot in np.unique(of_probe)}

    def answer(self, left: pa.Table, matches: pa.Table) -> pa.Table:
        """Left's columns, then right's; a right name that left has too gets the suffix."""
        taken = set(left.schema.names)
        fields, arrays = list(left.schema), list(left.columns)
        for name in self.columns.answer:
            shown = name
            while shown in taken:
                shown += RIGHT_SUFFIX
            taken.add(shown)
            fields.append(self.columns.field(name, nullable=True).with_name(shown))
            arrays.append(matches.column(name))
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def probes_of(rows: pa.Table, spec: TableSpec) -> Probes:
    """The probes in columns named as the table's key and time, in any encoding of a string and any unit of a timestamp.

    Raises InvalidArgument where a column is missing, of another type or holds a null.
    """
    columns = []
    for name, want, kind in (
        (spec.key, pa.string(), "a string"),
        (spec.time, pa.timestamp("ns", "UTC"), "a timestamp"),
    ):
        index = rows.schema.get_field_index(name)
        if index < 0:
            raise InvalidArgument(
                f"The probe rows have no column {name!r}, only {', '.join(rows.schema.names) or 'none'}. Name their key "
                f"and time as table {spec.name!r} does: {spec.key!r} and {spec.time!r}."
            )
        column = rows.column(index)
        if column.null_count:
            raise InvalidArgument(
                f"Probe column {name!r} has {column.null_count} nulls, but must have none. Leave those rows out."
            )
        columns.append(_cast(column, want, f"Probe column {name!r} is {column.type}, but must be {kind}."))
    return Probes(columns[0], columns[1].view(pa.int64()).to_numpy(zero_copy_only=False))


def _cast(column: pa.ChunkedArray, want: pa.DataType, wrong: str) -> pa.Array:
    if column.type == want and column.num_chunks == 1:
        return column.chunk(0)
    is_time = pa.types.is_timestamp(want)
    if pa.types.is_timestamp(column.type) if is_time else accepts(want, column.type):
        try:
            return (pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)).cast(want)
        except pa.ArrowInvalid:  # a time that nanoseconds cannot hold
            pass
    raise InvalidArgument(f"{wrong} Cast it.")


def merge_matches(
    columns: Columns,
    reads: list[ShardPart],
    parts: list[order.Indices | None],
    cold: tuple[pa.Table, order.Indices] | None,
    probes: Probes,
    direction: str,
) -> tuple[pa.Table, int, int]:
    """One row per probe: the best of its candidates of both sides, null where there is none.

    `parts[i]` are the probes that `reads[i]` answers (None: all, in order); `cold`: rows and whose they are. Also
    gives how many probes an owner's row answers, and how many have one at all.
    """
    count = len(probes.times_ns)
    if cold is None and len(reads) == 1 and parts[0] is None and reads[0].warm is None:
        rows = columns.from_hot(reads[0])
        matched = rows.num_rows - rows.column(OFFSET_COLUMN).null_count
        return rows, matched, matched
    tables = [columns.from_hot(read) for read in reads]
    owners = [np.arange(count) if at is None else at for at in parts]
    for read, at in zip(reads, parts, strict=True):
        if read.warm is not None:
            mine = read.warm.column(PROBE_COLUMN).to_numpy()
            tables.append(columns.from_warm(read))
            owners.append(mine if at is None else at[mine])
    hot_count = sum(table.num_rows for table in tables)
    if cold is not None:
        tables.append(cold[0])
        owners.append(cold[1])
    if not tables:
        return columns.carried_schema.empty_table().take(pa.nulls(count, pa.int64())), 0, 0
    rows = pa.concat_tables(tables)
    probe = np.concatenate(owners)
    real = np.flatnonzero(rows.column(OFFSET_COLUMN).is_valid().to_numpy())
    ranks = order.ranks_of(rows, columns.table.spec).take(real)
    best = order.best_per_probe(probe[real], probes.times_ns, ranks, direction, count)
    found = best >= 0
    chosen = real[best[found]]
    at = np.zeros(count, np.int64)
    at[found] = chosen
    indices = pa.array(at, mask=~found)
    return rows.take(indices), int(np.count_nonzero(chosen < hot_count)), len(chosen)
