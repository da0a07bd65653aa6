"""What a query may not do: reach outside its tables, change settings, choose formats."""

from __future__ import annotations

from sqlglot import exp

from proxist.errors import InvalidArgument
from proxist.sql.functions import function_name, is_refused, words

SETTINGS_ALLOWED = words(
    "join_use_nulls group_by_use_nulls max_threads max_block_size "
    "any_join_distinct_right_table_keys join_algorithm aggregate_functions_null_for_empty "
    "union_default_mode intersect_default_mode except_default_mode"
)


def refuse_escapes(tree: exp.Expr) -> None:
    """Raises InvalidArgument that names what the query may not do and what to do instead."""
    for node in tree.walk():
        name = function_name(node)
        if name is not None and is_refused(name):
            raise InvalidArgument(f"Function {name + '()'!r} is refused: it reaches outside your tables. Leave it out.")
        if name is not None and name.upper() == "COLUMNS":
            raise InvalidArgument("`t.COLUMNS(…)` is not taken. Write COLUMNS(…), t.*, or the columns' names.")
        if isinstance(node, exp.In):
            _refuse_bare_in(node)
        if isinstance(node, exp.Placeholder | exp.Parameter):
            raise InvalidArgument(
                f"The query has the parameter {node.sql(dialect='clickhouse')!r}, but parameters are not taken. "
                "Write the value."
            )
        if isinstance(node, exp.Query):
            _refuse_clauses(node)


def _refuse_bare_in(node: exp.In) -> None:
    """`x IN name` and `x IN (name)` read a table of that name, past the cut; only a WITH expression is a value there."""
    items = node.expressions or []
    field = node.args.get("field") or (items[0] if len(items) == 1 else None)
    while isinstance(field, exp.Paren | exp.Alias | exp.Tuple | exp.Struct) and (
        isinstance(field, exp.Paren | exp.Alias) or len(field.expressions) == 1
    ):
        field = field.this if isinstance(field, exp.Paren | exp.Alias) else field.expressions[0]
    if isinstance(field, exp.Anonymous) and field.name.lower() not in ("array", "tuple"):
        raise InvalidArgument(f"`IN {field.name}(…)` is refused. Write IN (SELECT … FROM …), or has(array, x).")
    if not isinstance(field, exp.Column):
        return
    at: exp.Expr | None = node
    while at is not None:
        with_ = at.args.get("with_")
        if with_ is not None and any(cte.alias == field.name and cte.args.get("scalar") for cte in with_.expressions):
            return
        at = at.parent
    raise InvalidArgument(
        f"`IN {field.sql(dialect='clickhouse')}` reads a table by its bare name, which is not answered. "
        "Write IN (SELECT … FROM …), = for one value, or has(array, x)."
    )


def _refuse_clauses(node: exp.Expr) -> None:
    if node.args.get("format") is not None:
        raise InvalidArgument("FORMAT is not taken: answers are Arrow, or JSON through gRPC. Leave it out.")
    if node.args.get("into") is not None:
        raise InvalidArgument("INTO is not taken: an answer goes to its caller. Leave it out.")
    for setting in node.args.get("settings") or ():
        name = setting.this.name if isinstance(setting, exp.EQ) else setting.sql()
        if name not in SETTINGS_ALLOWED:
            raise InvalidArgument(
                f"Setting {name!r} is refused. Allowed in a query are {', '.join(sorted(SETTINGS_ALLOWED))}."
            )
