"""What each producer has sent to one shard: numbers, content hashes, and where the rows lie.

A pure state machine. Its truth is the log: each record names producer, number and hash, so replaying the records
rebuilds it, and a log's carried state holds the last number of each producer.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from proxist.errors import InvalidArgument, Overloaded, ProducerConflict, ProducerGap
from proxist.model.ids import Epoch, Offset

NUMBERS_KEPT_MAX = 1 << 20
"""Numbers remembered per producer (40 bytes each): a day of twelve batches a second."""
PRODUCERS_MAX = 100_000
"""Producers per shard; each costs about 1 KiB even when it sent one batch only."""
HASH_BYTES = 16
RUN_NUMBERS = 65_536
"""Numbers that one row of an export holds at most, and about what one of its batches holds: 3 MiB."""
RUNS_SCHEMA = pa.schema(
    [
        pa.field("producer", pa.string(), nullable=False),
        pa.field("number", pa.uint64(), nullable=False),
        pa.field("hashes", pa.binary(), nullable=False),
        pa.field("epochs", pa.list_(pa.uint32()), nullable=False),
        pa.field("firsts", pa.list_(pa.int64()), nullable=False),
        pa.field("ends", pa.list_(pa.int64()), nullable=False),
    ]
)
"""A row: consecutive numbers of a producer from `number` on, with as many hashes (16 bytes each), epochs and offsets."""


@dataclass(frozen=True, slots=True)
class Original:
    """Where the rows of a numbered batch lie: [first, end) of the log under `epoch`."""

    epoch: Epoch
    first: Offset
    end: Offset
    ordinal: int
    """Which record of this process it is (0: recovered, so on disk since before the start)."""


@dataclass(slots=True)
class _Producer:
    """Numbers `oldest` to `last`, one entry each."""

    oldest: int
    last: int
    hashes: bytearray = field(default_factory=bytearray)
    epochs: array[int] = field(default_factory=lambda: array("I"))
    firsts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    ordinals: array[int] = field(default_factory=lambda: array("q"))

    def add(self, content_hash: bytes, original: Original) -> None:
        self.hashes += content_hash
        self.epochs.append(original.epoch)
        self.firsts.append(original.first)
        self.ends.append(original.end)
        self.ordinals.append(original.ordinal)
        if len(self.epochs) > NUMBERS_KEPT_MAX:
            self._forget(NUMBERS_KEPT_MAX // 4)

    def pop(self) -> None:
        self.last -= 1
        del self.hashes[-HASH_BYTES:]
        for column in (self.epochs, self.firsts, self.ends, self.ordinals):
            column.pop()

    def _forget(self, count: int) -> None:
        # A quarter at a time: dropping one entry per batch would move the whole arrays for each.
        self.oldest += count
        del self.hashes[: count * HASH_BYTES]
        for column in (self.epochs, self.firsts, self.ends, self.ordinals):
            del column[:count]

    def run(self, number: int, last: int) -> _Run:
        """The entries of the numbers from `number` to `last`; none of those that were forgotten."""
        begin = max(number - self.oldest, 0)
        end = max(min(last - self.oldest + 1, begin + RUN_NUMBERS), begin)
        return _Run(
            self.oldest + begin,
            bytes(self.hashes[begin * HASH_BYTES : end * HASH_BYTES]),
            np.array(self.epochs[begin:end], np.uint32),
            np.array(self.firsts[begin:end], np.int64),
            np.array(self.ends[begin:end], np.int64),
        )

    def extend(self, run: _Run) -> None:
        """Take the entries of `run`, which follow the last one; of records that are on disk."""
        self.hashes += run.hashes
        self.epochs.extend(run.epochs.tolist())
        self.firsts.frombytes(run.firsts.tobytes())
        self.ends.frombytes(run.ends.tobytes())
        self.ordinals.frombytes(bytes(8 * len(run.epochs)))
        self.last += len(run.epochs)

    def hash_of(self, number: int) -> bytes:
        at = (number - self.oldest) * HASH_BYTES
        return bytes(self.hashes[at : at + HASH_BYTES])

    def original(self, number: int) -> Original:
        at = number - self.oldest
        return Original(Epoch(self.epochs[at]), Offset(self.firsts[at]), Offset(self.ends[at]), self.ordinals[at])


class _Run(NamedTuple):
    number: int
    hashes: bytes
    epochs: np.ndarray[tuple[int], np.dtype[np.uint32]]
    firsts: np.ndarray[tuple[int], np.dtype[np.int64]]
    ends: np.ndarray[tuple[int], np.dtype[np.int64]]


Instant = list[tuple[str, _Producer, int]]
"""What was known at an instant: the producers with their last numbers then. Entries below those never change."""


class Producers:
    """The producers of one shard. Written by the shard's writer, asked by any thread; `_lock` guards `_known`."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._known: dict[str, _Producer] = {}

    def last(self, producer: str) -> int | None:
        """The producer's highest accepted number, or None."""
        known = self._known.get(producer)
        return None if known is None else known.last

    def check(self, producer: str, number: int, content_hash: bytes, *, follows: bool = False) -> Original | None:
        """None: the number is new and may be accepted. An Original: a repeat, to be answered with the original's ack.

        Raises ProducerGap where a number was skipped and ProducerConflict where the number came with other content.
        A producer's first number is free, unless it `follows` one that was sent before it: that one was refused, and
        taking this one would shut it out for ever.
        """
        with self._lock:
            return self._check_locked(producer, number, content_hash, follows)

    def _check_locked(self, producer: str, number: int, content_hash: bytes, follows: bool) -> Original | None:
        known = self._known.get(producer)
        if known is None:
            if follows:
                raise ProducerGap(
                    f"Producer {producer!r} of table {self._table!r} sent batch {number}, but {number - 1}, which it "
                    "follows, was refused. Send what is missing first.",
                    producer=producer,
                    last=None,
                    expected=number - 1,
                    got=number,
                )
            if len(self._known) >= PRODUCERS_MAX:
                raise Overloaded(
                    f"Producer {producer!r} is new to table {self._table!r}, which has {PRODUCERS_MAX} producers, the "
                    "limit. Give long-lived names to producers, not one per batch.",
                    retry_after_s=60.0,
                )
            return None
        if number == known.last + 1:
            return None
        if number > known.last + 1:
            raise ProducerGap(
                f"Producer {producer!r} of table {self._table!r} sent batch {number}, but {known.last + 1} is the next "
                f"number: {_range(known.last + 1, number - 1)} missing. Send what is missing first.",
                producer=producer,
                last=known.last,
                expected=known.last + 1,
                got=number,
            )
        if number < known.oldest:
            raise ProducerConflict(
                f"Producer {producer!r} of table {self._table!r} repeated batch {number}, but contents are remembered "
                f"from {known.oldest} only. Go on with {known.last + 1}.",
                producer=producer,
                last=known.last,
                got=number,
            )
        if known.hash_of(number) != content_hash:
            raise ProducerConflict(
                f"Producer {producer!r} of table {self._table!r} repeated batch {number} with other content. A number "
                f"belongs to one batch for ever; send new rows as {known.last + 1}.",
                producer=producer,
                last=known.last,
                got=number,
            )
        return known.original(number)

    def accept(self, producer: str, number: int, content_hash: bytes, original: Original) -> None:
        """Remember an accepted batch; `check` returned None for it, or its record was read from the log."""
        with self._lock:
            known = self._known.get(producer)
            if known is None or number != known.last + 1:
                # A jump is possible only in a log whose carried state told the last number alone.
                known = self._known[producer] = _Producer(oldest=number, last=number)
            known.last = number
            known.add(content_hash, original)

    def retract(self, producer: str) -> None:
        """Forget the producer's last accepted batch: its record was not written after all."""
        with self._lock:
            known = self._known[producer]
            known.pop()
            if known.last < known.oldest:
                del self._known[producer]

    def to_carry(self) -> dict[str, Any]:
        """Carried state: the last number of each producer, with its hash and where its rows lie."""
        carry = {}
        with self._lock:
            for name, known in self._known.items():
                last = known.original(known.last)
                carry[name] = [known.last, known.hash_of(known.last).hex(), last.epoch, last.first, last.end]
        return carry

    def load_carry(self, carry: Mapping[str, Any]) -> None:
        """Take what `to_carry` gave, for every producer that is not known already or known with a lower number."""
        for name, (number, hex_hash, epoch, first, end) in carry.items():
            last = self.last(name)
            if last is None or last < number:
                self.accept(
                    name, number, bytes.fromhex(hex_hash), Original(Epoch(epoch), Offset(first), Offset(end), 0)
                )

    def instant(self) -> Instant:
        """Note what is known now, for `export`; it takes microseconds per producer, not per number."""
        with self._lock:
            return [(name, known, known.last) for name, known in self._known.items()]

    def export(self, instant: Instant) -> Iterator[pa.RecordBatch]:
        """Every number remembered at `instant` (and not forgotten since) as batches of RUNS_SCHEMA. For any thread, while
        others are accepted; the lock is held for one run at a time. Raises Overloaded where a producer was so fast that a
        number it had sent last at `instant` is forgotten already."""
        rows: list[tuple[str, _Run]] = []
        count = 0
        for name, known, last in instant:
            number = known.oldest
            while number <= last:
                with self._lock:
                    run = known.run(number, last)
                if not len(run.epochs):
                    raise Overloaded(
                        f"Producer {name!r} of table {self._table!r} sent {NUMBERS_KEPT_MAX} batches while its numbers were "
                        "being exported. Export them again."
                    )
                rows.append((name, run))
                number, count = run.number + len(run.epochs), count + len(run.epochs)
                if count >= RUN_NUMBERS:
                    yield _batch(rows)
                    rows, count = [], 0
        if rows:
            yield _batch(rows)

    def load(self, runs: pa.RecordBatch) -> None:
        """Take what `export` gave, batch by batch in its order, before anything else is accepted."""
        names, numbers, hashes = (runs.column(at).to_pylist() for at in range(3))
        lists = [runs.column(at) for at in range(3, 6)]
        with self._lock:
            for row, (name, number) in enumerate(zip(names, numbers, strict=True)):
                epochs, firsts, ends = (column[row].values.to_numpy() for column in lists)
                known = self._known.get(name)
                if known is None or number != known.last + 1:
                    known = self._known[name] = _Producer(oldest=number, last=number - 1)
                known.extend(_Run(number, hashes[row], epochs, firsts, ends))


def _batch(rows: list[tuple[str, _Run]]) -> pa.RecordBatch:
    columns: list[list[Any]] = [
        [name for name, _ in rows],
        *(list(column) for column in zip(*(r for _, r in rows), strict=True)),
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, RUNS_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=RUNS_SCHEMA)


def check_name(producer: Any, number: Any) -> tuple[str, int]:
    """The `producer` and `seq` of a batch's metadata. Raises InvalidArgument where they cannot name a batch."""
    if not isinstance(producer, str) or not 1 <= len(producer.encode()) <= 255:
        raise InvalidArgument(
            f"`producer` is {producer!r}, but must be a string of 1 to 255 bytes. Choose a fixed name."
        )
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**63:
        raise InvalidArgument(f"`seq` of producer {producer!r} is {number!r}, but must be an integer of at least 0.")
    return producer, number


def _range(first: int, last: int) -> str:
    return f"{first} is" if first == last else f"{first} to {last} are"
