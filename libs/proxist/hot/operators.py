"""The operators, on one mapping: each is one optimistic try that either holds or is thrown away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import InvalidArgument
from proxist.hot import words as w
from proxist.hot.arena import Views
from proxist.hot.halves import in_halves
from proxist.hot.kernels import asof as searching
from proxist.hot.kernels import read as reading
from proxist.hot.kernels_descend import PLACES
from proxist.hot.keys import KeyIndex
from proxist.hot.layout import Layout
from proxist.hot.ops import (
    ColdNeed,
    HotAsof,
    HotBars,
    HotFirstBy,
    HotLastBy,
    HotOp,
    HotPart,
    HotScan,
    HotWindow,
    Probes,
)
from proxist.hot.outgoing import GatherPlan, output_names
from proxist.hot.sorting import in_order
from proxist.hot.window_answers import WindowAnswers
from proxist.model.ids import Epoch, Offset

Ints = npt.NDArray[np.int64]
_PLANS_MAX = 256
_GROUPED_FROM = 16_384
"""So many probes are searched and copied key by key: each key's blocks are then met while they are in the caches."""
_DIRECTIONS = {"backward": searching.BACKWARD, "forward": searching.FORWARD, "nearest": searching.NEAREST}


class _Cut:
    """What one try reads: offsets in [seam, end), and whether the hot set knows all of the shard's history."""

    __slots__ = ("complete", "end", "floor", "persisted", "seam")

    def __init__(self, mem: Ints, op: HotOp) -> None:
        # The end first: whatever rows below it depend on is then there (kernels_write).
        end = int(mem[w.H_END])
        self.floor = int(mem[w.H_FLOOR])
        self.persisted = int(mem[w.H_PERSISTED])
        self.end = end if op.end is None else min(end, op.end)
        # Where the floor has passed persisted, the rows between are in the log alone: RAM begins at the floor.
        tail = isinstance(op, HotScan) and op.seam == "persisted"
        self.seam = max(self.persisted, self.floor) if tail else self.floor
        self.complete = int(mem[w.H_COMPLETE])


