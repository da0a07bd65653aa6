"""What a SELECT reads from: tables, sub-selects and common table expressions, under the names that it knows them by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlglot import exp

from proxist.errors import InvalidArgument, PermissionDenied
from proxist.model.table import Table
from proxist.sql.dialect import RESERVED
from proxist.sql.functions import TABLE_FUNCTIONS

HOLE = f"{RESERVED}relation_"
"""A table's place in the text: this and the table's name."""
TABLE_KEY = "proxist_table"
"""Where a table reference keeps its Table, in the node's meta."""


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of FROM or JOIN: of a table of ours, of a SELECT (sub-select or CTE), or of something else."""

    alias: str
    node: exp.Expr
    table: Table | None = None
    select: exp.Select | None = None
    join: exp.Join | None = None


def bind_tables(tree: exp.Expr, tenant: str, table_of: Callable[[str], Table]) -> None:
    """Turn every reference to a table into a hole under the name by which the query knows it.

    Raises NotFound (from `table_of`), PermissionDenied for another tenant's database, InvalidArgument for a table
    function that reads anything but its arguments.
    """
    for final in list(tree.find_all(exp.Final)):
        final.replace(final.this)
    for node in list(tree.find_all(exp.Table)):
        if isinstance(node.this, exp.Identifier):
            if node.args.get("db") is None and common_table(node) is not None:
                continue
            _bind(node, tenant, table_of)
        else:
            _check_function(node.this)
    for column in tree.find_all(exp.Column):
        if column.args.get("db") is not None:
            column.set("db", None)
            column.set("catalog", None)


def _bind(node: exp.Table, tenant: str, table_of: Callable[[str], Table]) -> None:
    database = node.args.get("db")
    if node.args.get("catalog") is not None or (database is not None and database.name != tenant):
        raise PermissionDenied(
            f"Table {node.sql()!r} is in database {database.name if database is not None else ''!r}, but this connection's tenant is {tenant!r}. "
            f"Name tables of {tenant!r} only, or leave the database out."
        )
    if node.args.get("sample") is not None:
        raise InvalidArgument(f"SAMPLE of table {node.name!r} is not answered: no sampling key. Leave it out.")
    alias = node.args.get("alias")
    if alias is not None and alias.args.get("columns"):
        raise InvalidArgument(
            f"Table {node.name!r} is given names for its columns, which is not taken. Rename them in a sub-select."
        )
    table = table_of(node.name)
    if not node.alias:
        node.set("alias", exp.TableAlias(this=exp.to_identifier(node.name)))
    node.set("this", exp.to_identifier(HOLE + table.name))
    node.set("db", None)
    node.meta[TABLE_KEY] = table


def _check_function(call: exp.Expr | None) -> None:
    name = call.name if call is not None else ""
    if isinstance(call, exp.Subquery | exp.Values) or name.lower() in TABLE_FUNCTIONS:
        return
    raise InvalidArgument(
        f"Table function {name + '()'!r} is refused: it would read outside your tables. Allowed are "
        f"{', '.join(sorted(TABLE_FUNCTIONS))}."
    )


def common_table(node: exp.Table) -> exp.Expr | None:
    """The body of the common table expression that `node` names, or None. A CTE sees only those before it."""
    inner: exp.Expr = node
    scope = node.parent
    while scope is not None:
        with_ = scope.args.get("with_")
        if with_ is not None:
            for cte in with_.expressions:
                if cte is inner or _contains(cte, node):
                    break
                if cte.alias == node.name and not cte.args.get("scalar"):
                    return cte.this
        inner, scope = scope, scope.parent
    return None


def _contains(ancestor: exp.Expr, node: exp.Expr) -> bool:
    at: exp.Expr | None = node
    while at is not None:
        if at is ancestor:
            return True
        at = at.parent
    return False


def sources(select: exp.Select) -> list[Source]:
    """The entries of FROM and of every JOIN but ARRAY JOIN, in order."""
    from_ = select.args.get("from_")
    found = [] if from_ is None else [_source(from_.this, None)]
    found += [_source(j.this, j) for j in select.args.get("joins") or () if j.kind != "ARRAY"]
    return found


def _source(node: exp.Expr, join: exp.Join | None) -> Source:
    alias = node.alias_or_name
    if isinstance(node, exp.Table):
        table = node.meta.get(TABLE_KEY)
        if table is not None:
            return Source(alias, node, table=table, join=join)
        body = common_table(node) if isinstance(node.this, exp.Identifier) else None
        return Source(alias, node, select=body if isinstance(body, exp.Select) else None, join=join)
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Select):
        return Source(alias, node, select=node.this, join=join)
    return Source(alias, node, join=join)


def own_nodes(select: exp.Select) -> Iterator[exp.Expr]:
    """The nodes of a SELECT that belong to it and not to a SELECT inside it."""
    stack: list[exp.Expr] = [select]
    while stack:
        node = stack.pop()
        yield node
        for child in node.iter_expressions():
            if not isinstance(child, exp.Select | exp.SetOperation | exp.With):
                stack.append(child)
