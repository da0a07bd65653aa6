"""A shard with three snapshots and a shortened log, and what every good recovery of it must say."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ingest_rows import DAY_NS, rows, table
from ingest_shards import Owner

from proxist.etcd.records import ShardRecord
from proxist.hot.ops import HotAsof, HotLastBy, HotScan, Probes
from proxist.model.ids import Epoch, Offset
from proxist.model.table import Table
from proxist_ingest.recover import RecoveredShard, recover_shard
from proxist_ingest.residency import EvictTo

BATCH, KEYS = 250, 11
SEGMENT_BYTES = 64 * 2**10


def table_of(durability: str = "os") -> Table:
    return table(durability=durability, flush={"rows": 1000, "age": "1h"}, hot_bytes="4MiB")


def owner_in(path: Path, durability: str = "os") -> Owner:
    return Owner(table_of(durability), path, snapshot_bytes=2**40, segment_bytes=SEGMENT_BYTES)


def write(owner: Owner, first: int, batches: int) -> int:
    """Numbered batches of BATCH rows; returns the end."""
    for n in range(first // BATCH, first // BATCH + batches):
        owner.write(rows(BATCH, first=BATCH * n, keys=KEYS), producer=f"p{n % 2}", number=n // 2)
    return first + BATCH * batches


def persist(owner: Owner, behind: int) -> None:
    """Cut, and persist whole batches up to `behind` rows before the end."""
    end = owner.shard.flush()
    while owner.shard.bounds.exposed < end:
        assert owner.shard.bounds.after(owner.shard.bounds.exposed, 10) is not None
    bounds = [bound for bound in owner.shard.bounds.cuts().ends if bound <= end - behind]
    if bounds:
        owner.shard.advance_persisted(owner.shard.epoch, bounds[-1])


def snapshot(owner: Owner) -> None:
    assert owner.shard.snapshots is not None
    assert owner.shard.snapshots.take() is not None


@dataclass(frozen=True)
class Home:
    """A data directory that was left behind, and the chain in etcd."""

    data_dir: Path
    record: ShardRecord
    table: Table

    def recover(self, data_dir: Path | None = None) -> RecoveredShard:
        epoch = Epoch(self.record.epoch + 1)
        return recover_shard(data_dir or self.data_dir, self.table, self.record, epoch, Offset(0), lambda _: None)


def make_home(path: Path) -> Home:
    """Two logs, three snapshots, the beginning of the log given up, rows above the newest snapshot."""
    owner = owner_in(path)
    owner.open()
    end = write(owner, 0, 40)
    for step in range(4):
        persist(owner, 500)
        owner.shard.evict(EvictTo(rows=3000 - 500 * step))
        snapshot(owner)
        end = write(owner, end, 8)
        if step == 1:
            owner.crash()
            owner.open()
    persist(owner, 1000)
    end = write(owner, end, 3)
    assert owner.shard.snapshots is not None
    assert owner.shard.snapshots.counts.segments_given_up
    owner.crash()
    return Home(path, owner.record, owner.table)


def answers(found: RecoveredShard, floor: int) -> dict[str, Any]:
    """What does not depend on how far the floor is below `floor`."""
    found.hot.set_lease_until(2**62)
    reader, marks = found.hot.reader(), found.hot.marks()
    last = reader.run(HotLastBy())
    assert not last.cold, "RAM knows the last row of every key"
    resident = reader.run(HotScan()).rows.sort_by("_offset")
    ids = resident["_offset"].to_numpy()
    probes = Probes(
        pa.array([f"S{i % KEYS}" for i in range(50)]), DAY_NS + np.arange(floor, floor + 500, 10, dtype=np.int64) * 1000
    )
    asof = reader.run(HotAsof(), probes)
    assert not asof.cold
    producers = found.carried.producers
    return {
        "marks": (marks.start, marks.persisted, marks.end),
        "last": last.rows.to_pylist(),
        "rows": resident.slice(int(np.searchsorted(ids, floor))).to_pylist(),
        "asof": asof.rows.to_pylist(),
        "producers": [run for batch in producers.export(producers.instant()) for run in batch.to_pylist()],
        "cuts": [end for end in found.carried.bounds.cuts().ends if end >= marks.persisted],
    }


def log_files(path: Path) -> dict[str, str]:
    """Every file of the logs with the hash of its bytes."""
    found = sorted(p for p in (path / "wal").rglob("*") if p.is_file())
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}
