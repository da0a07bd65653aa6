"""The merges: rows of both sides as one timeline. Order is (time, seq, offset); between shards the shard breaks ties.

Every function takes rows (Arrow tables with time, seq if any, `_offset`) and gives indices into them, so that columns
are gathered once. Rows that are in RAM and in history alike (a boundary row) have equal `_offset` and equal values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from proxist.hot.ops import OFFSET_COLUMN
from proxist.model.table import TableSpec

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ranks:
    """The columns of Order of some rows, as arrays: time int64, seq uint64 (0 without a seq column), offset uint64."""

    time: npt.NDArray[np.int64]
    seq: npt.NDArray[np.uint64]
    offset: npt.NDArray[np.uint64]

    def take(self, indices: Indices) -> Ranks:
        return Ranks(self.time[indices], self.seq[indices], self.offset[indices])


def ranks_of(rows: pa.Table, spec: TableSpec) -> Ranks:
    """Nulls (unmatched rows of an as-of) become 0: leave them out before ranks are compared."""
    count = rows.num_rows
    return Ranks(
        numbers(rows.column(spec.time), pa.int64()),
        numbers(rows.column(spec.seq), pa.uint64()) if spec.seq else np.zeros(count, np.uint64),
        numbers(rows.column(OFFSET_COLUMN), pa.uint64()),
    )


def numbers(column: pa.ChunkedArray, type_: pa.DataType) -> npt.NDArray[Any]:
    """A column's values as one numpy array of integers; nulls as 0; no copy where the column is one chunk without nulls."""
    values = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(values, pa.ChunkedArray):  # no chunk at all
        values = pa.array([], column.type)
    values = values.cast(type_)
    if values.null_count:
        values = pc.fill_null(values, 0)
    return values.to_numpy(zero_copy_only=False)


def scan_order(ranks: Ranks, shard: npt.NDArray[np.int64] | None) -> Indices | None:
    """The rows ascending by (time, seq, offset, shard), or None where they already are. `shard` None: all of one."""
    if _ascending(ranks, shard):
        return None
    keys = (ranks.offset, ranks.seq, ranks.time) if shard is None else (shard, ranks.offset, ranks.seq, ranks.time)
    return np.lexsort(keys)


def _ascending(ranks: Ranks, shard: npt.NDArray[np.int64] | None) -> bool:
    """One pass per column; the later columns are looked at only among neighbours that tie so far."""
    tied: npt.NDArray[np.bool_] | None = None
    for column in (ranks.time, ranks.seq, ranks.offset, shard):
        if column is None:
            return True
        left, right = column[:-1], column[1:]
        wrong = left > right if tied is None else tied & (left > right)
        if wrong.any():
            return False
        tied = left == right if tied is None else tied & (left == right)
        if not tied.any():
            return True
    return True


def by_key(keys: pa.ChunkedArray, ranks: Ranks) -> tuple[Indices, Indices]:
    """The rows by key (ascending by UTF-8 bytes), of each in Order; and where among them each key begins."""
    encoded = keys.combine_chunks().dictionary_encode()
    place = np.empty(len(encoded.dictionary), np.int64)
    place[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(place))
    places = place[encoded.indices.to_numpy(zero_copy_only=False)]
    order = np.lexsort((ranks.offset, ranks.seq, ranks.time, places))
    ordered = places[order]
    change = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return order, np.insert(change, 0, 0) if len(order) else change


def one_per_key(keys: pa.ChunkedArray, ranks: Ranks, *, last: bool) -> Indices:
    """For each key the index of its last (or first) row in Order; ascending by key (UTF-8 bytes)."""
    order, starts = by_key(keys, ranks)
    return order[np.append(starts[1:], len(order)) - 1] if last and len(order) else order[starts]


def best_per_probe(
    probe: Indices, probe_times: npt.NDArray[np.int64], ranks: Ranks, direction: str, count: int
) -> Indices:
    """For each of `count` probes the index of its best candidate, -1 where it has none.

    Candidate i is for probe `probe[i]` and already obeys direction, tolerance and allow_exact on its own. backward:
    the last in Order; forward: the first; nearest: the closer in time, at equal distance the one not after the
    probe; among equal times the last in Order where it is not after the probe, else the first.
    """
    chosen = np.full(count, -1, np.int64)
    if not len(probe):
        return chosen
    later = _is_later_wanted(ranks.time, probe_times[probe], direction)
    # Inverted bits turn "largest first" into ascending, without the overflow that a minus sign has.
    seq = np.where(later, ~ranks.seq, ranks.seq)
    offset = np.where(later, ~ranks.offset, ranks.offset)
    if direction == "nearest":
        distance = distance_between(ranks.time, probe_times[probe])
        order = np.lexsort((offset, seq, ~later, distance, probe))
    else:
        order = np.lexsort((offset, seq, np.where(later, ~ranks.time, ranks.time), probe))
    sorted_probe = probe[order]
    first = np.insert(np.flatnonzero(sorted_probe[1:] != sorted_probe[:-1]) + 1, 0, 0)
    chosen[sorted_probe[first]] = order[first]
    return chosen


def _is_later_wanted(
    time: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64], direction: str
) -> npt.NDArray[np.bool_]:
    """Whether, among candidates of the same time, the last in Order wins (else the first)."""
    if direction == "nearest":
        return time <= wanted
    return np.full(len(time), direction == "backward")


def distance_between(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """|a - b| without overflow: two int64 are at most 2**64 - 1 apart."""
    high, low = np.maximum(a, b), np.minimum(a, b)
    return high.view(np.uint64) - low.view(np.uint64)
