"""From HTTP to what is to be executed: parameters, settings, external tables, statement and data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from proxist.clickhouse.embedded.statement import DataInsert, find_data_insert, is_bare_insert, output_format

DEFAULT_FORMAT = "TabSeparated"

_TRANSPORT = frozenset({
    "query", "database", "default_format", "query_id", "user", "password", "quota_key", "stacktrace", "role",
    "session_id", "session_timeout", "session_check", "close_session", "wait_end_of_query", "buffer_size",
    "client_protocol_version", "compress", "decompress",
})  # fmt: skip
"""URL parameters that are ClickHouse's own and not settings. Those without a meaning here are accepted and ignored."""
_EXTERNAL = re.compile(r"(.+)_(format|types|structure)")
_BOUNDARY = re.compile(r'boundary="?([^";,]+)"?', re.IGNORECASE)
_PART_NAME = re.compile(rb'[; ]name="([^"]*)"', re.IGNORECASE)


class BadRequest(Exception):
    """What ClickHouse would answer with an exception code before it looks at the statement."""

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.name = name


@dataclass(frozen=True, slots=True)
class ExternalTable:
    """A temporary table of one request; `structure` is names and types, data are in `format`."""

    name: str
    structure: str
    format: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """One statement with all that it needs. `insert` says that `data` are rows in its format; else `sql` runs alone."""

    sql: bytes
    insert: DataInsert | None
    data: memoryview
    query_id: str
    database: str
    default_format: str
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    external: tuple[ExternalTable, ...] = ()

    @property
    def format(self) -> str:
        """The format of the answer."""
        return output_format(self.sql) or self.default_format


def read_request(url_query: str, headers: Mapping[str, str], body: bytes, *, readonly: bool) -> Request:
    """Read one HTTP request; `headers` has lower-case names, `body` is decompressed; `readonly`: a GET.

    Raises BadRequest for what the embedded server does not offer or cannot read.
    """
    values = dict(parse_qsl(url_query, keep_blank_values=True))
    files: dict[str, bytes] = {}
    content_type = headers.get("content-type", "")
    if content_type.lower().startswith("multipart/form-data"):
        fields, files = _read_multipart(content_type, body)
        values |= fields
        body = b""
    if values.get("compress") == "1" or values.get("decompress") == "1":
        raise BadRequest(48, "NOT_IMPLEMENTED", "The embedded server has no block compression; use Content-Encoding.")
    external = tuple(_external_table(name, data, values) for name, data in files.items())
    described = {f"{name}_{part}" for name in files for part in ("format", "types", "structure")}
    settings = {
        name: value
        for name, value in values.items()
        if name not in _TRANSPORT and name not in described and not name.startswith("param_")
    }
    if readonly:
        settings.setdefault("readonly", "2")
    default_format = headers.get("x-clickhouse-format") or values.get("default_format") or DEFAULT_FORMAT
    sql, insert, data = _split(values.get("query", "").encode(), body, default_format)
    return Request(
        sql=sql,
        insert=insert,
        data=data,
        query_id=values.get("query_id", ""),
        database=values.get("database") or headers.get("x-clickhouse-database", ""),
        default_format=default_format,
        settings=settings,
        params={name.removeprefix("param_"): v for name, v in values.items() if name.startswith("param_")},
        external=external,
    )


def _split(url_sql: bytes, body: bytes, default_format: str) -> tuple[bytes, DataInsert | None, memoryview]:
    """ClickHouse reads the URL's query, a newline and the body as one text; rows are cut off without copying them."""
    if not url_sql:
        insert = find_data_insert(body)
        if insert is None:
            return body, None, memoryview(b"")
        return insert.sql.encode(), insert, memoryview(body)[insert.data_at :]
    insert = find_data_insert(url_sql)
    if insert is None and body and is_bare_insert(url_sql):
        insert = DataInsert(url_sql.decode(errors="replace"), default_format, len(url_sql))
    if insert is None:
        return (url_sql + b"\n" + body if body else url_sql), None, memoryview(b"")
    inline = url_sql[insert.data_at :]
    return insert.sql.encode(), insert, memoryview(inline + body if inline else body)


def _external_table(name: str, data: bytes, values: Mapping[str, str]) -> ExternalTable:
    structure = values.get(f"{name}_structure")
    if structure is None and (types := values.get(f"{name}_types")):
        structure = ", ".join(f"_{i} {type_}" for i, type_ in enumerate(_split_types(types), start=1))
    if structure is None:
        raise BadRequest(
            36, "BAD_ARGUMENTS", f"Neither structure nor types have been provided for external table {name}."
        )
    return ExternalTable(name, structure, values.get(f"{name}_format", DEFAULT_FORMAT), data)


def _split_types(types: str) -> list[str]:
    """`UInt8, Decimal(3, 2)` cut at the commas outside of brackets and quotes."""
    parts, depth, quoted, start = [], 0, False, 0
    for at, char in enumerate(types):
        if char == "'":
            quoted = not quoted
        elif not quoted and char in "()":
            depth += 1 if char == "(" else -1
        elif not quoted and char == "," and depth == 0:
            parts.append(types[start:at].strip())
            start = at + 1
    return [*parts, types[start:].strip()]


def _read_multipart(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    """Form values, and files (parts with a file name) by their field's name."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise BadRequest(36, "BAD_ARGUMENTS", "The multipart form has no boundary.")
    delimiter = b"--" + found[1].encode()
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    at = body.find(delimiter)
    while at >= 0 and not body.startswith(b"--", at + len(delimiter)):
        head_at = at + len(delimiter) + 2
        head_end = body.find(b"\r\n\r\n", head_at)
        end = body.find(b"\r\n" + delimiter, head_end)
        if head_end < 0 or end < 0:
            raise BadRequest(36, "BAD_ARGUMENTS", "The multipart form is cut short.")
        head = body[head_at:head_end]
        name = _PART_NAME.search(head)
        if name is not None:
            content = body[head_end + 4 : end]
            if b"filename=" in head.lower():
                files[name[1].decode()] = content
            else:
                fields[name[1].decode()] = content.decode(errors="surrogateescape")
        at = end + 2
    return fields, files
