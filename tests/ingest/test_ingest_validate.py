"""Validation: what is refused, by which name; and that equal rows have equal bytes however they came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_rows import DAY_NS, rows, table

from proxist.errors import BatchTooLarge, InvalidBatch, ProxistError, SchemaMismatch
from proxist.model.ids import TIME_MAX, TIME_MIN
from proxist.wal.record import encode_body
from proxist_ingest.part import make_part
from proxist_ingest.split import check_slot, split
from proxist_ingest.validate import BATCH_ROWS_MAX, KEY_BYTES_MAX, Normaliser, canonical, normalise

SPEC = table().spec
TIME = pa.timestamp("ns", "UTC")


def times(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int64()).cast(TIME)


def bad_offsets() -> pa.Array:
    offsets = pa.array([0, 2**30, 5], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abcde")])


def bad_utf8() -> pa.Array:
    return pa.array([b"\xff\xfe", b"a"], pa.binary()).view(pa.string())


def bad_dictionary() -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0, 9], pa.int32()), pa.array(["a"]), safe=False)


REFUSED: dict[str, tuple[dict[str, Any], type[ProxistError], str]] = {
    "missing": ({"price": None}, SchemaMismatch, "price"),
    "extra": ({"colour": pa.array(["r", "g"])}, SchemaMismatch, "colour"),
    "mistyped": ({"price": pa.array([1, 2])}, SchemaMismatch, "price"),
    "wrong unit": ({"ts": pa.array([1, 2], pa.timestamp("us", "UTC"))}, SchemaMismatch, "ts"),
    "null time": ({"ts": times(None, 1)}, InvalidBatch, "ts"),
    "null key": ({"symbol": pa.array([None, "A"])}, InvalidBatch, "symbol"),
    "null in a dictionary's values": (
        {"symbol": pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["a", None]))},
        InvalidBatch,
        "symbol",
    ),
    "null value": ({"price": pa.array([None, 1.0])}, InvalidBatch, "price"),
    "before 1900": ({"ts": times(DAY_NS, TIME_MIN - 1)}, InvalidBatch, "ts"),
    "a long key": ({"symbol": pa.array(["a", "k" * (KEY_BYTES_MAX + 1)])}, InvalidBatch, "symbol"),
    "corrupt offsets": ({"symbol": bad_offsets()}, InvalidBatch, "valid Arrow"),
    "not UTF-8": ({"symbol": bad_utf8()}, InvalidBatch, "valid Arrow"),
    "dictionary index out of bounds": ({"symbol": bad_dictionary()}, InvalidBatch, "valid Arrow"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_batch_is_refused_by_the_name_of_its_column(name: str) -> None:
    replaced, kind, subject = REFUSED[name]
    with pytest.raises(ProxistError) as raised:
        normalise(rows(2, **replaced), SPEC)
    assert type(raised.value) is kind
    assert subject in raised.value.message
    assert "'trades'" in raised.value.message


def test_a_column_sent_twice_is_refused() -> None:
    good = rows(2)
    twice = pa.RecordBatch.from_arrays([*good.columns, good["price"]], [*good.schema.names, "price"])
    with pytest.raises(SchemaMismatch, match="'price' twice"):
        normalise(twice, SPEC)


def test_times_from_1900_to_2262_are_taken() -> None:
    assert normalise(rows(2, ts=times(TIME_MIN, TIME_MAX)), SPEC).num_rows == 2


def test_too_many_rows_are_refused_before_they_are_read() -> None:
    with pytest.raises(BatchTooLarge, match="Split"):
        normalise(rows(BATCH_ROWS_MAX + 1), SPEC)


def test_a_stream_is_told_at_its_start_that_its_schema_is_wrong() -> None:
    assert Normaliser(rows(0).schema, SPEC).rows(rows(3)).num_rows == 3
    with pytest.raises(SchemaMismatch, match="lacks column 'size'"):
        Normaliser(rows(1, size=None).schema, SPEC)


def test_nulls_are_taken_where_the_column_is_nullable() -> None:
    taken = normalise(rows(3, size=pa.array([1.0, None, 3.0])), SPEC)
    assert taken["size"].to_pylist() == [1.0, None, 3.0]
    assert taken.schema.equals(SPEC.schema)


def test_null_inside_a_list_is_refused_and_the_item_field_is_not_compared() -> None:
    columns = [*({"name": c.name, "type": str(c.type)} for c in SPEC.columns), {"name": "book", "type": "list<double>"}]
    spec = table(columns=columns).spec
    book = pa.array([[1.0], [2.0, 3.0]], pa.list_(pa.field("element", pa.float64(), nullable=False)))
    assert normalise(rows(2, book=book), spec)["book"].to_pylist() == [[1.0], [2.0, 3.0]]
    with pytest.raises(InvalidBatch, match="'book'"):
        normalise(rows(2, book=pa.array([[1.0], [None]])), spec)


def test_a_date_that_clickhouse_would_move_is_refused() -> None:
    columns = [*({"name": c.name, "type": str(c.type)} for c in SPEC.columns), {"name": "d", "type": "date32[day]"}]
    spec = table(columns=columns).spec
    with pytest.raises(InvalidBatch, match="'d'"):
        normalise(rows(2, d=pa.array([0, 200_000], pa.int32()).cast(pa.date32())), spec)


def hash_of(batch: pa.RecordBatch) -> bytes:
    return make_part(normalise(batch, SPEC), "os", lambda _: None, producer="p").content_hash


def sent(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch` as it comes out of an IPC stream: padded, with whatever its buffers held there."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return pa.ipc.open_stream(sink.getvalue()).read_next_batch()


ENCODINGS = {
    "column order": lambda b: b.select(list(reversed(b.schema.names))),
    "large_string": lambda b: b.set_column(0, "symbol", b["symbol"].cast(pa.large_string())),
    "string_view": lambda b: b.set_column(0, "symbol", b["symbol"].cast(pa.string_view())),
    "dictionary": lambda b: b.set_column(0, "symbol", b["symbol"].dictionary_encode()),
    "slice": lambda b: pa.concat_batches([rows(5, first=90), b, rows(2, first=70)]).slice(5, b.num_rows),
    "slice from the start": lambda b: pa.concat_batches([b, rows(2, first=70)]).slice(0, b.num_rows),
    "sent in a slice": lambda b: sent(pa.concat_batches([b, rows(2, first=70)]).slice(0, b.num_rows)),
    "sent": lambda b: sent(b),
    "nullable flags": lambda b: b.cast(pa.schema([f.with_nullable(False) for f in b.schema])) if not b["size"].null_count else b,
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_same_rows_have_the_same_hash_however_they_were_encoded(name: str) -> None:
    plain = rows(9, size=pa.array([1.0, None, 3.0] * 3))
    encoded = ENCODINGS[name](plain)
    assert normalise(encoded, SPEC).equals(normalise(plain, SPEC))
    assert hash_of(encoded) == hash_of(plain)


LONGER_BY_TWO = [
    pa.array([1, 2, 3, 4, 5]),
    pa.array([1.0, 2.0, 3.0, 4.0, 5.0], pa.float32()),
    pa.array([True, False, True, True, True]),
    pa.array(["eight by", "te strin", "gs fill ", "words", ""]),
    pa.array([b"", b"", b"", b"x", b"y"]),
    pa.array([b"ab", b"cd", b"ef", b"gh", b"ij"], pa.binary(2)),
    pa.array([[1.0], [2.0, 3.0], [], [4.0], [5.0]]),
    pa.array([[True], [False, True], [], [True], [True]]),
    pa.array([1, None, 3, 4, None], pa.int16()),
    pa.array([1, 2, 3, 4, None], pa.decimal128(20, 2)),
]


@pytest.mark.parametrize("longer", LONGER_BY_TWO, ids=lambda array: str(array.type))
def test_what_lies_behind_the_last_row_does_not_change_the_bytes(longer: pa.Array) -> None:
    def stored(batch: pa.RecordBatch) -> bytes:
        return bytes(encode_body(pa.record_batch({"x": canonical(batch.column(0))})))

    fresh = pa.record_batch({"x": pa.array(longer.to_pylist()[:3], longer.type)})
    sliced = pa.record_batch({"x": longer}).slice(0, 3)
    assert canonical(sliced.column(0)).equals(fresh.column(0))
    assert {stored(one) for one in (sliced, sent(sliced), sent(fresh), sent(sent(sliced)))} == {stored(fresh)}


def test_what_lies_under_a_null_does_not_change_the_hash() -> None:
    def size(hidden: float) -> pa.Array:
        values = pa.py_buffer(np.array([1.0, hidden]))
        return pa.Array.from_buffers(pa.float64(), 2, [pa.py_buffer(bytes([0b01])), values])

    assert hash_of(rows(2, size=size(7.0))) == hash_of(rows(2, size=size(8.0)))


def test_other_rows_have_another_hash() -> None:
    assert len({hash_of(rows(3)), hash_of(rows(3, first=1)), hash_of(rows(4)), hash_of(rows(0))}) == 4


@settings(max_examples=60)
@given(st.lists(st.text(max_size=3), max_size=40), st.integers(1, 7))
def test_a_split_batch_has_every_row_once_in_its_keys_slot_and_in_order(keys: list[str], shards: int) -> None:
    spread = table(shards)
    batch = normalise(rows(len(keys), symbol=pa.array(keys, pa.string())), spread.spec)
    parts = split(batch, spread)
    for slot, part in parts.items():
        assert part.num_rows
        check_slot(part, spread, slot)
        assert part["trade_id"].to_pylist() == sorted(part["trade_id"].to_pylist())
    assert sorted(i for part in parts.values() for i in part["trade_id"].to_pylist()) == list(range(len(keys)))


def test_a_part_with_another_slots_key_is_refused() -> None:
    spread = table(4)
    wrong = next(slot for slot in range(4) if slot != spread.slot_of("S0"))
    with pytest.raises(InvalidBatch, match="'S0'"):
        check_slot(normalise(rows(3, keys=1), spread.spec), spread, wrong)
    with pytest.raises(InvalidBatch, match="slots 0 to 3"):
        check_slot(normalise(rows(1), spread.spec), spread, 4)
