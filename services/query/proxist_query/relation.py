"""A table as text inside a statement: the rows that are here (plan a), or history and the tail (plan b)."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from proxist.clickhouse import structure, table_name
from proxist.model.table import HIDDEN_COLUMNS
from proxist.seam import ColdCut
from proxist.seam.columns import Columns
from proxist.seam.reader import ShardPart
from proxist.sql import TableUse
from proxist_query.cold import cuts_sql, keys_sql, literal, time_range

KEYS_PRUNED_MAX = 1_000
"""More keys are left to the query's own condition, which is there anyway."""


@dataclass(frozen=True, slots=True)
class Relation:
    """One table of a query and what its shards answered."""

    use: TableUse
    reads: tuple[ShardPart, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.use.columns, *HIDDEN_COLUMNS)

    @property
    def structure(self) -> str:
        return structure(self.use.table.spec, self.names)

    @property
    def cuts(self) -> tuple[ColdCut, ...]:
        """The shards' cold sides, where there is one."""
        return tuple(read.cold for read in self.reads if read.cold is not None)

    def rows(self) -> pa.Table:
        """The owners' rows of all shards, with `_log` and `_offset`."""
        columns = Columns(self.use.table, self.names)
        parts = [columns.project(rows) for read in self.reads for rows in columns.from_owner(read)]
        return pa.concat_tables(parts) if parts else columns.answer_schema.empty_table()

    def of_file(self, path: str) -> str:
        """Plan (a): an Arrow stream at `path`."""
        return f"({self._select()} FROM file({literal(path)}, 'ArrowStream', {literal(self.structure)}))"

    def of_both(self, tail: str | None) -> str:
        """Plan (b): history below the cuts, and the external table `tail` where there are hot rows."""
        sides = [] if tail is None else [f"{self._select()} FROM {tail}"]
        if self.cuts or tail is None:
            sides.insert(0, self._history())
        return "(" + " UNION ALL ".join(sides) + ")"

    def _history(self) -> str:
        """Only our own conditions meet ClickHouse's index on time: from `time < x` with a DateTime or integer x it
        concludes `time <= x - 1`, so parts that begin within the last second before x would be left out."""
        time = f"`{self.use.table.spec.time}`"
        stored = f"{self._select()} FROM {table_name(self.use.table)} WHERE {self.cold_condition()}"
        return f"SELECT * REPLACE (identity({time}) AS {time}) FROM ({stored})"

    def cold_condition(self) -> str:
        """The rows of the cold side that can matter, as a condition."""
        if not self.cuts:
            return "0"
        bounds, spec = self.use.bounds, self.use.table.spec
        conditions = [cuts_sql(self.cuts), *time_range(spec.time, bounds.from_ns, bounds.to_ns)]
        if bounds.keys is not None and len(bounds.keys) <= KEYS_PRUNED_MAX:
            conditions.append(keys_sql(spec.key, bounds.keys))
        return " AND ".join(conditions)

    def _select(self) -> str:
        return "SELECT " + ", ".join(f"`{name}`" for name in self.names)
