"""Empty bars: every key of an answer on one grid of bars."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proxist.errors import InvalidArgument
from proxist.model.ids import TIME_MIN
from proxist.model.query import Bars
from proxist.model.table import TableSpec
from proxist.seam.order import numbers

FILLED_BARS_MAX = 10_000_000
"""More is a slip, say one wild time and a short `every`, and would take the node's memory."""


def filled(bars: pa.Table, verb: Bars, spec: TableSpec) -> pa.Table:
    """`bars` (key, start, the aggregates; ascending by start and key) with the empty ones of each of its keys, in the same order.

    The grid goes from the bar of `from_ns` to that of `to_ns - 1`; where one is None, from the first or to the last bar
    there is. A key without any bar gets none. fill "null": the aggregates of empty bars are null; "prev": they are those
    of the key's bar before, null where there is none. Raises InvalidArgument for more than FILLED_BARS_MAX bars.
    """
    if verb.fill == "none" or not bars.num_rows:
        return bars
    keys = pc.unique(bars.column(spec.key))
    keys = keys.take(pc.sort_indices(keys))
    code = numbers(pc.index_in(bars.column(spec.key), keys), pa.int64())
    number = numbers(bars.column(spec.time), pa.int64()) // verb.every_ns  # small, where differences of times overflow
    first = int(number[0]) if verb.from_ns is None else max(verb.from_ns, TIME_MIN) // verb.every_ns
    last = int(number[-1]) if verb.to_ns is None else (verb.to_ns - 1) // verb.every_ns
    count = last - first + 1
    _check_size(count, len(keys), verb)
    row = np.full((count, len(keys)), -1, np.int64)
    row[number - first, code] = np.arange(bars.num_rows)
    if verb.fill == "prev":
        row = np.maximum.accumulate(row, axis=0)  # of one key, a later bar is a later row
    times = np.repeat((first + np.arange(count)) * verb.every_ns, len(keys))
    values = bars.select([agg.name for agg in verb.aggs]).take(pa.array(row.ravel(), mask=row.ravel() < 0))
    named = keys.take(pa.array(np.tile(np.arange(len(keys)), count)))
    started = pa.array(times).cast(bars.schema.field(spec.time).type)
    return pa.Table.from_arrays([named, started, *values.columns], schema=bars.schema)


def _check_size(count: int, keys: int, verb: Bars) -> None:
    if count * keys > FILLED_BARS_MAX:
        raise InvalidArgument(
            f'`fill` "{verb.fill}" makes {count:,} bars of {keys:,} keys, but at most {FILLED_BARS_MAX:,} in all are '
            "filled. Ask for fewer keys, a longer `every`, or a shorter time between `from` and `to`."
        )
