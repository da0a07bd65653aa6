"""Warm rows: those that left RAM before history had them. What their owner answers of them, out of its log, chunk by
chunk; and what even that leaves to history."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from proxist.errors import InvalidArgument
from proxist.hot.ops import (
    OFFSET_COLUMN,
    ColdNeed,
    HotAsof,
    HotFirstBy,
    HotLastBy,
    HotScan,
    Probes,
    cold_from_json,
)
from proxist.hot.words import INT64_MAX, INT64_MIN
from proxist.model.table import TableSpec
from proxist.seam import order

WarmOp = HotScan | HotLastBy | HotFirstBy | HotAsof
PROBE_COLUMN = "_probe"
RESULT_BYTES_MAX = 2**30
"""Rows of one answer: they are held in the owner's memory until they are sent."""


@dataclass(frozen=True, slots=True, eq=False)
class WarmPart:
    """What a shard's owner answers of its warm rows.

    `rows`: key, time, seq (if the table has one), the operation's other columns, `_offset`; of an as-of `_probe` (int64)
    too, whose row it is. A scan's come in any order; of the others at most one per key or probe.
    """

    rows: pa.RecordBatch
    cold: ColdNeed
    """What history must still be asked, as in a `HotPart`."""

    def head_json(self) -> dict[str, Any]:
        """All but the rows."""
        return {"cold": self.cold.to_json()}


def warm_from_head(head: dict[str, Any], rows: pa.RecordBatch) -> WarmPart:
    """The inverse of `WarmPart.head_json`, with the rows that came beside it."""
    return WarmPart(rows, cold_from_json(head["cold"]))


