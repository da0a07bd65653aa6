"""From a query's text to a `Prepared`: checked, bounded, exact, and open for the relations of either plan."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlglot import exp

from proxist.model.table import HIDDEN_COLUMNS, Table
from proxist.sql.aggregates import break_ties, left_open
from proxist.sql.asof import WRAPPED, dedup_right_sides, open_joins
from proxist.sql.bounds import Bounds, bounds_in
from proxist.sql.clock import fix_clock, not_repeatable
from proxist.sql.dialect import parse_select, to_text
from proxist.sql.functions import function_name
from proxist.sql.naming import clickhouse_name
from proxist.sql.order import PASSED, Ties, sort_windows
from proxist.sql.refuse import refuse_escapes
from proxist.sql.scopes import HOLE, TABLE_KEY, bind_tables, own_nodes, sources

_HOLE = re.compile(rf"\b{HOLE}(\w+)\b")
_STARRED, _PASSED_MAX = "proxist_starred", "proxist_passed_max"
"""Marks in a node's meta: a SELECT that reads a table of ours; how many order columns sub-selects pass on at most."""


@dataclass(frozen=True, slots=True)
class TableUse:
    """One table of a query: the columns that any reference may read (time, key and seq always), and what bounds them all."""

    table: Table
    columns: tuple[str, ...]
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class Prepared:
    """A query ready for either plan."""

    explain: bool
    uses: tuple[TableUse, ...]
    text: str
    """With a hole for each table; see `render`."""
    reads_clock: bool
    not_repeatable: tuple[str, ...]

    def render(self, relations: Mapping[str, str]) -> str:
        """The statement with each table's relation, a parenthesised SELECT of its columns, `_log` and `_offset`."""
        return _HOLE.sub(lambda hole: relations[hole[1]], self.text)


def prepare(text: str, tenant: str, table_of: Callable[[str], Table], now_ns: int) -> Prepared:
    """Check and rewrite a query. `table_of` raises NotFound for an unknown name; `now_ns` is the query's clock.

    Raises InvalidArgument, PermissionDenied and NotFound that name what is refused and what to do instead.
    """
    explain, tree = parse_select(text)
    refuse_escapes(tree)
    bind_tables(tree, tenant, table_of)
    names = _Names(tree)
    repeats_not = not_repeatable(tree)
    reads_clock = fix_clock(tree, now_ns)
    _where_only(tree)
    uses = _uses(tree)
    inexact = _make_exact(tree)
    names.keep()
    _hide_columns(tree)
    repeats_not = tuple(dict.fromkeys((*repeats_not, *inexact)))
    return Prepared(explain, uses, to_text(_sorted_union(tree)), reads_clock, repeats_not)


def _where_only(tree: exp.Expr) -> None:
    """PREWHERE is a hint to MergeTree, which a relation is not: the same condition in WHERE."""
    for select in tree.find_all(exp.Select):
        prewhere, where = select.args.get("prewhere"), select.args.get("where")
        if prewhere is not None:
            select.set("prewhere", None)
            both = prewhere.this if where is None else exp.and_(prewhere.this, where.this)
            select.set("where", exp.Where(this=both))


def _uses(tree: exp.Expr) -> tuple[TableUse, ...]:
    bounds: dict[str, Bounds] = {}
    tables: dict[str, Table] = {}
    counted = 0
    for select in tree.find_all(exp.Select):
        for table, found in bounds_in(select):
            counted += 1
            tables[table.name] = table
            known = bounds.get(table.name)
            bounds[table.name] = found if known is None else known.either(found)
    references = [node for node in tree.find_all(exp.Table) if TABLE_KEY in node.meta]
    for node in references:
        tables.setdefault(node.meta[TABLE_KEY].name, node.meta[TABLE_KEY])
    if counted != len(references):  # some stand where no SELECT lists them as a source: nothing is proven for any
        bounds = {}
    names = _names(tree)
    return tuple(
        TableUse(table, _columns(table, names), bounds.get(name, Bounds())) for name, table in sorted(tables.items())
    )


