"""The commonest question, the last rows of a few keys, without the executor: what it would settle anew for each call is
settled at the first, and the answer becomes Arrow when it is looked at. The rows are copied at once, as everywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from proxist.client.answer import Answer
from proxist.client.attach import Elsewhere
from proxist.client.topology import Topology
from proxist.errors import ProxistError, Unavailable
from proxist.hot.prepared import PreparedLastBy, Shape
from proxist.hot.reader import HotReader
from proxist.model.ids import ShardId
from proxist.model.query import parse_query
from proxist.model.receipt import Cut, Receipt
from proxist.model.table import HIDDEN_COLUMNS, Table
from proxist.model.types import numpy_type
from proxist.seam.columns import columns_of
from proxist.seam.reader import shards_of

if TYPE_CHECKING:
    from proxist.client.local import Host

PLANS_MAX = 256
KEYS_MAX = 1_024
"""More keys are not quicker this way, and each plan keeps arrays of its own."""
_TAKEN = {"table", "keys", "columns"}
_Shape = tuple[str, tuple[str, ...], tuple[str, ...] | None]
"""Table, keys, columns."""


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """What answers of one shape have in common; no memory of the hot set, which answers may outlive."""

    table: Table
    shard: ShardId
    schema: pa.Schema
    keys: pa.Array
    values: tuple[tuple[str, pa.DataType], ...]
    """The columns after the key."""
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """One shape of query on one shard. `lock` guards `prepared`, whose arrays a read writes."""

    form: _Form
    reader: HotReader
    prepared: PreparedLastBy
    lock: threading.Lock = field(default_factory=threading.Lock)


class Quick:
    """Thread-safe. Answers what it can; for the rest, and whenever something is out of the ordinary, there is the executor."""

    def __init__(self, topology: Callable[..., Topology], host: Host) -> None:
        self._topology, self._host = topology, host
        self._of: Topology | None = None
        self._plans: dict[_Shape, _Plan | None] = {}

    def answer(self, query: Mapping[str, Any]) -> Answer | None:
        """The answer, or None: ask the executor."""
        shape = _shape_of(query)
        if shape is None:
            return None
        known = self._topology()
        if known is not self._of:
            self._of, self._plans = known, {}
        try:
            plan = self._plans[shape]
        except KeyError:
            plan = self._keep(shape, query)
        except TypeError:
            return None  # names that are not even hashable: the executor refuses them
        if plan is None or not plan.lock.acquire(blocking=False):
            return None
        try:
            plan.reader.read(plan.prepared)
            return None if plan.prepared.undecided else _LastRows(plan)
        except Unavailable as error:
            if error.details.get("reason") != "evicting":  # then the owner lives
                self._let_go(plan.form.shard)
            return None
        finally:
            plan.lock.release()

    def _keep(self, shape: _Shape, query: Mapping[str, Any]) -> _Plan | None:
        """A plan for this shape; None where it has none, which is remembered too until the topology changes. What is
        kept was parsed once: a shape that equals it needs no further look."""
        try:
            parse_query(query)
            plan = self._plan(*shape)
        except (ProxistError, Elsewhere):
            return None  # the executor says what is wrong
        if plan is not None:
            self._let_go(plan.form.shard, but=plan.reader)
        if len(self._plans) >= PLANS_MAX:
            self._plans = {}
        self._plans[shape] = plan
        return plan

    def _let_go(self, shard: ShardId, but: HotReader | None = None) -> None:
        """Forget the shard's plans, but for those of one reader: each holds the memory of the owner that it was made for."""
        self._plans = {
            shape: plan
            for shape, plan in self._plans.copy().items()
            if plan is None or plan.form.shard != shard or plan.reader is but
        }

    def _plan(self, name: str, keys: tuple[str, ...], asked: tuple[str, ...] | None) -> _Plan | None:
        table = self._host.table("", name)
        spec, shares = table.spec, shards_of(table, keys)
        columns = columns_of(table, asked, key_first=True)
        values = columns.answer[1:]
        if len(shares) != 1 or len(keys) > KEYS_MAX or set(HIDDEN_COLUMNS) & set(values):
            return None
        if any(numpy_type(spec.column(column).type) is None for column in values):
            return None
        shard = next(iter(shares))
        ordered = tuple(sorted(set(keys)))  # code point order is UTF-8 byte order
        reader = self._host.try_attached(shard, lambda path: self._host.attach(path, shard))
        prepared = reader.prepare_last_by(ordered, values)
        schema = columns.answer_schema
        typed = tuple((field.name, field.type) for field in schema)[1:]
        form = _Form(table, shard, schema, pa.array(ordered, pa.string()), typed, prepared.shape)
        return _Plan(form, reader, prepared)


def _shape_of(query: Mapping[str, Any]) -> _Shape | None:
    """None where the query is anything but last_by of keys; the names in it may still be anything."""
    body = query.get("last_by") if len(query) == 1 else None
    if type(body) is not dict or not _TAKEN.issuperset(body):
        return None
    table, keys, columns = body.get("table"), body.get("keys"), body.get("columns")
    if type(table) is not str or type(keys) is not list or not keys:
        return None
    if columns is None:
        return table, tuple(keys), None
    return (table, tuple(keys), tuple(columns)) if type(columns) is list else None


class _LastRows(Answer):
    """The rows that a plan has just read: copied here, made Arrow when they are asked for."""

    def __init__(self, plan: _Plan) -> None:
        self._form = plan.form
        self._copy, self._slots, self._told = plan.prepared.copied()
        self._epoch = plan.reader.epoch

    @cached_property
    def _table(self) -> pa.Table:
        arrays, valid = self._form.shape.views(self._copy)
        found = np.flatnonzero(self._slots >= 0)
        all_found = len(found) == len(self._slots)
        columns = [self._form.keys if all_found else self._form.keys.take(pa.array(found))]
        for name, type_ in self._form.values:
            cells = arrays[name] if all_found else arrays[name][found]
            if name in valid or cells.dtype == np.bool_:
                missing = ~valid[name][found] if name in valid else None
                columns.append(pa.array(cells, type_, mask=missing))
            else:
                columns.append(pa.Array.from_buffers(type_, len(cells), [None, pa.py_buffer(cells.view(np.uint8))], 0))
        return pa.Table.from_arrays(columns, schema=self._form.schema)

    @cached_property
    def _receipt(self) -> dict[str, Any]:  # type: ignore[override]  # made at the first look
        table, told = self._form.table, self._told
        cut = Cut.of(table.name, self._form.shard, self._epoch, told.seam, told.persisted, told.end)
        rows = int(np.count_nonzero(self._slots >= 0))
        return Receipt(cuts=(cut,), rows_hot=rows, schema_version={table.name: table.schema_version}).to_json()
