"""Aggregates that choose a row among equals: the Order chooses.

argMin(x, y) and argMax(x, y) compare (y, time, seq, offset, log): of equal y the first and the last in Order. any and
first_value, anyLast and last_value, which take what the engine meets first or last, become argMin and argMax over the
Order itself; groupArray sorts by it.
"""

from __future__ import annotations

from sqlglot import exp

from proxist.sql.functions import aggregate_parts, function_name
from proxist.sql.order import Ties, in_window
from proxist.sql.scopes import Source, own_nodes, sources

_EXTREMES = {"argmin": "argMin", "min_by": "argMin", "argmax": "argMax", "max_by": "argMax"}
_FIRSTS = {"any", "any_value", "first_value"}
_LASTS = {"anylast", "last_value"}
_RESPECT = {
    "anyrespectnulls": "argMin", "any_respect_nulls": "argMin", "any_value_respect_nulls": "argMin",
    "anyvaluerespectnulls": "argMin", "first_value_respect_nulls": "argMin", "firstvaluerespectnulls": "argMin",
    "anylastrespectnulls": "argMax", "anylast_respect_nulls": "argMax", "last_value_respect_nulls": "argMax",
    "lastvaluerespectnulls": "argMax",
}  # fmt: skip
_COMBINATORS = {(): "", ("if",): "If", ("ornull",): "OrNull", ("ordefault",): "OrDefault"}
_NULL_MAKERS = ("null", "ornull", "nullif")


def break_ties(select: exp.Select, ties: Ties) -> None:
    """Rewrite the choosing aggregates of `select` in place."""
    entries = sources(select)
    for node in list(own_nodes(select)):
        name = function_name(node)
        parts = aggregate_parts(name) if name is not None else None
        if parts is None or parts[1] not in _COMBINATORS:
            continue
        suffix = _COMBINATORS[parts[1]]
        if parts[0] in _EXTREMES:
            _extreme(node, _EXTREMES[parts[0]], suffix, entries, ties)
        elif parts[0] in _FIRSTS | _LASTS or parts[0] in _RESPECT:
            _by_position(node, parts[0], suffix, select, entries, ties)
        elif parts[0] in ("grouparray", "array_agg"):
            _array(node, suffix, entries, ties)


def _call(name: str, *args: exp.Expr) -> exp.Anonymous:
    return exp.Anonymous(this=name, expressions=list(args))


def _order(first: exp.Expr | None, entries: list[Source], ties: Ties) -> list[exp.Column]:
    """The order columns, those of the source of `first` before the others."""
    owner = next((c.table for c in first.find_all(exp.Column)), "") if first is not None else ""
    ranked = sorted(entries, key=lambda source: source.alias != owner)
    return [column for source in ranked for column in ties.of_source(source)]


def _extreme(node: exp.Expr, name: str, suffix: str, entries: list[Source], ties: Ties) -> None:
    args = list(node.expressions)
    if len(args) < 2:
        return
    by, rest = args[1], args[2:]
    columns = _order(by, entries, ties)
    if not columns:
        return
    if not _may_be_null(by, entries):
        node.replace(_call(name + suffix, args[0], _call("tuple", by.copy(), *columns), *rest))
        return
    # A null in a tuple compares as the largest, where argMin and argMax leave the row out; the answer is nullable.
    known = _call("isNotNull", by.copy())
    condition = exp.and_(known, *rest) if suffix == "If" else known
    ranked = _call("tuple", _call("assumeNotNull", by.copy()), *columns)
    combined = {"": "OrNullIf", "If": "OrNullIf", "OrNull": "OrNullIf", "OrDefault": "OrDefaultIf"}[suffix]
    node.replace(_call(name + combined, args[0], ranked, condition))


def _may_be_null(node: exp.Expr, entries: list[Source]) -> bool:
    if node.find(exp.Null):
        return True
    for call in node.walk():
        name = function_name(call)
        if name is not None and name.lower().endswith(_NULL_MAKERS):
            return True
        if isinstance(call, exp.Column) and _column_may_be_null(call, entries):
            return True
    return False


def _column_may_be_null(column: exp.Column, entries: list[Source]) -> bool:
    for entry in entries:
        if column.table and column.table != entry.alias:
            continue
        if entry.table is None:
            return True
        found = [c for c in entry.table.spec.columns if c.name == column.name]
        if found:
            return found[0].nullable
    return column.name not in ("_offset", "_log")


def _by_position(node: exp.Expr, base: str, suffix: str, select: exp.Select, entries: list[Source], ties: Ties) -> None:
    """any(x) and its kin. Over a sorted sub-select the query itself has said which row is first: left alone."""
    columns = _order(None, entries, ties)
    args = list(node.expressions)
    if (
        not columns
        or not args
        or _reads_sorted(entries)
        or (in_window(node) and not _spans_order(node, select, entries))
    ):
        return
    wrapper = node.parent if isinstance(node.parent, exp.IgnoreNulls | exp.RespectNulls) else None
    name = _RESPECT.get(base) or ("argMin" if base in _FIRSTS else "argMax")
    order = _call("tuple", *columns)
    if base in _RESPECT or isinstance(wrapper, exp.RespectNulls):
        if in_window(node):
            return
        held = _call(name + suffix, _call("tuple", args[0]), order, *args[1:])
        (wrapper or node).replace(_call("tupleElement", held, exp.Literal.number(1)))
        return
    (wrapper or node).replace(_call(name + suffix, args[0], order, *args[1:]))


def _spans_order(node: exp.Expr, select: exp.Select, entries: list[Source]) -> bool:
    """Whether a window's own order is the time ascending, or none: then its first and last are those of Order."""
    window = node.parent
    while window is not None and not isinstance(window, exp.Window):
        window = window.parent
    if window is None:
        return False
    if window.args.get("alias") is not None:
        named = {w.this.name: w for w in select.args.get("windows") or ()}
        window = named.get(window.args["alias"].name, window)
    order = window.args.get("order")
    terms = order.expressions if order is not None else []
    times = {entry.table.spec.time for entry in entries if entry.table is not None}
    return all(not t.args.get("desc") and isinstance(t.this, exp.Column) and t.this.name in times for t in terms)


def _array(node: exp.Expr, suffix: str, entries: list[Source], ties: Ties) -> None:
    """groupArray(x): the pairs (order, x) sorted, then x of each. Without a size limit and outside of windows only."""
    columns = _order(None, entries, ties)
    args = list(node.expressions)
    if isinstance(node, exp.ParameterizedAgg) or suffix not in ("", "If") or in_window(node):
        return
    if not columns or not args or _reads_sorted(entries):
        return
    # tuple(x) keeps a null that groupArray would leave out.
    known = [_call("isNotNull", args[0].copy())]
    condition = exp.and_(*known, *args[1:])
    pairs = _call("groupArrayIf", _call("tuple", _call("tuple", *columns), args[0].copy()), condition)
    pair = exp.to_identifier("__px_p")
    value = _call("tupleElement", exp.column(pair.copy()), exp.Literal.number(2))
    if _may_be_null(args[0], entries):
        value = _call("assumeNotNull", value)
    node.replace(_call("arrayMap", exp.Lambda(this=value, expressions=[pair]), _call("arraySort", pairs)))


def _reads_sorted(entries: list[Source]) -> bool:
    return any(e.select is not None and e.select.args.get("order") is not None for e in entries)