class WarmAnswer:
    """One operation over chunks of rows, in any order; holds what the chunks so far make of it.

    Where the latest rows win (last_by, backward as-of, the rows before a scan), chunks of late rows first leave the
    fewest others to look at: `wants` says so.
    """

    def __init__(
        self,
        spec: TableSpec,
        op: WarmOp,
        probes: Probes | None,
        known: tuple[str, ...] | None = None,
        *,
        bytes_max: int = RESULT_BYTES_MAX,
    ) -> None:
        """`known`: those of the asked keys that there are, None where nobody can tell. Raises InvalidArgument for a column
        that the table has not, and for an as-of without probes."""
        if isinstance(op, HotAsof) and (probes is None or len(probes.keys) != len(probes.times_ns)):
            raise InvalidArgument("An as-of needs probes: as many keys as times. Send them beside the operation.")
        self._spec, self._op, self._probes, self._bytes_max = spec, op, probes, bytes_max
        asked = tuple(c.name for c in spec.columns) if op.columns is None else op.columns
        self._names = tuple(dict.fromkeys((spec.key, *spec.order, *asked)))
        fields = [pa.field(name, spec.column(name).type) for name in self._names]
        fields.append(pa.field(OFFSET_COLUMN, pa.uint64()))
        if isinstance(op, HotAsof):
            fields.append(pa.field(PROBE_COLUMN, pa.int64()))
        self._schema = pa.schema(fields)
        self._low, self._high = _times(op, probes)
        keys = probes.keys.unique().drop_null() if probes is not None else None
        if not isinstance(op, HotAsof):
            keys = None if op.keys is None else pa.array(op.keys, pa.string())
        self._keys = keys
        self._known = known
        self._found = self._schema.empty_table()
        self._least = INT64_MIN
        """No row with an earlier time can be in the answer."""
        self._since = _since(op, probes)
        """The same for each probe."""

    def wants(self, min_time: int, max_time: int) -> bool:
        """Whether rows with times in [min_time, max_time] can matter, after the chunks so far."""
        if min_time > self._high or max_time < max(self._low, self._least):
            return False
        if self._keys is not None and not len(self._keys):
            return False
        if self._probes is None or not isinstance(self._op, HotAsof) or self._op.direction != "backward":
            return True
        return bool(((self._probes.times_ns >= min_time) & (self._since <= max_time)).any())

    def add(self, rows: pa.Table, first: int) -> None:
        """Take a chunk: the table's columns, row i having offset first + i.

        Raises InvalidArgument where the answer grows too large.
        """
        offsets = pa.array(np.arange(first, first + rows.num_rows, dtype=np.uint64))
        chosen = [rows.column(name) for name in self._names]
        times = rows.column(self._spec.time).cast(pa.int64())
        mask = pc.and_(pc.greater_equal(times, self._low), pc.less_equal(times, self._high))
        if self._keys is not None:
            mask = pc.and_(mask, pc.is_in(rows.column(self._spec.key), value_set=self._keys))
        schema = pa.schema(list(self._schema)[: len(chosen) + 1])
        kept = pa.Table.from_arrays([*chosen, pa.chunked_array([offsets])], schema=schema).filter(mask)
        if kept.num_rows:
            self._found = self._merged(kept.combine_chunks())

    def part(self, below_ns: int | None) -> WarmPart:
        """The answer. `below_ns`: no row before the chunks has a later time, None where there is no such row."""
        rows = self._found.combine_chunks()
        empty = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in self._schema], schema=self._schema)
        return WarmPart(next(iter(rows.to_batches()), empty), self._cold(rows, below_ns))

    def _merged(self, kept: pa.Table) -> pa.Table:
        op, spec = self._op, self._spec
        if isinstance(op, HotAsof):
            return self._best(kept)
        both = pa.concat_tables([self._found, kept])
        if isinstance(op, HotScan):
            both = self._limited(both) if op.before is None else self._with_rows_before(both, op)
            if both.nbytes > self._bytes_max:
                raise InvalidArgument(
                    f"The rows that history does not have yet are more than {self._bytes_max} bytes for this query, of "
                    f"table {spec.name!r}. Ask for a shorter range, fewer keys or columns, or set `limit`."
                )
            return both
        last = isinstance(op, HotLastBy)
        best = both.take(order.one_per_key(both.column(spec.key), order.ranks_of(both, spec), last=last))
        if last:
            self._note_least(best, 1)
        return best

    def _note_least(self, rows: pa.Table, per_key: int) -> None:
        """`rows`, the last ones of their keys, so many of each at most: are there as many as the answer takes?"""
        if self._known is not None and rows.num_rows == per_key * len(self._known):
            self._least = pc.min(rows.column(self._spec.time).cast(pa.int64())).as_py()

    def _limited(self, rows: pa.Table) -> pa.Table:
        limit = self._op.limit if isinstance(self._op, HotScan) else None
        if limit is None or rows.num_rows <= limit:
            return rows
        ordered = order.scan_order(order.ranks_of(rows, self._spec), None)
        return rows.slice(0, limit) if ordered is None else rows.take(ordered[:limit])

    def _with_rows_before(self, rows: pa.Table, op: HotScan) -> pa.Table:
        """The rows of the range and, of each key, the last so many before it."""
        early = pc.less(rows.column(self._spec.time).cast(pa.int64()), op.from_ns)
        before = rows.filter(early)
        if not before.num_rows:
            return rows
        by_key, starts = order.by_key(before.column(self._spec.key), order.ranks_of(before, self._spec))
        ends = np.repeat(np.append(starts[1:], len(by_key)), np.diff(np.append(starts, len(by_key))))
        last = before.take(by_key[ends - np.arange(len(by_key)) <= (op.before or 0)])
        self._note_least(last, op.before or 0)
        return pa.concat_tables([rows.filter(pc.invert(early)), last])

    def _best(self, kept: pa.Table) -> pa.Table:
        """The best rows so far and those of a chunk: of each probe the better one."""
        op, probes, spec = self._op, self._probes, self._spec
        assert isinstance(op, HotAsof)
        assert probes is not None
        rows, at = candidates(kept.column(spec.key), order.ranks_of(kept, spec), probes, op)
        found = kept.take(rows).append_column(self._schema.field(PROBE_COLUMN), [pa.array(at, pa.int64())])
        both = pa.concat_tables([self._found, found])
        owner = order.numbers(both.column(PROBE_COLUMN), pa.int64())
        best = order.best_per_probe(
            owner, probes.times_ns, order.ranks_of(both, spec), op.direction, len(probes.times_ns)
        )
        best_rows = both.take(best[best >= 0])
        self._since[order.numbers(best_rows.column(PROBE_COLUMN), pa.int64())] = order.numbers(
            best_rows.column(spec.time), pa.int64()
        )
        return best_rows

    def _cold(self, rows: pa.Table, below: int | None) -> ColdNeed:
        """What rows with times up to `below` could still change."""
        op, spec = self._op, self._spec
        if isinstance(op, HotAsof):
            return ColdNeed((), self._undecided(rows, below))
        if below is None:
            return ColdNeed(())
        if not isinstance(op, HotLastBy):
            start = op.from_ns if isinstance(op, HotScan) else op.at_ns
            if start is None or start <= below:
                return ColdNeed(op.keys)
        enough = 1 if isinstance(op, HotLastBy) else op.before if isinstance(op, HotScan) else None
        if not enough:
            return ColdNeed(())
        # So many rows that are later than all of history, and no later than is asked, leave it nothing to say.
        asked = self._known if op.keys is None else op.keys
        if asked is None:
            return ColdNeed(None)
        times = rows.column(spec.time).cast(pa.int64())
        late = pc.greater(times, below)
        if isinstance(op, HotScan):
            late = pc.and_(late, pc.less(times, op.from_ns))
        found = Counter(rows.column(spec.key).filter(late).to_pylist())
        return ColdNeed(tuple(key for key in asked if found[key] < enough))

    def _undecided(self, rows: pa.Table, below: int | None) -> order.Indices:
        op, probes = self._op, self._probes
        assert isinstance(op, HotAsof)
        assert probes is not None
        times = probes.times_ns
        if below is None:
            return np.zeros(0, np.int64)
        if op.direction == "forward":
            return np.flatnonzero(times <= below) if op.allow_exact else np.flatnonzero(times < below)
        # Only a row that lies later than all of history, and not after the probe, is surely the one.
        open_ = np.ones(len(times), np.bool_)
        if op.tolerance_ns is not None:
            open_ &= (times <= below) | (order.distance_between(times, np.full_like(times, below)) <= op.tolerance_ns)
        owner = order.numbers(rows.column(PROBE_COLUMN), pa.int64())
        time = order.numbers(rows.column(self._spec.time), pa.int64())
        open_[owner[(time > below) & (time <= times[owner])]] = False
        return np.flatnonzero(open_)


