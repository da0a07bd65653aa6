"""What /metrics says of an ingest node: read from the shards when it is asked for; the write path only counts integers."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from proxist.telemetry import metrics as m
from proxist.telemetry.figures import Histogram, Scrape, Source
from proxist.telemetry.spec import Spec
from proxist.wal.chain import list_logs, list_segments
from proxist_ingest.counts import Refusals
from proxist_ingest.inbox import QUEUE_BYTES_MAX
from proxist_ingest.shard import Shard
from proxist_ingest.snapshotting import Snapshots


def disk(data_dir: Path) -> Source:
    """The volume that the logs lie on."""

    def add(scrape: Scrape) -> None:
        volume = os.statvfs(data_dir)
        scrape.add(m.INGEST_DISK_FREE, volume.f_bavail * volume.f_frsize)
        scrape.add(m.INGEST_DISK_SIZE, volume.f_blocks * volume.f_frsize)

    return add


def shards(open_shards: Callable[[], list[Shard]]) -> Source:
    """The shards that `open_shards` names at the time."""

    def add(scrape: Scrape) -> None:
        scrape.add(m.INGEST_QUEUE_LIMIT, QUEUE_BYTES_MAX)
        sums = _Sums()
        for shard in open_shards():
            labels = (shard.table.tenant, shard.table.name, str(shard.id))
            _add_counts(scrape, shard, labels)
            _add_log(scrape, shard, labels)
            if shard.snapshots is not None:
                _add_snapshots(scrape, shard.snapshots, labels)
            _add_hot(scrape, shard, labels)
            for level, seconds in shard.counts.ack_seconds.items():
                sums.include(m.INGEST_ACK_SECONDS, seconds, *labels[:2], level)
            sums.include(m.INGEST_GROUP_BATCHES, shard.counts.group_batches, *labels[:2])
            sums.include(m.INGEST_SYNC_SECONDS, shard.counts.sync_seconds, *labels[:2])
        sums.add_to(scrape)

    return add


class _Sums:
    """Histograms of a table over its shards: shard by shard they would be most of the page."""

    def __init__(self) -> None:
        self._sums: dict[tuple[Spec, tuple[str, ...]], Histogram] = {}

    def include(self, spec: Spec, histogram: Histogram, *labels: str) -> None:
        self._sums.setdefault((spec, labels), Histogram(spec.buckets)).include(histogram)

    def add_to(self, scrape: Scrape) -> None:
        for (spec, labels), histogram in self._sums.items():
            scrape.histogram(spec, histogram, *labels)


def invalid(refused: Mapping[tuple[str, str], Refusals]) -> Source:
    """What the door refused, by tenant and table."""

    def add(scrape: Scrape) -> None:
        for labels, refusals in dict(refused).items():
            for code, batches, rows in refusals.read():
                scrape.add(m.INGEST_INVALID_BATCHES, batches, *labels, code)
                scrape.add(m.INGEST_INVALID_ROWS, rows, *labels, code)

    return add


def _add_counts(scrape: Scrape, shard: Shard, labels: tuple[str, ...]) -> None:
    counts = shard.counts
    scrape.add(m.INGEST_ROWS, counts.rows, *labels)
    scrape.add(m.INGEST_BYTES, counts.bytes, *labels)
    scrape.add(m.INGEST_BATCHES, counts.batches, *labels)
    scrape.add(m.INGEST_REPEATS, counts.repeats, *labels)
    scrape.add(m.INGEST_DEDUPLICATED, counts.deduplicated_rows, *labels)
    for code, batches, rows in counts.refusals.read():
        scrape.add(m.INGEST_REFUSED_BATCHES, batches, *labels, code)
        scrape.add(m.INGEST_REFUSED_ROWS, rows, *labels, code)
    scrape.add(m.INGEST_WAITING_ACKS, shard.waiting_acks(), *labels)
    batches, waiting_bytes = shard.inbox.waiting()
    scrape.add(m.INGEST_QUEUE_BATCHES, batches, *labels)
    scrape.add(m.INGEST_QUEUE_BYTES, waiting_bytes, *labels)


def _add_log(scrape: Scrape, shard: Shard, labels: tuple[str, ...]) -> None:
    marks, log = shard.marks(), shard.log_writer
    sizes = _segment_bytes(log.log_dir.parent)
    oldest_ns = shard.counts.arrivals.oldest_ns()
    scrape.add(m.INGEST_WAL_BYTES, sum(sizes), *labels)
    scrape.add(m.INGEST_WAL_SEGMENTS, len(sizes), *labels)
    scrape.add(m.INGEST_WAL_UNSYNCED, max(0, log.end - log.synced), *labels)
    scrape.add(m.INGEST_UNPERSISTED, marks.end - marks.persisted, *labels)
    lag_ns = 0 if oldest_ns is None else time.monotonic_ns() - oldest_ns
    scrape.add(m.INGEST_PERSIST_LAG, lag_ns / 1e9, *labels)
    scrape.add(m.INGEST_END, marks.end, *labels)
    scrape.add(m.INGEST_PERSISTED, marks.persisted, *labels)
    scrape.add(m.INGEST_FLOOR, marks.floor, *labels)
    scrape.add(m.INGEST_EPOCH, shard.epoch, *labels)
    scrape.add(m.HOT_ROWS, marks.end - marks.floor, *labels)
    warm = max(0, marks.floor - marks.persisted)
    scrape.add(m.WARM_ROWS, warm, *labels)
    scrape.add(m.WARM_BYTES, shard.tail.bytes_from(marks.persisted, marks.floor) if warm else 0, *labels)
    scrape.add(m.HOT_KEYS, marks.key_count, *labels)
    scrape.add(m.HOT_EVICTED_ROWS, marks.floor - shard.hot.first, *labels)


def _add_snapshots(scrape: Scrape, snapshots: Snapshots, labels: tuple[str, ...]) -> None:
    counts, newest = snapshots.counts, snapshots.newest
    scrape.add(m.INGEST_SNAPSHOTS, counts.taken, *labels)
    scrape.add(m.INGEST_SNAPSHOT_FAILURES, counts.failures, *labels)
    scrape.add(m.INGEST_SNAPSHOT_SECONDS, counts.seconds, *labels)
    scrape.add(m.INGEST_SNAPSHOT_LOG, snapshots.log_bytes(), *labels)
    if newest is not None:
        scrape.add(m.INGEST_SNAPSHOT_AGE, (time.time_ns() - newest.manifest.created_ns) / 1e9, *labels)
        scrape.add(m.INGEST_SNAPSHOT_BYTES, newest.bytes, *labels)


def _add_hot(scrape: Scrape, shard: Shard, labels: tuple[str, ...]) -> None:
    hot = shard.hot
    blocks, used = hot.usage()
    scrape.add(m.HOT_BLOCKS, blocks, *labels)
    scrape.add(m.HOT_BYTES, used, *labels)
    scrape.add(m.HOT_LIMIT, hot.bound_bytes, *labels)
    scrape.add(m.HOT_EVICTIONS, hot.eviction_count, *labels)
    scrape.add(m.HOT_ATTACHES, shard.counts.attaches, *labels)
    scrape.add(m.HOT_RETRIES, shard.reader.retry_count, *labels)


def _segment_bytes(shard_dir: Path) -> list[int]:
    """Sizes of the chain's segments; one that is deleted meanwhile is none."""
    sizes = []
    for log in list_logs(shard_dir):
        for _, path in list_segments(log.path):
            with contextlib.suppress(OSError):
                sizes.append(path.stat().st_size)
    return sizes
