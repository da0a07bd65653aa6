"""Order as the tie-break of whatever would else be left to the engine: which rows LIMIT keeps, how equal rows sort.

The order columns of a SELECT are those of its sources: time, seq, `_offset`, `_log` of a table of ours (`_log` parts
rows of two shards), and of a plain sub-select what it passes on under hidden names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from proxist.sql.dialect import RESERVED
from proxist.sql.functions import BY_POSITION, WINDOW_ONLY, aggregate_parts, function_name
from proxist.sql.scopes import Source, own_nodes, sources

PASSED = f"{RESERVED}o"
"""Order columns that a sub-select passes on: this and a number."""


@dataclass(slots=True)
class Ties:
    """Breaks ties in a statement's SELECTs, inner ones first where outer ones need their order columns."""

    passed: dict[int, list[str]] = field(default_factory=dict)
    """By id of a sub-select: the names of the order columns that it passes on."""
    names_max: int = 0

    def columns(self, select: exp.Select) -> list[exp.Column]:
        """The order columns of all sources of `select`; none where it reads nothing that has an order."""
        return [column for source in sources(select) for column in self.of_source(source)]

    def of_source(self, source: Source) -> list[exp.Column]:
        if source.table is not None:
            spec = source.table.spec
            return [exp.column(name, table=source.alias) for name in (*spec.order, "_offset", "_log")]
        if source.select is not None:
            # A sub-select without an alias: its hidden names are its own, so they need no qualifier.
            return [exp.column(name, table=source.alias or None) for name in self._pass_on(source.select)]
        return []

    def _pass_on(self, select: exp.Select) -> list[str]:
        """Make a sub-select give its order columns under hidden names; none where that would change its rows."""
        if id(select) in self.passed:
            return self.passed[id(select)]
        self.passed[id(select)] = []
        if select.args.get("distinct") is not None or isinstance(select.parent, exp.SetOperation):
            return []
        keys = group_keys(select) if is_aggregate(select) else self.columns(select)
        names = [f"{PASSED}{i}" for i in range(len(keys))]
        for name, key in zip(names, keys, strict=True):
            select.append("expressions", exp.alias_(key.copy(), name))
        self.names_max = max(self.names_max, len(names))
        self.passed[id(select)] = names
        return names

    def sort(self, select: exp.Select, *, outermost: bool) -> None:
        """Complete ORDER BY where it decides something: in the outermost SELECT, beside LIMIT, in a sorted sub-select."""
        order, limit = select.args.get("order"), select.args.get("limit")
        options = limit.args.get("limit_options") if limit is not None else None
        if not (outermost or order or limit or select.args.get("offset")) or (
            options and options.args.get("with_ties")
        ):
            return
        terms = list(order.expressions) if order is not None else []
        if any(t.args.get("with_fill") or _is_all(t.this) for t in terms):
            return
        if select.args.get("distinct") is not None:
            ties: Sequence[exp.Expr] = [] if terms else [exp.column("ALL")]
        else:
            ties = group_keys(select) if is_aggregate(select) else self.columns(select)
        if ties:
            descending = _descends(terms, ties)
            extra = [exp.Ordered(this=tie.copy(), desc=descending, nulls_first=False) for tie in ties]
            select.set("order", exp.Order(expressions=[*terms, *extra]))


def is_aggregate(select: exp.Select) -> bool:
    """Whether `select` groups, or has an aggregate outside of a window."""
    if select.args.get("group") is not None or select.args.get("having") is not None:
        return True
    return any(_aggregates(node) and not in_window(node) for node in own_nodes(select))


def _aggregates(node: exp.Expr) -> bool:
    name = function_name(node)
    parts = aggregate_parts(name) if name is not None else None
    return parts is not None and parts[0] not in WINDOW_ONLY


def in_window(node: exp.Expr) -> bool:
    """Whether a function is called with OVER."""
    parent = node.parent
    while isinstance(parent, exp.IgnoreNulls | exp.RespectNulls | exp.Filter):
        parent = parent.parent
    return isinstance(parent, exp.Window)


def group_keys(select: exp.Select) -> list[exp.Expr]:
    """The expressions of a plain GROUP BY, whose values no two rows share; none for ROLLUP, CUBE, sets, TOTALS, ALL."""
    group = select.args.get("group")
    if group is None or any(group.args.get(name) for name in ("all", "totals", "rollup", "cube", "grouping_sets")):
        return []
    keys = list(group.expressions)
    if any(isinstance(k, exp.GroupingSets | exp.Rollup | exp.Cube) for k in keys):
        return []
    return keys


def _is_all(node: exp.Expr) -> bool:
    return isinstance(node, exp.Column) and not node.table and node.name.upper() == "ALL"


def _descends(terms: Sequence[exp.Expr], ties: Sequence[exp.Expr]) -> bool:
    """`ORDER BY time DESC` asks for the latest first, so among equal times the last in Order comes first."""
    names = {tie.name for tie in ties if isinstance(tie, exp.Column)}
    return any(t.args.get("desc") and isinstance(t.this, exp.Column) and t.this.name in names for t in terms)


def sort_windows(select: exp.Select, ties: Ties) -> None:
    """Complete the ORDER BY of windows whose functions depend on where among its peers a row stands."""
    named = {w.this.name: w for w in select.args.get("windows") or ()}
    for node in list(own_nodes(select)):
        if not isinstance(node, exp.Window) or node.args.get("over") is None:
            continue
        name = function_name(_bare(node.this))
        base = named.get(node.args["alias"].name) if node.args.get("alias") is not None else node
        if name is None or base is None:
            continue
        spec, order = base.args.get("spec"), base.args.get("order")
        by_rows = spec is not None and str(spec.args.get("kind")).upper() == "ROWS"
        if not (by_rows or name.lower() in BY_POSITION):
            continue
        terms = list(order.expressions) if order is not None else []
        columns = ties.columns(select)
        if not columns:
            continue
        extra = [exp.Ordered(this=c, desc=_descends(terms, columns), nulls_first=False) for c in columns]
        partition = [p.copy() for p in base.args.get("partition_by") or ()]
        node.set("alias", None)
        node.set("partition_by", partition)
        node.set("order", exp.Order(expressions=[*(t.copy() for t in terms), *extra]))
        node.set("spec", spec.copy() if spec is not None else None)


def _bare(node: exp.Expr) -> exp.Expr:
    while isinstance(node, exp.IgnoreNulls | exp.RespectNulls | exp.Filter):
        node = node.this
    return node