def _times(op: WarmOp, probes: Probes | None) -> tuple[int, int]:
    """The least and the largest time of a row that can be in the answer."""
    if isinstance(op, HotScan):
        low = INT64_MIN if op.from_ns is None or op.before else op.from_ns
        return low, INT64_MAX if op.to_ns is None else op.to_ns - 1
    if isinstance(op, HotLastBy):
        return INT64_MIN, INT64_MAX if op.at_ns is None else op.at_ns
    if isinstance(op, HotFirstBy):
        return INT64_MIN if op.at_ns is None else op.at_ns, INT64_MAX
    assert probes is not None
    if not len(probes.times_ns):
        return INT64_MAX, INT64_MIN
    reach = 2**64 if op.tolerance_ns is None else op.tolerance_ns
    low, high = int(probes.times_ns.min()), int(probes.times_ns.max())
    low -= 0 if op.direction == "forward" else reach
    high += 0 if op.direction == "backward" else reach
    return max(low, INT64_MIN), min(high, INT64_MAX)


def _since(op: WarmOp, probes: Probes | None) -> npt.NDArray[np.int64]:
    """For each probe of a backward as-of the least time of a row that it can take; none takes a row before its own."""
    if not isinstance(op, HotAsof) or probes is None:
        return np.zeros(0, np.int64)
    least = np.full(len(probes.times_ns), INT64_MIN)
    if op.tolerance_ns is not None and op.tolerance_ns <= INT64_MAX:
        far = order.distance_between(probes.times_ns, least) > op.tolerance_ns
        least[far] = probes.times_ns[far] - op.tolerance_ns
    least[probes.keys.is_null().to_numpy(zero_copy_only=False)] = INT64_MAX
    return least


def candidates(
    keys: pa.ChunkedArray, ranks: order.Ranks, probes: Probes, op: HotAsof
) -> tuple[order.Indices, order.Indices]:
    """For each probe its best row of each direction that `op` allows: indices of rows, and whose they are."""
    names = probes.keys.unique().drop_null()
    row_code = order.numbers(pc.index_in(keys, value_set=names), pa.int64())
    real = np.flatnonzero(probes.keys.is_valid().to_numpy(zero_copy_only=False))
    probe_code = pc.index_in(probes.keys.take(pa.array(real)), value_set=names).cast(pa.int64()).to_numpy()
    code, time = np.concatenate([row_code, probe_code]), np.concatenate([ranks.time, probes.times_ns[real]])
    nothing = np.zeros(len(real), np.uint64)
    seq, offset = np.concatenate([ranks.seq, nothing]), np.concatenate([ranks.offset, nothing])
    is_probe = np.arange(len(code)) >= len(row_code)
    rows, owners = [], []
    for backward in (True, False) if op.direction == "nearest" else (op.direction == "backward",):
        # A probe comes behind the rows of its own time where it looks back and may take them, else before them.
        behind = is_probe if backward == op.allow_exact else ~is_probe
        placed = np.lexsort((offset, seq, behind, time, code))
        beside = _neighbour(~is_probe[placed], backward=backward)
        where = np.flatnonzero(is_probe[placed] & (beside >= 0))
        row, probe = placed[beside[where]], placed[where]
        near = code[row] == code[probe]
        if op.tolerance_ns is not None:
            near &= order.distance_between(time[row], time[probe]) <= op.tolerance_ns
        rows.append(row[near])
        owners.append(real[probe[near] - len(row_code)])
    return np.concatenate(rows), np.concatenate(owners)


def _neighbour(is_row: npt.NDArray[np.bool_], *, backward: bool) -> order.Indices:
    """For each place that of the nearest row before it (or after it); -1 where there is none."""
    count = len(is_row)
    at = np.where(is_row, np.arange(count), -1 if backward else count)
    if backward:
        return np.maximum.accumulate(at)
    found = np.minimum.accumulate(at[::-1])[::-1]
    return np.where(found == count, -1, found)
