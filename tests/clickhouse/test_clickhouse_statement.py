"""Where a statement ends and its data begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxist.clickhouse.embedded.request import BadRequest, read_request
from proxist.clickhouse.embedded.statement import find_data_insert, is_bare_insert, output_format

INSERTS = [
    (b"INSERT INTO t FORMAT CSV\n1,2\n", "INSERT INTO t ", "CSV", b"1,2\n"),
    (
        b"insert into `a b`.t (x, `format`) format Native\n\x00\n",
        "insert into `a b`.t (x, `format`) ",
        "Native",
        b"\x00\n",
    ),
    (b"INSERT INTO t FORMAT CSV 1,2", "INSERT INTO t ", "CSV", b"1,2"),
    (b"INSERT INTO t FORMAT CSV \r\n\n1", "INSERT INTO t ", "CSV", b"\n1"),
    (b"/* FORMAT X */ INSERT -- FORMAT Y\n INTO t FORMAT CSV\n", "", "CSV", b""),
    (b"INSERT INTO t (a, FORMAT) SETTINGS x = 'FORMAT Z' FORMAT TSV\n5", "", "TSV", b"5"),
]


@pytest.mark.parametrize(("text", "sql", "format_", "data"), INSERTS)
def test_data_begins_behind_the_format(text: bytes, sql: str, format_: str, data: bytes) -> None:
    found = find_data_insert(text)
    assert found is not None
    assert (found.format, text[found.data_at :]) == (format_, data)
    if sql:
        assert found.sql == sql


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT 'INSERT INTO t FORMAT CSV'",
        b"INSERT INTO t VALUES (1)",
        b"INSERT INTO t SELECT * FROM u FORMAT CSV",
        b"INSERT INTO t",
        b"INSERT INTO t FORMAT",
        b"",
        b"'",
    ],
)
def test_other_statements_are_left_whole(text: bytes) -> None:
    assert find_data_insert(text) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read(text: bytes) -> None:
    for candidate in (text, b"INSERT INTO t FORMAT CSV\n" + text):
        find_data_insert(candidate)
        is_bare_insert(candidate)
        output_format(candidate)


def test_output_format_is_the_last_clause() -> None:
    assert output_format(b"SELECT 1 FORMAT JSON") == "JSON"
    assert output_format(b"SELECT 1\n format Native ; ") == "Native"
    assert output_format(b"SELECT 1 FORMAT CSV SETTINGS max_threads = 1") == "CSV"
    assert output_format(b"SELECT ' FORMAT JSON'") is None


def test_url_and_body_are_one_text() -> None:
    url = "query=INSERT+INTO+t+FORMAT+CSV&max_threads=3&param_x=1&query_id=q&session_id=s&database=d"
    request = read_request(url, {}, b"1,2\n", readonly=False)
    assert (bytes(request.data), request.sql) == (b"1,2\n", b"INSERT INTO t ")
    assert (request.settings, request.params) == ({"max_threads": "3"}, {"x": "1"})
    assert (request.query_id, request.database) == ("q", "d")
    bare = read_request("query=INSERT+INTO+t", {"x-clickhouse-format": "CSV"}, b"5\n", readonly=False)
    assert bare.insert is not None
    assert (bare.insert.format, bytes(bare.data)) == ("CSV", b"5\n")
    assert read_request("query=SELECT", {}, b"1", readonly=False).sql == b"SELECT\n1"


def test_a_form_brings_external_tables_and_values() -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT 1\r\n'
        b'--B\r\nContent-Disposition: form-data; name="m"; filename="m"\r\nContent-Type: x/y\r\n\r\n1\r\n\r\n--x\r\n'
        b"--B--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=B"}
    request = read_request("m_types=UInt8,Decimal(3, 2)&m_format=CSV", headers, body, readonly=False)
    table = request.external[0]
    assert request.sql == b"SELECT 1"
    assert (table.name, table.format, table.structure) == ("m", "CSV", "_1 UInt8, _2 Decimal(3, 2)")
    assert table.data == b"1\r\n\r\n--x"
    assert request.settings == {}


@pytest.mark.parametrize("url", ["query=SELECT+1&compress=1", "query=SELECT+1&decompress=1"])
def test_what_is_not_offered_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="block compression"):
        read_request(url, {}, b"", readonly=False)


def test_a_get_cannot_write() -> None:
    assert read_request("query=SELECT+1", {}, b"", readonly=True).settings == {"readonly": "2"}
