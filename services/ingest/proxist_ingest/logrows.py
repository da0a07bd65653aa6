"""Rows of a shard's log for those who compare or restore what ClickHouse has: whatever the files still hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from proxist.errors import LogCorrupt, Unavailable
from proxist.model.ids import Offset
from proxist.rpc.flight_server import BatchStream
from proxist.wal import LogReader, RecordKind
from proxist.wal.chain import log_of_path
from proxist.wal.segments import segments
from proxist_ingest.follow import follow_schema
from proxist_ingest.shard import Shard


def log_rows(shard: Shard, first: Offset, end: Offset) -> BatchStream:
    """The rows [first, end) that the shard's log files hold on disk, in order, with `_log` and `_offset`.

    Rows whose segments are gone are left out: the offsets show it. A message is the rows of one record, with
    app_metadata `{"rows": [first, end]}`. Raises Unavailable where truncation takes a segment away while it is read.
    """
    schema = follow_schema(shard.table.spec.schema)
    return BatchStream(schema, _messages(shard, first, end, schema))


def _messages(shard: Shard, first: Offset, end: Offset, schema: pa.Schema) -> Iterator[tuple[pa.RecordBatch, bytes]]:
    at = first
    for log in shard.logs():
        begin = _begin(log.path)
        at = Offset(max(at, log.mark.end if begin is None else begin))
        if at >= min(log.mark.end, end):
            continue
        with _opened(log.path, at) as reader:
            for record in reader.read(log.mark):
                if record.kind is not RecordKind.ROWS or not record.rows:
                    continue
                low, high = max(at, record.first), min(record.end, end)
                rows = record.batch(shard.table.spec.schema).slice(low - record.first, high - low)
                yield _named(log.path, rows, low, schema), json.dumps({"rows": [low, high]}).encode()
                at = Offset(high)
                if at >= end:
                    return


def _begin(path: Path) -> Offset | None:
    """Where the oldest segment begins that the log still has; None where it has none."""
    return next((one.first for one in segments(path) if one.first is not None), None)


def _opened(path: Path, at: Offset) -> LogReader:
    try:
        return LogReader(path, at)
    except LogCorrupt:
        begin = _begin(path)
        if begin is not None and begin <= at:
            raise
        raise Unavailable(
            f"Log {path} was truncated past offset {at} while it was opened: those rows are in ClickHouse. Ask again.",
            retry_after_s=0.1,
            path=str(path),
            cause="truncated",
        ) from None


def _named(path: Path, rows: pa.RecordBatch, first: int, schema: pa.Schema) -> pa.RecordBatch:
    log = log_of_path(path)
    assert log is not None, path
    logs = np.full(rows.num_rows, log, dtype=np.uint64)
    offsets = np.arange(first, first + rows.num_rows, dtype=np.uint64)
    return pa.RecordBatch.from_arrays([*rows.columns, pa.array(logs), pa.array(offsets)], schema=schema)
