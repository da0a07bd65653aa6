"""The formulas of docs/operations/size.md hold against the code, and its worked example is worked."""

from __future__ import annotations

import contextlib
import io
import re
import time

import numpy as np
import pyarrow as pa
import pytest
from operator_pages import OPERATIONS

from proxist.hot.layout import block_bytes, row_bytes
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import parse_spec
from proxist.wal.record import encode_body

PAGE = (OPERATIONS / "size.md").read_text()
SPEC = parse_spec(
    {
        "name": "trades",
        "time": "ts",
        "key": "symbol",
        "seq": "trade_id",
        "hot_bytes": "4GiB",
        "columns": [
            {"name": "symbol", "type": "string"},
            {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
            {"name": "trade_id", "type": "uint64"},
            {"name": "price", "type": "double"},
            {"name": "size", "type": "double"},
        ],
    }
)
ROW, LOGGED, BLOCK, PER_BATCH, RECORD_HEAD = 40, 44, 256 * 40 + 448, 520, 120
"""Bytes, as the page has them; the head of a record is of docs/formats/wal.md."""


def trades(count: int, keys: int) -> pa.RecordBatch:
    random = np.random.default_rng(1)
    names = pa.array([f"SYM{n:05d}" for n in range(keys)])
    columns = {
        "symbol": names.take(pa.array(random.integers(0, keys, count))),
        "ts": pa.array(np.arange(count), pa.timestamp("ns", tz="UTC")),
        "trade_id": pa.array(np.arange(count, dtype=np.uint64)),
        "price": pa.array(random.normal(100, 1, count)),
        "size": pa.array(random.exponential(1, count)),
    }
    return pa.RecordBatch.from_pydict(columns, schema=SPEC.schema)


def test_the_worked_example_prints_what_the_page_shows() -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.M | re.S)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "size.md", "exec"), {})
    assert printed.getvalue() == shown


def test_a_row_and_a_block_have_the_bytes_of_the_page() -> None:
    assert (row_bytes(SPEC), block_bytes(SPEC, 256)) == (ROW, BLOCK)


@pytest.mark.parametrize(("count", "keys"), [(200_000, 2), (200_000, 500), (50_000, 5_000)])
def test_memory_in_use_is_at_most_what_the_formula_says(count: int, keys: int) -> None:
    rows = trades(count, keys)
    with HotSet.create(SPEC, ShardId(1), Epoch(1), Offset(0)) as hot:
        hot.publish(hot.append(rows, Offset(0), time.time_ns()))
        formula = (count / 256 + keys) * BLOCK
        assert (count / 256) * BLOCK <= hot.used_bytes <= formula


@pytest.mark.parametrize("count", [1, 500, 10_000])
def test_a_batch_takes_at_most_what_the_formula_says_of_the_log(count: int) -> None:
    written = RECORD_HEAD + encode_body(trades(count, 100)).size
    assert LOGGED * count <= written <= LOGGED * count + PER_BATCH
