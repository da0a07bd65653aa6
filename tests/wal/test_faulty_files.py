"""The fault layer itself: what a crash image may and may not hold."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import pytest

from proxist.testing.faulty_files import FaultyFiles

A, B = b"a" * 512, b"b" * 512


def images(files: FaultyFiles, directory: Path, count: int = 60) -> list[Path]:
    found = [directory / str(seed) for seed in range(count)]
    for seed, image in enumerate(found):
        files.crash_image(image, Random(seed))
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


def test_what_was_flushed_is_in_every_image(root: Path, tmp_path: Path) -> None:
    files = FaultyFiles(root)
    fd = files.create(root / "f", 2048)
    files.write(fd, [A, B], 100)
    files.datasync(fd)
    files.sync_directory(root)
    content = (root / "f").read_bytes()
    assert content[100:1124] == A + B
    assert all((image / "f").read_bytes() == content for image in images(files, tmp_path))


def test_sectors_that_were_not_flushed_arrive_in_any_order(root: Path, tmp_path: Path) -> None:
    files = FaultyFiles(root)
    fd = files.create(root / "f", 1024)
    files.datasync(fd)
    files.sync_directory(root)
    files.write(fd, [A, B], 0)
    found = {(image / "f").read_bytes() for image in images(files, tmp_path)}
    assert found == {first + second for first in (A, bytes(512)) for second in (B, bytes(512))}


def test_an_entry_that_was_not_flushed_may_be_missing_and_a_rename_is_whole(root: Path, tmp_path: Path) -> None:
    files = FaultyFiles(root)
    fd = files.create(root / "old", 512)
    files.write(fd, [A], 0)
    files.datasync(fd)
    found = [{path.name for path in image.iterdir()} for image in images(files, tmp_path / "1")]
    assert {frozenset(names) for names in found} == {frozenset(), frozenset(["old"])}
    files.sync_directory(root)
    files.make_directory(root / "sub")
    files.rename(root / "old", root / "sub" / "new")
    found = [{str(p.relative_to(image)) for p in image.rglob("*")} for image in images(files, tmp_path / "2")]
    assert {frozenset(names) for names in found} == {
        frozenset(["old"]), frozenset(["old", "sub"]), frozenset(["sub", "sub/new"]), frozenset()
    }  # fmt: skip


def test_a_removed_file_may_be_back_with_what_it_held(root: Path, tmp_path: Path) -> None:
    (root / "f").write_bytes(A)
    files = FaultyFiles(root)
    files.remove(root / "f")
    found = images(files, tmp_path)
    back = [image for image in found if (image / "f").exists()]
    assert 0 < len(back) < len(found)
    assert all((image / "f").read_bytes() == A for image in back)
    files.sync_directory(root)
    assert not any((image / "f").exists() for image in images(files, tmp_path / "later"))


def test_a_flush_that_failed_is_never_made_good_by_a_later_one(root: Path, tmp_path: Path) -> None:
    files = FaultyFiles(root)
    fd = files.create(root / "f", 512)
    files.datasync(fd)
    files.sync_directory(root)
    files.write(fd, [A], 0)
    files.fail("datasync")
    with pytest.raises(OSError, match="Input/output"):
        files.datasync(fd)
    files.datasync(fd)
    assert {(image / "f").read_bytes() for image in images(files, tmp_path)} == {A, bytes(512)}


def test_faults_come_when_they_were_asked_for(root: Path) -> None:
    files = FaultyFiles(root)
    fd = files.create(root / "f", 0)
    files.fail("write", 2, errno.ENOSPC, take_bytes=10)
    assert files.write(fd, [A], 0) == 512
    assert files.write(fd, [A], 512) == 10
    with pytest.raises(OSError, match="No space"):
        files.write(fd, [A], 522)
    assert files.write(fd, [B], 522) == 512
    files.room_bytes = 1000
    files.close(files.create(root / "g", 900))
    assert files.free_bytes(root) == 100
    with pytest.raises(OSError, match="No space"):
        files.create(root / "h", 101)
    files.remove(root / "g")
    files.close(files.create(root / "h", 101))
    files.heal()
    files.close(files.create(root / "i", 5000))


def test_a_start_on_an_image_goes_on_from_there(root: Path, tmp_path: Path) -> None:
    (root / "f").write_bytes(A)
    first = FaultyFiles(root)
    first.crash_image(tmp_path / "after", Random(1))
    files = FaultyFiles(tmp_path / "after")
    fd = files.open(tmp_path / "after" / "f")
    files.write(fd, [B], 0)
    assert {(image / "f").read_bytes() for image in images(files, tmp_path / "i")} == {A, B}
