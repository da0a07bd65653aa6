"""What is known about batches on their way: which part each owner acked, and the sum that a caller waits for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa

from proxist.client.put_stream import PutStream
from proxist.errors import ProxistError
from proxist.model.table import DURABILITY_LEVELS
from proxist.model.token import Token, parse_token
from proxist.telemetry import tracing


@dataclass(frozen=True, slots=True)
class Ack:
    """What was acknowledged: rows, at which durability level, the token that sees them, and the producer's numbers.

    `duplicates` counts batches that the owners already had; `first_seq` and `last_seq` are None for no batch at all.
    """

    rows: int
    batches: int
    duplicates: int
    durability: str | None
    token: str
    producer: str
    first_seq: int | None
    last_seq: int | None


@dataclass
class Span:
    """Sums acks: of the `expected` batches of one `send`, or of everything since the last `flush`."""

    expected: int = 0
    rows: int = 0
    batches: int = 0
    duplicates: int = 0
    durability: str | None = None
    token: Token = field(default_factory=lambda: Token({}))
    first_seq: int | None = None
    last_seq: int | None = None

    @property
    def done(self) -> bool:
        return self.batches >= self.expected

    def add(self, batch: Pending) -> None:
        acks = batch.acks.values()
        self.rows += batch.rows
        self.batches += 1
        self.duplicates += all(ack.get("duplicate") for ack in acks)
        self.first_seq = batch.seq if self.first_seq is None else min(self.first_seq, batch.seq)
        self.last_seq = batch.seq if self.last_seq is None else max(self.last_seq, batch.seq)
        for ack in acks:
            self.durability = _weaker(self.durability, str(ack.get("durability", DURABILITY_LEVELS[0])))
            if ack.get("token"):
                self.token = self.token.merge(_token_of(ack["token"]))

    def fail(self, error: ProxistError) -> None:
        """The delivery ended before these batches were acked; whoever waits for them is told by the delivery."""

    def ack(self, producer: str) -> Ack:
        return Ack(
            self.rows,
            self.batches,
            self.duplicates,
            self.durability,
            str(self.token),
            producer,
            self.first_seq,
            self.last_seq,
        )


_token_of = lru_cache(maxsize=256)(parse_token)
"""Every ack is added to two sums."""


def _weaker(one: str | None, other: str) -> str:
    return other if one is None else min(one, other, key=DURABILITY_LEVELS.index)


@dataclass
class Pending:
    """One numbered batch until each slot has acked its part. `sent_on`: the stream that last carried a slot's part."""

    seq: int
    rows: int
    bytes: int
    parts: list[pa.RecordBatch]
    span: Span
    sent_at_s: float
    trace: tracing.Span = tracing.OFF
    acks: dict[int, dict[str, Any]] = field(default_factory=dict)
    sent_on: dict[int, PutStream] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return len(self.acks) == len(self.parts)

    def unacked_slots(self) -> list[int]:
        return [slot for slot in range(len(self.parts)) if slot not in self.acks]
