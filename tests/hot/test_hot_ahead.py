"""Pages are touched ahead of the writer: the right ones, few, without changing anything, and not after the end."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hot_feeder import check_values, oracle_batch, oracle_spec

from proxist.hot import ahead
from proxist.hot.ahead import AHEAD_PART, STEP_BLOCKS, Ahead
from proxist.hot.ops import HotScan
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId

BLOCKS, WIDTH = 16_384, mmap.PAGESIZE
NEVER_NS = 2**62
WAIT_S = 20.0


class Watched(Ahead):
    """Tells of every step."""

    def __init__(self, arrays: list[tuple[int, int]], blocks: int = BLOCKS) -> None:
        super().__init__("watched", arrays, blocks)
        self.steps: list[tuple[int, int]] = []
        self.stepped = threading.Semaphore(0)

    def _touch(self, first: int, stop: int) -> bool:
        able = super()._touch(first, stop)
        self.steps.append((first, stop))
        self.stepped.release()
        return able


class Memory:
    """A sparse mapping of BLOCKS pages, a block each."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ahead")
        os.ftruncate(self.fd, BLOCKS * WIDTH)
        self.map = mmap.mmap(self.fd, BLOCKS * WIDTH)
        self.cells = np.frombuffer(self.map, np.uint8)
        self.arrays = [(self.cells.ctypes.data, WIDTH)]

    @property
    def pages(self) -> int:
        return os.fstat(self.fd).st_blocks * 512 // mmap.PAGESIZE


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    os.close(made.fd)


def touchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("touch-")]


def test_the_blocks_after_the_last_one_in_use_are_touched_and_no_more(memory: Memory) -> None:
    toucher = Watched(memory.arrays)
    used = AHEAD_PART * STEP_BLOCKS
    toucher.used(used)
    assert toucher.stepped.acquire(timeout=WAIT_S)
    toucher.close()
    assert toucher.steps == [(used, used + STEP_BLOCKS)]
    assert memory.pages == STEP_BLOCKS
    assert toucher.touched == used + STEP_BLOCKS


def test_what_memory_holds_is_not_changed(memory: Memory) -> None:
    used = AHEAD_PART * STEP_BLOCKS
    memory.cells[(used + 3) * WIDTH : (used + 5) * WIDTH] = 7
    toucher = Watched(memory.arrays)
    toucher.used(used)
    assert toucher.stepped.acquire(timeout=WAIT_S)
    toucher.close()
    assert np.flatnonzero(memory.cells).tolist() == list(range((used + 3) * WIDTH, (used + 5) * WIDTH))


def test_a_small_hot_set_has_no_thread_and_a_large_one_ends_it(memory: Memory) -> None:
    toucher = Watched(memory.arrays)
    toucher.used(AHEAD_PART * STEP_BLOCKS - 1)
    assert not touchers()
    toucher.used(BLOCKS)  # nothing is left that could be touched
    assert not touchers()
    toucher.used(2 * AHEAD_PART * STEP_BLOCKS)
    assert toucher.stepped.acquire(timeout=WAIT_S)
    assert len(touchers()) == 1
    toucher.close()
    toucher.close()
    toucher.used(3 * AHEAD_PART * STEP_BLOCKS)
    assert not touchers()


def test_batches_that_are_prepared_beside_the_writer_become_the_same_rows() -> None:
    keys, late, size, count = 3_000, 6, 5_000, 40
    batches = [oracle_batch(at * size, size, keys, late) for at in range(count)]
    with HotSet.create(oracle_spec(), ShardId(1), Epoch(1), Offset(0), hot_bytes=2**26, block_rows=16) as hot:
        hot.set_lease_until(NEVER_NS)
        preparing = threading.Thread(target=lambda: [hot.prepare(batch) for batch in batches[::2]])
        preparing.start()
        for at, batch in enumerate(batches):
            hot.append(batch, Offset(at * size), 0)
            hot.publish(hot.appended_end)
        preparing.join()
        reader = hot.reader()
        whole = reader.run(HotScan(ordered=False))
        check_values(whole.rows, keys, late)
        assert sorted(whole.rows["_offset"].to_pylist()) == list(range(count * size))
        reader.close()


def test_where_the_system_cannot_the_writer_goes_on_alone(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_MADV_POPULATE_WRITE", 9_999)  # as an older kernel sees it
    toucher = Watched(memory.arrays)
    toucher.used(BLOCKS // 2)
    assert toucher.stepped.acquire(timeout=WAIT_S)
    toucher.used(BLOCKS // 2 + STEP_BLOCKS)
    toucher.close()
    assert len(toucher.steps) == 1
    assert memory.pages == 0


def test_rows_are_right_where_appends_and_evictions_run_beside_the_toucher() -> None:
    keys, late, before = 3_000, 6, len(touchers())
    with HotSet.create(oracle_spec(), ShardId(1), Epoch(1), Offset(0), hot_bytes=2**26, block_rows=16) as hot:
        hot.set_lease_until(NEVER_NS)
        reader, over, seen = hot.reader(), threading.Event(), 0

        def write() -> None:
            try:
                for first in range(0, 200_000, 5_000):
                    hot.append(oracle_batch(first, 5_000, keys, late), Offset(first), 0)
                    hot.publish(hot.appended_end)
                    hot.set_persisted(hot.appended_end)
                    hot.evict(Offset(max(0, first - 40_000)))
            finally:
                over.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not over.is_set() or not seen:
            part = reader.run(HotScan(("k7", "k2999"), ordered=False))
            check_values(part.rows, keys, late)
            seen += 1
        writer.join()
        assert len(touchers()) == before + 1
        whole = reader.run(HotScan(ordered=False))
        check_values(whole.rows, keys, late)
        assert sorted(whole.rows["_offset"].to_pylist()) == list(range(whole.floor, whole.end))
        reader.close()
    assert len(touchers()) == before


def test_rows_that_are_not_published_stay_out_of_sight_through_an_eviction() -> None:
    with HotSet.create(oracle_spec(), ShardId(1), Epoch(1), Offset(0), hot_bytes=2**24) as hot:
        hot.set_lease_until(NEVER_NS)
        reader = hot.reader()
        for first in (0, 100, 200):
            hot.append(oracle_batch(first, 100, 10, 6), Offset(first), 0)
            hot.publish(Offset(first))
            assert reader.run(HotScan()).end == first
            hot.set_persisted(Offset(first))
            assert hot.evict(Offset(first)) == first
            assert not reader.run(HotScan()).rows.num_rows
        hot.publish(Offset(300))
        rows = reader.run(HotScan()).rows
        check_values(rows, 10, 6)
        assert sorted(rows["_offset"].to_pylist()) == list(range(200, 300))
        reader.close()
