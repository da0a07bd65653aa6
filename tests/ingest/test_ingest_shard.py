"""The write path of one shard on a real log and a real hot set."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from ingest_rows import DAY_NS, rows, table
from ingest_shards import Lease, Owner

from proxist.errors import (
    BatchTooLarge,
    InvalidArgument,
    NotOwner,
    Overloaded,
    ProducerConflict,
    ProducerGap,
    Unavailable,
)
from proxist.hot.ops import HotLastBy, HotScan
from proxist.model.ids import Epoch, Offset, TimeNs
from proxist.wal import OsFiles
from proxist_ingest.commit import BESIDE_ROWS
from proxist_ingest.follow import follow
from proxist_ingest.part import PartAck
from proxist_ingest.residency import EvictTo

SLOW_CUTS = {"rows": 1_000_000, "bytes": "1GiB", "age": "1h"}
"""Nothing is cut unless a test says so."""


class GatedFiles(OsFiles):
    """A disk whose flush waits while `gate` is cleared, and fails with `error` where one is set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.flushing = threading.Event()
        self.error: OSError | None = None
        self.full = False

    def create(self, path: Path, size_bytes: int) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "no space")
        return super().create(path, size_bytes)

    def datasync(self, fd: int) -> None:
        self.flushing.set()
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        super().datasync(fd)


@pytest.fixture
def files() -> GatedFiles:
    return GatedFiles()


@pytest.fixture
def owner(tmp_path: Path, files: GatedFiles) -> Iterator[Owner]:
    with Owner(table(), tmp_path, files=files) as opened:
        yield opened


@pytest.fixture
def os_owner(tmp_path: Path, files: GatedFiles) -> Iterator[Owner]:
    with Owner(table(durability="os", flush=SLOW_CUTS), tmp_path, files=files) as opened:
        yield opened


def drain(owner: Owner, start: int, stop: int) -> list[tuple[int, int, pa.RecordBatch]]:
    """What a follower gets from `start` until `stop`: (first, end, rows) per batch."""
    got, offset = [], Offset(start)
    stream = iter(follow(owner.shard, offset).messages)
    try:
        while offset < stop:
            batch, metadata = next(stream)  # type: ignore[misc]
            if b"heartbeat" in metadata:
                assert batch.num_rows == 0
                continue
            assert batch["_offset"].to_pylist() == list(range(offset, offset + batch.num_rows))
            got.append((int(offset), int(offset) + batch.num_rows, batch))
            offset = Offset(offset + batch.num_rows)
    finally:
        stream.close()  # type: ignore[attr-defined]
    return got


# ---- acks ------------------------------------------------------------------------------------------------------------


def test_an_acked_row_is_seen_by_the_next_read(owner: Owner) -> None:
    for n in range(5):
        ack = owner.write(rows(3, first=3 * n))
        assert ack == PartAck(owner.shard.id, 3, False, "disk", Epoch(1), Offset(3 * n + 3))
        assert owner.shard.run(HotLastBy(("S0",))).end == 3 * n + 3
        assert owner.ids() == list(range(3 * n + 3))


