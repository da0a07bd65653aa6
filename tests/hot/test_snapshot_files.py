"""Snapshots on disk: what is good is what was written, whatever happens to the files or the machine."""

from __future__ import annotations

import contextlib
import errno
import shutil
from pathlib import Path
from random import Random

import pytest
from snapshot_files import DAMAGES, damage, manifest, parts

from proxist.hot.snapshots import (
    MANIFEST,
    BadSnapshot,
    Snapshot,
    drop_snapshots,
    good_snapshots,
    list_snapshots,
    read_snapshot,
    write_snapshot,
)
from proxist.model.ids import ShardId, TableId
from proxist.testing.faulty_files import FaultyFiles
from proxist.wal.files import OsFiles

FILES = (MANIFEST, "producers.arrow", "boundary.arrow")


def good(directory: Path) -> list[Snapshot]:
    found = good_snapshots(directory, TableId(1), ShardId(7))
    return [one for one in found if isinstance(one, Snapshot)]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = write_snapshot(tmp_path / "7", manifest(), parts(), OsFiles())
    read = read_snapshot(written.path)
    assert read == written
    assert read.number == 1
    assert read.manifest.cuts == manifest().cuts
    assert [b.to_pylist() for b in read.batches("producers.arrow")] == [
        b.to_pylist() for b in parts()["producers.arrow"][1]
    ]
    assert list(read.batches("seqs.arrow")) == []
    assert read.bytes == sum(path.stat().st_size for path in written.path.iterdir())


def test_a_flipped_bit_in_every_byte_of_every_file_is_noticed(tmp_path: Path) -> None:
    written = write_snapshot(tmp_path, manifest(), parts(1), OsFiles())
    seen = 0
    for name in FILES:
        path = written.path / name
        whole = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            for at, byte in enumerate(whole):
                for value in (byte ^ 1 << at % 8, byte):
                    file.seek(at)
                    file.write(bytes([value]))
                    if value != byte:
                        with pytest.raises(BadSnapshot):
                            read_snapshot(written.path)
                        seen += 1
    assert read_snapshot(written.path) == written
    assert seen > 2000


@pytest.mark.parametrize(("name", "how"), [(n, h) for n in FILES for h in DAMAGES if h != "version" or n == MANIFEST])
def test_a_damaged_snapshot_is_passed_over_and_the_older_one_taken(tmp_path: Path, name: str, how: str) -> None:
    for floor in (10, 20, 30):
        write_snapshot(tmp_path, manifest(floor), parts(), OsFiles())
    damage(tmp_path / "3" / name, how, Random(1))
    assert [one.manifest.floor for one in good(tmp_path)] == [20, 10]
    damage(tmp_path / "2" / name, how, Random(2))
    assert [one.manifest.floor for one in good(tmp_path)] == [10]
    assert write_snapshot(tmp_path, manifest(40), parts(), OsFiles()).number == 4


def test_a_snapshot_of_another_shard_is_not_used(tmp_path: Path) -> None:
    write_snapshot(tmp_path, manifest(), parts(), OsFiles())
    [bad] = good_snapshots(tmp_path, TableId(1), ShardId(8))
    assert isinstance(bad, BadSnapshot)
    assert "of table 1, shard 7" in str(bad)


@pytest.mark.parametrize(
    "operation", ["make_directory", "create", "write", "datasync", "sync_directory", "rename", "remove"]
)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_failure_leaves_the_snapshots_that_were_there(tmp_path: Path, operation: str, nth: int) -> None:
    write_snapshot(tmp_path / "7", manifest(10), parts(), OsFiles())
    files = FaultyFiles(tmp_path)
    files.fail(operation, nth, errno.ENOSPC)
    with contextlib.suppress(OSError):
        write_snapshot(tmp_path / "7", manifest(20), parts(), files)
    floors = [one.manifest.floor for one in good(tmp_path / "7")]
    assert floors in ([10], [20, 10])
    files.heal()
    write_snapshot(tmp_path / "7", manifest(30), parts(), files)
    assert good(tmp_path / "7")[0].manifest.floor == 30
    assert not list((tmp_path / "7").glob("*.new"))


def test_what_is_read_back_wrong_is_no_snapshot(tmp_path: Path) -> None:
    class Lying(OsFiles):
        def write(self, fd: int, buffers: object, position: int) -> int:
            return super().write(fd, [bytes(len(b)) for b in buffers], position)  # type: ignore[attr-defined]

    with pytest.raises(BadSnapshot):
        write_snapshot(tmp_path, manifest(), parts(), Lying())
    assert list_snapshots(tmp_path) == []


def test_power_lost_at_any_operation_leaves_three_good_snapshots_or_the_new_one(tmp_path: Path) -> None:
    home = tmp_path / "data"
    for floor in (10, 20, 30):
        write_snapshot(home / "7", manifest(floor), parts(), OsFiles())
    images = 0
    for stop in range(1, 200):
        root = tmp_path / f"run{stop}"
        shutil.copytree(home, root)
        files = FaultyFiles(root)
        calls = 0

        def count(operation: str, path: Path | None, stop: int = stop) -> None:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise OSError(errno.EIO, "power")

        files.before = count
        try:
            write_snapshot(root / "7", manifest(40), parts(), files)
            drop_snapshots(root / "7", 2, files)
            finished = True
        except OSError:
            finished = False
        for seed in range(2):
            image = tmp_path / f"image{stop}-{seed}"
            files.crash_image(image, Random(1000 * stop + seed))
            floors = [one.manifest.floor for one in good(image / "7")]
            assert floors in ([30, 20, 10], [40, 30, 20, 10], [40, 30, 20]), (stop, floors)
            assert not finished or floors == [40, 30, 20]
            images += 1
        if finished:
            break
    assert finished
    assert images >= 30


def test_old_snapshots_and_unfinished_ones_are_dropped(tmp_path: Path) -> None:
    for floor in (10, 20, 30, 40):
        write_snapshot(tmp_path, manifest(floor), parts(), OsFiles())
    (tmp_path / "9.new").mkdir()
    drop_snapshots(tmp_path, 2, OsFiles())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "4"]
