"""The commonest question, the last rows of a few keys or of all, without the executor: what it would settle anew for each call is
settled at the first, and the answer becomes Arrow when it is looked at. The rows are copied at once, as everywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from proxist.client.answer import Answer
from proxist.client.attach import Elsewhere
from proxist.client.quick_asof import asof_plan, asof_shape_of
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
EVERY_KEYS_MAX = 32_768
"""All of more keys are the executor's, so that what plans keep stays within megabytes."""
_TAKEN = {"table", "keys", "columns"}
_Shape = tuple[str, tuple[str, ...] | None, tuple[str, ...] | None]
"""Table, keys (None: all), columns."""


class Plan(Protocol):
    """One shape of query on one shard; `lock` guards what a read writes into."""

    @property
    def shard(self) -> ShardId: ...
    @property
    def reader(self) -> HotReader: ...
    @property
    def lock(self) -> threading.Lock: ...

    def read(self, probes: pa.RecordBatch | None) -> Answer | None:
        """Under `lock`. None: ask the executor. Raises Outdated, Unavailable as the reader does."""


class Outdated(Exception):
    """This plan does not fit any more; another one of the same shape may."""


@dataclass(frozen=True, slots=True, eq=False)
class _LastBy:
    """Last rows of some keys, or of all."""

    form: Form
    reader: HotReader
    prepared: PreparedLastBy
    shard: ShardId
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, probes: pa.RecordBatch | None) -> Answer | None:
        self.reader.read(self.prepared)
        if self.prepared.outdated:
            raise Outdated
        return None if self.prepared.undecided else _LastRows(self)


class Quick:
    """Thread-safe. Answers what it can; for the rest, and whenever something is out of the ordinary, there is the executor."""

    def __init__(self, topology: Callable[..., Topology], host: Host) -> None:
        self._topology, self._host = topology, host
        self._of: Topology | None = None
        self._plans: dict[Any, Plan | None] = {}

    def answer(self, query: Mapping[str, Any], probes: pa.RecordBatch | None) -> Answer | None:
        """The answer, or None: ask the executor."""
        shape = _shape_of(query) if probes is None else asof_shape_of(query, probes)
        if shape is None:
            return None
        known = self._topology()
        if known is not self._of:
            self._of, self._plans = known, {}
        try:
            plan = self._plans[shape]
        except KeyError:
            plan = self._keep(shape, query, probes)
        except TypeError:
            return None  # names that are not even hashable: the executor refuses them
        if plan is None or not plan.lock.acquire(blocking=False):
            return None
        try:
            return plan.read(probes)
        except Outdated:
            self._plans.pop(shape, None)
            return None
        except Unavailable as error:
            if error.details.get("reason") != "evicting":  # then the owner lives
                self._let_go(plan.shard)
            return None
        finally:
            plan.lock.release()

    def _keep(self, shape: Any, query: Mapping[str, Any], probes: pa.RecordBatch | None) -> Plan | None:
        """A plan for this shape; None where it has none, which is remembered too until the topology changes. What is
        kept was parsed once: a shape that equals it needs no further look."""
        try:
            parsed = parse_query(query)
            plan = self._last_by(*shape) if probes is None else asof_plan(self._host, parsed, probes)
        except (ProxistError, Elsewhere):
            return None  # the executor says what is wrong
        if plan is not None:
            self._let_go(plan.shard, but=plan.reader)
        if len(self._plans) >= PLANS_MAX:
            self._plans = {}
        self._plans[shape] = plan
        return plan

    def _let_go(self, shard: ShardId, but: HotReader | None = None) -> None:
        """Forget the shard's plans, but for those of one reader: each holds the memory of the owner that it was made for."""
        self._plans = {
            shape: plan
            for shape, plan in self._plans.copy().items()
            if plan is None or plan.shard != shard or plan.reader is but
        }

    def _last_by(self, name: str, keys: tuple[str, ...] | None, asked: tuple[str, ...] | None) -> Plan | None:
        form = form_of(self._host.table("", name), keys, asked)
        if form is None:
            return None
        reader = self._host.reader(form.shard)
        if keys is not None:
            return _LastBy(form, reader, reader.prepare_last_by(form.names, form.columns), form.shard)
        if reader.marks().key_count > EVERY_KEYS_MAX:
            return None
        every = reader.prepare_every(form.columns)
        return _LastBy(form.with_keys(every.keys), reader, every, form.shard)


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

    def __init__(self, plan: _LastBy) -> None:
        self._form, self._shape, self._epoch = plan.form, plan.prepared.shape, plan.reader.epoch
        self._copy, self._slots, self._told = plan.prepared.copied()

    @cached_property
    def _table(self) -> pa.Table:
        return pa.Table.from_batches([self._form.rows(self._shape, self._copy, self._slots)])

    @cached_property
    def _receipt(self) -> dict[str, Any]:  # type: ignore[override]  # made at the first look
        return self._form.receipt(self._epoch, self._told, self._slots).to_json()
