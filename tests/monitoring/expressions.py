"""What a PromQL expression names, read with a regular expression: enough for the ones that this repository writes."""

from __future__ import annotations

import re

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_SERIES = re.compile(r"\b((?:proxist|process|python)[a-zA-Z0-9_:]*)\b")
_GROUPED = re.compile(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)")
_MATCHED = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*\"")
_LABEL_VALUES = re.compile(r"label_values\(([^,]+), (\w+)\)")


def series_in(expression: str) -> set[str]:
    """Names of series, and of recorded ones."""
    return set(_SERIES.findall(_QUOTED.sub('""', expression)))


def labels_in(expression: str) -> set[str]:
    """Labels that it groups by or matches."""
    grouped = {label.strip() for group in _GROUPED.findall(expression) for label in group.split(",")} - {""}
    return grouped | set(_MATCHED.findall(expression))


def variable(query: str) -> tuple[str, str]:
    """(series, label) of a dashboard variable's query."""
    found = _LABEL_VALUES.fullmatch(query)
    assert found is not None, query
    return found[1], found[2]
