"""Snapshots of an open shard: when one is due, taking it beside the writer, and giving up the log that three cover."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog

from proxist.errors import ProxistError
from proxist.failpoints import reach
from proxist.hot.boundaries import HotCarried
from proxist.hot.snapshots import (
    BOUNDARY,
    KEPT,
    Manifest,
    Part,
    Position,
    Snapshot,
    drop_snapshots,
    good_snapshots,
    snapshot_directory,
    write_snapshot,
)
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import Table
from proxist.wal import (
    SEGMENT_BYTES,
    LogMark,
    LogWriter,
    Segment,
    Volume,
    list_logs,
    remove_gone,
    remove_log,
    remove_segments,
    segments,
)
from proxist_ingest.bounds import Bounds
from proxist_ingest.carried import PRODUCERS_FILE, SEQS_FILE, Carry
from proxist_ingest.producers import RUNS_SCHEMA, Producers
from proxist_ingest.seqdedup import SEQS_SCHEMA, export_seqs

SNAPSHOT_BYTES = 256 * 2**20
"""Log between two snapshots: about a second of replay, and four segments that can be given up at a time."""
RETRY_NS = 10_000_000_000
"""After a failure, the log goes on meanwhile and is not shortened; and between two on a full disk."""

log = structlog.get_logger("proxist.ingest.snapshots")


@dataclass(frozen=True, slots=True)
class SnapshotRule:
    """Where the snapshots of a node's shards go, and how often one is taken."""

    data_dir: Path
    volume: Volume
    every_bytes: int = SNAPSHOT_BYTES


@dataclass(slots=True)
class SnapshotCounts:
    """For the metrics page; written by whoever takes a snapshot."""

    taken: int = 0
    failures: int = 0
    failing: str | None = None
    """Why the last try failed; None where it did not."""
    seconds: float = 0.0
    """How long the last one took."""
    segments_given_up: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotOf:
    """What a shard's snapshots are made of."""

    table: Table
    shard: ShardId
    epoch: Epoch
    log_writer: LogWriter
    hot: HotSet
    producers: Producers
    bounds: Bounds
    carry: Callable[[], Carry]
    """For any thread; waits for the shard's turn."""


class Behind(NamedTuple):
    """What a shard was recovered from."""

    snapshot: Snapshot | None
    log_bytes: int
    """What the logs that were read take on disk."""


NOTHING_BEHIND = Behind(None, 0)


