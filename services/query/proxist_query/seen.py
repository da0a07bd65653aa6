"""What is told of a query beside its answer: its span's attributes, and the slow-query log. Never a key, time or text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from proxist.model.query import Asof, Query, Sql
from proxist.seam import Answer
from proxist.telemetry.tracing import Span

Known = Callable[[str], bool]
"""Whether the caller sees a table of that name."""
log = structlog.get_logger("proxist.query")


def describe(span: Span, query: Query, known: Known) -> None:
    """What is asked."""
    if span.recording:
        span.set("db.system.name", "proxist")
        span.set("db.operation.name", operation(query))
        tables = _asked_tables(query, known)
        span.set("db.collection.name", tables[0] if tables else None)


def describe_answer(span: Span, answer: Answer) -> None:
    """What it was made of."""
    if span.recording:
        receipt = answer.receipt
        span.set("db.response.returned_rows", answer.rows.num_rows)
        span.set("proxist.query.plan", receipt.plan)
        span.set("proxist.query.mode", receipt.mode)
        span.set("proxist.rows.hot", receipt.rows_hot)
        span.set("proxist.rows.cold", receipt.rows_cold)


def log_slow(query: Query, known: Known, answer: Answer | None, outcome: str, took_s: float) -> None:
    """One line for a query that took longer than `slow_query_s`, with its plan and the rows of each tier."""
    fields: dict[str, Any] = {"operation": operation(query), "outcome": outcome, "seconds": round(took_s, 6)}
    if answer is None:
        fields["tables"] = _asked_tables(query, known)
    else:
        receipt = answer.receipt
        fields |= {
            "tables": sorted(receipt.schema_version),
            "plan": receipt.plan,
            "mode": receipt.mode,
            "rows": answer.rows.num_rows,
            "rows_hot": receipt.rows_hot,
            "rows_cold": receipt.rows_cold,
            "shards": len(receipt.cuts),
            "missing": len(receipt.missing),
        }
    log.warning("slow query", **fields)


def operation(query: Query) -> str:
    """The verb's name in a JSON query."""
    return _OPERATIONS.get(type(query.verb).__name__, "sql")


_OPERATIONS = {
    "Sql": "sql", "Scan": "scan", "LastBy": "last_by", "FirstBy": "first_by", "Asof": "asof", "Window": "window",
    "Bars": "bars",
}  # fmt: skip


def _asked_tables(query: Query, known: Known) -> list[str]:
    """Of an operator, those that are there: a name that is none may be any text. Which tables SQL names is known only
    once it is parsed."""
    verb = query.verb
    if isinstance(verb, Sql):
        return []
    named = [verb.table] if not isinstance(verb, Asof) else [verb.right, *([verb.left.table] if verb.left else [])]
    return [name for name in named if known(name)]
