"""One batch of a DoPut stream, from its parts' answers to its PutResults."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from proxist.errors import CallerError, ProxistError, Unavailable
from proxist.model.ids import ShardId
from proxist.model.token import Mark, Token
from proxist.telemetry.tracing import OFF, Span
from proxist_ingest.part import Answer, PartAck, Receiver
from proxist_ingest.request import PutRequest


class PendingPut:
    """Gathers one answer per slot, and per level that is to follow. `_lock` guards the answers."""

    def __init__(
        self,
        index: int,
        request: PutRequest,
        shards: dict[int, ShardId],
        on_change: Callable[[PendingPut, str | None], None],
    ) -> None:
        """`shards`: where each part goes, by slot. `on_change(self, None)` when the last part is answered,
        `on_change(self, level)` when all have climbed to a level of `request.acks`; once each, on any thread."""
        self.index = index
        self.request = request
        self._shards = shards
        self._on_change = on_change
        self._lock = threading.Lock()
        self._answers: dict[int, Answer] = {}
        self._climbed: dict[str, dict[int, PartAck]] = {level: {} for level in request.acks}
        self.trace: Span = OFF
        self.stuck: ProxistError | None = None
        """Why a later ack will never come."""

    def done(self, slot: int) -> Receiver:
        """Takes the first answer of the part for `slot`."""

        def receive(answer: Answer) -> None:
            with self._lock:
                if slot in self._answers:
                    return
                self._answers[slot] = answer
                complete = len(self._answers) == len(self._shards)
            if complete:
                self._on_change(self, None)

        return receive

    def climbed(self, slot: int) -> Receiver:
        """Takes the later acks of the part for `slot`; an error makes the batch `stuck`, as a change of any level."""

        def receive(answer: Answer) -> None:
            if not isinstance(answer, PartAck):
                self.stuck = answer
                self._on_change(self, self.request.acks[0])
                return
            with self._lock:
                answers = self._climbed.get(answer.level)
                if answers is None or slot in answers:
                    return
                answers[slot] = answer
                complete = len(answers) == len(self._shards)
            if complete:
                self._on_change(self, answer.level)

        return receive

    @property
    def of(self) -> int:
        """How later acks name the batch: the producer's number, else the batch's in the stream."""
        return self.index if self.request.producer is None else self.request.number

    @property
    def complete(self) -> bool:
        """Whether every part has its first answer."""
        return len(self._answers) == len(self._shards)

    @property
    def error(self) -> ProxistError | None:
        """Why the batch as a whole is not acked; names the shards that lack it. Only when complete."""
        refused = {slot: answer for slot, answer in self._answers.items() if isinstance(answer, ProxistError)}
        if not refused:
            return None
        first = next(iter(refused.values()))
        if len(self._shards) == 1:
            return first
        return self._partial(first, {self._shards[slot]: error for slot, error in refused.items()})

    def end_trace(self) -> None:
        """The batch's span ends with its last part's answer. Only when complete."""
        if self.trace.recording:
            error = self.error
            if error is None:
                acks: list[Any] = list(self._answers.values())
                self.trace.set("proxist.batch.duplicate", all(ack.duplicate for ack in acks))
            else:
                self.trace.fail(error)
        self.trace.end()

    def ack(self) -> bytes:
        """The PutResult: rows and token over all parts. Only when complete and without error."""
        return json.dumps(self._result(list(self._answers.values()), self.request.level)).encode()

    def follow_up(self, level: str) -> bytes:
        """The PutResult for the batch's climb to `level`."""
        return json.dumps({"of": self.of, **self._result(list(self._climbed[level].values()), level)}).encode()

    def _result(self, answers: list[Any], level: str) -> dict[str, Any]:
        acks: list[PartAck] = answers
        return {
            "rows": sum(ack.rows for ack in acks),
            "duplicate": all(ack.duplicate for ack in acks),
            "durability": level,
            "token": str(Token({ack.shard: Mark(ack.epoch, ack.end) for ack in acks})),
        }

    def _partial(self, first: ProxistError, lacking: dict[ShardId, ProxistError]) -> ProxistError:
        accepted = sorted(set(self._shards.values()) - set(lacking))
        remedy = (
            f"Send batch {self.request.number} of producer {self.request.producer!r} again: shards that have it answer "
            "with their first ack, the others take it."
            if self.request.producer is not None
            else "It has no producer number, so sending all of it again would store the accepted rows twice."
        )
        where = f"shards {accepted} have their parts" if accepted else "no shard has its part"
        kind = type(first) if isinstance(first, CallerError) or not accepted else Unavailable
        return kind(
            f"Shards {sorted(lacking)} lack their parts of the batch ({first.message}) {where}. {remedy}",
            retry_after_s=first.retry_after_s,
            **{**first.details, "lacking": sorted(lacking), "accepted": accepted},
        )
