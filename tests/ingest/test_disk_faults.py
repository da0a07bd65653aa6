"""A disk that fails under a shard: nothing is acked after it, and everything that was acked is there after the restart."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from ingest_rows import rows, table
from ingest_shards import Owner

from proxist.errors import ProxistError, Unavailable
from proxist.testing.faulty_files import FaultyFiles

BATCH = 10
Fault = Callable[[FaultyFiles], None]

FAULTS: dict[str, Fault] = {
    "a flush fails once": lambda files: files.fail("datasync"),
    "EIO in the middle of a record": lambda files: files.fail("write", take_bytes=200),
    "ENOSPC in the middle of a record": lambda files: files.fail("write", error=errno.ENOSPC, take_bytes=200),
    "ENOSPC at the beginning of a record": lambda files: files.fail("write", error=errno.ENOSPC),
}


def write_until(owner: Owner, end: int) -> None:
    """Acked batches of ten rows, row i has trade_id i."""
    while owner.shard.marks().end < end:
        first = owner.shard.marks().end
        assert owner.write(rows(BATCH, first=first), producer="p", number=first // BATCH + 1).end == first + BATCH


def again(owner: Owner, data_dir: Path) -> Owner:
    """A start on another directory, with the record that etcd has."""
    found = Owner(owner.table, data_dir)
    found.record = owner.record
    found.open()
    return found


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("durability", ["disk", "os"])
def test_nothing_is_acked_after_a_failure_and_acked_rows_survive(tmp_path: Path, durability: str, fault: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    files = FaultyFiles(data)
    owner = Owner(table(durability=durability, flush={"rows": 1000, "age": "1h"}), data, files=files)
    owner.open()
    write_until(owner, 50)
    if durability == "os":
        owner.shard.log_writer.sync()  # so that the fault meets the next flush
    FAULTS[fault](files)
    acked = 50
    if durability == "os" and fault == "a flush fails once":
        owner.write(rows(BATCH, first=50), producer="p", number=6)  # acked before it was to be flushed
        acked = 60
    else:
        with pytest.raises(Unavailable, match="cannot go on"):
            owner.write(rows(BATCH, first=50), producer="p", number=6)
    assert owner.failed.wait(30), "the node is told to leave service"
    files.heal()
    for number in (6, 7):
        with pytest.raises(ProxistError):
            owner.write(rows(BATCH, first=0), producer="p", number=number)
    # A restart of the process finds what was written; a loss of power at that moment, what was flushed.
    for seed in range(4):
        image = tmp_path / f"image-{seed}"
        files.crash_image(image, Random(seed))
        found = again(owner, image)
        end = found.shard.marks().end
        assert end in (50, 60)
        assert found.ids() == list(range(end)), "acked rows, once and in order; an unacked batch whole or not at all"
        repeat = found.write(rows(BATCH, first=50), producer="p", number=6)
        assert (repeat.duplicate, repeat.end) == (end == 60, 60)
        found.close()
    owner.crash()
    found = again(owner, data)
    assert found.shard.marks().end >= acked
    assert found.ids() == list(range(found.shard.marks().end))
    found.close()


def test_a_short_write_is_continued_and_acked(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    files = FaultyFiles(data)
    with Owner(table(flush={"rows": 1000, "age": "1h"}), data, files=files) as owner:
        for taken in (1, 7, 120, 300):
            files.fail("write", error=None, take_bytes=taken)
            write_until(owner, owner.shard.marks().end + BATCH)
        end = owner.shard.marks().end
        image = tmp_path / "image"
        files.crash_image(image, Random(1))
        found = again(owner, image)
        assert found.ids() == list(range(end))
        found.close()
