"""The clock of a query: `now()` and its kin become literals of one instant, which the receipt names.

So a query that is asked twice in one statement, or again with its receipt, means the same time.
"""

from __future__ import annotations

from sqlglot import exp

from proxist.sql.functions import NOT_REPEATABLE, function_name

_DAY_S = 86400
_SECONDS = {"now", "current_timestamp", "utctimestamp", "utc_timestamp"}
_DAYS = {"today": 0, "curdate": 0, "current_date": 0, "yesterday": -1}


def fix_clock(tree: exp.Expr, now_ns: int) -> bool:
    """Replace every reading of the clock; whether there was any. Times without a zone are UTC, as in every plan."""
    found = False
    for node in list(tree.walk()):
        literal = _literal(node, now_ns)
        if literal is not None:
            found = True
            node.replace(literal)
    return found


def _literal(node: exp.Expr, now_ns: int) -> exp.Expr | None:
    name = function_name(node)
    if name is None:
        if not _is_bare(node):
            return None
        name = node.name
    lower, args = name.lower(), list(node.expressions)
    seconds = now_ns // 10**9
    if lower in _SECONDS:
        zone = args or [exp.Literal.string("UTC")]
        return exp.Anonymous(this="toDateTime", expressions=[exp.Literal.number(seconds), *zone])
    if lower in _DAYS:
        days = seconds // _DAY_S + _DAYS[lower]
        return exp.Anonymous(this="toDate", expressions=[exp.Literal.number(days)])
    if lower == "now64":
        whole = exp.Anonymous(
            this="fromUnixTimestamp64Nano", expressions=[exp.Literal.number(now_ns), exp.Literal.string("UTC")]
        )
        digits = args[0] if args else exp.Literal.number(3)
        zone = args[1:] or [exp.Literal.string("UTC")]
        return exp.Anonymous(this="toDateTime64", expressions=[whole, digits, *zone])
    return None


def _is_bare(node: exp.Expr) -> bool:
    """`current_timestamp` and `current_date` without parentheses read as a column."""
    return (
        isinstance(node, exp.Column)
        and not node.table
        and node.name.lower() in ("current_timestamp", "current_date")
        and isinstance(node.this, exp.Identifier)
        and not node.this.quoted
    )


def not_repeatable(tree: exp.Expr) -> tuple[str, ...]:
    """The functions of `tree` whose value is another one each time, as `name()`, in order of appearance."""
    names = [function_name(node) for node in tree.walk()]
    return tuple(dict.fromkeys(f"{name}()" for name in names if name is not None and name.lower() in NOT_REPEATABLE))
