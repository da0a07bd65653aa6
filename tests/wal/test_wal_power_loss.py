"""A loss of power at any moment, played on a disk that keeps what it likes of what was not flushed."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from wal_support import SCHEMA, SHARD, TABLE, batch_of, rows_of

from proxist.model.ids import Epoch, Offset
from proxist.testing.faulty_files import FaultyFiles
from proxist.wal import (
    LogBegin,
    LogWriter,
    Record,
    RecordIn,
    RecordKind,
    Volume,
    cut_record,
    encode_body,
    list_logs,
    recover_log,
    remove_log,
    remove_segments,
    rows_record,
    shard_directory,
)
from proxist.wal._walk import header_of
from proxist.wal.chain import segment_path

SEGMENT = 1600
SHORT = 200
LONG = int(os.environ.get("PROXIST_CRASH_IMAGES", "10000"))
"""Images of all seeds of the long run together."""


@dataclass
class Life:
    """One log's life: what was written to it, and what of it must be found again."""

    epoch: Epoch
    written: list[tuple[Any, ...]]
    start: Offset
    synced_end: Offset
    synced_records: int
    needed: LogBegin
    sealed_end: Offset | None = None


@dataclass
class Play:
    """Random steps on a data directory, with images of it checked in between, in the middle of a step too."""

    root: Path
    scratch: Path
    random: Random
    lives: list[Life] = field(default_factory=list)
    images: int = 0
    resumed: int = 0
    reused: int = 0
    number: int = 0

    def run(self, wanted: int) -> None:
        while self.images < wanted:
            self.root.mkdir(parents=True)
            self.lives = []
            self.start_on(self.root)
            for _ in range(self.random.randint(1, 4)):
                for _ in range(self.random.randint(3, 14)):
                    self.step()
                if self.random.random() < 0.4:
                    mark = self.log.mark
                    self.lives[-1].written.append((RecordKind.SEAL, mark.records, mark.end, 0, b"", None, 0))
                    self.log.seal()
                    self.saw_sync()
                self.look()
                self.log.close(sync=False)
                if not self.resume():
                    break
            shutil.rmtree(self.root)

    def start_on(self, root: Path) -> None:
        """The next log of the chain, on whatever lies in `root`."""
        self.files = FaultyFiles(root)
        self.files.before = self.maybe_look
        self.volume = Volume(root, files=self.files, ballast_bytes=0, segment_bytes=SEGMENT)
        epoch = Epoch(self.lives[-1].epoch + 1) if self.lives else Epoch(1)
        start = self.lives[-1].sealed_end if self.lives else Offset(0)
        assert start is not None
        self.creating = True
        self.log = LogWriter.create(
            shard_directory(root, SHARD), SHARD, epoch, start, TABLE, SCHEMA, 1, {"life": epoch},
            segment_bytes=SEGMENT, volume=self.volume, now_ns=lambda: 5,
        )  # fmt: skip
        self.creating = False
        carry = next(recover_log(self.log.log_dir, flush=False).records())
        self.lives.append(Life(epoch, [_key(carry)], start, start, 1, LogBegin(start)))

    def step(self) -> None:
        dice = self.random.random()
        if dice < 0.55:
            self.append([self.group() for _ in range(self.random.choice((1, 1, 2, 4)))])
        elif dice < 0.85:
            self.log.sync()
            self.saw_sync()
        else:
            self.truncate()
        if self.random.random() < 0.3:
            self.look()

    def group(self) -> RecordIn:
        self.number += 1
        dice = self.random.random()
        if dice < 0.1:
            return cut_record(Offset(self.number))
        if dice < 0.25:
            return rows_record(b"", 0, 7, producer="feed", batch_number=self.number)
        rows = self.random.choice((1, 3, 10, 60))
        return rows_record(b"", rows, 7, producer="feed", batch_number=self.number)

    def append(self, records: list[RecordIn]) -> None:
        """With bodies that say which offsets they are."""
        end = self.log.end
        whole: list[RecordIn] = []
        for record in records:
            if record.rows:
                record = record._replace(body=encode_body(batch_of(end, record.rows)))
                end = Offset(end + record.rows)
            whole.append(record)
        life, first, number = self.lives[-1], self.log.end, self.log.mark.records
        for record in whole:  # before they are written: an image in the middle may hold some of them
            life.written.append((record.kind, number, first, record.rows, bytes(record.body), record.producer,
                                 record.batch_number))  # fmt: skip
            first, number = Offset(first + record.rows), number + 1
        self.log.append(whole)

    def saw_sync(self) -> None:
        life, mark = self.lives[-1], self.log.synced_mark
        life.synced_end, life.synced_records = mark.end, mark.records

    def truncate(self) -> None:
        """As a snapshot of the newest synced point would allow it."""
        self.saw_sync()  # an append may have waited for the disk
        life = self.lives[-1]
        for old in self.lives[:-1]:
            if (shard_directory(self.files.root, SHARD) / str(old.epoch)).exists():
                old.needed = LogBegin(old.synced_end, None)
                remove_log(shard_directory(self.files.root, SHARD), old.epoch, self.volume)
        life.needed = LogBegin(life.synced_end, self.random.choice((None, life.synced_records)))
        remove_segments(self.log.log_dir, self.log.synced_mark.segment, self.volume)

    # ---- looking ---------------------------------------------------------------------------------------------------

    def maybe_look(self, operation: str, _: Path | None) -> None:
        if not self.creating and operation != "write" and self.random.random() < 0.1:
            self.look()

    def look(self) -> None:
        image = self.scratch / "image"
        self.files.crash_image(image, self.random)
        self.check(image)
        shutil.rmtree(image)

    def check(self, image: Path) -> Life:
        """Every synced record of the newest log is there, in order, and nothing that was not written. Returns what a
        successor would go on from."""
        self.images += 1
        life = self.lives[-1]
        log_dir = shard_directory(image, SHARD) / str(life.epoch)
        found = recover_log(log_dir, begin=life.needed, flush=False)
        assert found.end >= life.synced_end
        assert found.mark.records >= life.synced_records
        records = [_key(record) for record in found.records(found.start)]
        first = records[0][1] if records else found.mark.records
        assert records == life.written[first : found.mark.records], "what was written, unchanged, from there to the end"
        assert rows_of(list(found.records(found.start))) == list(range(found.start, found.end))
        header = header_of(found.mark.segment, segment_path(log_dir, found.mark.segment))
        assert header is not None
        self.reused += header.reused
        again = recover_log(log_dir, begin=life.needed, sealed_end=found.end, flush=False)
        assert again.end == found.end
        for old in self.lives[:-1]:
            path = shard_directory(image, SHARD) / str(old.epoch)
            if path.exists():
                sealed = recover_log(path, begin=old.needed, sealed_end=old.sealed_end, flush=False)
                assert sealed.end == old.sealed_end
        return Life(life.epoch, life.written[: found.mark.records], found.start, found.end, found.mark.records,
                    life.needed, found.end)  # fmt: skip

    def resume(self) -> bool:
        """Go on, under the next epoch, on an image of this one."""
        image = self.scratch / f"life-{len(self.lives)}"
        self.files.crash_image(image, self.random)
        self.lives[-1] = self.check(image)
        shutil.rmtree(self.root)
        image.rename(self.root)
        self.resumed += 1
        for epoch, path in list_logs(shard_directory(self.root, SHARD)):
            if epoch > self.lives[-1].epoch:
                shutil.rmtree(path)  # one that was being created
        self.start_on(self.root)
        return True


def _key(record: Record) -> tuple[Any, ...]:
    return (record.kind, record.record_number, record.first, record.rows, record.body.to_pybytes(), record.producer,
            record.batch_number)  # fmt: skip


def play(tmp_path: Path, seed: int, images: int) -> Play:
    game = Play(tmp_path / "data", tmp_path, Random(seed))
    game.run(images)
    return game


def test_a_loss_of_power_keeps_all_that_was_synced_and_never_stops_the_start(tmp_path: Path) -> None:
    game = play(tmp_path, 1, SHORT)
    assert game.resumed >= SHORT // 50
    assert game.reused >= SHORT // 50, "in segments with an earlier life too"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10))
def test_thousands_of_losses_of_power(tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    game = play(tmp_path, seed, LONG // 10)
    with capsys.disabled():
        print(
            f"\nseed {seed}: {game.images} crash images, {game.resumed} gone on from, {game.reused} with a used segment at "
            "the end"
        )
    assert game.images >= LONG // 10
    assert game.resumed > 0
