"""The name that ClickHouse gives to a column without an alias: its expression, with operators written as functions."""

from __future__ import annotations

from sqlglot import exp

from proxist.sql.dialect import to_text

_OPERATORS: dict[type[exp.Expr], str] = {
    exp.Add: "plus", exp.Sub: "minus", exp.Mul: "multiply", exp.Div: "divide", exp.Mod: "modulo", exp.EQ: "equals",
    exp.NEQ: "notEquals", exp.LT: "less", exp.LTE: "lessOrEquals", exp.GT: "greater", exp.GTE: "greaterOrEquals",
    exp.And: "and", exp.Or: "or",
}  # fmt: skip


def clickhouse_name(node: exp.Expr) -> str:
    """`price * 2` is `multiply(price, 2)`; what has no such form is its own text."""
    root = node.copy()
    for at in reversed(list(root.walk())):
        changed = _as_function(at)
        if changed is not None:
            if at is root:
                root = changed
            else:
                at.replace(changed)
    return to_text(root)


def _as_function(at: exp.Expr) -> exp.Expr | None:
    if isinstance(at, exp.Paren):
        return at.this.copy()
    if isinstance(at, exp.Alias):
        return exp.column(at.alias)
    name = _OPERATORS.get(type(at))
    if name is not None:
        return exp.Anonymous(this=name, expressions=[at.this.copy(), at.expression.copy()])
    if isinstance(at, exp.Neg) and not isinstance(at.this, exp.Literal):
        return exp.Anonymous(this="negate", expressions=[at.this.copy()])
    if isinstance(at, exp.Not):
        return exp.Anonymous(this="not", expressions=[at.this.copy()])
    return None
