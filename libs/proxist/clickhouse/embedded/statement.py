"""Where a statement ends and its data begins: the only SQL that the embedded server reads itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    rb"""
      (?P<skip> \s+ | --[^\n]*(?:\n|$) | \#[^\n]*(?:\n|$) | /\*.*?(?:\*/|$) )
    | (?P<quoted> '(?:[^'\\]|\\.|'')*' | `(?:[^`\\]|\\.|``)*` | "(?:[^"\\]|\\.|"")*" )
    | (?P<word> [A-Za-z_][A-Za-z0-9_]* )
    | (?P<open> [(\[{] )
    | (?P<close> [)\]}] )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_GAP = re.compile(rb"[ \t\f\v\r]*(?:\n|(?=[^\s])|$)")
_OUTPUT_FORMAT = re.compile(rb"\bFORMAT\s+([A-Za-z][A-Za-z0-9]*)\s*(?:SETTINGS\s[^;]*)?;?\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DataInsert:
    """An INSERT whose rows follow in a format: `sql` has no FORMAT clause; `data_at` is where they begin."""

    sql: str
    format: str
    data_at: int


def find_data_insert(text: bytes) -> DataInsert | None:
    """The INSERT … FORMAT … that `text` begins with, or None: a query, an INSERT of VALUES or of a SELECT.

    The data begin after the first newline behind the format's name, else after the white space behind it, as in
    ClickHouse's parser. Raises nothing: what does not parse is left to the engine.
    """
    depth = 0
    first = True
    formatted_at: int | None = None
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind == "skip":
            continue
        word = match["word"].upper() if kind == "word" else b""
        if first:
            if word != b"INSERT":
                return None
            first = False
        elif formatted_at is not None:
            if kind != "word":
                return None
            gap = _GAP.match(text, match.end())
            data_at = gap.end() if gap else match.end()
            return DataInsert(text[:formatted_at].decode(errors="replace"), match[0].decode(), data_at)
        elif kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
        elif depth == 0 and word in (b"VALUES", b"SELECT", b"WITH", b"INFILE"):
            return None
        elif depth == 0 and word == b"FORMAT":
            formatted_at = match.start()
    return None


def is_bare_insert(text: bytes) -> bool:
    """Whether `text` is an INSERT that says neither FORMAT nor VALUES nor SELECT: its data come in the body."""
    words: list[bytes] = []
    depth = 0
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "open":
            depth += 1
        elif match.lastgroup == "close":
            depth -= 1
        elif match.lastgroup == "word" and depth == 0:
            words.append(match["word"].upper())
    return words[:1] == [b"INSERT"] and not {b"FORMAT", b"VALUES", b"SELECT", b"WITH", b"INFILE"} & set(words)


def output_format(text: bytes) -> str | None:
    """The format that a query names for its answer, at its end."""
    match = _OUTPUT_FORMAT.search(text[-500:])
    return match[1].decode() if match else None
