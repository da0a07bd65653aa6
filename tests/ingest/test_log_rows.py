"""The rows that a shard's log files still hold, for those who compare ClickHouse with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ingest_rows import rows, table
from ingest_shards import Owner

from proxist.errors import Unavailable
from proxist.model.ids import Epoch, Offset, log_id
from proxist.wal.chain import list_segments
from proxist_ingest import logrows
from proxist_ingest.logrows import log_rows
from proxist_ingest.shard import Shard

SEGMENT = 2**20


def held(shard: Shard, first: int, end: int) -> pa.Table:
    stream = log_rows(shard, Offset(first), Offset(end))
    parts = [batch for batch, _ in stream.messages]
    return pa.Table.from_batches(parts, schema=stream.schema)


def offsets(found: pa.Table) -> list[int]:
    return list(found["_offset"].to_pylist())


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(table(), tmp_path, segment_bytes=SEGMENT)


def test_any_range_comes_as_it_was_written_over_all_logs_of_the_chain(owner: Owner) -> None:
    with owner:
        for first in (0, 100, 200):
            owner.write(rows(100, first))
        shard = owner.reopen()
        owner.write(rows(50, 300))
        found = held(shard, 150, 320)
        assert offsets(found) == list(range(150, 320))
        assert found["trade_id"].to_pylist() == list(range(150, 320))
        logs = [log_id(shard.id, Epoch(1))] * 150 + [log_id(shard.id, Epoch(2))] * 20
        assert found["_log"].to_pylist() == logs
        assert found.num_rows == 170
        assert offsets(held(shard, 320, 10_000)) == list(range(320, 350))
        assert offsets(held(shard, 10, 10)) == []


def test_rows_of_segments_that_are_gone_are_left_out(owner: Owner) -> None:
    with owner:
        for first in range(0, 200_000, 5_000):
            owner.write(rows(5_000, first))
        (log,) = owner.shard.logs()
        segments = list_segments(log.path)
        assert len(segments) > 3
        for _, path in segments[:2]:
            path.unlink()
        found = np.array(offsets(held(owner.shard, 0, 200_000)))
        assert 0 < found[0] < 200_000
        assert np.array_equal(found, np.arange(found[0], 200_000))


@pytest.mark.parametrize("gone", [2, 0], ids=["its beginning", "all of it"])
def test_a_log_that_is_truncated_while_it_is_opened_is_unavailable_and_not_damaged(
    owner: Owner, monkeypatch: pytest.MonkeyPatch, gone: int
) -> None:
    with owner:
        for first in range(0, 200_000, 5_000):
            owner.write(rows(5_000, first))
        (log,) = owner.shard.logs()
        begin, listed = logrows._begin, list_segments(log.path)

        def truncated(path: Path) -> Offset | None:
            monkeypatch.setattr(logrows, "_begin", begin)
            found = begin(path)
            for _, segment in listed[: gone or len(listed)]:
                segment.rename(segment.with_suffix(".away"))
            return found

        monkeypatch.setattr(logrows, "_begin", truncated)
        with pytest.raises(Unavailable) as raised:
            held(owner.shard, 0, 200_000)
        assert raised.value.details["cause"] == "truncated"
