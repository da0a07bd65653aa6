"""The order in which batches go out around breaks, without a network: streams that end when the test says so."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from client_fakes import SPEC, rows

from proxist.client import delivery
from proxist.client.acks import Span
from proxist.client.topology import TableMap
from proxist.errors import Unavailable
from proxist.model.ids import ShardId, TableId
from proxist.model.table import Table, parse_spec

GONE = Unavailable("gone", retry_after_s=0.0)


class FakeStream:
    """Takes `room` parts, then has ended."""

    made: list[FakeStream]
    room: dict[str, int]

    def __init__(self, uri: Any, *_: Any) -> None:
        self.uri: str = uri
        self.numbers: list[int] = []
        self.ended = False
        self.made.append(self)

    def send(self, tag: Any, part: pa.RecordBatch, metadata: dict[str, Any]) -> None:
        if self.ended or len(self.numbers) >= self.room.get(self.uri, 99):
            self.ended = True
            raise delivery.StreamEnded
        self.numbers.append(metadata["seq"])


class TwoOwners:
    def __init__(self) -> None:
        table = Table(TableId(1), "default", parse_spec({**SPEC, "shards": 2}), (ShardId(1), ShardId(2)))
        self.map = TableMap(table, ("a", "b"))

    def table_map(self, table: str, *, fresh: bool) -> TableMap:
        return self.map

    def wire(self, uri: str) -> Any:
        return uri

    def producer_last(self, table: str, producer: str) -> int | None:
        return None


def test_no_batch_overtakes_one_that_waits_to_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeStream.made, FakeStream.room = [], {}
    monkeypatch.setattr(delivery, "PutStream", FakeStream)
    owners = TwoOwners()
    sending = delivery.Delivery(owners, owners.map, "p", 1, None, 16, 60.0, None)
    batch = rows(8).combine_chunks().to_batches()[0]
    for _ in range(4):
        sending.submit(batch, Span())
    a, b = FakeStream.made
    b.ended = True
    FakeStream.room = {"b": 1}  # b comes back, takes one part and goes again
    sending._ended(b, GONE)  # type: ignore[arg-type]
    a.ended = True
    sending._ended(a, GONE)  # type: ignore[arg-type]  # before the thread of b's second stream has its turn
    sending.submit(batch, Span())
    FakeStream.room = {}
    again = next(stream for stream in FakeStream.made if stream.uri == "b" and stream is not b)
    sending._ended(again, GONE)  # type: ignore[arg-type]
    sending.submit(batch, Span())
    for stream in FakeStream.made:
        assert stream.numbers == list(range(1, len(stream.numbers) + 1)), f"a hole in what went to {stream.uri}"
    last = {stream.uri: stream.numbers for stream in FakeStream.made}
    assert last == {"a": [1, 2, 3, 4, 5, 6], "b": [1, 2, 3, 4, 5, 6]}
