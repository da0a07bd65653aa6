"""Readers in other processes, while the owner appends, evicts and reuses blocks at full speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hot_feeder import Checker, oracle_batch, oracle_spec

from proxist.errors import Unavailable
from proxist.hot.epoch_page import EpochPage
from proxist.hot.ops import HotLastBy
from proxist.hot.reader import HotReader
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId

KEYS, LATE = 40, 6
FEEDER = Path(__file__).parent / "hot_feeder.py"


def start_reader(hot: HotSet, seed: int, page: str = "-") -> subprocess.Popen[str]:
    fd = hot.readonly_fd()
    try:
        reader = subprocess.Popen(
            [sys.executable, str(FEEDER), str(fd), str(KEYS), str(LATE), str(seed), page],
            stdout=subprocess.PIPE, text=True, pass_fds=[fd],
        )  # fmt: skip
    finally:
        os.close(fd)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    return reader


def result_of(reader: subprocess.Popen[str]) -> dict[str, object]:
    out, _ = reader.communicate(timeout=60)
    assert reader.returncode == 0
    return dict(json.loads(out))


def churn(hot: HotSet, seconds: float, window: int) -> int:
    """Append, persist and evict as fast as it goes, keeping `window` rows; returns the rows appended."""
    until, before, batch_rows = time.monotonic() + seconds, hot.appended_end, 700
    while time.monotonic() < until:
        first = hot.appended_end
        batch = oracle_batch(first, batch_rows, KEYS, LATE)
        hot.append(batch, first, 0)
        hot.publish(hot.appended_end)
        hot.set_persisted(hot.appended_end)
        if hot.appended_end - hot.marks().floor > 2 * window:
            hot.evict(Offset(hot.appended_end - window))
    return hot.appended_end - before


def new_oracle(epoch: int = 1) -> HotSet:
    hot = HotSet.create(oracle_spec(), ShardId(1), Epoch(epoch), Offset(0))
    hot.set_lease_until(time.monotonic_ns() + 600 * 10**9)
    hot.append(oracle_batch(0, 5000, KEYS, LATE), Offset(0), 0)
    hot.publish(Offset(5000))
    return hot


@pytest.mark.parametrize(
    ("seconds", "readers"), [(10.0, 4), pytest.param(60.0, 4, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_attached_answers_equal_the_oracle_under_eviction_and_block_reuse(seconds: float, readers: int) -> None:
    with new_oracle() as hot:
        running = [start_reader(hot, seed) for seed in range(readers)]
        appended = churn(hot, seconds, window=6000)
        hot.set_lease_until(0)
        results = [result_of(reader) for reader in running]
    assert appended > 20_000
    for result in results:
        assert result["wrong"] is None
        assert result["end"] == "lease"
        assert int(str(result["answers"])) > 20


def test_the_owners_own_reader_is_never_turned_away_by_eviction() -> None:
    import threading

    with new_oracle() as hot:
        reader, stop, failures = hot.reader(), threading.Event(), []

        def ask(seed: int) -> None:
            checker = Checker(reader, KEYS, LATE, seed)  # prepared reads are for one thread
            try:
                while not stop.is_set():
                    checker.ask()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        churn(hot, 1.5, window=3000)
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_reader_stops_when_the_lease_ends(tmp_path: Path) -> None:
    page = EpochPage(tmp_path / "epochs" / "1", writable=True)
    page.publish(Epoch(1))
    with new_oracle() as hot:
        reader = hot.reader(str(page.path))
        assert reader.run(HotLastBy()).rows.num_rows == KEYS
        hot.set_lease_until(time.monotonic_ns() - 1)
        with pytest.raises(Unavailable) as caught:
            reader.run(HotLastBy())
        assert caught.value.details == {"shard": 1, "reason": "lease"}
    page.close()


def test_a_reader_stops_when_a_newer_epoch_started_on_the_host(tmp_path: Path) -> None:
    page = EpochPage(tmp_path / "1", writable=True)
    page.publish(Epoch(1))
    with new_oracle() as hot:
        running = start_reader(hot, 1, str(page.path))
        page.publish(Epoch(2))
        assert result_of(running)["end"] == "epoch"
        with pytest.raises(Unavailable) as caught:
            hot.reader(str(page.path)).run(HotLastBy())
        assert caught.value.details["reason"] == "epoch"
    page.publish(Epoch(1))
    assert page.epoch == 2
    page.close()


def test_a_closed_hot_set_answers_nobody() -> None:
    hot = new_oracle()
    fd = hot.readonly_fd()
    attached, own = HotReader.attach(fd), hot.reader()
    os.close(fd)
    hot.close()
    for reader in (attached, own):
        with pytest.raises(Unavailable, match="closed"):
            reader.run(HotLastBy())
    assert hot.marks().end == 5000
    hot.close()


def test_a_closed_reader_answers_nobody() -> None:
    with new_oracle() as hot:
        reader = hot.reader()
        reader.close()
        with pytest.raises(Unavailable, match="closed"):
            reader.marks()


def test_the_descriptor_that_is_handed_out_cannot_be_mapped_writable() -> None:
    import mmap

    with new_oracle() as hot:
        fd = hot.readonly_fd()
        size = os.fstat(fd).st_size
        with pytest.raises(PermissionError):
            mmap.mmap(fd, size)
        assert os.fstat(fd).st_mode & 0o777 == 0o600
        with pytest.raises(OSError, match=r"not permitted|Invalid argument"):
            os.ftruncate(fd, 4096)
        os.close(fd)


def test_a_file_that_is_no_hot_set_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for size in (0, 2**21, 2**22):
        path.write_bytes(bytes(size))
        with open(path, "rb") as file, pytest.raises(Unavailable) as caught:
            HotReader.attach(file.fileno())
        assert caught.value.details["reason"] == "format"


def test_attach_is_refused_on_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    with new_oracle() as hot:
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        fd = hot.readonly_fd()
        with pytest.raises(Unavailable, match="aarch64"):
            HotReader.attach(fd)
        os.close(fd)
