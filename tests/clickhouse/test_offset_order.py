"""Rows that are read back come by (offset, log), whether each is there once or some are missing, copied or of another log."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from proxist.clickhouse.client import _offset_order
from proxist.model.ids import Offset

FIRST = 2**40
rows = st.lists(st.tuples(st.integers(FIRST, FIRST + 9), st.integers(7, 8)), max_size=14)
whole = st.permutations(range(FIRST, FIRST + 10)).map(lambda offsets: [(offset, 7) for offset in offsets])


@given(st.one_of(rows, whole))
def test_rows_come_by_offset_and_log(stored: list[tuple[int, int]]) -> None:
    offsets, logs = ([row[i] for row in stored] for i in (0, 1))
    table = pa.table({"_offset": pa.array(offsets, pa.uint64()), "_log": pa.array(logs, pa.uint64())})
    ordered = table.take(_offset_order(table, Offset(FIRST), Offset(FIRST + 10)))
    assert list(zip(*(ordered[name].to_pylist() for name in ("_offset", "_log")), strict=True)) == sorted(stored)
