"""Shards on a real log and a real hot set, without etcd: what `Opener` does, with the record kept here."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from proxist.errors import ProxistError
from proxist.etcd.records import ShardRecord
from proxist.hot.epoch_page import EpochPage
from proxist.hot.ops import HotScan
from proxist.model.ids import Epoch, Offset
from proxist.model.table import Table
from proxist.wal import SEGMENT_BYTES, Files, OsFiles, Volume
from proxist_ingest.logtail import WAL_BYTES_MAX
from proxist_ingest.part import Answer, PartAck, make_part
from proxist_ingest.recover import create_log, recover_shard
from proxist_ingest.shard import Shard
from proxist_ingest.snapshotting import SnapshotRule
from proxist_ingest.validate import normalise

ANSWER_S = 20.0


class Lease:
    """Valid until it is told otherwise."""

    def __init__(self) -> None:
        self.valid_until_ns = time.monotonic_ns() + 3600 * 10**9


class Answered:
    """The answers of one part: the first, and the climbs by level."""

    def __init__(self) -> None:
        self._told = threading.Condition()
        self._first: Answer | None = None
        self._climbs: dict[str, PartAck] = {}

    def done(self, answer: Answer) -> None:
        with self._told:
            self._first = self._first or answer
            self._told.notify_all()

    def climbed(self, answer: Answer) -> None:
        with self._told:
            if isinstance(answer, PartAck):
                self._climbs[answer.level] = answer
            self._told.notify_all()

    @property
    def answered(self) -> bool:
        return self._first is not None

    def answer(self) -> Answer:
        """The first answer, ack or error."""
        with self._told:
            assert self._told.wait_for(lambda: self._first is not None, ANSWER_S), "no answer came"
            assert self._first is not None
            return self._first

    def ack(self) -> PartAck:
        answer = self.answer()
        if isinstance(answer, ProxistError):
            raise answer
        return answer

    def climb(self, level: str) -> PartAck:
        with self._told:
            assert self._told.wait_for(lambda: level in self._climbs, ANSWER_S), f"no ack for {level} came"
            return self._climbs[level]


@dataclass
class Owner:
    """One shard of `table`, opened again and again in `data_dir`."""

    table: Table
    data_dir: Path
    lease: Lease = field(default_factory=Lease)
    files: Files = field(default_factory=OsFiles)
    snapshot_bytes: int | None = None
    """None: no snapshots."""
    segment_bytes: int = SEGMENT_BYTES
    ballast_bytes: int = 0
    wal_bytes_max: int = WAL_BYTES_MAX
    record: ShardRecord = field(init=False)
    shard: Shard = field(init=False)
    volume: Volume = field(init=False)
    page: EpochPage = field(init=False)

    def __post_init__(self) -> None:
        first = self.table.shard_ids[0]
        self.record = ShardRecord(first, "default", self.table.name, self.table.id, 0, "n")
        self.failed = threading.Event()
        self.fatal: list[ProxistError] = []

    def open(self, persisted: int = 0) -> Shard:
        """Recover, take the next epoch, accept rows."""
        epoch = Epoch(self.record.epoch + 1)
        shard_id = self.record.shard
        self.volume = volume = Volume(
            self.data_dir, files=self.files, ballast_bytes=self.ballast_bytes, segment_bytes=self.segment_bytes
        )
        recovered = recover_shard(self.data_dir, self.table, self.record, epoch, Offset(persisted), lambda _: None)
        try:
            log = create_log(
                self.data_dir, self.table, shard_id, epoch, recovered, volume=volume, segment_bytes=self.segment_bytes
            )
        except BaseException:
            recovered.hot.close()
            raise
        self.record = self.record.opened(recovered.end)
        self.page = EpochPage(self.data_dir / "epochs" / str(shard_id), writable=True)
        self.page.publish(epoch)
        recovered.hot.set_lease_until(self.lease.valid_until_ns)
        self.shard = Shard(
            self.table,
            shard_id,
            epoch,
            log,
            recovered.hot,
            recovered.carried,
            self.lease,
            self._on_fatal,
            sealed=recovered.sealed,
            epoch_page_path=str(self.page.path),
            snapshots=None if self.snapshot_bytes is None else SnapshotRule(self.data_dir, volume, self.snapshot_bytes),
            behind=recovered.behind,
            wal_bytes_max=self.wal_bytes_max,
        )
        self.shard.start()
        return self.shard

    def close(self) -> None:
        self.shard.stop()
        self.page.close()

    def reopen(self, persisted: int = 0) -> Shard:
        """Stop in order and open again."""
        self.close()
        return self.open(persisted)

    def crash(self) -> None:
        """Stop as a killed process would: nothing is sealed or flushed, nobody is told."""
        self.shard.fail(ProxistError("killed"))
        self.shard.stop()
        self.page.close()

    def __enter__(self) -> Owner:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_fatal(self, error: ProxistError) -> None:
        self.fatal.append(error)
        self.failed.set()

    # ---- writing and reading ---------------------------------------------------------------------------------------

    def send(self, batch: pa.RecordBatch, level: str | None = None, *, alone: bool = False, **more: Any) -> Answered:
        """Queue a batch, or commit it here where it is alone; raises what the queue raises."""
        answered = Answered()
        rows = normalise(batch, self.table.spec)
        self.shard.write(
            make_part(rows, level or self.table.spec.durability, answered.done, climbed=answered.climbed, **more),
            alone=alone,
        )
        return answered

    def write(self, batch: pa.RecordBatch, level: str | None = None, **more: Any) -> PartAck:
        """Send and wait for the ack; raises what refused it."""
        return self.send(batch, level, **more).ack()

    def ids(self) -> list[int]:
        """trade_id of every row in memory, in offset order."""
        part = self.shard.run(HotScan())
        found = part.rows.sort_by("_offset")
        offsets: Sequence[int] = found["_offset"].to_pylist()
        assert offsets == list(range(part.seam, part.end)), "a hole in the offsets"
        return list(found["trade_id"].to_pylist())
