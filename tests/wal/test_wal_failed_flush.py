"""A flush that failed: what the page cache still shows is not on disk, and a later flush alone does not bring it there."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from wal_support import EPOCH, SHARD, TABLE, append_rows, open_log, rows_of

from proxist.errors import Unavailable
from proxist.model.ids import Epoch, log_id
from proxist.testing.faulty_files import FaultyFiles
from proxist.wal import LogWriter, recover_log
from proxist.wal._format import SegmentHead, pack_segment
from proxist.wal.chain import segment_path

SEEDS = range(20)


def ends_after_power_loss(files: FaultyFiles, log: LogWriter, into: Path) -> set[int]:
    """Where the log may end after a loss of power now."""
    found = set()
    for seed in SEEDS:
        files.crash_image(into / str(seed), Random(seed))
        image = into / str(seed) / log.log_dir.relative_to(files.root)
        recovered = recover_log(image)
        assert rows_of(list(recovered.records())) == list(range(recovered.end))
        found.add(int(recovered.end))
    return found


def other_life(log_dir: Path, number: int) -> None:
    """Make the log's segment `number` a spare whose header still is the one of another log's segment of that number."""
    head = SegmentHead(log_id(SHARD, Epoch(EPOCH + 1)), number, 0, 0, 0, 0, 0, TABLE, 8192, 1000, (), 0)
    segment_path(log_dir, number).write_bytes(pack_segment(head).ljust(8192, b"\0"))


@pytest.mark.parametrize("segment_bytes", [1600, 8192])
@pytest.mark.parametrize("spare_taken", [False, True])
def test_what_a_recovery_read_behind_a_failed_flush_survives_a_loss_of_power(
    tmp_path: Path, segment_bytes: int, spare_taken: bool
) -> None:
    (tmp_path / "data").mkdir()
    files = FaultyFiles(tmp_path / "data")
    log = open_log(tmp_path / "data", start=0, segment_bytes=segment_bytes, files=files)
    append_rows(log, 5)
    log.sync()
    for number in range(1, 8):
        append_rows(log, 3, number=number)
    files.fail("datasync")
    with pytest.raises(Unavailable):
        log.sync()
    log.close(sync=False)
    before = ends_after_power_loss(files, log, tmp_path / "before")
    assert min(before) < 26, "the flush failed: some disk must lack the rows"

    if spare_taken:
        other_life(log.log_dir, log.mark.segment + 1)
    recovered = recover_log(log.log_dir, files=files)
    assert recovered.end == 26, "the page cache has them"
    assert ends_after_power_loss(files, log, tmp_path / "after") == {26}


def test_a_log_that_was_sealed_in_etcd_is_not_written_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    files = FaultyFiles(tmp_path / "data")
    log = open_log(tmp_path / "data", start=0, files=files)
    append_rows(log, 5)
    log.close()
    recovered = recover_log(log.log_dir, files=files)
    writes = files.calls["write"]
    assert recover_log(log.log_dir, sealed_end=recovered.end, files=files).end == 5
    assert files.calls["write"] == writes


def test_a_directory_whose_maker_ended_before_its_flush_is_flushed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    files = FaultyFiles(tmp_path / "data")
    files.make_directory(tmp_path / "data" / str(SHARD))  # and then the process was killed
    log = open_log(tmp_path / "data", start=0, files=files)
    append_rows(log, 5)
    log.sync()
    assert ends_after_power_loss(files, log, tmp_path / "after") == {5}
    log.close(sync=False)
