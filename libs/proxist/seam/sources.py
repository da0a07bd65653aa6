"""The two sides of the seam, as the executor sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from proxist.hot.ops import HotOp, HotPart, Probes
from proxist.model.ids import Epoch, Offset, ShardId, TimeNs
from proxist.model.table import Table
from proxist.seam.cuts import Chain, ColdCut
from proxist.seam.warm import WarmPart


class Catalog(Protocol):
    """What the executor must know of tables and shards; a mirror of etcd, or an owner's own state."""

    def table(self, tenant: str, name: str) -> Table:
        """Raises NotFound that names the known tables."""

    def chain(self, shard: ShardId, at_least: Epoch) -> Chain:
        """The shard's logs, up to epoch `at_least` or later; waits a moment for that, then raises Unavailable."""


class HotSource(Protocol):
    def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        """Run `op` on the shard's hot set, waiting up to `wait_ns` until its end is at least `min_end`.

        The part's own `end` tells whether it was reached: a timeout is no error here. Raises Unavailable (NotOwner)
        where no owner answers. Thread-safe.
        """

    def warm(self, shard: ShardId, op: HotOp, probes: Probes | None, first: Offset, end: Offset) -> WarmPart:
        """Run `op` (a scan, last_by, first_by or asof) over the rows [first, end) of the shard's log, at its owner.

        `first` was persisted and `end` the floor of a part. Raises Unavailable with the detail `reason` "persisted"
        where persisted has moved on and the log has let go of rows: then a new part is to be read. Thread-safe.
        """


@dataclass(frozen=True, slots=True)
class ColdScan:
    """Rows with time in [from_ns, to_ns); with a `limit` the first so many in Order (time, seq, offset).

    `before`: and of each key the last so many rows, in Order, with time < from_ns (which is then given, and no `limit`).
    The rows come in any order.
    """

    table: Table
    cuts: tuple[ColdCut, ...]
    columns: tuple[str, ...]
    keys: tuple[str, ...] | None
    from_ns: TimeNs | None
    to_ns: TimeNs | None
    limit: int | None = None
    before: int = 0


@dataclass(frozen=True, slots=True)
class ColdLastBy:
    """Per key the last row in Order with time <= at_ns."""

    table: Table
    cuts: tuple[ColdCut, ...]
    columns: tuple[str, ...]
    keys: tuple[str, ...] | None
    at_ns: TimeNs | None


@dataclass(frozen=True, slots=True)
class ColdFirstBy:
    """Per key the first row in Order with time >= at_ns."""

    table: Table
    cuts: tuple[ColdCut, ...]
    columns: tuple[str, ...]
    keys: tuple[str, ...] | None
    at_ns: TimeNs | None


@dataclass(frozen=True, slots=True)
class ColdAsof:
    """For each probe its best row, or for `nearest` the best of each direction; column `_probe` (int64) says whose it is."""

    table: Table
    cuts: tuple[ColdCut, ...]
    columns: tuple[str, ...]
    probes: Probes
    direction: str
    tolerance_ns: int | None
    allow_exact: bool


ColdOp = ColdScan | ColdLastBy | ColdFirstBy | ColdAsof


class ColdSource(Protocol):
    def read(self, op: ColdOp) -> pa.Table:
        """One cold statement. `columns` of the answer: those of `op` (`_log`, `_offset` may be among them) in the
        table's own Arrow types. Raises Unavailable where the store does not answer. Thread-safe."""


Step = Callable[[], None]
"""Called between the steps of a query; raises DeadlineExceeded or whatever else ends it early."""


def no_step() -> None:
    """Nothing to check: no deadline, no cancel."""
