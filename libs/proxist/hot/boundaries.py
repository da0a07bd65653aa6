"""What a hot set's resident rows do not say, taken out of it and put into an empty one: boundary rows and marks.

Taken while the owner writes and evicts: rows are copied as any reader copies them, keys whose boundary row changed
meanwhile are copied again, and only the last few of them while the floor is held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import Unavailable
from proxist.hot import words as w
from proxist.hot.arena import Views
from proxist.hot.dictionary import Dictionary
from proxist.hot.layout import Layout
from proxist.hot.ledger import TimeSpans
from proxist.hot.outgoing import GatherPlan, output_names
from proxist.hot.pins import Pins
from proxist.model.ids import Offset, TimeNs

Ints = npt.NDArray[np.int64]
CHUNK_KEYS = 16_384
"""Keys that are copied at once: bounds what a column of one batch may hold."""
HELD_KEYS = 2_048
"""So many rows may be left for when the floor is held: about a millisecond, in which nothing can be evicted."""
ROUNDS_MAX = 8


@dataclass(frozen=True, slots=True, eq=False)
class HotCarried:
    """A hot set without its resident rows: what RAM knew of the rows below `floor`."""

    start: Offset
    complete: bool
    """No row below `start` exists."""
    floor: Offset
    persisted: Offset
    """May be below `floor`, where rows between the two are in log files only."""
    t_persisted: TimeNs | None
    persisted_time_max: TimeNs | None
    """No row below `persisted` has a later time; None where there is no such row."""
    boundary: tuple[pa.RecordBatch, ...]
    """One row for each key that has rows below `floor`: the last of them in Order. The table's columns and `_offset`."""

    @property
    def evicted_time_max(self) -> TimeNs | None:
        """Largest time of any row below `floor`; None where no row is."""
        times = [self._times(rows).max() for rows in self.boundary if rows.num_rows]
        return TimeNs(int(max(times))) if times else None

    @staticmethod
    def _times(rows: pa.RecordBatch) -> Ints:
        """The time column, which stands after the key."""
        return np.asarray(rows.column(1).cast(pa.int64()))


def capture(layout: Layout, views: Views, pins: Pins, spans: TimeSpans) -> HotCarried:
    """The carried state as of one instant; for any thread, beside a writer that goes on.

    Raises Unavailable where the memory is not what its header says.
    """
    copies = _Copies(layout, views)
    for _ in range(ROUNDS_MAX):
        changed = copies.changed()
        if len(changed) <= HELD_KEYS:
            break
        copies.copy(changed)
    with pins.pinned():
        copies.copy(copies.changed())
        if len(copies.changed()):
            raise Unavailable("The boundary rows of a hot set changed while its floor was held.", reason="format")
        mem = views.mem
        t_persisted, persisted = int(mem[w.H_T_PERSISTED]), Offset(int(mem[w.H_PERSISTED]))
        below_max = spans.below_max(persisted)
        return HotCarried(
            start=Offset(int(mem[w.H_START])),
            complete=bool(mem[w.H_COMPLETE]),
            floor=Offset(int(mem[w.H_FLOOR])),
            persisted=persisted,
            t_persisted=None if t_persisted == w.INT64_MIN else TimeNs(t_persisted),
            persisted_time_max=None if below_max is None else TimeNs(below_max),
            boundary=copies.rows(),
        )


class _Copies:
    """Copies of boundary rows with the versions that they are of."""

    def __init__(self, layout: Layout, views: Views) -> None:
        self._mem = views.mem
        self._L = layout.kernel_layout()
        self._dictionary = Dictionary(views, layout.dictionary_layout(""))
        names = output_names(layout, None, with_key=True)
        self._plan = GatherPlan(layout, views, self._L, names, unmatched=False)
        self._versions: Ints = np.zeros(0, np.int64)
        self._parts: list[tuple[Ints, pa.RecordBatch]] = []

    def changed(self) -> Ints:
        """The codes of keys whose present boundary row was not copied."""
        count = self._dictionary.count
        self._versions = np.concatenate([self._versions, np.zeros(count - len(self._versions), np.int64)])
        base = int(self._L[w.L_BOUNDARY])
        return np.flatnonzero(self._mem[base : base + count] != self._versions)

    def copy(self, codes: Ints) -> None:
        """Copy these keys' rows; one that changes meanwhile stays `changed`."""
        base, slots = int(self._L[w.L_BOUNDARY]), int(self._L[w.L_SLOTS])
        for at in range(0, len(codes), CHUNK_KEYS):
            chunk = codes[at : at + CHUNK_KEYS]
            versions = self._mem[base + chunk]
            places = slots + 2 * chunk + (versions & 1)
            places.flags.writeable = False
            rows = self._plan.gather(places)
            sound = self._mem[base + chunk] == versions
            if rows is None or not sound.any():
                continue
            self._versions[chunk[sound]] = versions[sound]
            self._parts.append((chunk[sound], rows if sound.all() else rows.filter(pa.array(sound))))

    def rows(self) -> tuple[pa.RecordBatch, ...]:
        """Each key's newest copy."""
        newest = np.full(len(self._versions), -1, np.int64)
        for part, (codes, _) in enumerate(self._parts):
            newest[codes] = part
        found = []
        for part, (codes, rows) in enumerate(self._parts):
            kept = newest[codes] == part
            found.append(rows if kept.all() else rows.filter(pa.array(kept)))
        return tuple(rows for rows in found if rows.num_rows)
