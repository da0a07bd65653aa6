"""What operators are told of a log's files."""

from __future__ import annotations

from pathlib import Path

from wal_support import append_rows, open_log, patch

from proxist.wal import list_segments, segments


def test_each_segment_has_its_first_row_and_is_open_or_sealed_and_synced_or_not(tmp_path: Path) -> None:
    with open_log(tmp_path, start=100) as log:
        append_rows(log, 10)
        log.sync()
        number = 1
        while len(list_segments(log.log_dir)) < 3:
            append_rows(log, 10, number=number)
            number += 1
        found = segments(log.log_dir, log)
        assert [one.open for one in found] == [False, False, True]
        assert not found[-1].synced, "nothing was synced since"
        assert found[0].first == 100
        firsts = [one.first for one in found]
        assert all(one is not None and one <= log.end for one in firsts)
        assert firsts == sorted(set(firsts), key=lambda one: one or 0)
        assert [one.bytes for one in found] == [path.stat().st_size for _, path in list_segments(log.log_dir)]
        log.sync()
        assert all(one.synced for one in segments(log.log_dir, log))
    closed = segments(log.log_dir)
    assert [one.open for one in closed] == [False] * 3
    assert all(one.synced for one in closed)


def test_a_segment_whose_header_is_damaged_has_no_first_row(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        append_rows(log, 10)
    ((_, path),) = list_segments(log.log_dir)
    patch(path, 0, b"\xff" * 8)
    (found,) = segments(log.log_dir)
    assert found.first is None
    assert found.bytes == path.stat().st_size


def test_a_log_that_is_not_there_has_no_segments(tmp_path: Path) -> None:
    assert segments(tmp_path / "none") == []
