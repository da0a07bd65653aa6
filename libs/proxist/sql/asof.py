"""ASOF JOIN: of the right rows that are equal in key and time, the Order picks the one that may match.

The last for >= and > (what was known then), the first for <= and <. ClickHouse would take the first it meets.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from proxist.sql.order import Ties, reads_tables
from proxist.sql.scopes import Source, sources

WRAPPED = "proxist_wrapped"
"""Marks the SELECT that wraps a right side: its star must pass the hidden columns on."""
_KEEPS_LAST = {exp.GTE: True, exp.GT: True, exp.LTE: False, exp.LT: False}


def open_joins(select: exp.Select) -> list[str]:
    """The joins of `select` that take whichever row the engine meets, by name."""
    kinds = [j.kind for j in select.args.get("joins") or () if j.kind in ("ANY", "SEMI", "PASTE")]
    return [f"{kind} JOIN" for kind in kinds if reads_tables(select)]


def dedup_right_sides(select: exp.Select, ties: Ties) -> None:
    """Wrap the right side of each ASOF JOIN of `select` so that equal (keys, time) have one row."""
    entries = sources(select)
    for index, entry in enumerate(entries):
        if entry.join is None or entry.join.kind != "ASOF":
            continue
        rule = _rule(entry, entries[:index])
        if rule is None or not reads_tables(entry.node):
            continue
        keys, time, last = rule
        # By value where the right side has no order: equal rows are equal matches.
        order: Sequence[exp.Expr] = ties.of_source(entry) or [exp.Anonymous(this="tuple", expressions=[exp.Star()])]
        _wrap(entry, keys, time, order, last)


def _rule(entry: Source, left: list[Source]) -> tuple[list[exp.Expr], exp.Expr, bool] | None:
    """The right side's key expressions and time expression, and whether the last of equals matches."""
    join = entry.join
    assert join is not None
    using = join.args.get("using")
    if using:
        names = [exp.column(u.name, table=entry.alias) for u in using]
        return list(names[:-1]), names[-1], True
    on = join.args.get("on")
    keys: list[exp.Expr] = []
    time: tuple[exp.Expr, bool] | None = None
    for conjunct in on.flatten() if isinstance(on, exp.And) else [on]:
        conjunct = conjunct.unnest() if conjunct is not None else conjunct
        if not isinstance(conjunct, exp.EQ | exp.GTE | exp.GT | exp.LTE | exp.LT):
            continue
        mine, mirrored = _right_hand(conjunct, entry, left)
        if mine is None:
            if any(c.table == entry.alias for c in conjunct.find_all(exp.Column)):
                return None
            continue  # a condition on the left alone picks no right row
        if isinstance(conjunct, exp.EQ):
            keys.append(mine)
        else:
            time = (mine, _KEEPS_LAST[type(conjunct)] != mirrored)
    return None if time is None else (keys, *time)


def _right_hand(node: exp.Expr, entry: Source, left: list[Source]) -> tuple[exp.Expr | None, bool]:
    """The operand that reads the right side, and whether it stands on the left of the operator."""
    for operand, mirrored in ((node.expression, False), (node.this, True)):
        columns = list(operand.find_all(exp.Column))
        other = node.this if operand is node.expression else node.expression
        if other.find(exp.Column) and columns and all(_is_of(c, entry, left) for c in columns):
            return operand, mirrored
    return None, False


def _is_of(column: exp.Column, entry: Source, left: list[Source]) -> bool:
    if column.table:
        return bool(column.table == entry.alias)
    if entry.table is None or any(other.table is None for other in left):
        return False
    return column.name in entry.table.spec.schema.names and not any(
        other.table is not None and column.name in other.table.spec.schema.names for other in left
    )


def _wrap(entry: Source, keys: list[exp.Expr], time: exp.Expr, order: Sequence[exp.Expr], last: bool) -> None:
    by = [e.copy() for e in (*keys, time)]
    terms = [exp.Ordered(this=e.copy(), nulls_first=False) for e in by]
    terms += [exp.Ordered(this=c.copy(), desc=last, nulls_first=False) for c in order]
    inner = exp.Select(expressions=[exp.Star()])
    inner.meta[WRAPPED] = True
    alias = exp.to_identifier(entry.alias)
    wrapped = exp.Subquery(this=inner, alias=exp.TableAlias(this=alias))
    node = entry.node
    node.replace(wrapped)
    inner.set("from_", exp.From(this=node))
    inner.set("order", exp.Order(expressions=terms))
    inner.set("limit", exp.Limit(expression=exp.Literal.number(1), expressions=by))
