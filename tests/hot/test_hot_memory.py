"""What a hot set takes from the system, and gives back."""

from __future__ import annotations

import os

import pytest
from hot_feeder import oracle_batch, oracle_spec

from proxist.hot.ops import HotScan
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId

NEVER_NS = 2**62


def pages_bytes(hot: HotSet) -> int:
    """Pages of the shared memory that exist."""
    descriptor = hot.readonly_fd()
    try:
        return os.fstat(descriptor).st_blocks * 512
    finally:
        os.close(descriptor)


def append(hot: HotSet, rows: int, keys: int) -> None:
    while rows > 0:
        first = hot.appended_end
        hot.append(oracle_batch(first, min(rows, 10_000), keys, late=6), first, 0)
        rows -= 10_000
    hot.publish(hot.appended_end)
    hot.set_persisted(hot.appended_end)


@pytest.mark.parametrize("rows", [100_000, 600_000])
def test_what_is_evicted_goes_back_to_the_system_and_is_taken_again(rows: int) -> None:
    with HotSet.create(oracle_spec(), ShardId(1), Epoch(1), Offset(0), hot_bytes=2**28) as hot:
        hot.set_lease_until(NEVER_NS)
        append(hot, 10, keys=40)
        empty = pages_bytes(hot)
        append(hot, rows, keys=40)
        filled = pages_bytes(hot)
        assert hot.evict(hot.appended_end) == hot.appended_end
        assert pages_bytes(hot) - empty <= (filled - empty) / 10
        append(hot, 20_000, keys=40)
        reader = hot.reader()
        part = reader.run(HotScan(ordered=False))
        reader.close()
        assert sorted(part.rows["_offset"].to_pylist()) == list(range(part.floor, part.end))
        assert part.end - part.floor == 20_000