def _names(tree: exp.Expr) -> set[str] | None:
    """Every identifier of the query; None where a star may mean any column."""
    for node in tree.find_all(exp.Star, exp.Columns):
        if not counts_rows(node):
            return None
    return {node.name for node in tree.find_all(exp.Identifier)}


def counts_rows(node: exp.Expr) -> bool:
    """`count(*)`: a star that means rows, not columns."""
    call = node.parent if isinstance(node, exp.Star) else None
    return call is not None and (function_name(call) or "").lower() == "count"


def _columns(table: Table, names: set[str] | None) -> tuple[str, ...]:
    spec = table.spec
    always = {spec.key, *spec.order}
    return tuple(c.name for c in spec.columns if names is None or c.name in names or c.name in always)


class _Names:
    """The names that ClickHouse would have given to projections without an alias, for those that rewriting changes."""

    def __init__(self, tree: exp.Expr) -> None:
        self._numbered: set[int] = set()
        plain = exp.Alias | exp.Column | exp.Star | exp.Columns | exp.Literal
        self._projections = [
            (select, index, projection.copy(), to_text(projection))
            for select in tree.find_all(exp.Select)
            for index, projection in enumerate(select.expressions)
            if not isinstance(projection, plain)
        ]
        numbers = itertools.count(1)
        for place, (select, index, original, text) in enumerate(self._projections):
            if original.find(exp.Query) is None:
                continue
            # ClickHouse counts all sub-queries of a statement, of which either plan has other ones.
            holder = exp.Paren(this=original)
            for query in list(holder.find_all(exp.Query)):
                if query.find_ancestor(exp.Query) is None:
                    query.replace(exp.column(f"_subquery_{next(numbers)}"))
            self._projections[place] = (select, index, holder.this, text)
            self._numbered.add(place)

    def keep(self) -> None:
        for place, (select, index, original, text) in enumerate(self._projections):
            now = select.expressions[index]
            if place in self._numbered or to_text(now) != text:
                now.replace(exp.alias_(now.copy(), clickhouse_name(original), quoted=True))


def _make_exact(tree: exp.Expr) -> list[str]:
    """Inner SELECTs first: an outer one may then ask them for their order columns. Gives what stays inexact, by name."""
    ties = Ties()
    selects = list(tree.find_all(exp.Select))
    outermost = tree.unnest() if isinstance(tree, exp.Subquery) else tree
    for select in selects:
        select.meta[_STARRED] = any(source.table is not None for source in sources(select))
    inexact = [name for select in selects for name in [*left_open(select), *open_joins(select)]]
    for select in reversed(selects):
        break_ties(select, ties)
        sort_windows(select, ties)
        ties.sort(select, outermost=select is outermost)
        dedup_right_sides(select, ties)
    tree.meta[_PASSED_MAX] = ties.names_max
    return inexact


def _hide_columns(tree: exp.Expr) -> None:
    """`*`, `t.*` and COLUMNS('…') mean a table's own columns."""
    passed = [f"{PASSED}{i}" for i in range(tree.meta[_PASSED_MAX])]
    for select in list(tree.find_all(exp.Select)):
        hidden = [*(HIDDEN_COLUMNS if select.meta.get(_STARRED) else ()), *passed]
        if select.meta.get(WRAPPED):
            continue
        for star in own_nodes(select):
            if (isinstance(star, exp.Star) and not counts_rows(star)) or isinstance(star, exp.Columns):
                named = {e.name for e in star.args.get("except_") or ()}
                extra = [exp.column(name) for name in hidden if name not in named]
                star.set("except_", [*(star.args.get("except_") or ()), *extra])


def _sorted_union(tree: exp.Expr) -> exp.Expr:
    """The rows of a UNION come in no order, so in another one from each tier: here by value."""
    body = tree.unnest() if isinstance(tree, exp.Subquery) else tree
    if not isinstance(body, exp.SetOperation):
        return tree
    settings = body.args.get("settings")
    body.set("settings", None)
    order = exp.Order(expressions=[exp.Ordered(this=exp.column("ALL"), nulls_first=False)])
    outer = exp.Select(expressions=[exp.Star()], from_=exp.From(this=exp.Subquery(this=body.copy())), order=order)
    outer.set("settings", settings)
    return outer
