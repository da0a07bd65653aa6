"""Arrow on ClickHouse's wire: what is sent with a statement, and answers read whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from clickhouse_connect.driver.external import ExternalData

from proxist.clickhouse.types import arrow_type_text, to_stored

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class CutShort(Exception):
    """An answer without its end: rows may be missing from it."""


def read_answer(body: bytes) -> pa.Table:
    """The rows of an ArrowStream answer; without columns where the statement answers none.

    Raises CutShort where the stream's end is missing. Arrow itself takes a stream that stops between two messages for
    a whole one with fewer rows, and HTTP may have ended it in order.
    """
    if not body:
        return pa.table({})
    if not body.endswith(_END_OF_STREAM):
        raise CutShort
    try:
        return strings_checked(pa.ipc.open_stream(pa.py_buffer(body)).read_all())
    except (pa.ArrowInvalid, OSError):
        raise CutShort from None


def arrow_stream(rows: pa.Table) -> pa.Buffer:
    """One Arrow IPC stream of one record batch: one block."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks(), max_chunksize=max(rows.num_rows, 1))
    return sink.getvalue()


def external_data(tables: Mapping[str, pa.Table], structures: Mapping[str, str]) -> ExternalData:
    data = ExternalData()
    for name, table in tables.items():
        columns = structures.get(name) or ", ".join(
            f"`{f.name}` " + (f"Nullable({arrow_type_text(f.type)})" if f.nullable else arrow_type_text(f.type))
            for f in table.schema
        )
        body = arrow_stream(to_stored(table)).to_pybytes()
        data.add_file(file_name=name, data=body, fmt="ArrowStream", structure=columns)
    return data


def strings_checked(table: pa.Table) -> pa.Table:
    """ClickHouse's String may hold any bytes, Arrow's may not: a column that is not UTF-8 becomes binary."""
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            column = table.column(index)
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:
                raw = [chunk.cast(pa.binary()) for chunk in column.chunks]
                table = table.set_column(
                    index, pa.field(field.name, pa.binary(), field.nullable), pa.chunked_array(raw)
                )
    return table
