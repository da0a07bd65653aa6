"""The stream that a persister follows: owner-cut batches in offset order, from the log files, for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from proxist.model.ids import Epoch, Offset, log_id
from proxist.model.table import HIDDEN_COLUMNS
from proxist.rpc.flight_server import BatchStream
from proxist.wal import LogReader, RecordKind
from proxist_ingest.bounds import CutBatch
from proxist_ingest.residency import concat
from proxist_ingest.shard import Shard

HEARTBEAT_S = 1.0
"""An idle stream says so this often, so that a follower knows a silent owner from a dead one."""


def follow(shard: Shard, start: Offset) -> BatchStream:
    """Every batch from `start` on, which must be where a batch begins; ends only with an error or the caller's cancel.

    A message is a whole cut batch, with app_metadata `{"batch": [first, end], "last": true}` and, where its writes are
    traced, their traceparents as `links`; or, while there is none, an empty one with `{"heartbeat": true}`. Each row is
    on disk before it is sent.
    """
    shard.bounds.after(start, 0.0)  # a wrong start is refused at once, not in the middle of a stream
    schema = follow_schema(shard.table.spec.schema)
    return BatchStream(schema, _messages(shard, start, schema))


def follow_schema(schema: pa.Schema) -> pa.Schema:
    """The table's schema, then `_log` and `_offset`."""
    for name in HIDDEN_COLUMNS:
        schema = schema.append(pa.field(name, pa.uint64(), nullable=False))
    return schema


def _messages(shard: Shard, start: Offset, schema: pa.Schema) -> Iterator[tuple[pa.RecordBatch, bytes]]:
    heartbeat = pa.RecordBatch.from_pylist([], schema=schema), b'{"heartbeat": true}'
    logs = _Logs(shard, schema)
    offset = start
    try:
        while True:
            cut = shard.bounds.after(offset, HEARTBEAT_S)
            if cut is None:
                yield heartbeat
                continue
            head: dict[str, Any] = {"batch": [cut.first, cut.end], "last": True}
            if cut.links:
                head["links"] = cut.links
            yield logs.rows(cut), json.dumps(head).encode()
            offset = cut.end
    finally:
        logs.close()


class _Logs:
    """Reads cut batches one after the other; goes on from log to log."""

    def __init__(self, shard: Shard, schema: pa.Schema) -> None:
        self._shard = shard
        self._schema = schema
        self._reader: LogReader | None = None
        self._epoch: Epoch | None = None

    def rows(self, cut: CutBatch) -> pa.RecordBatch:
        """The rows of one batch, with `_log` and `_offset`."""
        source = self._shard.log_of(cut.epoch)
        if self._reader is None or self._epoch != cut.epoch:
            self.close()
            self._reader, self._epoch = LogReader(source.path, cut.first), cut.epoch
        parts = []
        for record in self._reader.read(source.mark):
            if record.kind is RecordKind.ROWS and record.rows:
                parts.append(record.batch(self._shard.table.spec.schema))
                if record.end >= cut.end:
                    break
        rows = concat(parts)
        assert rows.num_rows == cut.end - cut.first, (rows.num_rows, cut)
        logs = np.full(rows.num_rows, log_id(self._shard.id, cut.epoch), dtype=np.uint64)
        offsets = np.arange(cut.first, cut.end, dtype=np.uint64)
        return pa.RecordBatch.from_arrays([*rows.columns, pa.array(logs), pa.array(offsets)], schema=self._schema)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
