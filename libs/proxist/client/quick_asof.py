"""As-of with probe rows without the executor: what `quick` does for last rows. Probes are taken as they are, and the answer is
the left's columns beside arrays that one kernel call has filled."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import NoneType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from proxist.client.answer import Answer
from proxist.hot.prepared import PreparedAsof
from proxist.hot.reader import HotReader
from proxist.model.ids import ShardId
from proxist.model.query import Asof, Query
from proxist.model.table import HIDDEN_COLUMNS, Table
from proxist.model.types import KEY_TYPE, TIME_TYPE, numpy_type
from proxist.seam.asof import AsofJoin
from proxist.seam.columns import Columns
from proxist.seam.last_rows import column_of, is_plain, receipt_of

if TYPE_CHECKING:
    from proxist.client.local import Host

PROBES_MAX = 2_048
"""More are not quicker this way, and each plan keeps arrays of its own."""
_RULE = ("direction", "allow_exact", "tolerance")
_TAKEN, _RIGHT = {"left", "right", *_RULE}, {"table", "columns"}
_KINDS = ((list, NoneType), (str, NoneType), (bool, NoneType), (int, str, NoneType))


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """What the answers have in common; no memory of the hot set, which answers may outlive."""

    table: Table
    shard: ShardId
    columns: Columns
    left: pa.Schema
    schema: pa.Schema


@dataclass(frozen=True, slots=True, eq=False)
class AsofPlan:
    """As many probes of one schema against one shard."""

    form: _Form
    reader: HotReader
    prepared: PreparedAsof
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def shard(self) -> ShardId:
        return self.form.shard

    def read(self, probes: pa.RecordBatch | None) -> Answer | None:
        """The probes' rows; None where they have nulls or metadata of their own, or RAM does not suffice."""
        assert probes is not None
        spec = self.form.table.spec
        keys, times = probes.column(spec.key), probes.column(spec.time)
        if keys.null_count or times.null_count or not probes.schema.equals(self.form.left, check_metadata=True):
            return None
        self.prepared.turn_to(keys)
        self.reader.read(self.prepared, times.view(pa.int64()).to_numpy())
        return None if self.prepared.undecided else _Matches(self, probes)


class _Matches(Answer):
    """What a plan has just found: copied here, made Arrow when it is asked for."""

    def __init__(self, plan: AsofPlan, probes: pa.RecordBatch) -> None:
        self._form, self._shape, self._epoch, self._probes = plan.form, plan.prepared.shape, plan.reader.epoch, probes
        self._cells, self._slots, self._told = plan.prepared.copied()

    @cached_property
    def _table(self) -> pa.Table:
        arrays, valid = self._shape.views(self._cells)
        found, columns = self._slots >= 0, self._form.columns
        matches = [column_of(columns.field(n).type, arrays[n], valid.get(n, found)) for n in columns.answer]
        return pa.Table.from_arrays([*self._probes.columns, *matches], schema=self._form.schema)

    @cached_property
    def _receipt(self) -> dict[str, Any]:  # type: ignore[override]  # made at the first look
        return receipt_of(self._form.table, self._form.shard, self._epoch, self._told, self._slots).to_json()


def asof_shape_of(query: Mapping[str, Any], probes: pa.RecordBatch) -> Any:
    """None where the query is anything but an as-of with probes; the names in it may still be anything."""
    body = query.get("asof") if len(query) == 1 else None
    if type(body) is not dict or not _TAKEN.issuperset(body) or not 0 < probes.num_rows <= PROBES_MAX:
        return None
    left, right, rule = body.get("left"), body.get("right"), [body.get(name) for name in _RULE]
    if (
        type(left) is not dict
        or left.get("probe") is not True
        or type(right) is not dict
        or not _RIGHT.issuperset(right)
    ):
        return None
    columns = right.get("columns")
    # By type: 1 equals True, but is no boolean and no duration.
    if not all(type(part) in kinds for part, kinds in zip((columns, *rule), _KINDS, strict=True)):
        return None
    asked = None if columns is None else tuple(columns)
    return "asof", right.get("table"), asked, *rule, probes.num_rows, probes.schema


def asof_plan(host: Host, query: Query, probes: pa.RecordBatch) -> AsofPlan | None:
    """None where the executor is as quick, or says better what is wrong. Raises Elsewhere where the owner cannot be
    attached."""
    verb = query.verb
    if not isinstance(verb, Asof) or verb.left is not None or not is_plain(query):
        return None
    table = host.table("", verb.right)
    join, left = AsofJoin.of(verb, table), probes.schema
    columns = join.columns.answer
    if len(table.shard_ids) != 1 or set(HIDDEN_COLUMNS) & set(columns) or not _fits(left, table):
        return None
    if any(numpy_type(table.spec.column(name).type) is None for name in columns):
        return None
    shard = table.shard_ids[0]
    reader = host.reader(shard)
    prepared = reader.prepare_asof(
        ("",) * probes.num_rows,
        columns,
        direction=join.direction,
        tolerance_ns=join.tolerance_ns,
        allow_exact=join.allow_exact,
    )
    schema = join.answer(left.empty_table(), join.columns.carried_schema.empty_table()).schema
    return AsofPlan(_Form(table, shard, join.columns, left, schema), reader, prepared)


def _fits(left: pa.Schema, table: Table) -> bool:
    """Whether the probes' key and time are there once, and as the table has them."""
    wanted = ((table.spec.key, KEY_TYPE), (table.spec.time, TIME_TYPE))
    return all(left.get_field_index(name) >= 0 and left.field(name).type == type_ for name, type_ in wanted)
