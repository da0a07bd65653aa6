"""The pure parts of ingest: producer numbers, cuts, seq dedup, requests, the acks of a batch."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_rows import rows, table

from proxist.errors import InvalidArgument, Overloaded, ProducerConflict, ProducerGap, ProxistError, Unavailable
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import Flush
from proxist.model.token import Mark, parse_token
from proxist_ingest import producers as producers_module
from proxist_ingest.cutter import Cutter
from proxist_ingest.part import PartAck
from proxist_ingest.pending import PendingPut
from proxist_ingest.producers import Original, Producers
from proxist_ingest.request import PutRequest, parse_path, parse_request
from proxist_ingest.seqdedup import SeqDedup


def hash_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def original(number: int) -> Original:
    return Original(Epoch(3), Offset(10 * number), Offset(10 * number + 10), number)


def filled(first: int, last: int) -> Producers:
    made = Producers("trades")
    for number in range(first, last + 1):
        assert made.check("p", number, hash_of(number)) is None
        made.accept("p", number, hash_of(number), original(number))
    return made


# ---- producers -------------------------------------------------------------------------------------------------------


def test_the_first_number_is_free_and_each_next_is_one_more() -> None:
    made = filled(17, 20)
    assert made.last("p") == 20
    assert made.last("other") is None
    assert made.check("p", 21, hash_of(21)) is None


def test_a_repeat_gets_its_original_and_other_content_is_refused() -> None:
    made = filled(17, 20)
    assert made.check("p", 18, hash_of(18)) == original(18)
    with pytest.raises(ProducerConflict, match=r"'p'.*batch 18 with other content"):
        made.check("p", 18, hash_of(99))


def test_a_hole_is_refused_by_name() -> None:
    with pytest.raises(ProducerGap, match="21 to 22 are missing") as raised:
        filled(17, 20).check("p", 23, hash_of(23))
    assert raised.value.details == {"producer": "p", "last": 20, "expected": 21, "got": 23}


def test_a_number_from_before_the_first_is_refused() -> None:
    with pytest.raises(ProducerConflict, match="remembered from 17"):
        filled(17, 20).check("p", 16, hash_of(16))


def test_old_numbers_are_forgotten_and_recent_ones_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers_module, "NUMBERS_KEPT_MAX", 100)
    made = filled(0, 1000)
    assert made.check("p", 1000 - 70, hash_of(1000 - 70)) == original(1000 - 70)
    with pytest.raises(ProducerConflict, match="remembered"):
        made.check("p", 5, hash_of(5))


def test_too_many_producers_are_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers_module, "PRODUCERS_MAX", 1)
    with pytest.raises(Overloaded, match="long-lived"):
        filled(1, 1).check("q", 1, hash_of(1))


def test_carried_state_keeps_the_last_number_of_each_producer() -> None:
    made = Producers("trades")
    made.load_carry(json.loads(json.dumps(filled(17, 20).to_carry())))
    assert made.check("p", 20, hash_of(20)) == Original(Epoch(3), Offset(200), Offset(210), 0)
    assert made.check("p", 21, hash_of(21)) is None
    with pytest.raises(ProducerGap):
        made.check("p", 22, hash_of(22))


def test_a_retracted_batch_may_be_sent_again() -> None:
    made = filled(17, 18)
    made.retract("p")
    assert made.check("p", 18, hash_of(99)) is None
    made.retract("p")
    assert made.last("p") is None


# ---- cuts ------------------------------------------------------------------------------------------------------------


def test_a_batch_is_cut_by_rows_by_bytes_and_by_age() -> None:
    cutter = Cutter(Flush(rows=100, bytes=1000, age_ns=20), Offset(50))
    assert cutter.due_ns() is None
    assert not cutter.add(Offset(149), 10, now_ns=5)
    assert cutter.add(Offset(150), 10, now_ns=6)
    assert cutter.cut() == 150
    assert cutter.add(Offset(151), 1000, now_ns=7)
    cutter.cut()
    cutter.persisted(Offset(151))
    assert not cutter.due(1_000)
    assert not cutter.add(Offset(152), 1, now_ns=100)
    assert (cutter.due_ns(), cutter.due(119), cutter.due(120)) == (120, False, True)


def test_while_the_persister_is_behind_the_open_batch_grows_until_it_is_full() -> None:
    cutter = Cutter(Flush(rows=100, bytes=1000, age_ns=20), Offset(0))
    cutter.add(Offset(1), 1, now_ns=0)
    assert cutter.due(20)
    cutter.cut()
    assert not cutter.add(Offset(2), 1, now_ns=50)
    assert not cutter.due(1_000_000), "one is on its way: a second by age would only wait behind it"
    assert cutter.add(Offset(101), 1, now_ns=60), "a full batch is cut all the same"
    cutter.cut()
    cutter.add(Offset(102), 1, now_ns=70)
    cutter.persisted(Offset(1))
    assert not cutter.due(1_000_000), "the full one is not persisted yet"
    cutter.persisted(Offset(101))
    assert cutter.due(1_000_000), "nothing is on its way, and the row is old enough: at once"
    saved = cutter.save()
    cutter.cut()
    cutter.restore(saved)
    assert cutter.due(1_000_000)


def test_an_empty_record_opens_no_batch() -> None:
    cutter = Cutter(Flush(age_ns=20), Offset(5))
    assert not cutter.add(Offset(5), 0, now_ns=1)
    assert cutter.due_ns() is None


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 300), st.integers(0, 30)), max_size=60))
def test_cuts_cover_every_row_once_and_no_batch_waits_past_its_age(steps: list[tuple[int, int, int]]) -> None:
    flush = Flush(rows=100, bytes=1000, age_ns=20)
    cutter, bounds, now, end = Cutter(flush, Offset(0)), [0], 0, 0
    for count, size, pause in steps:
        now += pause
        if cutter.due(now):
            bounds.append(cutter.cut())
        end += count
        if cutter.add(Offset(end), size, now):
            bounds.append(cutter.cut())
        due = cutter.due_ns()
        assert due is None or due > now or cutter.due(now)
    bounds.append(cutter.cut())
    assert bounds == sorted(bounds)
    assert bounds[-1] == end


# ---- dedup: seq ------------------------------------------------------------------------------------------------------


def trades(*pairs: tuple[str, int]) -> pa.RecordBatch:
    ids = pa.array([seq for _, seq in pairs], pa.uint64())
    return rows(len(pairs), symbol=pa.array([key for key, _ in pairs], pa.string()), trade_id=ids)


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2**64 - 1) | st.integers(0, 9)), max_size=20))
)
def test_dedup_keeps_exactly_the_rows_above_their_keys_last_seq(batches: list[list[tuple[str, int]]]) -> None:
    dedup, last = SeqDedup(table(dedup="seq").spec), dict[str, int]()
    for pairs in batches:
        expected = []
        for key, seq in pairs:
            if key not in last or seq > last[key]:
                last[key] = seq
                expected.append((key, seq))
        kept = dedup.filter(trades(*pairs))
        dedup.accept(kept)
        assert list(zip(kept["symbol"].to_pylist(), kept["trade_id"].to_pylist(), strict=True)) == expected


def test_dedup_forgets_a_batch_that_was_not_written() -> None:
    dedup = SeqDedup(table(dedup="seq").spec)
    dedup.accept(trades(("a", 5)))
    before = dedup.accept(trades(("a", 7), ("b", 1)))
    dedup.restore(before)
    assert dedup.filter(trades(("a", 6), ("b", 1))).num_rows == 2


# ---- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "table_level", "expected"),
    [
        (None, "disk", PutRequest("disk")),
        ({}, "os", PutRequest("os")),
        ({"durability": "os"}, "disk", PutRequest("disk")),
        ({"durability": "cold"}, "disk", PutRequest("cold")),
        ({"producer": "p", "seq": 0}, "os", PutRequest("os", "p", 0)),
        ({"acks": ["cold", "disk", "os"]}, "os", PutRequest("os", acks=("disk", "cold"))),
        ({"slot": 3}, "os", PutRequest("os", slot=3)),
        ({"producer": "p", "seq": 7, "follows": True}, "os", PutRequest("os", "p", 7, follows=True)),
        ({"alone": True}, "os", PutRequest("os", alone=True)),
    ],
)
def test_a_stream_may_raise_the_level_and_never_lower_it(metadata: Any, table_level: str, expected: PutRequest) -> None:
    assert parse_request(metadata and json.dumps(metadata).encode(), table_level) == expected


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b'{"prodcer": "p"}', "'prodcer'"),
        (b'{"producer": "p"}', "`seq`"),
        (b'{"seq": 1}', "`producer`"),
        (b'{"producer": "", "seq": 1}', "`producer`"),
        (b'{"producer": "p", "seq": -1}', "`seq`"),
        (b'{"producer": "p", "seq": true}', "`seq`"),
        (b'{"durability": "replica"}', "not available"),
        (b'{"durability": "stone"}', "unknown"),
        (b'{"acks": "cold"}', "`acks`"),
        (b'{"acks": ["stone"]}', "`acks`"),
        (b'{"slot": -1}', "`slot`"),
        (b'{"follows": 1}', "`follows`"),
        (b'{"alone": "yes"}', "`alone`"),
    ],
)
def test_a_wrong_request_is_refused_by_field(metadata: bytes, names: str) -> None:
    with pytest.raises(InvalidArgument, match=names):
        parse_request(metadata, "disk")


def test_a_path_names_the_table_with_or_without_its_tenant() -> None:
    assert parse_path([b"trades"]) == ("", "trades")
    assert parse_path([b"acme", b"trades"]) == ("acme", "trades")
    for wrong in (None, [], [b"a", b"b", b"c"]):
        with pytest.raises(InvalidArgument, match="PATH"):
            parse_path(wrong)


# ---- the acks of a batch ---------------------------------------------------------------------------------------------


def ack(shard: int, count: int, *, duplicate: bool = False, level: str = "disk") -> PartAck:
    return PartAck(ShardId(shard), count, duplicate, level, Epoch(2), Offset(100 * shard))


def put_of(request: PutRequest, shards: int) -> tuple[PendingPut, list[str | None]]:
    told: list[str | None] = []
    put = PendingPut(
        4, request, {slot: ShardId(slot + 1) for slot in range(shards)}, lambda _, level: told.append(level)
    )
    return put, told


def test_a_batch_is_acked_once_when_all_parts_are() -> None:
    put, told = put_of(PutRequest("disk", "p", 17, acks=("cold",)), 2)
    put.done(1)(ack(2, 5))
    assert told == []
    put.done(1)(ack(2, 99))
    put.done(0)(ack(1, 7, duplicate=True))
    put.done(0)(ack(1, 7))
    assert told == [None]
    wire = json.loads(put.ack())
    assert (wire["rows"], wire["duplicate"], wire["durability"]) == (12, False, "disk")
    assert parse_token(wire["token"]).marks == {1: Mark(Epoch(2), Offset(100)), 2: Mark(Epoch(2), Offset(200))}
    for slot, shard in ((0, 1), (1, 2)):
        put.climbed(slot)(ack(shard, 6, level="cold"))
    assert told == [None, "cold"]
    assert json.loads(put.follow_up("cold"))["of"] == 17


@pytest.mark.parametrize("producer", ["p", None])
def test_a_partial_failure_names_the_shards_that_lack_the_batch(producer: str | None) -> None:
    put, _ = put_of(PutRequest("disk", producer, 17), 3)
    put.done(0)(ack(1, 5))
    put.done(1)(Overloaded("The memory is full.", retry_after_s=0.5))
    put.done(2)(Unavailable("The owner is gone."))
    error = put.error
    assert isinstance(error, Unavailable)
    assert (error.details["lacking"], error.details["accepted"], error.retry_after_s) == ([2, 3], [1], 0.5)
    assert "again" in error.message
    assert ("twice" in error.message) == (producer is None)


def test_an_error_of_the_only_part_is_passed_on_as_it_is() -> None:
    refused: ProxistError = ProducerGap("Send 18 first.", expected=18)
    put, _ = put_of(PutRequest("disk", "p", 19), 1)
    put.done(0)(refused)
    assert put.error is refused
