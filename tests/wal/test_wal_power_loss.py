"""A loss of power at any moment, played on a disk that keeps sectors in whatever order it likes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wal_support import EPOCH, FaultyFiles, append_rows, open_log, rows_of

from proxist.model.ids import Offset
from proxist.wal import RecordKind, cut_record, recover_log, rows_record

SECTOR = 512


class Disk(FaultyFiles):
    """Remembers what was written, and which of it a flush has made durable."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[int, Path] = {}
        self.sizes: dict[str, int] = {}
        self.entries: set[str] = set()
        self.durable: dict[str, bytearray] = {}
        self.pending: dict[str, list[tuple[int, bytes]]] = {}

    def create(self, path: Path, size_bytes: int) -> int:
        fd = super().create(path, size_bytes)
        self.paths[fd] = path
        self.sizes[path.name], self.durable[path.name], self.pending[path.name] = size_bytes, bytearray(), []
        return fd

    def write(self, fd: int, buffers: Sequence[pa.Buffer | bytes | memoryview], position: int) -> int:
        data = b"".join(bytes(b) for b in buffers)
        self.pending[self.paths[fd].name].append((position, data))
        return super().write(fd, buffers, position)

    def datasync(self, fd: int) -> None:
        super().datasync(fd)
        name = self.paths[fd].name
        self.durable[name] = bytearray(self.durable[name].ljust(self.sizes[name], b"\0"))
        for position, data in self.pending[name]:
            self.durable[name][position : position + len(data)] = data
        self.pending[name] = []

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.entries |= {p.name for p in path.glob("*.wal")}

    def after_power_loss(self, log_dir: Path, random: Random) -> None:
        """Write to `log_dir` one of the states that the disk may be found in."""
        log_dir.mkdir(parents=True)
        for name, size in self.sizes.items():
            if name not in self.entries and random.random() < 0.4:
                continue  # the entry never got there
            content = bytearray(self.durable[name])
            if content or random.random() < 0.8:
                content = bytearray(content.ljust(size, b"\0"))
                kept = random.choice([0.0, 0.5, 0.9, 1.0])
                arrived: dict[int, bool] = {}
                for position, data in self.pending[name]:
                    for at, byte in enumerate(data, position):
                        if arrived.setdefault(at // SECTOR, random.random() < kept):
                            content[at] = byte
            (log_dir / name).write_bytes(content)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.integers(-2, 30), min_size=1, max_size=14),
    segment_bytes=st.sampled_from([1200, 4096]),
    seed=st.integers(0, 2**32),
)
def test_a_loss_of_power_keeps_all_that_was_synced_and_never_stops_the_start(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], segment_bytes: int, seed: int
) -> None:
    """Steps: a batch of n rows; 0 an empty numbered record, -1 a sync, -2 an owner's cut."""
    directory = tmp_path_factory.mktemp("disk")
    disk = Disk()
    log = open_log(directory, start=0, segment_bytes=segment_bytes, files=disk)
    for number, step in enumerate(steps):
        if step > 0:
            append_rows(log, step, number=number)
        elif step == 0:
            log.append([rows_record(b"", 0, 0, producer="feed", batch_number=number)])
        elif step == -1:
            log.sync()
        else:
            log.append([cut_record(log.end)])
    synced = log.synced_mark
    found = directory / "found" / log.log_dir.parent.name / str(EPOCH)
    disk.after_power_loss(found, Random(seed))
    written = list(recover_log(log.log_dir).records())
    log.close(sync=False)

    recovered = recover_log(found)
    assert recovered.end >= synced.end
    assert recovered.mark.records >= synced.records
    records = list(recovered.records())
    assert records == written[: len(records)], "a beginning of what was written, unchanged"
    assert rows_of(records) == list(range(recovered.end))
    assert records[0].kind is RecordKind.CARRY
    assert recover_log(found, sealed_end=Offset(recovered.end)).end == recovered.end
