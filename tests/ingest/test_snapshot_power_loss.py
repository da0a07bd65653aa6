"""Power lost at any file operation of a shard that is written, persisted, evicted, snapshotted and shortened: what was
acknowledged is there, once and in order, and every producer's number is known."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from ingest_rows import rows
from snapshotted import BATCH, KEYS, Home, owner_in, persist, snapshot

from proxist.errors import LogCorrupt
from proxist.etcd.records import ShardRecord
from proxist.hot.ops import HotLastBy, HotScan
from proxist.hot.snapshots import Snapshot, good_snapshots, snapshot_directory
from proxist.testing.faulty_files import FaultyFiles
from proxist_ingest.residency import EvictTo

SEEDS = int(os.environ.get("PROXIST_TEST_SNAPSHOT_SEEDS", "40"))


@dataclass(frozen=True)
class Image:
    """What a start may find after power was lost at one moment, and what had been acknowledged by then."""

    path: Path
    record: ShardRecord
    acked: int


class Run:
    """Random work on one shard, and images of its directory at some of its file operations."""

    def __init__(self, root: Path, seed: int, every: int) -> None:
        self.random, self.every, self.root = Random(seed), every, root
        self.owner = owner_in(root / "data", durability="disk")
        (root / "data").mkdir(parents=True)
        self.files = FaultyFiles(root / "data")
        self.owner.files = self.files
        self.files.before = self._before
        self.acked = self.calls = self.shortened = 0
        self.images: list[Image] = []

    def _before(self, operation: str, path: Path | None) -> None:
        self.calls += 1
        if self.calls % self.every == 0:
            image = self.root / f"image{len(self.images)}"
            self.files.crash_image(image, self.random)
            self.images.append(Image(image, self.owner.record, self.acked))

    def work(self, steps: int) -> None:
        self.owner.open()
        for _ in range(steps):
            {0: self._write, 1: self._write, 2: self._write, 3: self._persist, 4: self._evict, 5: self._snapshot}[
                self.random.randrange(6)
            ]()
            if self.random.random() < 0.04:
                self._count()
                self.owner.reopen()
        self._count()
        self.owner.close()

    def _count(self) -> None:
        assert self.owner.shard.snapshots is not None
        self.shortened += self.owner.shard.snapshots.counts.segments_given_up

    def _write(self) -> None:
        for _ in range(self.random.randrange(1, 8)):
            n = self.acked // BATCH
            self.owner.write(rows(BATCH, first=self.acked, keys=KEYS), producer=f"p{n % 2}", number=n // 2)
            self.acked += BATCH

    def _persist(self) -> None:
        persist(self.owner, self.random.choice([0, 0, 1000]))

    def _evict(self) -> None:
        self.owner.shard.evict(EvictTo(rows=self.random.choice([0, 500, 3000])))

    def _snapshot(self) -> None:
        snapshot(self.owner)


def check(run: Run, image: Image) -> int:
    """Recover from an image; returns how many good snapshots it had."""
    home = Home(image.path, image.record, run.owner.table)
    good = [
        one
        for one in good_snapshots(snapshot_directory(image.path, image.record.shard), home.table.id, image.record.shard)
        if isinstance(one, Snapshot)
    ]
    found = home.recover()
    marks = found.hot.marks()
    assert marks.end >= image.acked, "an acked row is missing"
    assert marks.end <= run.acked
    assert marks.floor <= marks.persisted <= marks.end
    found.hot.set_lease_until(2**62)
    resident = found.hot.reader().run(HotScan()).rows.sort_by("_offset")
    assert resident["trade_id"].to_pylist() == list(range(marks.floor, marks.end))
    last = found.hot.reader().run(HotLastBy())
    assert not last.cold
    expected = {f"S{i % KEYS}": i for i in range(marks.end)}
    assert dict(zip(last.rows["symbol"].to_pylist(), last.rows["trade_id"].to_pylist(), strict=True)) == expected
    for n in range(image.acked // BATCH):
        original = found.carried.producers.check(f"p{n % 2}", n // 2, hash_of(run, n))
        assert original is not None
        assert (original.first, original.end) == (BATCH * n, BATCH * (n + 1))
    found.hot.close()
    return len(good)


def hash_of(run: Run, n: int) -> bytes:
    """The content hash of batch `n`, from the owner that took it."""
    known = run.owner.shard.producers
    return known._known[f"p{n % 2}"].hash_of(n // 2)


def shake(root: Path, seed: int, steps: int, every: int) -> tuple[int, int, int]:
    run = Run(root, seed, every)
    run.work(steps)
    counts = [check(run, image) for image in run.images]
    assert not run.owner.fatal
    return len(run.images), sum(count >= 3 for count in counts), run.shortened


@pytest.mark.parametrize("seed", range(2))
def test_power_lost_at_any_file_operation_keeps_what_was_acked(tmp_path: Path, seed: int) -> None:
    images, with_three, shortened = shake(tmp_path, seed, 60, 23)
    assert images >= 15
    assert with_three
    assert shortened


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_power_lost_at_very_many_file_operations_keeps_what_was_acked(tmp_path: Path) -> None:
    total = three = gone = 0
    for seed in range(100, 100 + SEEDS):
        images, with_three, shortened = shake(tmp_path / str(seed), seed, 120, 7 + seed % 5)
        total, three, gone = total + images, three + with_three, gone + shortened
    print(f"{SEEDS} seeds from 100, {total} images, {three} with three good snapshots, {gone} segments given up")
    assert gone


def test_a_lost_flush_of_the_log_is_noticed_by_the_snapshot_that_names_it(tmp_path: Path) -> None:
    owner = owner_in(tmp_path, durability="disk")
    with owner:
        for n in range(4):
            owner.write(rows(BATCH, first=BATCH * n, keys=KEYS), producer="p0", number=n)
        persist(owner, 0)
        owner.shard.evict(EvictTo())
        snapshot(owner)
        home = Home(tmp_path, owner.record, owner.table)
        owner.crash()
        [log] = sorted((tmp_path / "wal").rglob("*.wal"))
        raw = log.read_bytes()
        log.write_bytes(raw[: len(raw) // 16] + bytes(len(raw) - len(raw) // 16))
        with pytest.raises(LogCorrupt, match="A snapshot is of 7 records of log .*`pxctl wal repair ") as raised:
            home.recover()
        assert (raised.value.details["lost_first"], raised.value.details["lost_end"]) == (0, 4 * BATCH)
        log.write_bytes(raw)
        owner.open()
