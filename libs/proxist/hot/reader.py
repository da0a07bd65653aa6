"""HotReader: any process's side of a hot set. Never writes, never blocks the owner."""

from __future__ import annotations

import pyarrow as pa

from proxist.hot.ops import HotOp, HotPart, Marks, Probes
from proxist.model.ids import Epoch, ShardId


class HotReader:
    """Reads one shard's hot set; safe for any number of threads.

    Every method that reads rows raises Unavailable (details: `shard`, `reason` in "lease", "epoch", "closed",
    "evicting") where it cannot vouch for the answer; for "evicting" the owner itself can still answer.
    """

    @classmethod
    def attach(cls, fd: int, epoch_page_path: str | None = None) -> HotReader:
        """Map the memory behind `fd` read-only (the caller keeps and closes `fd`).

        Raises Unavailable where the memory has another format version or the machine is not x86-64.
        """
        raise NotImplementedError

    @property
    def shard(self) -> ShardId:
        raise NotImplementedError

    @property
    def epoch(self) -> Epoch:
        raise NotImplementedError

    @property
    def schema(self) -> pa.Schema:
        """The table's schema, without hidden columns."""
        raise NotImplementedError

    def run(self, op: HotOp, probes: Probes | None = None) -> HotPart:
        """Answer `op` (with `probes` for HotAsof) as of one instant; an exact copy.

        Raises InvalidArgument for an unknown column, Unavailable as above.
        """
        raise NotImplementedError

    def marks(self) -> Marks:
        """Where the shard stands. Raises Unavailable as `run` does."""
        raise NotImplementedError

    def close(self) -> None:
        """Unmap as soon as running calls have ended; later calls raise Unavailable (reason "closed")."""
        raise NotImplementedError
