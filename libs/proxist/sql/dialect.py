"""ClickHouse's dialect as sqlglot reads it, but with every function left as it was written.

sqlglot translates between dialects, so it turns functions into a common form: `rand()` would become
`randCanonical()`, `median(x)` another name in the answer. We only rewrite what we name ourselves.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.clickhouse import ClickHouse
from sqlglot.errors import SqlglotError
from sqlglot.generators.clickhouse import ClickHouseGenerator
from sqlglot.parsers.clickhouse import ClickHouseParser

from proxist.errors import InvalidArgument

RESERVED = "__px_"
"""Names that the rewriting makes up begin with this; a query may not."""

LIMIT_AFTER_BY = "then"
"""Where `LIMIT n BY k` keeps the `LIMIT m` behind it, of which sqlglot knows one per SELECT."""
_SYNTAX = ("CAST", "EXTRACT", "COLUMNS", "TUPLE", "TRIM", "SUBSTRING", "POSITION", "AND", "OR", "XOR", "VIEW")
"""Functions whose arguments have a grammar of their own."""
_HIGH_BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\x[89a-fA-F][0-9a-fA-F]")
"""To ClickHouse a byte, to sqlglot a code point."""
_EXPLAIN = re.compile(r"\s*EXPLAIN\b", re.IGNORECASE)


class Dialect(ClickHouse):
    class Generator(ClickHouseGenerator):
        def limit_sql(self, expression: exp.Limit, top: bool = False) -> str:
            return super().limit_sql(expression, top) + self.sql(expression, LIMIT_AFTER_BY)

        def columns_sql(self, expression: exp.Columns) -> str:
            hidden = ", ".join(self.sql(e) for e in expression.args.get("except_") or ())
            return super().columns_sql(expression) + (f" EXCEPT ({hidden})" if hidden else "")

    class Parser(ClickHouseParser):
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: parser for name, parser in ClickHouseParser.FUNCTION_PARSERS.items() if name in _SYNTAX
        }
        NO_PAREN_FUNCTIONS: ClassVar[dict[Any, Any]] = {}
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: parser for name, parser in ClickHouseParser.NO_PAREN_FUNCTION_PARSERS.items() if name == "CASE"
        }

        def _parse_limit(
            self, this: exp.Expr | None = None, top: bool = False, skip_limit_token: bool = False
        ) -> exp.Expr | None:
            limit = super()._parse_limit(this, top, skip_limit_token)
            if isinstance(limit, exp.Limit) and limit.expressions and not limit.args.get("offset"):
                limit.set(LIMIT_AFTER_BY, super()._parse_limit())
            return limit


def parse_select(text: str) -> tuple[bool, exp.Expr]:
    """Whether it is an EXPLAIN, and the tree of the one SELECT (or union of SELECTs).

    Raises InvalidArgument for text that is no SQL, for several statements, and for any other kind of statement.
    """
    if RESERVED in text:
        raise InvalidArgument(f"The query has a name with {RESERVED!r}, which Proxist keeps for itself. Rename it.")
    if _HIGH_BYTE.search(text):
        raise InvalidArgument("The query has an escape \\x80 to \\xff, which is read as a character. Use unhex('…').")
    explain = _EXPLAIN.match(text)
    body = text[explain.end() :] if explain else text
    try:
        statements = [s for s in sqlglot.parse(body, dialect=Dialect) if s is not None]
    except SqlglotError as error:
        raise InvalidArgument(f"The query is not SQL of the ClickHouse dialect: {_first_line(error)}") from None
    except RecursionError:
        raise InvalidArgument("The query is nested too deeply. Name its parts in a WITH clause.") from None
    if len(statements) != 1:
        raise InvalidArgument(f"The query has {len(statements)} statements, but must be one SELECT.")
    tree = statements[0]
    if not isinstance(tree, exp.Select | exp.SetOperation | exp.Subquery):
        raise InvalidArgument(
            f"The statement begins with {_verb(body)!r}, but only SELECT and EXPLAIN SELECT are answered. Rows are "
            "written with DoPut; tables are made and dropped with the actions create_table and drop_table."
        )
    return explain is not None, tree


def to_text(tree: exp.Expr) -> str:
    return tree.sql(dialect=Dialect)


def _verb(text: str) -> str:
    words = text.split(None, 1)
    return words[0].upper()[:20] if words else ""


def _first_line(error: Exception) -> str:
    plain = re.sub(r"\x1b\[\d*m", "", str(error))
    return " ".join(plain.split())[:300]
