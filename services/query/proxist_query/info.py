"""GetFlightInfo: the schema of a query's answer, and where it is cheapest to ask, without running it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from proxist.auth.identity import Caller
from proxist.errors import InvalidArgument, TransientError
from proxist.model.query import Asof, Bars, FirstBy, LastBy, Query, Scan, Window
from proxist.model.table import Table
from proxist.seam.asof import AsofJoin
from proxist.seam.columns import columns_of
from proxist.seam.reader import shards_of
from proxist.seam.windows import Windows
from proxist_query.runner import Runner
from proxist_query.sql import question


@dataclass(frozen=True, slots=True)
class Described:
    """`owner`: the Flight address of the one owner whose memory holds all that the query can need, else None."""

    schema: pa.Schema
    owner: str | None


def describe(runner: Runner, query: Query, caller: Caller) -> Described:
    """Raises NotFound, InvalidArgument as the query itself would."""
    verb = query.verb
    if isinstance(verb, Scan):
        table = runner.seen_by(caller).table(caller.tenant(), verb.table)
        return Described(
            columns_of(table, verb.columns).answer_schema, _owner(runner, query, caller, {verb.table: verb.keys})
        )
    if isinstance(verb, LastBy | FirstBy):
        table = runner.seen_by(caller).table(caller.tenant(), verb.table)
        schema = columns_of(table, verb.columns, key_first=True).answer_schema
        return Described(schema, _owner(runner, query, caller, {verb.table: verb.keys}))
    if isinstance(verb, Window | Bars):
        table = runner.seen_by(caller).table(caller.tenant(), verb.table)
        schema = Windows.of(verb, table).shape.answer
        return Described(schema, _owner(runner, query, caller, {verb.table: verb.keys}))
    if isinstance(verb, Asof):
        return _asof(runner, query, verb, caller)
    return Described(runner.schema(query, caller), None)


def _asof(runner: Runner, query: Query, verb: Asof, caller: Caller) -> Described:
    if verb.left is None:
        raise InvalidArgument("An asof with probe rows has no ticket: send it with its rows in a DoExchange session.")
    left = runner.seen_by(caller).table(caller.tenant(), verb.left.table)
    right = runner.seen_by(caller).table(caller.tenant(), verb.right)
    join = AsofJoin.of(verb, right)
    none = columns_of(left, verb.left.columns).answer_schema.empty_table()
    schema = join.answer(none, join.columns.carried_schema.empty_table()).schema
    tables = {verb.left.table: verb.left.keys}
    tables[verb.right] = tables.get(verb.right, verb.left.keys)
    return Described(schema, _owner(runner, query, caller, tables))


def _owner(runner: Runner, query: Query, caller: Caller, tables: dict[str, tuple[str, ...] | None]) -> str | None:
    """The one node that owns all shards of those keys and has every row of them in memory."""
    owners = set()
    try:
        for name, keys in tables.items():
            table: Table = runner.seen_by(caller).table(caller.tenant(), name)
            for shard, share in shards_of(table, keys).items():
                owners.add(runner.hot.owner(shard).flight)
                whole = question(share, None)(None)
                if len(owners) > 1 or runner.hot.via(query.hot_path).run(shard, whole, None, None, 0).cold:
                    return None
    except TransientError:
        return None
    return owners.pop() if owners else None
