"""Warm reads: the rows that left memory before ClickHouse had them, out of the log files of their owner."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from proxist.errors import InvalidArgument, LogCorrupt, Unavailable
from proxist.hot.ledger import Span
from proxist.hot.ops import HotBars, HotLastBy, HotOp, HotScan, HotWindow, Probes
from proxist.model.ids import Offset
from proxist.seam.warm import WarmAnswer, WarmOp, WarmPart
from proxist.wal import LogReader, RecordKind
from proxist_ingest.shard import Shard

CHUNK_ROWS = 131_072
"""Rows that are looked at together: what a read holds, beside its answer."""
GAP_ROWS = 262_144
"""Fewer rows that cannot matter are read too, between others: a reader begins at the start of a segment."""


def read_warm(shard: Shard, op: HotOp, probes: Probes | None, first: Offset, end: Offset) -> WarmPart:
    """Answer `op` over the rows [first, end) of the shard's log, which a reader found below the floor and not persisted.

    Memory: the answer and a chunk. Raises InvalidArgument for windows and bars (their rows are scanned) and where the
    answer is too large; LogCorrupt where not all of the rows are there; Unavailable with `reason` "persisted" where the
    mark has passed `first`: the files may be gone, and history has the rows.
    """
    if isinstance(op, HotWindow | HotBars):
        raise InvalidArgument("Windows and bars are not computed from the log. Scan their rows.")
    answer = WarmAnswer(shard.table.spec, op, probes, _known_keys(shard, op))
    spans = shard.hot.spans.within(first, end)
    below = shard.hot.spans.below_max(first)
    if shard.marks().persisted > first:  # looked at after the spans, which forget what is persisted
        raise _moved(shard)
    _check_known(shard, spans, first, end)
    try:
        for group in _latest_first(spans, answer, whole=isinstance(op, HotScan) and not op.before):
            for start, stop in _runs(group, first, end):
                for at, rows in _chunks(shard, start, stop):
                    answer.add(rows, at)
    except (LogCorrupt, OSError, Unavailable):
        if shard.marks().persisted > first:  # its files were removed, or used again, under the read
            raise _moved(shard) from None
        raise
    return answer.part(below)


def _known_keys(shard: Shard, op: WarmOp) -> tuple[str, ...] | None:
    """Those of the asked keys that the shard ever had, where that is of use and memory knows them."""
    if not isinstance(op, HotLastBy | HotScan) or (isinstance(op, HotScan) and op.before is None):
        return None
    part = shard.run(HotLastBy(op.keys, ()))
    return None if part.cold else tuple(part.rows.column(shard.table.spec.key).to_pylist())


def _check_known(shard: Shard, spans: list[Span], first: Offset, end: Offset) -> None:
    """Raises Unavailable where no span tells of some rows of [first, end): they must not be taken for none."""
    at = first
    for span in spans:
        if span.first > at:
            break
        at = max(at, Offset(span.end))
    if at < end:
        raise Unavailable(
            f"The owner of shard {shard.id} does not know between which times the rows [{at}, {end}) of its log lie. They "
            "are in its log; restart the node to read them again.",
            shard=shard.id,
        )


def _latest_first(spans: list[Span], answer: WarmAnswer, *, whole: bool) -> Iterator[list[Span]]:
    """The spans that `answer` wants, to be read group by group; `whole`: all in one.

    The group that follows one after which everything is still wanted is twice as large: a reader begins at the start of a
    segment, and each group has one or more.
    """
    size, group = CHUNK_ROWS, []
    for span in sorted(spans, key=lambda one: one.max_time, reverse=True):
        if not answer.wants(span.min_time, span.max_time):
            size = CHUNK_ROWS
            continue
        group.append(span)
        if not whole and sum(one.end - one.first for one in group) >= size:
            yield sorted(group)
            size, group = 2 * size, []
    if group:
        yield sorted(group)


def _runs(spans: list[Span], first: int, end: int) -> list[tuple[Offset, Offset]]:
    """The rows to read: those of the spans, near ones together."""
    runs: list[tuple[Offset, Offset]] = []
    for span in spans:
        start, stop = Offset(max(span.first, first)), Offset(min(span.end, end))
        if runs and start - runs[-1][1] < GAP_ROWS:
            start = runs.pop()[0]
        runs.append((start, stop))
    return runs


def _chunks(shard: Shard, start: Offset, stop: Offset) -> Iterator[tuple[Offset, pa.Table]]:
    """The rows [start, stop) with the first offset of each chunk. Raises LogCorrupt where they are not all there."""
    waiting: list[pa.RecordBatch] = []
    first = at = start
    for rows in _batches(shard, start, stop):
        waiting.append(rows)
        at = Offset(at + rows.num_rows)
        if at - first >= CHUNK_ROWS:
            yield first, pa.Table.from_batches(waiting)
            waiting, first = [], at
    if at != stop:
        raise LogCorrupt(
            f"The log of shard {shard.id} has no rows [{at}, {stop}), which ClickHouse does not have either. Check the "
            "files with `pxctl wal verify`.",
            cause="missing rows",
            lost_first=int(at),
            lost_end=int(stop),
        )
    if waiting:
        yield first, pa.Table.from_batches(waiting)


def _batches(shard: Shard, start: Offset, stop: Offset) -> Iterator[pa.RecordBatch]:
    """The rows [start, stop), record by record."""
    at = start
    for log in shard.logs():
        if log.mark.end <= at or at >= stop:
            continue
        with LogReader(log.path, at) as reader:
            for record in reader.read(log.mark):
                if record.kind is not RecordKind.ROWS or not record.rows:
                    continue
                if record.first > at:
                    return  # a hole, which the caller finds
                low, high = at - record.first, min(record.end, stop) - record.first
                rows = record.batch(shard.table.spec.schema)
                yield rows.slice(low, high - low)
                at = Offset(record.first + high)
                if at >= stop:
                    return


def _moved(shard: Shard) -> Unavailable:
    return Unavailable(
        f"Rows of shard {shard.id} went from its log to ClickHouse while they were read. Read again.",
        retry_after_s=0.0,
        shard=shard.id,
        reason="persisted",
    )
