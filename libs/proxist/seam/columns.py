"""Which columns a read needs, and the answer's columns and schema."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from proxist.hot.ops import OFFSET_COLUMN
from proxist.model.table import HIDDEN_COLUMNS, Table
from proxist.seam.cuts import Chain
from proxist.seam.reader import ShardPart

LOG_COLUMN = "_log"
HIDDEN_TYPE = pa.uint64()
_KNOWN_MAX = 1024


@dataclass(frozen=True)
class Columns:
    """The columns of one table's part of an answer; made once for a table and what is asked of it.

    `answer`: what the caller gets, in order; hidden columns where named. `carried`: what both sides must give: key,
    the rest of `answer`, time, seq, `_offset`, and `_log` where it was named.
    """

    table: Table
    answer: tuple[str, ...]
    key_carried: bool = True
    """False for an as-of, where the probe knows the key."""

    @cached_property
    def hot(self) -> tuple[str, ...]:
        """What is asked of a hot set, which adds time, seq and `_offset` by itself and knows no `_log`."""
        key = (self.table.spec.key,) if self.key_carried else ()
        return tuple(dict.fromkeys((*key, *(n for n in self.answer if n not in HIDDEN_COLUMNS))))

    @cached_property
    def carried(self) -> tuple[str, ...]:
        names = dict.fromkeys((*self.hot, *self.table.spec.order, OFFSET_COLUMN))
        return (*names, LOG_COLUMN) if LOG_COLUMN in self.answer else tuple(names)

    def field(self, name: str, nullable: bool | None = None) -> pa.Field:
        if name in HIDDEN_COLUMNS:
            return pa.field(name, HIDDEN_TYPE, bool(nullable))
        column = self.table.spec.column(name)
        return pa.field(name, column.type, column.nullable if nullable is None else nullable)

    @cached_property
    def carried_schema(self) -> pa.Schema:
        """Every field nullable: an as-of's unmatched rows are null."""
        return pa.schema([self.field(name, nullable=True) for name in self.carried])

    @cached_property
    def answer_schema(self) -> pa.Schema:
        return pa.schema([self.field(name) for name in self.answer])

    def project(self, rows: pa.Table) -> pa.Table:
        """The answer's columns of `rows`, under the table's own schema."""
        return pa.Table.from_arrays([rows.column(name) for name in self.answer], schema=self.answer_schema)

    def alone(self, read: ShardPart) -> pa.Table:
        """The answer where one hot part is all of it: `project(from_hot(read))` in one step."""
        return pa.Table.from_arrays(self._of_part(read, self.answer), schema=self.answer_schema)

    def from_hot(self, read: ShardPart) -> pa.Table:
        """A hot part's rows with `carried_schema`."""
        return pa.Table.from_arrays(self._of_part(read, self.carried), schema=self.carried_schema)

    def from_owner(self, read: ShardPart) -> list[pa.Table]:
        """The same and, where there are some, its warm rows."""
        hot = self.from_hot(read)
        return [hot] if read.warm is None else [hot, self.from_warm(read)]

    def from_warm(self, read: ShardPart) -> pa.Table:
        """A part's warm rows with `carried_schema`."""
        assert read.warm is not None
        arrays = self._of_rows(read.chain, read.warm, self.carried)
        return pa.Table.from_arrays(arrays, schema=self.carried_schema)

    def _of_part(self, read: ShardPart, names: tuple[str, ...]) -> list[pa.Array]:
        return self._of_rows(read.chain, read.part.rows, names)

    def _of_rows(self, chain: Chain, rows: pa.RecordBatch, names: tuple[str, ...]) -> list[pa.Array]:
        return [_log_column(chain, rows) if name == LOG_COLUMN else rows.column(name) for name in names]

    def from_cold(self, rows: pa.Table) -> pa.Table:
        """A cold answer's rows with `carried_schema`."""
        return pa.Table.from_arrays([rows.column(name) for name in self.carried], schema=self.carried_schema)


def _log_column(chain: Chain, rows: pa.RecordBatch) -> pa.Array:
    offsets = rows.column(OFFSET_COLUMN)
    ids = chain.log_ids(offsets.fill_null(0).to_numpy(zero_copy_only=False))
    return pa.array(ids, HIDDEN_TYPE, mask=offsets.is_null().to_numpy(zero_copy_only=False))


def columns_of(
    table: Table, asked: tuple[str, ...] | None, *, key_first: bool = False, key_carried: bool = True
) -> Columns:
    """The columns of a verb: `asked`, or all of the table's. Raises InvalidArgument for one that it does not have."""
    # By identity: hashing a table costs as much as what is saved. The entry keeps its table, so the id stays its own.
    place = (id(table), asked, key_first, key_carried)
    known = _known.get(place)
    if known is None:
        if len(_known) >= _KNOWN_MAX:
            _known.clear()
        known = _known[place] = _columns_of(table, asked, key_first, key_carried)
    return known


_known: dict[tuple[int, tuple[str, ...] | None, bool, bool], Columns] = {}


def _columns_of(table: Table, asked: tuple[str, ...] | None, key_first: bool, key_carried: bool) -> Columns:
    spec = table.spec
    names = tuple(c.name for c in spec.columns) if asked is None else asked
    for name in names:
        if name not in HIDDEN_COLUMNS:
            spec.column(name)
    return Columns(table, tuple(dict.fromkeys((spec.key, *names) if key_first else names)), key_carried)
