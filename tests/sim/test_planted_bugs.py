"""Seven bugs, planted one at a time: the simulator finds each of them within the seeds that it is given here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sim_clickhouse
import sim_clients
import sim_wiring
from sim_run import run
from sim_threads import sim

import proxist_persister.batches
from proxist.etcd.mirror import Mirror
from proxist.etcd.watch import WatchBatch
from proxist.hot import operators
from proxist.hot.operators import Operators
from proxist.hot.ops import ColdNeed, HotPart
from proxist.model.ids import Offset
from proxist.wal import LogWriter
from proxist_ingest.commit import Committer

Plant = Callable[[pytest.MonkeyPatch], None]


def skipped_fsync(patch: pytest.MonkeyPatch) -> None:
    """The log says that it flushed, and did not."""

    def sync(self: Any) -> Offset:
        with self._lock:
            self._check_usable_locked()
            self._synced = self.mark
            self._moved.notify_all()
            return self._synced.end

    patch.setattr(LogWriter, "sync", sync)


def off_by_one_watermark(patch: pytest.MonkeyPatch) -> None:
    """The owner takes one row more for persisted than it was told."""
    told = Committer.set_persisted

    def set_persisted(self: Any, persisted: Offset) -> None:
        told(self, Offset(min(persisted + 1, self._log.end)))

    patch.setattr(Committer, "set_persisted", set_persisted)


def reused_insert_token(patch: pytest.MonkeyPatch) -> None:
    """Every batch of a log has the same token in the same partition."""
    made = proxist_persister.batches.Insert

    def insert(partition: str, token: str, rows: Any) -> Any:
        log, *_ = token.split(":")
        return made(partition, f"{log}:{partition}", rows)

    patch.setattr(proxist_persister.batches, "Insert", insert)


def stale_epoch_write(patch: pytest.MonkeyPatch) -> None:
    """An owner that lost its lease acks all the same."""
    patch.setattr(Committer, "_check_lease", lambda _: None)


def lost_watch_event(patch: pytest.MonkeyPatch) -> None:
    """Now and then a change of the catalog is not taken over."""
    apply = Mirror._apply

    def drops(self: Mirror, batch: WatchBatch) -> None:
        if sim().random.random() >= 0.1:
            apply(self, batch)

    patch.setattr(Mirror, "_apply", drops)


def stalled_persisters_late_insert(patch: pytest.MonkeyPatch) -> None:
    """ClickHouse takes the insert of a persister that was given up, after its successor's, and knows no token."""
    build = sim_clickhouse.SimClickHouse.__post_init__

    def forgets(self: Any) -> None:
        self.dedup_window = 0
        build(self)

    patch.setattr(sim_clickhouse.SimClickHouse, "__post_init__", forgets)


def block_reused_under_a_reader(patch: pytest.MonkeyPatch) -> None:
    """Readers look neither at the floor nor at boundary rows again after they have copied."""

    def part(self: Operators, rows: Any, cut: Any, cold: ColdNeed) -> HotPart | None:
        if rows is None:
            return None
        marks = Offset(cut.seam), Offset(cut.end), Offset(cut.floor), Offset(cut.persisted)
        return HotPart(rows, self._epoch, *marks, cold)

    patch.setattr(Operators, "_part", part)
    patch.setattr(operators.reading, "still_valid", lambda *_: True)
    patch.setattr(sim_clients, "PACE_S", 0.1)
    patch.setattr(sim_wiring, "READING_CHANCE", 0.6)


@pytest.mark.parametrize(
    ("plant", "seeds"),
    [
        (skipped_fsync, 20),
        (off_by_one_watermark, 5),
        (reused_insert_token, 10),
        (stale_epoch_write, 40),
        (lost_watch_event, 20),
        (stalled_persisters_late_insert, 20),
        (block_reused_under_a_reader, 40),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, plant: Plant, seeds: int) -> None:
    plant(monkeypatch)
    for seed in range(seeds):
        found = run(seed).violation
        if found is not None:
            print(f"{plant.__name__}: found by seed {seed}: {found}")
            return
    pytest.fail(f"{plant.__name__} was not found by {seeds} seeds")
