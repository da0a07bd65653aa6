"""What a shard's cut means for its cold side: pure decisions over the chain of its logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from proxist.errors import Stale, TokenLost
from proxist.model.ids import Epoch, LogId, Offset, ShardId, log_id
from proxist.model.token import Mark


@dataclass(frozen=True, slots=True)
class Log:
    """One log of a shard. `end` is None while it is open; offsets at or above an `end` were not (or no longer) its rows."""

    epoch: Epoch
    start: Offset
    end: Offset | None
    state: str
    """"open", "sealed" or "abandoned"."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The logs of a shard, oldest first; each begins where its predecessor ended."""

    shard: ShardId
    logs: tuple[Log, ...]

    @property
    def newest(self) -> Epoch:
        """The epoch of the last log; 0 where the shard never had one."""
        return self.logs[-1].epoch if self.logs else Epoch(0)

    def log_ids(self, offsets: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
        """The `_log` of each offset: that of the last log which starts at or below it (empty logs own nothing)."""
        if not self.logs:
            return np.zeros(len(offsets), np.uint64)
        starts = np.array([log.start for log in self.logs], np.uint64)
        ids = np.array([log_id(self.shard, log.epoch) for log in self.logs], np.uint64)
        at = np.searchsorted(starts, offsets.astype(np.uint64), side="right") - 1
        return ids[np.maximum(at, 0)]

    def check(self, mark: Mark, subject: str) -> None:
        """Raises TokenLost where `mark` names rows above the end of its log, Stale where this chain is too old to know."""
        if mark.end == 0:
            return
        if mark.epoch > self.newest:
            raise Stale(
                f"The token names epoch {mark.epoch} of {subject}, but the newest known here is {self.newest}. Try again.",
                retry_after_s=0.1,
                shard=self.shard,
            )
        log = next((log for log in self.logs if log.epoch == mark.epoch), None)
        if log is None and self.logs and mark.epoch > self.logs[0].epoch:
            raise TokenLost(
                f"The token names epoch {mark.epoch} of {subject}, which never had a log. Read without it.",
                shard=self.shard,
            )
        if log is not None and log.end is not None and mark.end > log.end:
            raise TokenLost(
                f"The token stands at offset {mark.end} of {subject}, but epoch {mark.epoch} ended at {log.end}: "
                f"rows [{log.end}, {mark.end}) were lost. Write them again, and read without this token.",
                shard=self.shard,
                lost_first=log.end,
                lost_end=mark.end,
            )


@dataclass(frozen=True, slots=True)
class ColdCut:
    """The cold side of one shard: `first_log <= _log <= last_log`, `_offset < below`, and not in `lost`.

    `lost`: (log, end) of abandoned logs, whose rows at or above `end` are no rows of the shard.
    """

    shard: ShardId
    first_log: LogId
    last_log: LogId
    below: Offset
    lost: tuple[tuple[LogId, Offset], ...] = ()

    def holds(self, log: int, offset: int) -> bool:
        """Whether a stored row belongs to this side: the definition that every rendering must match."""
        return (
            self.first_log <= log <= self.last_log
            and offset < self.below
            and not any(log == lost and offset >= end for lost, end in self.lost)
        )


def cold_cut(chain: Chain, epoch: Epoch, seam: Offset, end: Offset) -> ColdCut | None:
    """The cold side of a cut, or None where nothing of the shard can lie there."""
    below = Offset(min(seam, end))
    if below <= 0:
        return None
    lost = tuple(
        (log_id(chain.shard, log.epoch), log.end)
        for log in chain.logs
        if log.state == "abandoned" and log.end is not None and log.end < below and log.epoch <= epoch
    )
    return ColdCut(chain.shard, log_id(chain.shard, Epoch(0)), log_id(chain.shard, epoch), below, lost)
