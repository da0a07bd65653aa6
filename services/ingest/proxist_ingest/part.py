"""One slot's part of a batch on its way to the log, and the ack that comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from proxist.errors import InvalidArgument, ProxistError
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import DURABILITY_LEVELS
from proxist.telemetry.tracing import OFF, Span
from proxist.wal.record import NO_HASH, encode_body, hash_content

LEVELS = ("mem", "os", "disk", "cold")
"""The levels that this version can reach, weak to strong."""


@dataclass(frozen=True, slots=True)
class PartAck:
    """What is true of a part: its rows, [end - rows, end) of the shard under `epoch`, reached `level`."""

    shard: ShardId
    rows: int
    duplicate: bool
    level: str
    epoch: Epoch
    end: Offset


Answer = PartAck | ProxistError
Receiver = Callable[[Answer], None]
"""Called on any thread; must be quick and must not raise. Only the first call for a part (and level) counts."""


@dataclass(slots=True)
class Part:
    """Canonical rows of one slot, encoded for the log. `done` is called at least once: the ack at `level`, or why not.

    `climbed` is called once more for each of `follow_ups`, after `done`, as the rows reach it. `follows`: the sender has
    sent `number - 1` before it, so this cannot be the producer's first.
    """

    rows: pa.RecordBatch
    body: pa.Buffer | bytes
    content_hash: bytes
    byte_count: int
    level: str
    done: Receiver
    producer: str | None = None
    number: int = 0
    follow_ups: tuple[str, ...] = ()
    climbed: Receiver | None = None
    received_ns: int = field(default_factory=time.perf_counter_ns)
    """When the batch came (perf_counter); acks are timed from here."""
    trace: Span = OFF
    """The batch's span; the writer adds its steps to it."""
    follows: bool = False


def make_part(
    rows: pa.RecordBatch,
    level: str,
    done: Receiver,
    *,
    producer: str | None = None,
    number: int = 0,
    follow_ups: tuple[str, ...] = (),
    climbed: Receiver | None = None,
    received_ns: int | None = None,
    trace: Span = OFF,
    follows: bool = False,
) -> Part:
    """Encode normalised rows: the costly part of a write, done by the thread that received them."""
    came_ns = time.perf_counter_ns() if received_ns is None else received_ns
    if not rows.num_rows:
        return Part(rows, b"", NO_HASH, 0, level, done, producer, number, follow_ups, climbed, came_ns, trace, follows)
    body = encode_body(rows)
    content = hash_content(body) if producer is not None else NO_HASH
    size = int(body.size)
    return Part(rows, body, content, size, level, done, producer, number, follow_ups, climbed, came_ns, trace, follows)


def raise_level(table_level: str, asked: str | None, subject: str) -> str:
    """The stronger of the table's level and the one that was asked for. Raises InvalidArgument for an unknown one."""
    if asked is None:
        return table_level
    if asked not in LEVELS:
        known = "not available yet" if asked in DURABILITY_LEVELS else "unknown"
        raise InvalidArgument(f"{subject} is {asked!r}, which is {known}. Use one of {', '.join(LEVELS)}.")
    return max(table_level, asked, key=LEVELS.index)
