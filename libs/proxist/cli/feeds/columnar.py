"""csv, parquet and arrow files: columns by name, as the table declares them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from proxist.cli.feeds.feed import FeedBatch
from proxist.client.frames import conform, to_batches
from proxist.errors import InvalidArgument
from proxist.model.table import TableSpec

ROWS_MAX = 65_536
BYTES_MAX = 16 << 20
_CSV_BLOCK_BYTES = 8 << 20


class Columnar:
    """One file whose rows all go to one table, which must exist: a file does not say which column is time and key.

    Values are cast to the table's types where nothing changes; in csv, times are RFC 3339 or integer nanoseconds and an
    empty field of a nullable column is null. Raises InvalidArgument (SchemaMismatch for columns) that names the file.
    """

    def __init__(self, path: Path, format_name: str, spec: TableSpec) -> None:
        self._path = path
        self._format_name = format_name
        self._spec = spec
        self.tables: dict[str, TableSpec] = {}

    def batches(self) -> Iterator[FeedBatch]:
        try:
            for rows, position in _regroup(self._pieces()):
                yield FeedBatch(self._spec.name, rows, self._first_ns(rows), position)
        except (pa.ArrowInvalid, OSError) as error:
            raise InvalidArgument(
                f"{self._path.name!r} cannot be read as {self._format_name} for table {self._spec.name!r}: {error}. "
                "Check the file, or name another --format."
            ) from None

    def _first_ns(self, rows: pa.RecordBatch) -> int:
        first = rows.column(self._spec.time)[0]
        return int(first.value) if first.is_valid and pa.types.is_timestamp(first.type) else 0

    def _pieces(self) -> Iterator[tuple[pa.Table, int]]:
        reader = {"csv": _read_csv, "parquet": _read_parquet, "arrow": _read_arrow}[self._format_name]
        for piece, position in reader(self._path, self._spec):
            yield conform(piece, self._spec, cast=True), position


def _regroup(pieces: Iterator[tuple[pa.Table, int]]) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches of ROWS_MAX rows (fewer where they would pass BYTES_MAX), whatever blocks or row groups the reader made: a
    numbered batch must be repeatable.
    """
    left: pa.Table | None = None
    position = 0
    for piece, position in pieces:
        rows = piece if left is None else pa.concat_tables([left, piece])
        whole = rows.num_rows // ROWS_MAX * ROWS_MAX
        for first in range(0, whole, ROWS_MAX):
            yield from ((batch, position) for batch in to_batches(rows.slice(first, ROWS_MAX), ROWS_MAX, BYTES_MAX))
        left = rows.slice(whole)
    if left is not None and left.num_rows:
        yield from ((batch, position) for batch in to_batches(left, ROWS_MAX, BYTES_MAX))


def _read_csv(path: Path, spec: TableSpec) -> Iterator[tuple[pa.Table, int]]:
    times = {c.name: c.type for c in spec.columns if pa.types.is_timestamp(c.type)}
    types = {c.name: pa.string() if c.name in times else c.type for c in spec.columns}
    convert = pacsv.ConvertOptions(
        column_types=types, strings_can_be_null=False, null_values=[""], include_missing_columns=False
    )
    with pa.OSFile(str(path), "rb") as raw:
        stream = pa.CompressedInputStream(raw, "gzip") if path.suffix == ".gz" else raw
        read = pacsv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
        for batch in pacsv.open_csv(stream, read_options=read, convert_options=convert):
            table = pa.Table.from_batches([batch])
            for name in set(times) & set(table.column_names):
                at = table.column_names.index(name)
                table = table.set_column(at, name, _csv_times(table.column(name), times[name]))
            yield table, raw.tell()


def _csv_times(text: pa.ChunkedArray, declared: pa.DataType) -> pa.ChunkedArray:
    """Integer nanoseconds where the first value has digits only, RFC 3339 otherwise."""
    first = next((value.as_py() for value in text if value.as_py()), "")
    if first.lstrip("-").isdigit():
        return text.cast(pa.int64()).cast(pa.timestamp("ns", tz="UTC")).cast(declared)
    return text.cast(pa.timestamp("ns", tz="UTC")).cast(declared)


def _read_parquet(path: Path, spec: TableSpec) -> Iterator[tuple[pa.Table, int]]:  # noqa: ARG001 (one shape of reader)
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        size, groups = path.stat().st_size, max(file.num_row_groups, 1)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group), size * (group + 1) // groups


def _read_arrow(path: Path, spec: TableSpec) -> Iterator[tuple[pa.Table, int]]:  # noqa: ARG001 (one shape of reader)
    """Both of Arrow's formats: the file with a footer, and the stream."""
    with pa.memory_map(str(path)) as source:
        for batch in _arrow_batches(source):
            yield pa.Table.from_batches([batch]), source.tell()


def _arrow_batches(source: Any) -> Iterator[pa.RecordBatch]:
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    if is_file:
        reader = pa.ipc.open_file(source)
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(source)