def test_many_senders_at_once_lose_and_double_nothing(owner: Owner) -> None:
    barrier = threading.Barrier(8)

    def send(n: int) -> None:
        barrier.wait()
        for k in range(20):
            owner.write(rows(5, first=1000 * n + 5 * k), producer=f"p{n}", number=k)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = owner.ids()
    assert sorted(ids) == sorted(1000 * n + i for n in range(8) for i in range(100))
    for n in range(8):
        assert [i for i in ids if i // 1000 == n] == list(range(1000 * n, 1000 * n + 100))
    assert owner.shard.counts.group_batches.count <= owner.shard.counts.batches


def test_rows_are_placed_while_the_log_is_flushed_and_seen_only_after_it(
    owner: Owner, files: GatedFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot, placed = owner.shard.hot, threading.Event()
    append = hot.append

    def noted(batch: pa.RecordBatch, first: Offset, arrived_ns: int) -> Offset:
        end = append(batch, first, arrived_ns)
        placed.set()
        return end

    monkeypatch.setattr(hot, "append", noted)
    files.gate.clear()
    try:
        sent = owner.send(rows(BESIDE_ROWS))
        assert placed.wait(10)
        assert files.flushing.wait(10)
        assert not sent.answered
        assert owner.shard.marks().end == 0
        assert owner.ids() == []
    finally:
        files.gate.set()
    assert sent.ack().end == BESIDE_ROWS
    assert owner.ids() == list(range(BESIDE_ROWS))


def test_after_a_failed_flush_placed_rows_are_never_seen(owner: Owner, files: GatedFiles) -> None:
    owner.write(rows(2), producer="p", number=1)
    files.error = OSError(errno.EIO, "broken")
    with pytest.raises(Unavailable):
        owner.send(rows(BESIDE_ROWS, first=2), producer="p", number=2).ack()
    assert owner.failed.wait(10)
    assert owner.shard.marks().end == 2
    files.error = None
    owner.close()
    owner.open()
    assert owner.write(rows(BESIDE_ROWS, first=2), producer="p", number=2).end == BESIDE_ROWS + 2
    assert owner.ids() == list(range(BESIDE_ROWS + 2))


def test_what_queued_during_a_flush_goes_out_with_the_next_one(owner: Owner, files: GatedFiles) -> None:
    files.flushing.clear()
    files.gate.clear()
    first = owner.send(rows(1))
    assert files.flushing.wait(10)
    rest = [owner.send(rows(1, first=n)) for n in range(1, 10)]
    assert not first.answered
    before = owner.shard.counts.group_batches.count
    files.gate.set()
    assert [one.ack().end for one in (first, *rest)] == list(range(1, 11))
    assert owner.shard.counts.group_batches.count - before <= 2


def test_rows_are_not_visible_before_they_are_on_disk(owner: Owner, files: GatedFiles) -> None:
    files.flushing.clear()
    files.gate.clear()
    sent = owner.send(rows(3))
    assert files.flushing.wait(10)
    assert owner.shard.run(HotScan()).end == 0
    files.gate.set()
    assert sent.ack().end == 3
    assert owner.shard.run(HotScan()).end == 3


def test_an_os_table_acks_before_the_flush_and_a_raised_stream_after_it(os_owner: Owner, files: GatedFiles) -> None:
    files.gate.clear()
    assert os_owner.write(rows(3), producer="p", number=1).level == "os"
    assert os_owner.ids() == [0, 1, 2]
    raised = os_owner.send(rows(2, first=3), "disk", producer="p", number=2)
    repeat = os_owner.send(rows(3), "disk", producer="p", number=1)
    follow_up = os_owner.send(rows(1, first=5), producer="p", number=3, follow_ups=("disk",))
    assert follow_up.ack().level == "os"
    assert not raised.answered
    assert not repeat.answered, "a repeat is acked only once the original reached the level asked for"
    files.gate.set()
    assert raised.ack().level == "disk"
    assert repeat.ack() == PartAck(os_owner.shard.id, 3, True, "disk", Epoch(1), Offset(3))
    assert follow_up.climb("disk").end == 6


def test_an_empty_batch_is_acked_at_the_current_end(owner: Owner) -> None:
    owner.write(rows(4))
    assert owner.write(rows(0)).end == 4
    assert owner.write(rows(0), producer="p", number=1) == PartAck(
        owner.shard.id, 0, False, "disk", Epoch(1), Offset(4)
    )
    assert owner.write(rows(0), producer="p", number=1).duplicate


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_a_batch_that_adds_nothing_to_the_log_is_acked_on_disk_behind_an_unflushed_mark(
    tmp_path: Path, durability: str
) -> None:
    with Owner(table(durability=durability, dedup="seq"), tmp_path) as owner:
        owner.write(rows(4), "disk")
        owner.shard.advance_persisted(Epoch(1), drain(owner, 0, owner.shard.flush())[-1][1])
        assert owner.write(rows(0), "disk").end == 4
        assert owner.write(rows(4), "disk").rows == 0


# ---- producers -------------------------------------------------------------------------------------------------------


def test_a_number_that_follows_a_refused_first_one_is_refused_and_the_first_may_still_come(owner: Owner) -> None:
    with pytest.raises(ProducerGap, match="0, which it follows"):
        owner.write(rows(1, first=1), producer="p", number=1, follows=True)
    owner.write(rows(1), producer="p", number=0)
    owner.write(rows(1, first=1), producer="p", number=1, follows=True)
    assert owner.ids() == [0, 1]


def test_a_repeat_returns_the_original_ack_before_and_after_a_restart(owner: Owner) -> None:
    owner.write(rows(2, first=50))
    first = owner.write(rows(5), producer="feed-a", number=17)
    owner.write(rows(0), producer="feed-a", number=18)
    owner.write(rows(5, first=10), producer="feed-a", number=19)
    expected = PartAck(first.shard, 5, True, "disk", Epoch(1), first.end)
    assert owner.write(rows(5), producer="feed-a", number=17) == expected
    for restart in (owner.reopen, owner.reopen):
        restart()
        assert owner.write(rows(5), producer="feed-a", number=17) == expected
        assert owner.write(rows(0), producer="feed-a", number=18).duplicate
    assert owner.write(rows(1, first=90), producer="feed-a", number=20).epoch == 3
    assert sorted(owner.ids()) == [*range(5), *range(10, 15), 50, 51, 90]


def test_a_repeat_in_the_same_group_is_answered_with_the_original(owner: Owner, files: GatedFiles) -> None:
    files.flushing.clear()
    files.gate.clear()
    blocker = owner.send(rows(1, first=99))
    assert files.flushing.wait(10)
    twins = [owner.send(rows(3), producer="p", number=1) for _ in range(3)]
    files.gate.set()
    blocker.ack()
    assert [one.ack().duplicate for one in twins] == [False, True, True]
    assert len({one.ack().end for one in twins}) == 1
    assert owner.ids() == [99, 0, 1, 2]


def test_gap_and_conflict_are_refused_and_leave_no_trace(owner: Owner) -> None:
    owner.write(rows(1), producer="p", number=1)
    with pytest.raises(ProducerGap):
        owner.write(rows(1, first=1), producer="p", number=3)
    with pytest.raises(ProducerConflict):
        owner.write(rows(1, first=1), producer="p", number=1)
    owner.write(rows(1, first=2), producer="p", number=2)
    owner.reopen()
    assert owner.ids() == [0, 2]
    with pytest.raises(ProducerGap):
        owner.write(rows(1, first=1), producer="p", number=4)


def test_dedup_by_seq_drops_what_is_not_above_the_last_and_remembers_it_over_a_restart(tmp_path: Path) -> None:
    with Owner(table(dedup="seq"), tmp_path) as owner:
        assert owner.write(rows(5, keys=1)).rows == 5
        assert owner.write(rows(5, first=3, keys=1)).rows == 3
        owner.reopen()
        first = owner.write(rows(6, first=4, keys=1), producer="p", number=1)
        assert first.rows == 2
        again = owner.write(rows(6, first=4, keys=1), producer="p", number=1)
        assert (again.rows, again.duplicate, again.end) == (2, True, first.end)
        assert owner.write(rows(2, keys=1)).rows == 0
        assert owner.ids() == list(range(10))


# ---- failures --------------------------------------------------------------------------------------------------------


def test_after_a_failed_flush_nothing_is_acked_and_the_node_leaves(owner: Owner, files: GatedFiles) -> None:
    owner.write(rows(2), producer="p", number=1)
    files.error = OSError(errno.EIO, "broken")
    sent = owner.send(rows(2, first=2), producer="p", number=2)
    with pytest.raises(Unavailable) as raised:
        sent.ack()
    assert "/" not in raised.value.message, "no path reaches a client"
    assert owner.failed.wait(10)
    assert "fdatasync failed" in owner.fatal[0].message
    for call in (lambda: owner.send(rows(1)), lambda: owner.shard.run(HotScan()), owner.shard.flush):
        with pytest.raises(Unavailable):
            call()
    files.error = None
    owner.close()
    owner.open()
    # Whether the refused batch is there is not known, and its number tells: exactly once either way.
    again = owner.write(rows(2, first=2), producer="p", number=2)
    assert again.end == 4
    assert owner.ids() == [0, 1, 2, 3]


def test_a_full_disk_refuses_with_a_retry_hint_and_goes_on_when_there_is_space(
    tmp_path: Path, files: GatedFiles
) -> None:
    with Owner(table(hot_bytes="1GiB"), tmp_path, files=files) as owner:
        owner.write(rows(1, first=1), producer="p", number=1)
        files.full = True
        answers, number = [], 1
        while not any(isinstance(answer, Overloaded) for answer in answers) and number < 6:
            number += 1
            answers.append(owner.send(rows(800_000, first=10), producer="p", number=number).answer())
        assert isinstance(answers[-1], Overloaded)
        end = owner.shard.log_writer.end
        files.full = False
        ack = owner.write(rows(5, first=2), producer="p", number=number)
        assert (ack.duplicate, ack.end) == (False, end + 5)
        assert not owner.fatal


def test_a_lost_lease_stops_acks_after_the_flush(owner: Owner, files: GatedFiles) -> None:
    owner.write(rows(1))
    files.flushing.clear()
    files.gate.clear()
    sent = owner.send(rows(1, first=1))
    assert files.flushing.wait(10)
    owner.lease.valid_until_ns = 0
    files.gate.set()
    with pytest.raises(NotOwner, match="lease"):
        sent.ack()
    assert owner.failed.wait(10)
    with pytest.raises(Unavailable):
        owner.shard.run(HotScan())
    owner.lease = Lease()
    owner.reopen()
    assert owner.ids() == [0, 1]


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Owner]:
    with Owner(table(hot_bytes="1MiB", durability="os"), tmp_path, wal_bytes_max=1) as opened:
        yield opened


def fill(owner: Owner) -> int:
    """Write until memory is full; how many rows were accepted."""
    count = 0
    while isinstance(answer := owner.send(rows(500, first=count)).answer(), PartAck):
        count += 500
    assert isinstance(answer, Overloaded)
    assert answer.retry_after_s
    assert "hot_bytes" in answer.message
    return count


def test_full_memory_refuses_before_anything_is_written(small: Owner) -> None:
    count = fill(small)
    assert count > 1000
    assert small.shard.log_writer.end == count, "nothing that is refused was accepted"
    assert small.ids() == list(range(count))
    small.reopen()
    assert small.ids() == list(range(count))


def test_persisted_rows_make_room_and_the_floor_never_passes_them(small: Owner) -> None:
    count = fill(small)
    end = small.shard.flush()
    half = drain(small, 0, end)[0][1]
    small.shard.advance_persisted(small.shard.epoch, Offset(half))
    for n in range(20):
        try:
            small.write(rows(100, first=count + 100 * n))
        except Overloaded:
            break
        marks = small.shard.marks()
        assert marks.floor <= marks.persisted
    assert small.shard.marks().floor > 0
    assert small.shard.run(HotScan(seam="persisted")).seam == half


def test_a_batch_that_never_fits_is_refused_for_good(small: Owner) -> None:
    with pytest.raises(BatchTooLarge, match="hot_bytes"):
        small.write(rows(200_000))
    assert small.write(rows(1)).end == 1


def test_rows_leave_memory_when_their_window_ends(tmp_path: Path) -> None:
    with Owner(table(hot_window="0s", flush={"rows": 10}), tmp_path) as owner:
        owner.write(rows(10))
        drain(owner, 0, 10)
        assert owner.shard.marks().floor == 0, "not persisted, so it stays"
        owner.shard.advance_persisted(Epoch(1), Offset(10))
        gone = threading.Event()

        def watch() -> None:
            while owner.shard.marks().floor < 10 and not gone.wait(0.01):
                pass
            gone.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert gone.wait(10)
        watcher.join()


def test_evict_moves_the_floor_to_a_time_to_a_count_and_to_persisted(owner: Owner) -> None:
    owner.write(rows(100))
    end = owner.shard.flush()
    assert owner.shard.evict(EvictTo()).floor == 0
    drain(owner, 0, end)
    owner.shard.advance_persisted(Epoch(1), end)
    assert owner.shard.evict(EvictTo(before_ns=TimeNs(DAY_NS + 20_000))).floor == 20
    assert owner.shard.evict(EvictTo(rows=50)).floor == 50
    assert owner.shard.evict(EvictTo(rows=90)).floor == 50
    assert owner.shard.evict(EvictTo()).floor == 100
    assert owner.ids() == []


# ---- followers -------------------------------------------------------------------------------------------------------


def test_a_follower_gets_whole_cut_batches_with_log_and_offset(tmp_path: Path) -> None:
    with Owner(table(flush={"rows": 50, "bytes": "1GiB", "age": "1h"}), tmp_path) as owner:
        for n in range(10):
            owner.write(rows(20, first=20 * n))
        owner.shard.flush()
        batches = drain(owner, 0, 200)
        assert [(first, end) for first, end, _ in batches] == [(0, 60), (60, 120), (120, 180), (180, 200)]
        for first, end, batch in batches:
            assert batch.schema.names == [*table().spec.schema.names, "_log", "_offset"]
            assert batch["trade_id"].to_pylist() == list(range(first, end))
            assert set(batch["_log"].to_pylist()) == {(1 << 24) | 1}
        with pytest.raises(InvalidArgument, match="61"):
            follow(owner.shard, Offset(61))


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_an_old_batch_is_cut_by_its_age_and_reaches_the_follower_alone(tmp_path: Path, durability: str) -> None:
    with Owner(table(durability=durability, flush={"age": "1ms"}), tmp_path) as owner:
        owner.write(rows(3))
        assert [(first, end) for first, end, _ in drain(owner, 0, 3)] == [(0, 3)]


def test_a_follower_sees_nothing_that_is_not_on_disk(os_owner: Owner, files: GatedFiles) -> None:
    files.gate.clear()
    os_owner.write(rows(3))
    os_owner.shard.flush()
    assert os_owner.shard.bounds.after(Offset(0), 0.05) is None
    files.gate.set()
    assert drain(os_owner, 0, 3)[0][2].num_rows == 3


def test_bounds_are_the_same_after_a_restart_and_batches_never_span_logs(tmp_path: Path) -> None:
    with Owner(table(flush={"rows": 50, "bytes": "1GiB", "age": "1h"}), tmp_path) as owner:
        for n in range(4):
            owner.write(rows(20, first=20 * n))
        before = [(first, end, batch["_log"][0].as_py()) for first, end, batch in drain(owner, 0, 60)]
        owner.crash()
        owner.open()
        owner.write(rows(50, first=80))
        after = [(first, end, batch["_log"][0].as_py()) for first, end, batch in drain(owner, 0, 130)]
        assert after[: len(before)] == before
        one, two = (1 << 24) | 1, (1 << 24) | 2
        assert after == [(0, 60, one), (60, 80, one), (80, 130, two)]


def test_persisted_is_checked_logged_and_reaches_waiters(owner: Owner) -> None:
    cold = owner.send(rows(10), "cold")
    follow_up = owner.send(rows(10, first=10), follow_ups=("cold",))
    assert follow_up.ack().level == "disk"
    end = owner.shard.flush()
    bounds = [last for _, last, _ in drain(owner, 0, end)]
    with pytest.raises(NotOwner, match="epoch"):
        owner.shard.advance_persisted(Epoch(7), end)
    for wrong in (1, end + 1):
        with pytest.raises(InvalidArgument, match=str(wrong)):
            owner.shard.advance_persisted(Epoch(1), Offset(wrong))
    assert not cold.answered
    assert not owner.shard.wait_persisted(end, 0.01)
    for bound in bounds:
        owner.shard.advance_persisted(Epoch(1), Offset(bound))
    owner.shard.advance_persisted(Epoch(1), Offset(0))
    assert cold.ack().level == "cold"
    assert follow_up.climb("cold").end == 20
    assert owner.shard.wait_persisted(end, 1)
    owner.reopen()
    assert owner.shard.marks().persisted == 20, "the owner's mark is in its log"


def test_a_reader_that_waits_for_an_end_wakes_when_it_is_published(owner: Owner) -> None:
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.append(owner.shard.wait_end(Offset(5), 20 * 10**9)))
    reader.start()
    owner.write(rows(5))
    reader.join()
    assert got == [True]
    assert not owner.shard.wait_end(Offset(6), 1)


def test_a_stopped_shard_refuses_and_tells_who_waits(tmp_path: Path) -> None:
    owner = Owner(table(), tmp_path)
    owner.open()
    waiting = owner.send(rows(1), "cold")
    owner.close()
    with pytest.raises(NotOwner):
        waiting.ack()
    calls: Sequence[Any] = (
        lambda: owner.send(rows(1)),
        owner.shard.flush,
        lambda: owner.shard.bounds.after(Offset(1), 0),
    )
    for call in calls:
        with pytest.raises(NotOwner):
            call()