class Operators:
    """Everything that answers need, in one object: who holds it keeps the memory mapped."""

    def __init__(self, layout: Layout, views: Views) -> None:
        self.mem = views.mem
        self.keys = KeyIndex(layout, views)
        self._layout, self._views, self._mem, self._keys = layout, views, views.mem, self.keys
        self._L = layout.kernel_layout()
        self._window_answers = WindowAnswers(layout, views, self._L)
        self._epoch = Epoch(int(views.mem[w.H_EPOCH]))
        self._plans: dict[tuple[tuple[str, ...] | None, bool], GatherPlan] = {}
        self._by_type: dict[type, Callable[..., HotPart | None]] = {
            HotScan: self._scan, HotLastBy: self._by_key, HotFirstBy: self._by_key, HotAsof: self._asof,
            HotWindow: self._windows, HotBars: self._windows,
        }  # fmt: skip

    def parts(self) -> tuple[Layout, Views, Ints, KeyIndex]:
        """What a prepared read is made from."""
        return self._layout, self._views, self._L, self._keys

    def attempt(self, op: HotOp, probes: Probes | None) -> HotPart | None:
        """One try; None where the owner moved on under it."""
        return self._by_type[type(op)](op, _Cut(self._mem, op), probes)

    def _plan(self, columns: tuple[str, ...] | None, *, unmatched: bool) -> GatherPlan:
        plan = self._plans.get((columns, unmatched))
        if plan is None:
            names = output_names(self._layout, columns, with_key=not unmatched)
            plan = GatherPlan(self._layout, self._views, self._L, names, unmatched=unmatched)
            if len(self._plans) >= _PLANS_MAX:
                self._plans.clear()
            self._plans[columns, unmatched] = plan
        return plan

    def _part(self, rows: pa.RecordBatch | None, cut: _Cut, cold: ColdNeed) -> HotPart | None:
        """The answer, if the floor did not pass the seam while it was copied: the last check of the protocol."""
        if rows is None or int(self._mem[w.H_FLOOR]) > cut.seam:
            return None
        return HotPart(
            rows, self._epoch, Offset(cut.seam), Offset(cut.end), Offset(cut.floor), Offset(cut.persisted), cold
        )

    def _by_key(self, op: HotLastBy | HotFirstBy, cut: _Cut, _probes: Probes | None) -> HotPart | None:
        plan = self._plan(op.columns, unmatched=False)
        codes, names = self._keys.sorted() if op.keys is None else (self._keys.codes(op.keys), None)
        slots, versions, cold = (np.empty(len(codes), np.int64) for _ in range(3))
        stats = np.zeros(2, np.int64)
        if isinstance(op, HotLastBy):
            kernel, at = reading.last_by, w.INT64_MAX if op.at_ns is None else op.at_ns
        else:
            kernel, at = reading.first_by, w.INT64_MIN if op.at_ns is None else op.at_ns
        found = int(
            kernel(self._mem, self._L, codes, at, cut.seam, cut.end, cut.complete, slots, versions, cold, stats)
        )
        if found < 0:
            return None
        slots, versions = slots[:found], versions[:found]
        rows = plan.gather(slots, names if found == len(codes) else None)
        if not reading.still_valid(self._mem, self._L, slots, versions):
            return None
        return self._part(rows, cut, self._cold_keys(cut, cold[: int(stats[0])], len(codes)))

    def _cold_keys(self, cut: _Cut, codes: Ints, asked: int) -> ColdNeed:
        if not cut.complete or (0 < len(codes) == asked):
            return ColdNeed(None)
        return ColdNeed(self._keys.names(codes))

    def _asof(self, op: HotAsof, cut: _Cut, probes: Probes | None) -> HotPart | None:
        if probes is None or len(probes.keys) != len(probes.times_ns):
            raise InvalidArgument("An as-of needs probes: as many keys as times. Send them beside the operation.")
        plan = self._plan(op.columns if op.columns is not None else None, unmatched=True)
        codes = self._keys.probe_codes(probes.keys)
        times = np.ascontiguousarray(probes.times_ns, np.int64)
        order = np.empty(len(codes) if len(codes) >= _GROUPED_FROM else 0, np.int64)
        if len(order):
            searching.group_probes(codes, np.zeros(int(codes.max()) + 5, np.int64), order)
        slots, versions, cold = (np.empty(len(codes), np.int64) for _ in range(3))

        def search(some: slice) -> tuple[Ints, bool] | None:
            """(which probes need cold rows, whether boundary rows were used); None: torn."""
            which, stats = order[some] if len(order) else some, np.zeros(3, np.int64)
            keys, at = codes[which], times[which]
            keys.flags.writeable = at.flags.writeable = False
            found = searching.asof(
                self._mem, self._L, keys, at, _DIRECTIONS[op.direction], int(op.allow_exact),
                -1 if op.tolerance_ns is None else op.tolerance_ns, cut.seam, cut.end, cut.complete,
                slots[some], versions[some], cold[some], stats, np.empty(PLACES, np.int64),
            )  # fmt: skip
            return None if found < 0 else (cold[some][: int(stats[0])] + some.start, bool(stats[2]))

        searched = in_halves(search, len(codes), len(codes))
        found = [half for half in searched if half is not None]
        if len(found) < len(searched):
            return None
        rows = plan.gather(slots, order=order)
        if any(boundary for _, boundary in found) and not reading.still_valid(self._mem, self._L, slots, versions):
            return None
        undecided = found[0][0] if len(found) == 1 else np.concatenate([needed for needed, _ in found])
        if len(order):
            undecided = np.sort(order[undecided])
        return self._part(rows, cut, ColdNeed((), undecided))

    def _scan(self, op: HotScan, cut: _Cut, _probes: Probes | None) -> HotPart | None:
        plan = self._plan(op.columns, unmatched=False)
        codes = self._keys.all_codes() if op.keys is None else self._keys.codes(op.keys)
        start = w.INT64_MIN if op.from_ns is None or op.before else op.from_ns
        last = w.INT64_MAX if op.to_ns is None else op.to_ns - 1
        cold = self._cold_of_scan(op, cut, codes, start)
        if cold is None:
            return None
        room = np.empty(max(cut.end - cut.seam, 0) if op.to_ns != w.INT64_MIN else 0, np.int64)
        found = 0
        if len(room):
            found = int(
                reading.scan(self._mem, self._L, codes, start, last, cut.seam, cut.end, room, np.zeros(2, np.int64))
            )
        if found > len(room):
            return None
        slots: Ints | None = room[len(room) - found :].copy()
        if op.ordered and slots is not None:
            slots = in_order(self._mem, self._L, slots, cut.seam, cut.end)
        if slots is None:
            return None
        return self._part(plan.gather(slots if op.limit is None else slots[: op.limit].copy()), cut, cold)

    def _cold_of_scan(self, op: HotScan, cut: _Cut, codes: Ints, start: int) -> ColdNeed | None:
        """Which keys have rows below the seam that the range may reach; None: torn."""
        if op.seam == "persisted":
            return ColdNeed(None if cut.seam > 0 else ())
        if not cut.complete:
            return ColdNeed(None)
        if cut.floor == int(self._mem[w.H_START]) or int(self._mem[w.H_EVICTED_TIME_MAX]) < start:
            return ColdNeed(())
        cold = np.empty(len(codes), np.int64)
        count = int(reading.cold_for_range(self._mem, self._L, codes, start, cold))
        return None if count < 0 else self._cold_keys(cut, cold[:count], len(codes))

    def _windows(self, op: HotWindow | HotBars, cut: _Cut, _probes: Probes | None) -> HotPart | None:
        if not cut.complete:
            return self._part(self._window_answers.empty(op), cut, ColdNeed(None))
        codes = self._keys.sorted()[0] if op.keys is None else self._keys.codes(op.keys)
        found = self._window_answers.rows(op, codes, cut.seam, cut.end)
        return None if found is None else self._part(found[0], cut, self._cold_keys(cut, found[1], len(codes)))
