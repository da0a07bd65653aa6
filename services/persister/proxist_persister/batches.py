"""What is inserted: the rows of one owner-cut batch, by partition, in the table's order, under their token. Pure.

Everything here is a function of the batch alone, so that whichever persister sends a batch, whenever, sends the same
rows in the same order under the same token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from proxist.clickhouse import INSERT_ROWS_MAX, partition_of
from proxist.errors import InternalError
from proxist.model.ids import TIME_MAX, TIME_MIN, LogId, Offset, ShardId, shard_of_log
from proxist.model.table import TableSpec

DAY_NS = 86_400 * 10**9
SAME_TOKEN_TRIES = 4
"""Confirmed inserts without their rows before the token is changed. With the waits between them that is most of a second."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows [first, end) of one log, in offset order, with `_log` and `_offset`: an owner's cut."""

    log: LogId
    first: Offset
    end: Offset
    rows: pa.Table
    links: tuple[str, ...] = ()
    """Traceparents of the writes that it carries, where they are traced."""


@dataclass(frozen=True, slots=True)
class Insert:
    """One insert: 1 to INSERT_ROWS_MAX rows of one partition of one batch, sorted by the table's order."""

    partition: str
    token: str
    rows: pa.Table

    @property
    def offsets(self) -> npt.NDArray[np.uint64]:
        """The rows' offsets, in the insert's order."""
        return self.rows["_offset"].to_numpy()


def read_batch(shard: ShardId, first: Offset, end: Offset, parts: Iterable[pa.RecordBatch]) -> Batch:
    """A batch from the messages of a follow stream.

    Raises InternalError where the rows are not exactly [first, end) of one log of the shard, in order: persisting them
    would put rows under offsets that are not theirs.
    """
    rows = pa.Table.from_batches(parts)
    offsets = rows["_offset"].to_numpy()
    logs = rows["_log"].to_numpy()
    whole = (
        end > first
        and len(offsets) == end - first
        and bool(np.array_equal(offsets, np.arange(first, end, dtype=np.uint64)))
        and bool((logs == logs[0]).all())
        and shard_of_log(LogId(int(logs[0]))) == shard
    )
    if not whole:
        raise InternalError(
            f"The follow stream of shard {shard} sent {len(offsets)} rows as batch [{first}, {end}), which are not those "
            "rows of one of its logs.",
            shard=shard,
        )
    return Batch(LogId(int(logs[0])), first, end, rows)


def runs(parts: Iterable[pa.RecordBatch], rows_max: int) -> Iterator[Batch]:
    """The rows of `parts`, which ascend by offset and may have holes, as batches of one log each, without holes and of
    about `rows_max` rows: a part is not cut."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for part in parts:
        if waiting and (rows >= rows_max or not _goes_on(waiting[-1], part)):
            yield _run(waiting)
            waiting, rows = [], 0
        waiting.append(part)
        rows += part.num_rows
    if waiting:
        yield _run(waiting)


def _goes_on(before: pa.RecordBatch, part: pa.RecordBatch) -> bool:
    follows = part["_offset"][0].as_py() == before["_offset"][-1].as_py() + 1
    return bool(follows and part["_log"][0] == before["_log"][-1])


def _run(parts: list[pa.RecordBatch]) -> Batch:
    first, last = (Offset(parts[i]["_offset"][i].as_py()) for i in (0, -1))
    return Batch(LogId(parts[0]["_log"][0].as_py()), first, Offset(last + 1), pa.Table.from_batches(parts))


def inserts(spec: TableSpec, batch: Batch) -> list[Insert]:
    """The inserts of a batch, partitions in order of time; each row is in exactly one."""
    times = batch.rows[spec.time].to_numpy().view(np.int64)
    days = times // DAY_NS
    out: list[Insert] = []
    for day in np.unique(days):
        rows = batch.rows if len(days) == (days == day).sum() else batch.rows.filter(pa.array(days == day))
        partition = partition_of(int(day) * DAY_NS)
        token = f"{batch.log}:{batch.first}-{batch.end}:{partition}"
        out.extend(_in_blocks(partition, token, _sorted(spec, rows)))
    return out


def whole_days(times: pa.ChunkedArray) -> tuple[int, int]:
    """The first and the last nanosecond of the days, so of the partitions, that the times are in."""
    low, high = (int(bound.value) for bound in pc.min_max(times).values())
    return max(low // DAY_NS * DAY_NS, TIME_MIN), min(high // DAY_NS * DAY_NS + DAY_NS - 1, TIME_MAX)


def missing_part(insert: Insert, missing: npt.NDArray[np.bool_], unkept: int = 0) -> Insert | None:
    """What is left to insert where only rows with `missing` are not stored yet: all, None, or a part.

    A part is other rows than the whole, so it has a token of its own, which names them. `unkept`: how often ClickHouse
    has confirmed rows of this insert that a read then did not find. It remembers tokens of rows that were deleted since,
    and drops what comes under them; so after SAME_TOKEN_TRIES, which outlast a replica that lags a little, the token
    says which try it is of.
    """
    if not missing.any():
        return None
    rows, token = insert.rows, insert.token
    if not missing.all():
        rows = rows.filter(pa.array(missing))
        token += f":part-{xxhash.xxh3_64_hexdigest(np.ascontiguousarray(rows['_offset'].to_numpy()).tobytes())}"
    if unkept >= SAME_TOKEN_TRIES:
        token += f":again-{unkept - SAME_TOKEN_TRIES + 1}"
    return insert if token == insert.token else Insert(insert.partition, token, rows)


def _sorted(spec: TableSpec, rows: pa.Table) -> pa.Table:
    """Rows of one log that come by offset, in the table's order (`sort_columns`).

    Integers are sorted, stably: the keys' ranks among the few that there are, and times that mostly ascend already. A
    sort of the rows as they are takes ten times as long, more than anything else that is done for a row here.
    """
    keys = rows[spec.key].combine_chunks().dictionary_encode()
    by_name = pc.sort_indices(keys.dictionary).to_numpy()
    rank = np.empty(len(by_name), np.uint16 if len(by_name) <= 1 << 16 else np.int64)
    rank[by_name] = np.arange(len(by_name))
    times = rows[spec.time].to_numpy().view(np.int64)
    seqs = () if spec.seq is None else (rows[spec.seq].to_numpy(),)
    order = np.lexsort((*seqs, times, rank[keys.indices.to_numpy()]))
    return rows.take(pa.array(order)).combine_chunks()


def _in_blocks(partition: str, token: str, rows: pa.Table) -> Iterator[Insert]:
    if rows.num_rows <= INSERT_ROWS_MAX:
        yield Insert(partition, token, rows)
        return
    for block, first in enumerate(range(0, rows.num_rows, INSERT_ROWS_MAX)):
        yield Insert(partition, f"{token}:block-{block}", rows.slice(first, INSERT_ROWS_MAX))
