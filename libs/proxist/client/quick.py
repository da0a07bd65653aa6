"""The commonest question, the last rows of a few keys or of all, without the executor: what it would settle anew for each call is
settled at the first, and the answer becomes Arrow when it is looked at. The rows are copied at once, as everywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from proxist.client.answer import Answer
from proxist.client.attach import Elsewhere
from proxist.client.topology import Topology
from proxist.errors import ProxistError, Unavailable
from proxist.hot.prepared import PreparedLastBy
from proxist.hot.reader import HotReader
from proxist.model.ids import ShardId
from proxist.model.query import parse_query
from proxist.seam.last_rows import Form, form_of

if TYPE_CHECKING:
    from proxist.client.local import Host

PLANS_MAX = 256
"""Each keeps arrays of its own."""
_TAKEN = {"table", "keys", "columns"}
_Shape = tuple[str, tuple[str, ...] | None, tuple[str, ...] | None]
"""Table, keys (None: all), columns."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """One shape of query on one shard. `lock` guards `prepared`, whose arrays a read writes."""

    form: Form
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
            if plan.prepared.outdated:
                self._plans.pop(shape, None)
                return None
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

    def _plan(self, name: str, keys: tuple[str, ...] | None, asked: tuple[str, ...] | None) -> _Plan | None:
        form = form_of(self._host.table("", name), keys, asked)
        if form is None:
            return None
        shard = form.shard
        reader = self._host.try_attached(shard, lambda path: self._host.attach(path, shard))
        if keys is not None:
            return _Plan(form, reader, reader.prepare_last_by(form.names, form.columns))
        every = reader.prepare_every(form.columns)
        return _Plan(form.with_keys(every.keys), reader, every)


def _shape_of(query: Mapping[str, Any]) -> _Shape | None:
    """None where the query is anything but last_by of the newest rows; the names in it may still be anything."""
    body = query.get("last_by") if len(query) == 1 else None
    if type(body) is not dict or not _TAKEN.issuperset(body):
        return None
    table, keys, columns = body.get("table"), body.get("keys"), body.get("columns")
    if type(table) is not str or keys == [] or not all(part is None or type(part) is list for part in (keys, columns)):
        return None
    return table, None if keys is None else tuple(keys), None if columns is None else tuple(columns)


class _LastRows(Answer):
    """The rows that a plan has just read: copied here, made Arrow when they are asked for."""

    def __init__(self, plan: _Plan) -> None:
        self._form, self._shape, self._epoch = plan.form, plan.prepared.shape, plan.reader.epoch
        self._copy, self._slots, self._told = plan.prepared.copied()

    @cached_property
    def _table(self) -> pa.Table:
        return pa.Table.from_batches([self._form.rows(self._shape, self._copy, self._slots)])

    @cached_property
    def _receipt(self) -> dict[str, Any]:  # type: ignore[override]  # made at the first look
        return self._form.receipt(self._epoch, self._told, self._slots).to_json()
