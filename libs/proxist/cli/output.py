"""What pxctl prints: the same rows as a table for people, as JSON or YAML for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

FORMATS = ("table", "json", "yaml")
PIPE_COLUMNS = 200
"""Width of a table where no terminal tells one."""
IDENTIFIERS = frozenset({"pid", "shard", "slot", "epoch"})
"""Integers that name something, and are copied into other commands: printed without separators."""

Rows = Sequence[Mapping[str, Any]]


def show(output: str, value: Any, tables: Mapping[str, Rows] | None = None, text: str = "") -> None:
    """Print `value` as JSON or YAML; as "table" the titled `tables`, then `text`."""
    if output == "json":
        print(json.dumps(value, indent=2, ensure_ascii=False))
    elif output == "yaml":
        import yaml

        print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), end="")
    else:
        for title, rows in (tables or {}).items():
            _print_table(title, rows)
        if text:
            print(text)


def _print_table(title: str, rows: Rows) -> None:
    from rich.console import Console
    from rich.table import Table

    if not rows:
        print(f"{title}: none")
        return
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        numeric = all(isinstance(row.get(name), int) and not isinstance(row.get(name), bool) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(name, row.get(name)) for name in columns))
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False, markup=False).print(table)


def _cell(name: str, value: Any) -> str:
    if value is None or value == "" or (name == "pid" and value == 0):  # a part of another host, or not ours
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value) if name in IDENTIFIERS else f"{value:,}"
    return str(value)
