"""HotReader: any process's side of a hot set. Never writes, never blocks the owner.

The protocol (docs/formats/hot.md): read the end E, then the seam S; use only rows with offset in [S, E), and boundary
rows below E; copy; then check that the floor is still at or below S, that no boundary row in use was rewritten, and that
the owner still is the owner. Else begin again.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import Unavailable
from proxist.hot import words as w
from proxist.hot.arena import Views, map_readonly
from proxist.hot.epoch_page import EpochPage
from proxist.hot.kernels import prepared as kernels
from proxist.hot.layout import Layout
from proxist.hot.operators import Operators
from proxist.hot.ops import HotOp, HotPart, Marks, Probes
from proxist.hot.pins import Pins
from proxist.hot.prepared import LastRows, PreparedAsof, PreparedEvery, PreparedLastBy
from proxist.hot.prepared_window import PreparedWindow
from proxist.model.ids import Epoch, Offset, ShardId, TimeNs
from proxist.model.query import Agg
from proxist.model.table import TableSpec

TRIES = 8
_TRIES_BEFORE_PIN = 2
_SHARED_MAX = 64


class HotReader:
    """Reads one shard's hot set; safe for any number of threads.

    Every method that reads rows raises Unavailable (details: `shard`, `reason` in "lease", "epoch", "closed",
    "evicting") where it cannot vouch for the answer; for "evicting" the owner itself can still answer.
    """

    def __init__(
        self, layout: Layout, views: Views, epoch_page_path: str | None = None, pins: Pins | None = None
    ) -> None:
        """Use `attach`, or `HotSet.reader`."""
        self._layout = layout
        self._operators: Operators | None = Operators(layout, views)
        self._shard, self._epoch = ShardId(int(views.mem[w.H_SHARD])), Epoch(int(views.mem[w.H_EPOCH]))
        self._page = EpochPage(epoch_page_path) if epoch_page_path else None
        self._pins = pins
        self._shared: dict[tuple[tuple[str, ...], int], tuple[threading.Lock, PreparedLastBy]] = {}
        self.retry_count = 0
        """Reads that began again because rows were evicted under them; not exact where threads meet."""

    @classmethod
    def attach(cls, fd: int, epoch_page_path: str | None = None) -> HotReader:
        """Map the memory behind `fd` read-only (the caller keeps and closes `fd`).

        Raises Unavailable where the memory has another format version or the machine is not x86-64.
        """
        layout, views = map_readonly(fd)
        return cls(layout, views, epoch_page_path)

    @property
    def shard(self) -> ShardId:
        return self._shard

    @property
    def epoch(self) -> Epoch:
        return self._epoch

    @property
    def spec(self) -> TableSpec:
        """The table's spec as of this epoch."""
        return self._layout.spec

    @property
    def tenant(self) -> str:
        return self._layout.tenant

    @property
    def schema(self) -> pa.Schema:
        """The table's schema, without hidden columns."""
        return self._layout.spec.schema

    def run(self, op: HotOp, probes: Probes | None = None) -> HotPart:
        """Answer `op` (with `probes` for HotAsof) as of one instant; an exact copy.

        An `op.end` above the published end is the published end: the caller sees it in the part and waits.
        Raises InvalidArgument for an unknown column, Unavailable as above.
        """
        for tried in range(TRIES):
            operators = self._alive()
            if self._pins is not None and tried >= _TRIES_BEFORE_PIN:
                with self._pins.pinned():
                    part = operators.attempt(op, probes)
            else:
                part = operators.attempt(op, probes)
            if part is not None:
                self._alive()
                return part
            self.retry_count += 1
        raise self._outrun()

    def prepare_last_by(self, keys: tuple[str, ...], columns: tuple[str, ...]) -> PreparedLastBy:
        """Each key's last row, row i for keys[i], for `read`. Raises InvalidArgument for a column that the table does
        not have or that has no fixed width, Unavailable as `run` does."""
        return PreparedLastBy(*self._prepare(keys, columns))

    def prepare_asof(
        self,
        keys: tuple[str, ...],
        columns: tuple[str, ...],
        *,
        direction: str = "backward",
        tolerance_ns: int | None = None,
        allow_exact: bool = True,
    ) -> PreparedAsof:
        """Each key's row as of a time, row i for keys[i] at times[i] of `read(prepared, times)`; the rule as in HotAsof."""
        base = self._prepare(keys, columns)
        return PreparedAsof(*base, direction=direction, tolerance_ns=tolerance_ns, allow_exact=allow_exact)

    def prepare_window(self, key: str, agg: Agg, range_ns: int) -> PreparedWindow:
        """The aggregate over the rows of `key` with time in (t - range_ns, t], t being its last row's, for `read`. Raises
        InvalidArgument for an aggregate that cannot be prepared, Unavailable as `run` does."""
        layout, views, L, keys, page, *_ = self._prepare((), ())
        return PreparedWindow(layout, views, L, keys, page, key, agg, range_ns)

    def read(self, prepared: PreparedLastBy | PreparedAsof | PreparedWindow, *times: npt.NDArray[np.int64]) -> None:
        """Read as of one instant into the arrays of `prepared`, which is for one thread at a time; an as-of's `times`
        are read-only. Where it raises Unavailable (as `run` does) the arrays hold anything."""
        for tried in range(TRIES):
            if self._operators is None:
                raise self._dead("closed", "this reader was closed")
            if self._pins is not None and tried >= _TRIES_BEFORE_PIN:
                with self._pins.pinned():
                    status = prepared.attempt(*times)
            else:
                status = prepared.attempt(*times)
            if status == kernels.DONE and time.monotonic_ns() < prepared.told[kernels.T_LEASE]:
                return
            if status != kernels.AGAIN:
                self._alive()
            self.retry_count += 1
        raise self._outrun()

    def last_rows(self, keys: tuple[str, ...], columns: tuple[str, ...]) -> LastRows:
        """Each key's last row as of one instant, row i for keys[i]: a prepared read that all threads share, one per columns
        and number of keys. Raises as `prepare_last_by` and `read` do."""
        shared = self._shared.get((columns, len(keys)))
        if shared is None:
            shared = self._share(keys, columns)
        lock, prepared = shared
        with lock:
            prepared.turn_to(keys)
            self.read(prepared)
            return LastRows(prepared.shape, *prepared.copied(), prepared.undecided)

    def prepare_every(self, columns: tuple[str, ...]) -> PreparedEvery:
        """Each key's last row, of all keys that there are now, for `read`; once it is `outdated` it is made anew. Raises as
        `prepare_last_by` does."""
        layout, views, L, keys, page, *_ = self._prepare((), ())
        return PreparedEvery(layout, views, L, keys, page, columns)

    def _share(self, keys: tuple[str, ...], columns: tuple[str, ...]) -> tuple[threading.Lock, PreparedLastBy]:
        made = threading.Lock(), self.prepare_last_by(keys, columns)
        if len(self._shared) >= _SHARED_MAX:
            self._shared = {}
        self._shared[columns, len(keys)] = made
        if self._operators is None:
            self._shared = {}  # closed meanwhile: what is prepared holds the memory
        return made

    def _prepare(self, keys: tuple[str, ...], columns: tuple[str, ...]) -> tuple[Any, ...]:
        operators = self._alive()
        page = np.array([0, self._epoch], np.int64) if self._page is None else self._page.cells
        page.flags.writeable = False
        return (*operators.parts(), page, keys, columns)

    def _outrun(self) -> Unavailable:
        return Unavailable(
            f"Shard {self._shard} evicted rows during each of {TRIES} tries to read it. Ask its owner, or try again.",
            shard=self._shard,
            reason="evicting",
        )

    def marks(self) -> Marks:
        """Where the shard stands. Raises Unavailable as `run` does."""
        operators = self._alive()
        marks = read_marks(operators.mem, operators.keys.count)
        self._alive()
        return marks

    def check_alive(self) -> None:
        """Raises Unavailable unless the owner's lease holds and no newer epoch started on this host."""
        self._alive()

    def _alive(self) -> Operators:
        operators = self._operators
        if operators is None or operators.mem[w.H_CLOSED]:
            raise self._dead("closed", "its owner or this reader was closed")
        if time.monotonic_ns() >= operators.mem[w.H_LEASE_UNTIL]:
            raise self._dead("lease", "its owner's lease has run out")
        if self._page is not None and self._page.epoch != self._epoch:
            raise self._dead("epoch", f"epoch {self._page.epoch} has started, this is epoch {self._epoch}")
        return operators

    def _dead(self, reason: str, why: str) -> Unavailable:
        return Unavailable(
            f"The hot set of shard {self._shard} cannot be read: {why}. Ask for its owner again.",
            shard=self._shard,
            reason=reason,
        )

    def close(self) -> None:
        """Unmap as soon as running calls have ended; later calls raise Unavailable (reason "closed")."""
        self._operators = None
        self._shared = {}


def read_marks(mem: npt.NDArray[np.int64], key_count: int) -> Marks:
    """One consistent reading of the marks."""
    while True:
        words = mem[w.H_END : w.H_T_PERSISTED + 1].tolist()
        if mem[w.H_END : w.H_T_PERSISTED + 1].tolist() == words:
            break
    end, floor, persisted, lease, _, evicted, t_persisted = words
    return Marks(
        shard=ShardId(int(mem[w.H_SHARD])),
        epoch=Epoch(int(mem[w.H_EPOCH])),
        start=Offset(int(mem[w.H_START])),
        floor=Offset(floor),
        persisted=Offset(persisted),
        end=Offset(end),
        lease_until_ns=lease,
        evicted_time_max=None if evicted == w.INT64_MIN else TimeNs(evicted),
        t_persisted=None if t_persisted == w.INT64_MIN else TimeNs(t_persisted),
        key_count=key_count,
    )
