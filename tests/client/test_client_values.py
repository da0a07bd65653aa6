"""Times, rows and answers: what Python holds and what goes over the wire are the same, to the nanosecond."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from client_fakes import SPEC, rows
from hypothesis import given
from hypothesis import strategies as st

import proxist
from proxist.client.answer import Answer
from proxist.client.frames import AsIs, conform, is_frame, split_by_slot, to_batches, to_table
from proxist.client.queries import names
from proxist.client.times import to_duration_ns, to_time_ns
from proxist.errors import InvalidArgument, SchemaMismatch
from proxist.model.slots import key_slot
from proxist.model.table import parse_spec

TABLE = parse_spec(SPEC)
NS = 1_723_161_600_123_456_789
MICRO_NS = 1_723_161_600_123_456_000

TIMES: dict[str, tuple[Any, int]] = {
    "int": (NS, NS),
    "numpy int": (np.int64(NS), NS),
    "text": ("2024-08-09T00:00:00.123456789Z", NS),
    "datetime": (datetime(2024, 8, 9, 0, 0, 0, 123456, UTC), MICRO_NS),
    "datetime without zone is UTC": (datetime(2024, 8, 9, 0, 0, 0, 123456), MICRO_NS),
    "datetime of another zone": (datetime(2024, 8, 9, 2, 0, 0, 123456, timezone(timedelta(hours=2))), MICRO_NS),
    "before 1970": (datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), -1_000),
    "date": (date(2024, 8, 9), 1_723_161_600 * 10**9),
    "numpy ns": (np.datetime64(NS, "ns"), NS),
    "numpy s": (np.datetime64("2024-08-09T00:00:00", "s"), 1_723_161_600 * 10**9),
    "numpy month": (np.datetime64("2024-08", "M"), 1_722_470_400 * 10**9),
    "numpy ps": (np.datetime64(5_000, "ps"), 5),
    "pandas": (pd.Timestamp(NS, tz="UTC"), NS),
    "pandas without zone": (pd.Timestamp(NS), NS),
    "pandas of another zone": (pd.Timestamp(NS, tz="UTC").tz_convert("Asia/Tokyo"), NS),
    "pandas in seconds": (pd.Timestamp("2024-08-09").as_unit("s"), 1_723_161_600 * 10**9),
    "arrow": (pa.scalar(NS, pa.timestamp("ns", "UTC")), NS),
    "arrow ms": (pa.scalar(5, pa.timestamp("ms")), 5_000_000),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_are_exact_to_the_nanosecond(name: str) -> None:
    value, ns = TIMES[name]
    assert to_time_ns(value, "at") == ns


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_every_nanosecond_survives_numpy_and_arrow(ns: int) -> None:
    assert to_time_ns(np.datetime64(ns, "ns"), "at") == ns
    assert to_time_ns(pa.scalar(ns, pa.timestamp("ns", "UTC")), "at") == ns


@pytest.mark.parametrize(
    "value",
    [1.5, True, "yesterday", None, pd.NaT, np.datetime64("NaT"), np.datetime64(1, "ps"), np.datetime64("9999-01-01")],
)
def test_what_is_no_time_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="at"):
        to_time_ns(value, "at")


@pytest.mark.parametrize(
    ("value", "ns"),
    [
        (10_000_000, 10_000_000),
        ("10ms", 10_000_000),
        (timedelta(microseconds=7), 7_000),
        (np.timedelta64(3, "ns"), 3),
        (np.timedelta64(2, "D"), 172_800 * 10**9),
        (pd.Timedelta(12_345, unit="ns"), 12_345),
    ],
)
def test_durations_are_exact(value: Any, ns: int) -> None:
    assert to_duration_ns(value, "tolerance") == ns


@pytest.mark.parametrize("value", [timedelta(seconds=-1), 1.5, "soon", np.timedelta64("NaT")])
def test_what_is_no_duration_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="tolerance"):
        to_duration_ns(value, "tolerance")


def as_table(value: Any) -> pa.Table:
    return conform(to_table(value, TABLE.schema), TABLE, cast=is_frame(value))


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t,
        lambda t: t.combine_chunks().to_batches()[0],
        lambda t: t.to_reader(),
        pl.from_arrow,
        lambda t: t.to_pandas(),
        lambda t: t.to_pydict(),
        lambda t: t.to_pylist(),
        lambda t: t.select(["price", "trade_id", "ts", "symbol"]),
        lambda t: t.set_column(0, "symbol", t["symbol"].dictionary_encode()),
        lambda t: t.set_column(0, "symbol", t["symbol"].cast(pa.string_view())),
    ],
)
def test_every_kind_of_frame_gives_the_same_rows(make: Any) -> None:
    table = rows(7)
    assert as_table(make(table)).equals(table.cast(TABLE.schema))


def test_frames_are_cast_only_where_no_value_changes() -> None:
    frame = pd.DataFrame(
        {
            "symbol": ["A", "B"],
            "ts": pd.to_datetime(["2024-08-09", "2024-08-10"]).as_unit("us"),
            "trade_id": [1, 2],
            "price": [1.0, float("nan")],
        }
    )
    table = as_table(frame)
    assert table["ts"][0].value == 1_723_161_600 * 10**9
    assert table["price"].null_count == 0
    assert np.isnan(table["price"][1].as_py())
    for column, values in {"trade_id": [-1, 2], "ts": ["2024-08-09", "x"], "price": ["1", "2"]}.items():
        with pytest.raises(SchemaMismatch, match=column):
            as_table(frame.assign(**{column: values}))


def test_python_values_are_read_as_the_declared_types() -> None:
    row = {"symbol": "A", "ts": datetime(2024, 8, 9, tzinfo=UTC), "trade_id": 1, "price": 2}
    assert as_table([row])["ts"][0].value == 1_723_161_600 * 10**9
    assert as_table([]).num_rows == 0
    with pytest.raises(SchemaMismatch, match="trade_id"):
        as_table([{**row, "trade_id": -1}])
    with pytest.raises(SchemaMismatch, match="ts"):
        as_table([{**row, "ts": "2024"}])
    with pytest.raises(InvalidArgument, match="int"):
        as_table(7)


def test_a_batch_that_is_sent_as_it_is_is_the_one_that_would_have_been_made() -> None:
    table = rows(7)
    short_way = AsIs(TABLE.schema)
    batch = table.combine_chunks().to_batches()[0]
    relaxed = pa.record_batch(batch.columns, names=batch.schema.names)
    made = next(to_batches(as_table(batch), 7))
    for sent in (batch, relaxed, relaxed.slice(0), made):
        found = short_way.batch(sent, 7)
        assert found is not None
        assert found.equals(made)
        assert found.schema.equals(TABLE.schema)


def test_a_batch_that_needs_work_is_not_sent_as_it_is() -> None:
    table = rows(7)
    batch = table.combine_chunks().to_batches()[0]
    short_way = AsIs(TABLE.schema)
    nulls = pa.array([None] * 7, batch.column("ts").type)
    others: list[Any] = [
        table,
        batch.slice(0, 0),
        batch.select(["price", "trade_id", "ts", "symbol"]),
        batch.select(["symbol", "ts", "trade_id"]),
        batch.set_column(0, "symbol", batch.column("symbol").dictionary_encode()),
        batch.set_column(batch.schema.get_field_index("ts"), "ts", nulls),
    ]
    assert all(short_way.batch(other, 7) is None for other in others)
    assert short_way.batch(batch, 6) is None


def test_batches_do_not_depend_on_how_the_rows_were_chunked() -> None:
    table = rows(100)
    chunked = pa.concat_tables([table.slice(0, 7), table.slice(7, 50), table.slice(57)])
    assert list(to_batches(chunked, 30)) == list(to_batches(table, 30))
    assert [batch.num_rows for batch in to_batches(table, 30)] == [30, 30, 30, 10]
    row_bytes = 2 + 4 + 3 * 8
    assert [batch.num_rows for batch in to_batches(table, 100, 50 * row_bytes)] == [50, 50]
    assert list(to_batches(chunked, 100, 30 * row_bytes)) == list(to_batches(table, 100, 30 * row_bytes))
    assert [batch.num_rows for batch in to_batches(table, 100, 1)] == [1] * 100


@given(st.lists(st.one_of(st.text(max_size=4), st.none()), max_size=60), st.integers(1, 7))
def test_a_split_keeps_each_row_once_and_in_its_order(keys: list[str | None], slots: int) -> None:
    batch = pa.record_batch({"key": pa.array(keys, pa.string()), "n": pa.array(range(len(keys)), pa.int64())})
    parts = split_by_slot(batch, "key", slots)
    assert len(parts) == slots
    assert sorted(n for part in parts for n in part["n"].to_pylist()) == list(range(len(keys)))
    for slot, part in enumerate(parts):
        assert part["n"].to_pylist() == sorted(part["n"].to_pylist())
        assert all(key_slot(key or "", slots) == slot for key in part["key"].to_pylist() if key is not None)


def test_an_answer_reads_like_a_table_and_converts() -> None:
    table = rows(3)
    answer = Answer(table, {"token": "px1.x", "mode": "hot"})
    assert (answer.token, answer.num_rows, len(answer)) == ("px1.x", 3, 3)
    assert answer.to_arrow() is table
    assert answer["price"].to_pylist() == [0.0, 0.25, 0.5]
    assert answer.to_polars()["ts"].dtype == pl.Datetime("ns", "UTC")
    assert answer.to_pandas()["ts"][2].value == 2
    assert pa.table(answer).equals(table)
    assert pl.DataFrame(answer).shape == (3, 4)
    assert [row["trade_id"] for row in answer] == [0, 1, 2]
    assert answer.equals(Answer(table, None))
    assert "mode hot" in repr(answer)


def test_names_are_a_string_or_strings() -> None:
    assert names("A", "keys") == ["A"]
    assert names(pl.Series(["A", "B"]), "keys") == ["A", "B"]
    assert names(pa.array(["A"]), "keys") == ["A"]
    with pytest.raises(InvalidArgument, match="`keys`"):
        names([1], "keys")


def test_import_proxist_loads_nothing_heavy() -> None:
    heavy = "('numba', 'polars', 'pandas', 'structlog', 'rich', 'typer', 'pydantic', 'chdb', 'clickhouse_connect')"
    program = (
        "import sys, proxist\n"
        "assert 'pyarrow' not in sys.modules and 'numpy' not in sys.modules\n"
        "proxist.connect, proxist.ProxistError\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    import proxist

    for name in proxist.__all__:
        assert getattr(proxist, name).__module__.startswith("proxist.")
    assert set(proxist.__all__) <= set(dir(proxist))
    with pytest.raises(AttributeError):
        _ = proxist.nosuch


def test_the_times_of_a_prepared_asof_are_taken_in_any_unit_or_refused(tmp_path: Path) -> None:
    with proxist.open(tmp_path) as opened:
        table = opened.create_table(SPEC)
        table.write(rows(1, symbols=1))  # at the beginning of 1970
        prepared = table.prepare_asof(["S0", "none"], ["price"])
        for unit in ("Y", "M", "D", "h", "m", "s", "ms", "us", "ns"):
            for year, found in (("1678", 0), ("1969", 0), ("1970", 1), ("2262", 1)):
                times = np.array([year, "2000"], f"M8[{unit}]")
                assert prepared.read(times) == prepared.read(times.astype("M8[ns]")) == found
            with pytest.raises(InvalidArgument, match=r"times\[1\] is NaT, but must be a time"):
                prepared.read(np.array(["2000", "NaT"], f"M8[{unit}]"))
        for unit in ("Y", "D", "s", "us"):
            for year in ("0001", "1600", "2500", "9999"):
                with pytest.raises(InvalidArgument, match=rf"times\[1\] is {year}.* 1678 to 2262"):
                    prepared.read(np.array(["2000", year], f"M8[{unit}]"))
        with pytest.raises(InvalidArgument, match="whole nanoseconds"):
            prepared.read(np.array([0, 1_001], "M8[ps]"))
        assert prepared.read(np.array([0, 1_000], "M8[ps]")) == 1
        with pytest.raises(InvalidArgument, match="one per key"):
            prepared.read(np.array(["2000"], "M8[s]"))
