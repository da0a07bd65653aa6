"""Windows and bars against their naive model: any rows, any order, any eviction, any question; to the bit."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hot_model import Row, new_hot_set, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from window_model import MOODS, Model, TooLarge, batch_of, make_spec, random_window, rows_of, same

from proxist.errors import InvalidArgument
from proxist.hot.kernels import summary
from proxist.hot.long_windows import BLOCKS_MIN
from proxist.hot.ops import HotBars, HotLastBy, HotWindow, op_from_json
from proxist.hot.prepared_window import Value
from proxist.hot.reader import HotReader
from proxist.hot.summaries import Found, Summaries
from proxist.hot.windows import bars_rows, window_rows
from proxist.model.ids import Offset, TimeNs
from proxist.model.query import Agg
from proxist.model.table import TableSpec

STYLES = ["in order", "late", "ties", "wild", "far", "one key"]
Op = HotWindow | HotBars


def without_seq(rows: list[Row], spec: TableSpec) -> list[Row]:
    return rows if spec.seq else [Row(r.offset, r.key, r.time, 0) for r in rows]


def grouped(spec: TableSpec, rows: list[Row], mood: str) -> pa.RecordBatch:
    """The rows of both tiers as the seam hands them over: by key, then in Order, with `_offset`."""
    ordered = sorted(rows, key=lambda r: (r.key.encode(), *r.order))
    batch = batch_of(spec, ordered, mood)
    return batch.append_column("_offset", pa.array([r.offset for r in ordered], pa.uint64()))


def from_rows(op: Op, spec: TableSpec, batch: pa.RecordBatch) -> pa.RecordBatch:
    return window_rows(batch, spec, op) if isinstance(op, HotWindow) else bars_rows(batch, spec, op)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    style=st.sampled_from(STYLES),
    mood=st.sampled_from(MOODS),
    seq=st.booleans(),
    count=st.sampled_from([0, 1, 2, 17, 60, 150]),
)
def test_rows_in_hand_give_what_the_definitions_say(seed: int, style: str, mood: str, seq: bool, count: int) -> None:
    rng, spec, keys = np.random.default_rng(seed), make_spec(seq=seq), ["a", "b", "ä"]
    model = Model(spec, mood)
    model.rows = without_seq(random_rows(rng, 0, count, keys, 20, style), spec)
    batch = grouped(spec, model.rows, mood)
    for _ in range(4):
        op = replace(random_window(rng, keys, 60, count), keys=None)  # the rows in hand are of every key
        try:
            expected = model.answer(op, count)
        except TooLarge:
            with pytest.raises(InvalidArgument, match="Use avg"):
                from_rows(op, spec, batch)
            continue
        assert same(rows_of(from_rows(op, spec, batch)), expected), op


def check(model: Model, op: Op, reader: HotReader, end: int) -> None:
    """The part has the truth for every key that needs no cold, and nothing of the others, which all have evicted rows."""
    try:
        part = reader.run(op)
    except InvalidArgument:
        with pytest.raises(TooLarge):
            model.answer(op, end)
        return
    assert part.end == end
    if part.cold.keys is None:
        assert part.seam > 0
        assert part.rows.num_rows == 0
        cold = frozenset(r.key for r in model.rows) | frozenset(op.keys or ())
    else:
        cold = frozenset(part.cold.keys)
        assert cold <= {r.key for r in model.rows[: part.floor]}
    assert same(rows_of(part.rows), model.answer(op, end, cold)), (op, part.cold)


@pytest.mark.parametrize("blocks_min", [BLOCKS_MIN, 0], ids=["rows", "summaries"])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    mood=st.sampled_from(MOODS),
    seq=st.booleans(),
    styles=st.lists(st.sampled_from(STYLES), min_size=1, max_size=5),
)
def test_a_hot_set_answers_as_the_model_whatever_was_evicted(
    blocks_min: int, seed: int, mood: str, seq: bool, styles: list[str]
) -> None:
    with mock.patch("proxist.hot.long_windows.BLOCKS_MIN", blocks_min):
        play(seed, mood, seq, styles)


def play(seed: int, mood: str, seq: bool, styles: list[str]) -> None:
    """Append, publish, evict; ask both readers at every step."""
    rng, spec, keys, clock = np.random.default_rng(seed), make_spec(seq=seq), ["a", "b", "ä"], 0
    model = Model(spec, mood)
    with new_hot_set(spec, block_rows=16, hot_bytes=4 * 2**20) as hot:
        fd = hot.readonly_fd()
        readers = [hot.reader(), HotReader.attach(fd)]
        os.close(fd)
        for turn, style in enumerate(styles):
            rows = without_seq(random_rows(rng, hot.appended_end, 60, keys, clock, style), spec)
            model.rows += rows
            hot.append(batch_of(spec, rows, mood), hot.appended_end, 0)
            hot.publish(hot.appended_end)
            clock += 20
            if turn % 2:
                hot.set_persisted(hot.appended_end)
                hot.evict(Offset(int(hot.appended_end * rng.random())))
            for asked in range(3):
                op = random_window(rng, keys, clock, hot.appended_end)
                end = hot.appended_end if op.end is None else min(hot.appended_end, op.end)
                check(model, op, readers[asked % 2], end)
        for reader in readers:
            reader.close()


def ticks(*rows: tuple[str, int, float | None]) -> tuple[TableSpec, list[Row], pa.RecordBatch]:
    """A table of (key, time, price) rows in order of arrival."""
    spec = make_spec(seq=False)
    made = [Row(offset, key, time, 0) for offset, (key, time, _) in enumerate(rows)]
    batch = batch_of(spec, made, "plain")
    prices = pa.array([price for _, _, price in rows], pa.float64())
    return spec, made, batch.set_column(batch.schema.get_field_index("price"), batch.schema.field("price"), prices)


def asked(batch: pa.RecordBatch, spec: TableSpec, op: Op) -> list[tuple[object, ...]]:
    with new_hot_set(spec) as hot:
        hot.append(batch, Offset(0), 0)
        hot.publish(hot.appended_end)
        reader = hot.reader()
        rows = rows_of(reader.run(op).rows)
        reader.close()
    return rows


def test_a_range_window_excludes_its_far_end_and_sees_rows_before_from() -> None:
    spec, _, batch = ticks(("a", 0, 1.0), ("a", 5, 2.0), ("a", 10, 4.0), ("b", 10, 8.0))
    op = HotWindow((Agg("sum", "price"), Agg("count")), None, TimeNs(10), None, range_ns=10)
    assert asked(batch, spec, op) == [("a", 10, 6.0, 2, 2), ("b", 10, 8.0, 1, 3)]


def test_a_rows_window_counts_null_rows_and_skips_them() -> None:
    spec, _, batch = ticks(("a", 0, 1.0), ("a", 1, None), ("a", 2, 4.0))
    op = HotWindow((Agg("sum", "price"), Agg("count", "price"), Agg("count")), rows=2)
    assert [row[2:5] for row in asked(batch, spec, op)] == [(1.0, 1, 1), (1.0, 1, 2), (4.0, 1, 2)]


def test_a_late_row_moves_into_every_window_it_belongs_to() -> None:
    spec, _, batch = ticks(("a", 10, 1.0), ("a", 30, 2.0), ("a", 20, 4.0))
    op = HotWindow((Agg("last", "price"), Agg("sum", "price")), range_ns=15)
    assert [row[1:4] for row in asked(batch, spec, op)] == [(10, 1.0, 1.0), (20, 4.0, 5.0), (30, 2.0, 6.0)]


def test_bars_are_aligned_to_the_epoch_also_before_it() -> None:
    spec, _, batch = ticks(("a", -1, 1.0), ("a", 0, 2.0), ("a", 9, 3.0), ("a", 30, 4.0))
    op = HotBars((Agg("open", "price"), Agg("close", "price"), Agg("count")), 10)
    assert asked(batch, spec, op) == [("a", -10, 1.0, 1.0, 1), ("a", 0, 2.0, 3.0, 2), ("a", 30, 4.0, 4.0, 1)]


def test_sums_keep_what_doubles_would_lose() -> None:
    spec, _, batch = ticks(("a", 0, 1e16), ("a", 1, 1.0), ("a", 2, -1e16), ("a", 3, 1.0))
    op = HotWindow((Agg("sum", "price"), Agg("stddev", "price")), from_ns=TimeNs(3), rows=4)
    (row,) = asked(batch, spec, op)
    assert row[2] == 2.0
    assert asked(batch, spec, HotWindow((Agg("sum", "price"),), from_ns=TimeNs(3), rows=1))[0][2] == 1.0


def test_min_and_max_ignore_nan_as_clickhouse_does() -> None:
    nan = float("nan")
    spec, _, batch = ticks(("a", 0, nan), ("a", 1, 2.0), ("b", 0, nan))
    op = HotBars((Agg("min", "price"), Agg("max", "price")), 10)
    assert same(asked(batch, spec, op), [("a", 0, 2.0, 2.0), ("b", 0, nan, nan)])


def test_ema_begins_with_the_first_row_from_from_on_and_runs_through_bars() -> None:
    spec, _, batch = ticks(("a", 0, 100.0), ("a", 10, 1.0), ("a", 20, 3.0))
    ema = (Agg("ema", "price", alpha=0.5, name="e"),)
    assert [r[2] for r in asked(batch, spec, HotWindow(ema, None, TimeNs(10), range_ns=1))] == [1.0, 2.0]
    assert [r[2] for r in asked(batch, spec, HotBars(ema, 10, None, TimeNs(10)))] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("agg", "message"),
    [
        (Agg("sum", "venue"), "sum of column 'venue' is asked, which is string, but it takes integers and floats"),
        (Agg("max", "cost"), "max of column 'cost' is asked, which is decimal128"),
        (Agg("vwap", "price", "flag"), "vwap of column 'flag'"),
        (Agg("sum", "nothing"), "nothing"),
    ],
)
def test_an_aggregate_that_cannot_be_had_is_refused_by_name(agg: Agg, message: str) -> None:
    spec, _, batch = ticks(("a", 0, 1.0))
    for op in (HotWindow((agg,), rows=1), HotBars((agg,), 1)):
        with pytest.raises(InvalidArgument, match=message):
            asked(batch, spec, op)


@pytest.mark.parametrize(
    "op",
    [
        HotWindow((Agg("vwap", "p", "s"), Agg("ema", "p", alpha=0.1, name="e")), ("a",), TimeNs(1), TimeNs(2), range_ns=5),
        HotWindow((Agg("count"),), rows=3, end=Offset(7)),
        HotBars((Agg("open", "p"), Agg("count")), 10, from_ns=TimeNs(-5)),
    ],
)  # fmt: skip
def test_an_operation_survives_the_hop(op: Op) -> None:
    assert op_from_json(json.loads(json.dumps(op.to_json()))) == op


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "range_ns"),
        ({"rows": 1, "range_ns": 1}, "range_ns"),
        ({"rows": 0}, "rows"),
        ({"range_ns": 2**63}, "range_ns"),
        ({"rows": 1, "aggs": (Agg("open", "p"),)}, "open"),
        ({"rows": 1, "aggs": (Agg("sum", "p"), Agg("sum", "p"))}, "distinct names"),
    ],
)
def test_a_window_that_means_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        HotWindow(**{"aggs": (Agg("count"),)} | options)


def test_a_window_after_the_evicted_rows_needs_no_cold() -> None:
    spec, _, batch = ticks(*[("a", t, 1.0) for t in range(100)], *[("b", 5, 1.0)])
    with new_hot_set(spec, block_rows=16, hot_bytes=4 * 2**20) as hot:
        hot.append(batch, Offset(0), 0)
        hot.publish(hot.appended_end)
        hot.set_persisted(Offset(60))
        hot.evict(Offset(50))
        reader, aggs = hot.reader(), (Agg("count"),)
        assert not reader.run(HotWindow(aggs, None, TimeNs(70), range_ns=20)).cold
        assert reader.run(HotWindow(aggs, None, TimeNs(70), range_ns=21)).rows.num_rows == 30
        assert reader.run(HotWindow(aggs, None, TimeNs(70), range_ns=22)).cold.keys == ("a",)
        assert reader.run(HotWindow(aggs, None, TimeNs(70), range_ns=22)).rows.num_rows == 0
        assert not reader.run(HotWindow(aggs, None, TimeNs(70), rows=21)).cold
        assert reader.run(HotWindow(aggs, None, TimeNs(70), rows=22)).cold.keys == ("a",)
        assert reader.run(HotBars(aggs, 10, None, TimeNs(49))).cold.keys == ("a",)
        reader.close()


LONG = ("sum", "avg", "count", "min", "max", "stddev")


@pytest.mark.parametrize("late_share", [0.0, 0.02, 0.5])
def test_summaries_of_blocks_give_what_the_rows_give(late_share: float) -> None:
    rng, spec, span, told = np.random.default_rng(7), make_spec(seq=True), 9_000, []
    original = Summaries.windows

    def spied(*args: Any) -> Any:
        told.append(original(*args))
        return told[-1]

    aggs = tuple(Agg(fn, value) for fn in LONG for value in ("price", "size"))
    aggs += (Agg("vwap", "price", "size"), Agg("vwap", "size", "price"), Agg("count"), Agg("max", "ts"))
    with new_hot_set(spec, block_rows=16, hot_bytes=16 * 2**20) as hot:
        reader = hot.reader()
        for _ in range(6):
            first = hot.appended_end
            times = np.arange(first, first + 1500)
            late = rng.random(len(times)) < late_share
            times[late] -= rng.integers(0, 2000, int(late.sum()))
            rows = [Row(first + i, "ab"[i % 3 == 0], int(t), i % 5) for i, t in enumerate(times)]
            hot.append(batch_of(spec, rows, "money"), first, 0)
            hot.publish(hot.appended_end)
            hot.set_persisted(hot.appended_end)
            hot.evict(Offset(int(rng.integers(0, max(first // 2, 1)))))
            for range_ns in (*rng.integers(1, span, 8).tolist(), 1, span):
                start = int(rng.integers(max(0, first - 1000), hot.appended_end))
                op = HotWindow(aggs, ("a", "b"), TimeNs(start), TimeNs(start + 3), range_ns)
                with (
                    mock.patch("proxist.hot.long_windows.BLOCKS_MIN", 0),
                    mock.patch.object(Summaries, "windows", spied),
                ):
                    summed = reader.run(op)
                with mock.patch("proxist.hot.long_windows.BLOCKS_MIN", 2**40):
                    read = reader.run(op)
                assert summed.rows.equals(read.rows), op
                assert summed.cold.keys == read.cold.keys
        reader.close()
    assert len(told) > 500
    assert None not in told


PREPARED = (*(Agg(fn, value) for fn in LONG for value in ("price", "size")), Agg("vwap", "price", "size"), Agg("count"))


@pytest.mark.parametrize("late_share", [0.0, 0.3])
def test_a_prepared_window_is_the_last_row_of_the_window(late_share: float) -> None:
    rng, spec, decided = np.random.default_rng(3), make_spec(seq=True), 0
    with new_hot_set(spec, block_rows=16, hot_bytes=16 * 2**20) as hot:
        reader = hot.reader()
        prepared = [(agg, ns, reader.prepare_window("a", agg, ns)) for agg in PREPARED for ns in (1, 30, 3000)]
        for _, _, window in prepared:
            reader.read(window)
            assert (window.value, window.undecided, window.end) == (None, 0, 0)
        for turn in range(30):
            first = hot.appended_end
            times = np.arange(first, first + 90)
            late = rng.random(len(times)) < late_share
            times[late] -= rng.integers(0, 400, int(late.sum()))
            rows = [Row(first + i, "ab"[i % 3 == 0], int(t), i % 5) for i, t in enumerate(times)]
            hot.append(batch_of(spec, rows, "money"), first, 0)
            end = Offset(int(rng.integers(hot.marks().end, hot.appended_end + 1)))  # often below what was appended
            hot.publish(end)
            if turn % 3 == 2:
                hot.set_persisted(end)
                hot.evict(Offset(int(end * rng.random())))
            newest = reader.run(HotLastBy(("a",), ()))
            last = TimeNs(newest.rows.column(1).view(pa.int64())[0].as_py())
            for agg, ns, window in prepared:
                reader.read(window)
                part = reader.run(HotWindow((agg,), ("a",), last, None, ns))
                assert window.end == end
                assert window.undecided == int(bool(part.cold) or not part.rows.num_rows)
                if not window.undecided:
                    decided += 1
                    assert window.value == part.rows.column(3)[part.rows.num_rows - 1].as_py(), (agg, ns)
        reader.close()
    assert decided > 500


@pytest.mark.parametrize(("fn", "expected"), [("min", 2.0), ("max", 4.0), ("sum", 9.0)])
def test_a_prepared_window_whose_rows_are_overwritten_while_it_is_read_is_read_again(fn: str, expected: float) -> None:
    """The owner evicts and writes anew just before the result is taken from its cells."""
    spec = make_spec(seq=False)
    with new_hot_set(spec, block_rows=16) as hot:

        def put(key: str, prices: list[float]) -> None:
            batch = batch_of(spec, [Row(hot.appended_end + i, key, i, 0) for i in range(len(prices))], "money")
            at = batch.schema.get_field_index("price")
            hot.append(batch.set_column(at, batch.schema.field(at), pa.array(prices)), hot.appended_end, 0)
            hot.publish(hot.appended_end)

        put("a", [9.0] * 61 + [2.0, 3.0, 4.0])
        reader = hot.reader()
        window = reader.prepare_window("a", Agg(fn, "price"), 3)
        reader.read(window)
        assert window.value == expected
        take, ends = window._value, []

        def overtaken(found: Found) -> Value:
            if not ends:
                ends.append(hot.appended_end)
                hot.set_persisted(hot.appended_end)
                hot.evict(hot.appended_end)
                put("b", [-7777.0] * 64)
            return take(found)

        with mock.patch.object(window, "_value", overtaken):
            reader.read(window)
        assert ends == [64]
        assert window.end == 128
        assert window.undecided == 1
        assert window.value is None
        reader.close()


def test_a_prepared_sum_that_does_not_fit_is_refused_and_the_next_that_fits_is_told() -> None:
    spec = make_spec(seq=False)
    with new_hot_set(spec, block_rows=16) as hot:
        reader = hot.reader()
        window = reader.prepare_window("a", Agg("sum", "size"), 2)
        for at, size in enumerate([2**62, 2**62, -1]):
            batch = batch_of(spec, [Row(hot.appended_end, "a", at, 0)], "money")
            column = batch.schema.get_field_index("size")
            sizes = pa.array([size], batch.schema.field(column).type)
            hot.append(batch.set_column(column, batch.schema.field(column), sizes), hot.appended_end, 0)
            hot.publish(hot.appended_end)
            if at == 1:
                with pytest.raises(InvalidArgument, match="does not fit int64"):
                    reader.read(window)
                assert window.value is None
            else:
                reader.read(window)
        assert window.value == 2**62 - 1
        reader.close()


def test_an_aggregate_that_cannot_be_prepared_is_refused() -> None:
    spec = make_spec(seq=False)
    with new_hot_set(spec) as hot:
        reader = hot.reader()
        for agg in (Agg("first", "price"), Agg("sum", "ratio"), Agg("max", "volume")):
            with pytest.raises(InvalidArgument, match=r"cannot be prepared.*Use the window verb"):
                reader.prepare_window("a", agg, 5)
        reader.close()


def test_blocks_that_are_freed_while_summaries_grow_do_not_shift_them() -> None:
    spec, count = make_spec(seq=False), 640
    with new_hot_set(spec, block_rows=16, hot_bytes=16 * 2**20) as hot:
        reader = hot.reader()

        def append() -> None:
            first = hot.appended_end
            rows = [Row(first + i, "a", first + i, 0) for i in range(count)]
            hot.append(batch_of(spec, rows, "plain"), first, 0)
            hot.publish(hot.appended_end)
            hot.set_persisted(hot.appended_end)

        def windowed() -> list[tuple[object, ...]]:
            last = hot.appended_end - 1
            op = HotWindow((Agg("count"), Agg("min", "price")), ("a",), TimeNs(last), None, 400)
            with mock.patch("proxist.hot.long_windows.BLOCKS_MIN", 0):
                return rows_of(reader.run(op).rows)

        append()
        assert windowed()[0][2] == 400
        original = summary.finished_blocks

        def evicting(*args: Any) -> int:
            hot.evict(Offset(hot.appended_end - 450))
            return int(original(*args))

        append()
        with mock.patch.object(summary, "finished_blocks", evicting):
            assert windowed()[0][2] == 400
        append()
        assert windowed()[0][2] == 400
        reader.close()


def test_a_value_of_another_magnitude_is_read_row_by_row_and_right() -> None:
    spec, _, batch = ticks(*[("a", t, 1.5) for t in range(300)], ("a", 300, 1e200), ("a", 301, -1e200), ("a", 302, 2.0))
    with new_hot_set(spec, block_rows=16, hot_bytes=4 * 2**20) as hot:
        reader = hot.reader()
        for start, stop, total in ((0, 300, 450.0), (300, 303, 452.0)):
            hot.append(batch.slice(start, stop - start), Offset(start), 0)
            hot.publish(hot.appended_end)
            op = HotWindow((Agg("sum", "price"),), ("a",), TimeNs(stop - 1), None, 1000)
            for _ in range(2):
                with mock.patch("proxist.hot.long_windows.BLOCKS_MIN", 0):
                    assert rows_of(reader.run(op).rows)[0][2] == total
        reader.close()