class Snapshots:
    """The snapshots of one shard under one owner. For any thread."""

    def __init__(self, rule: SnapshotRule, of: SnapshotOf, behind: Behind) -> None:
        self.newest = behind.snapshot
        """The newest good one."""
        self.counts = SnapshotCounts()
        self._rule, self._of = rule, of
        self._behind_bytes = behind.log_bytes
        self._directory = snapshot_directory(rule.data_dir, of.shard)
        self._shard_dir = of.log_writer.log_dir.parent
        self._lock = threading.Lock()  # held while one is taken
        self._closed = False
        self._not_before_ns = 0
        self._pause_until_ns = 0
        self._given_up_to = Offset(0)
        self._taken_at: LogMark | None = None

    def due(self, now_ns: int) -> bool:
        """Whether so much log was written since the last one that the next should be taken. On a full disk, where the log
        does not grow, also whether more of it may go than the last ones gave up. For any thread."""
        if now_ns < self._not_before_ns:
            return False
        if self.log_bytes() >= self._rule.every_bytes:
            return True
        marks = self._of.hot.marks()
        more = min(marks.floor, marks.persisted) > self._given_up_to
        return more and self._rule.volume.full and now_ns >= self._pause_until_ns

    def take(self) -> Snapshot | None:
        """Take one now, then give up what it makes dispensable. None, logged and counted, where that failed: acks and
        reads do not notice, nothing was removed that is needed, and `due` says when to try again."""
        with self._lock:
            if self._closed:
                return None
            begun_ns = time.monotonic_ns()
            self._pause_until_ns = begun_ns + RETRY_NS
            try:
                taken = self._write()
            except Exception as error:  # whatever it was, the shard goes on
                self._failed("no snapshot was taken; trying again", error)
                return None
            self.newest = taken
            self.counts.taken += 1
            self.counts.seconds = (time.monotonic_ns() - begun_ns) / 1e9
            self.counts.failing = None
            given_up = 0
            try:
                given_up = self._give_up()
            except Exception as error:
                self._failed("the log was not shortened; the next snapshot tries again", error)
            told = taken.manifest
            log.info(
                "snapshot taken", shard=self._of.shard, table=self._of.table.name, number=taken.number, bytes=taken.bytes,
                seconds=round(self.counts.seconds, 3), floor=told.floor, end=told.position.end, segments_given_up=given_up,
            )  # fmt: skip
            return taken

    def _failed(self, what: str, error: Exception) -> None:
        self.counts.failures += 1
        self.counts.failing = error.message if isinstance(error, ProxistError) else f"{type(error).__name__}: {error}"
        self._not_before_ns = time.monotonic_ns() + RETRY_NS
        log.error(what, shard=self._of.shard, error=self.counts.failing)

    def close(self, *, last: bool) -> None:
        """Take none from now on; waits for one that is being taken. `last`: take one now, for a log that was sealed in
        good order, unless nothing was written since the newest."""
        since = self._taken_at
        if last and (since is None or self._of.log_writer.mark.records > since.records + 1):
            self.take()
        with self._lock:
            self._closed = True

    def log_bytes(self) -> int:
        """Log that was written since the newest one."""
        mark, since = self._of.log_writer.mark, self._taken_at
        if since is None:
            return self._behind_bytes + mark.segment * SEGMENT_BYTES + mark.position
        return (mark.segment - since.segment) * SEGMENT_BYTES + mark.position - since.position

    def _write(self) -> Snapshot:
        carry = self._of.carry()
        hot = self._of.hot.carried()
        # On disk in the log before in a snapshot: else this would know of rows and marks that a crash takes back.
        self._of.log_writer.sync()
        manifest = self._manifest(carry, hot)
        files = self._rule.volume.files
        taken = self._rule.volume.insist(
            lambda: write_snapshot(self._directory, manifest, self._parts(carry, hot), files)
        )
        self._taken_at = carry.mark
        return taken

    def _manifest(self, carry: Carry, hot: HotCarried) -> Manifest:
        return Manifest(
            table_id=self._of.table.id,
            shard=self._of.shard,
            schema_version=self._of.table.schema_version,
            start=hot.start,
            complete=hot.complete,
            floor=hot.floor,
            persisted=hot.persisted,
            t_persisted=hot.t_persisted,
            persisted_time_max=hot.persisted_time_max,
            evicted_time_max=hot.evicted_time_max,
            position=Position(self._of.epoch, carry.mark.records, carry.mark.segment, carry.mark.end),
            cuts=carry.cuts,
            created_ns=time.time_ns(),
        )

    def _parts(self, carry: Carry, hot: HotCarried) -> dict[str, Part]:
        parts: dict[str, Part] = {PRODUCERS_FILE: (RUNS_SCHEMA, self._of.producers.export(carry.producers))}
        if carry.seqs is not None:
            parts[SEQS_FILE] = SEQS_SCHEMA, export_seqs(carry.seqs)
        if hot.boundary:
            parts[BOUNDARY] = hot.boundary[0].schema, hot.boundary
        return parts

    def _give_up(self) -> int:
        """Remove older snapshots and the segments that all of the kept ones cover; returns how many segments."""
        good: list[Snapshot] = []
        for found in good_snapshots(self._directory, self._of.table.id, self._of.shard):
            if isinstance(found, Snapshot):
                good.append(found)
            else:
                log.warning("a snapshot is damaged", shard=self._of.shard, snapshot=str(found.path), cause=found.cause)
            if len(good) == KEPT:
                break
        else:
            return 0
        kept = [one.manifest for one in good]
        drop_snapshots(self._directory, good[-1].number, self._rule.volume.files)
        self._of.bounds.forget_gone(disposable(kept))
        reach("truncate.before")
        count = truncate(self._shard_dir, kept, self._rule.volume)
        reach("truncate.after")
        self._given_up_to = disposable(kept)
        self.counts.segments_given_up += count
        return count


def disposable(kept: Sequence[Manifest]) -> Offset:
    """Rows below it are in ClickHouse, and no recovery needs them, whichever of the kept snapshots it begins with."""
    # Not the oldest one's alone: after a start that could not read the newest, the next one's floor is lower than that.
    return min(min(one.floor, one.persisted) for one in kept)


def truncate(shard_dir: Path, kept: Sequence[Manifest], volume: Volume) -> int:
    """Give up the segments of a shard's logs whose rows are all persisted and below the floor of every snapshot in
    `kept`, and whose records are all in the state of each; whole logs too, and what a crash left of such. Returns how
    many. Raises OSError."""
    remove_gone(shard_dir, volume)
    limit, position = disposable(kept), min(one.position for one in kept)
    chain = list_logs(shard_dir)
    count = 0
    for (epoch, path), following in zip(chain, [*chain[1:], None], strict=True):
        if epoch > position.epoch:
            break
        listed = segments(path)
        ends = None if following is None else _begin(following.path)
        if epoch < position.epoch and ends is not None and ends <= limit:
            remove_log(shard_dir, epoch, volume)
            count += len(listed)
            continue
        below = _newest_below(listed, limit)
        count += remove_segments(path, min(below, position.segment) if epoch == position.epoch else below, volume)
        break  # what is left of this log comes before every later one
    return count


def _newest_below(listed: Sequence[Segment], limit: Offset) -> int:
    """Number of the newest segment that is known to begin at or below `limit`, so that those before it hold no row from
    there on; 0 where none is. Past a header that cannot be read, or does not ascend, nothing is known."""
    number, highest = 0, Offset(0)
    for one in listed:
        if one.first is None or not highest <= one.first <= limit:
            break
        number, highest = one.number, one.first
    return number


def _begin(log_dir: Path) -> Offset | None:
    """The first offset of a log's oldest segment; None where it cannot be read."""
    return segments(log_dir)[0].first
