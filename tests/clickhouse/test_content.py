"""Rows are compared to the bit, whatever their type, and a row that differs is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from proxist.clickhouse.content import compared, differing_columns, same_rows, same_values
from proxist.clickhouse.wire import CutShort, arrow_stream, read_answer
from proxist.testing.clickhouse_types import extremes, lists_of

SCALARS = extremes()
EVERY = {**SCALARS, **lists_of(SCALARS)}


@pytest.mark.parametrize("type_", EVERY)
def test_each_value_is_itself_and_none_of_the_others(type_: str) -> None:
    values = EVERY[type_]
    assert same_values(values, values).all()
    for at in range(len(values)):
        turned = pa.concat_arrays([values.slice(at), values.slice(0, at)])
        want = [left == right for left, right in zip(_words(values), _words(turned), strict=True)]
        assert same_values(values, turned).tolist() == want


def _words(values: pa.Array) -> list[Any]:
    """Each value as something that is equal exactly where its bits are."""
    if pa.types.is_list(values.type):
        return [_words(values.slice(at, 1).flatten()) for at in range(len(values))]
    if pa.types.is_floating(values.type):
        return [np.asarray([v], f"f{values.type.bit_width // 8}").tobytes() for v in values.to_pylist()]
    if pa.types.is_temporal(values.type) and values.type.bit_width == 64:
        values = values.view(pa.int64())  # Python's own times are narrower
    return list(values.to_pylist())


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (pa.array([0.0]), pa.array([-0.0])),
        (pa.array([1.5]), pa.array([None], pa.float64())),
        (pa.array([0.0]), pa.array([None], pa.float64())),
        (pa.array([""]), pa.array([None], pa.string())),
        (pa.array([[1, 2]]), pa.array([[1]])),
        (pa.array([[1, 2], []]), pa.array([[1], [2]])),
        (pa.array([[0.0]]), pa.array([[-0.0]])),
    ],
)
def test_what_is_nearly_the_same_is_not(left: pa.Array, right: pa.Array) -> None:
    assert not same_values(left, right).any()


def test_two_nans_are_the_same_only_with_the_same_bits() -> None:
    bits = np.array([0x7FF8000000000000, 0x7FF8000000000001], np.uint64)
    values = pa.array(bits.view(np.float64))
    assert same_values(values, values).all()
    assert not same_values(values, pa.array(bits[::-1].copy().view(np.float64))).any()


def test_nulls_are_the_same_whatever_stands_behind_them() -> None:
    behind = [
        pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.array([7, n]).buffers()[1]]) for n in (1, 2)
    ]
    assert same_values(*behind).all()


def test_a_slice_is_compared_from_where_it_begins() -> None:
    values = pa.array([1, 2, 3, 4, None])
    assert same_values(values.slice(2), pa.array([3, 4, None])).all()
    assert not same_values(values.slice(1, 2), pa.array([1, 2])).any()


def test_the_row_and_the_column_that_differ_are_named() -> None:
    left = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"], "c": [1.0, None, 2.0]})
    right = pa.table({"a": [1, 2, 3], "b": ["x", "Y", "z"], "c": [1.0, None, -2.0]})
    assert same_rows(left, right).tolist() == [True, False, False]
    assert differing_columns(left, right) == ["b", "c"]


def test_text_is_compared_by_its_bytes() -> None:
    assert compared(pa.table({"s": ["é"]}))["s"].to_pylist() == ["é".encode()]


def test_an_answer_that_ends_anywhere_but_at_its_end_is_refused() -> None:
    """Between two messages too, where Arrow itself sees a whole stream with fewer rows."""
    sink = pa.BufferOutputStream()
    rows = pa.table({"n": list(range(10))})
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=5)
    whole = sink.getvalue().to_pybytes()
    assert read_answer(whole).equals(rows)
    assert read_answer(arrow_stream(rows).to_pybytes()).equals(rows)
    for end in range(1, len(whole)):
        with pytest.raises(CutShort):
            read_answer(whole[:end])
