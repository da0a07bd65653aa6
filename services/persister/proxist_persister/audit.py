"""What ClickHouse must hold of a shard, and what is wrong with what it holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from proxist.clickhouse.audit import CHUNK_BITS, CHUNK_ROWS
from proxist.etcd import LogRecord
from proxist.model.ids import Epoch, LogId, Offset, ShardId, log_id
from proxist_persister.coverage import Offsets, Stored

GAP, COPIES, CONFLICT, ALTERED = "gap", "copies", "conflict", "altered"
UNKNOWN_LOG, OUTSIDE = "unknown log", "outside"


@dataclass(frozen=True, slots=True)
class Finding:
    """Offsets [first, last] of a log, all of them, that are wrong in one way. `rows`: that are missing, or too many."""

    kind: str
    log: LogId
    first: Offset
    last: Offset
    rows: int
    columns: tuple[str, ...] = ()
    partitions: dict[str, int] = field(default_factory=dict)
    """Of copies: how many rows too many are in which."""


@dataclass(frozen=True, slots=True)
class Span:
    """Of a log: rows [start, must) have to be there, those below `may` may (None: any)."""

    log: LogId
    start: Offset
    must: Offset
    may: Offset | None


def spans(
    shard: ShardId, logs: Iterable[LogRecord], persisted: Offset, owned: tuple[Epoch, Offset] | None
) -> list[Span]:
    """What may be stored, log by log. `owned`: the owner's epoch and its end, None where nobody owns the shard now.

    The tail of an abandoned log may be there: readers know that it was lost.
    """
    out = []
    for log in logs:
        may: Offset | None = log.end
        if log.state == "abandoned":
            may = None
        elif log.end is None and owned is not None and log.epoch == owned[0]:
            may = owned[1]
        must = persisted if log.end is None else min(log.end, persisted)
        out.append(Span(log_id(shard, log.epoch), log.start, max(must, log.start), may))
    return out


def doubtful(counts: pa.Table, expected: list[Span], first: Offset, end: Offset) -> list[tuple[Offset, Offset]]:
    """The chunks of [first, end) whose counts (`chunk_counts`) are not exactly what they must be: to be looked into."""
    by_log = {span.log: span for span in expected}
    seen: dict[tuple[LogId, int], dict[str, int]] = {(row["_log"], row["chunk"]): row for row in counts.to_pylist()}
    chunks = {chunk for (log, chunk), row in seen.items() if not _is_exact(by_log.get(log), chunk, row, first, end)}
    for span in expected:
        low, high = max(span.start, first), min(span.must, end)
        if low < high:
            among = range(low >> CHUNK_BITS, ((high - 1) >> CHUNK_BITS) + 1)
            chunks |= {chunk for chunk in among if (span.log, chunk) not in seen}
    return [(Offset(max(first, c << CHUNK_BITS)), Offset(min(end, (c + 1) << CHUNK_BITS))) for c in sorted(chunks)]


def _is_exact(span: Span | None, chunk: int, row: dict[str, int], first: int, end: int) -> bool:
    if span is None or row["rows"] != row["distinct"] or row["low"] < span.start:
        return False
    if span.may is not None and row["high"] >= span.may:
        return False
    low, high = max(span.start, first, chunk * CHUNK_ROWS), min(span.must, end, (chunk + 1) * CHUNK_ROWS)
    # Rows above `must` could stand in for missing ones in the count.
    return high <= low or (row["high"] < high and row["distinct"] == high - low)


def findings(stored: Stored, expected: list[Span], first: Offset, end: Offset) -> Iterator[Finding]:
    """What is wrong in [first, end), exactly; copies are told as COPIES, whether they are equal or not."""
    by_log = {span.log: span for span in expected}
    for log in sorted(stored.logs):
        offsets, span = stored.of_log(log), by_log.get(log)
        if span is None:
            yield from found(UNKNOWN_LOG, log, offsets)
            continue
        outside = offsets < np.uint64(span.start)
        if span.may is not None:
            outside |= offsets >= np.uint64(span.may)
        yield from found(OUTSIDE, log, offsets[outside])
        yield from found(COPIES, log, offsets[np.isin(offsets, stored.twice_of(log))])
    for span in expected:
        want = np.arange(max(span.start, first), max(span.start, first, min(span.must, end)), dtype=np.uint64)
        yield from found(GAP, span.log, want[stored.missing(span.log, want)])


def found(kind: str, log: LogId, offsets: Offsets) -> Iterator[Finding]:
    for low, high in ranges(offsets):
        yield Finding(kind, log, low, high, high - low + 1)


def ranges(offsets: Offsets) -> list[tuple[Offset, Offset]]:
    """The runs of ascending, distinct offsets, both ends closed."""
    if not len(offsets):
        return []
    breaks = np.flatnonzero(np.diff(offsets) != 1)
    starts, ends = np.concatenate(([0], breaks + 1)), np.concatenate((breaks, [len(offsets) - 1]))
    return [(Offset(int(offsets[a])), Offset(int(offsets[b]))) for a, b in zip(starts, ends, strict=True)]


def joined(found: Iterable[Finding]) -> list[Finding]:
    """Findings of one kind that follow each other, as chunks cut them, as one."""
    out: list[Finding] = []
    for one in sorted(found, key=lambda f: (f.kind, f.log, f.first)):
        last = out[-1] if out else None
        if last is None or (last.kind, last.log, last.last + 1, last.columns) != (
            one.kind,
            one.log,
            one.first,
            one.columns,
        ):
            out.append(one)
            continue
        partitions = {p: last.partitions.get(p, 0) + one.partitions.get(p, 0) for p in last.partitions | one.partitions}
        out[-1] = Finding(one.kind, one.log, last.first, one.last, last.rows + one.rows, one.columns, partitions)
    return sorted(out, key=lambda f: (f.first, f.log, f.kind))
