"""Prepared reads give what the operators give, which the model judges; under eviction in another process see the feeder."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hot_model import batch_of, make_spec, new_hot_set, random_rows

from proxist.errors import InvalidArgument, NotFound, Unavailable
from proxist.hot.kernels import prepared as kernels
from proxist.hot.ops import DIRECTIONS, HotAsof, HotLastBy, HotPart, Probes
from proxist.hot.prepared import Prepared
from proxist.hot.reader import HotReader
from proxist.hot.writer import HotSet
from proxist.model.ids import Offset

KEYS = ("a", "b", "c", "not there", "a")
COLUMNS = ("price", "flag", "ts", "id")


def filled(turns: int = 6) -> HotSet:
    """Late rows, ties, wild times, and every second turn an eviction of about half."""
    rng, spec = np.random.default_rng(11), make_spec()
    hot = new_hot_set(spec, block_rows=16, hot_bytes=2**21)
    for turn in range(turns):
        style = ["in order", "late", "ties", "wild", "far"][turn % 5]
        rows = random_rows(rng, hot.appended_end, 80, ["a", "b", "c"], turn * 30, style)
        hot.append(batch_of(spec, rows), hot.appended_end, 0)
        hot.publish(hot.appended_end)
        if turn % 2:
            hot.set_persisted(hot.appended_end)
            hot.evict(Offset(hot.appended_end // 2))
    return hot


def assert_same(prepared: Prepared, part: HotPart, rows: list[int | None]) -> None:
    """Row i of `prepared` is row rows[i] of `part`, None: it has none."""
    assert (prepared.slots >= 0).tolist() == [row is not None for row in rows]
    for name in COLUMNS:
        column = (
            part.rows.column(name).to_pylist() if name != "ts" else part.rows.column(name).view(pa.int64()).to_pylist()
        )
        values, valid = prepared.arrays[name], prepared.valid.get(name)
        for i, row in enumerate(rows):
            value = 0 if row is None or column[row] is None else column[row]
            assert values.view(np.int64)[i] == value if name == "ts" else values[i] == value
            if valid is not None:
                assert valid[i] == (row is not None and column[row] is not None)


def last_by_matches(reader: HotReader) -> int:
    prepared = reader.prepare_last_by(KEYS, COLUMNS)
    reader.read(prepared)
    part = reader.run(HotLastBy(keys=KEYS, columns=COLUMNS))
    at = {key: i for i, key in enumerate(part.rows.column("sym").to_pylist())}
    assert_same(prepared, part, [at.get(key) for key in KEYS])
    undecided = KEYS if part.cold.keys is None else part.cold.keys
    assert prepared.undecided == sum(key in undecided for key in KEYS)
    assert prepared.end == part.end
    return prepared.undecided


def test_prepared_last_rows_are_the_operators() -> None:
    for turns in range(1, 7):
        with filled(turns) as hot:
            last_by_matches(hot.reader())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("tolerance", "exact"), [(None, True), (40, True), (None, False)])
def test_prepared_rows_as_of_a_time_are_the_operators(direction: str, tolerance: int | None, exact: bool) -> None:
    rng = np.random.default_rng(3)
    with filled() as hot:
        reader = hot.reader()
        keys = tuple(rng.choice(["a", "b", "c", "not there"], 200).tolist())
        prepared = reader.prepare_asof(keys, COLUMNS, direction=direction, tolerance_ns=tolerance, allow_exact=exact)
        for _ in range(3):
            times = rng.integers(-50, 400, len(keys))
            times.flags.writeable = False
            reader.read(prepared, times)
            part = reader.run(HotAsof(COLUMNS, direction, tolerance, exact), Probes(pa.array(keys), times))
            matched = part.rows.column("_offset").is_valid().to_pylist()
            assert_same(prepared, part, [i if there else None for i, there in enumerate(matched)])
            assert part.cold.probes is not None
            assert prepared.undecided == len(part.cold.probes)


def test_a_key_that_comes_later_is_found_by_the_next_read() -> None:
    spec = make_spec()
    with new_hot_set(spec) as hot:
        reader = hot.reader()
        prepared = reader.prepare_last_by(("a", "z"), ("id",))
        reader.read(prepared)
        assert not (prepared.slots >= 0).any()
        rows = random_rows(np.random.default_rng(1), 0, 20, ["z"], 0, "in order")
        hot.append(batch_of(spec, rows), Offset(0), 0)
        hot.publish(hot.appended_end)
        reader.read(prepared)
        assert (prepared.slots >= 0).tolist() == [False, True]
        assert prepared.arrays["id"][1] == max(rows, key=lambda row: row.order).seq


@pytest.mark.parametrize("kernel", ["last_now", "asof_now"])
def test_a_key_that_comes_during_a_read_is_found_where_the_read_covers_its_row(kernel: str) -> None:
    spec, rng, feed = make_spec(), np.random.default_rng(1), iter("yz")
    with new_hot_set(spec) as hot:
        reader, times = hot.reader(), np.full(3, 10**6)
        times.flags.writeable = False
        last = kernel == "last_now"
        prepared = (reader.prepare_last_by if last else reader.prepare_asof)(("a", "y", "z"), ("id",))
        run = getattr(kernels, kernel)

        def publish_and_run(*arguments: Any) -> int:
            """The owner goes on between the reader's look-up of the keys and its look at the end."""
            for key in feed:
                rows = random_rows(rng, hot.appended_end, 20, [key], 0, "in order")
                hot.append(batch_of(spec, rows), hot.appended_end, 0)
                hot.publish(hot.appended_end)
                break
            return int(run(*arguments))

        with mock.patch.object(kernels, kernel, publish_and_run):
            reader.read(prepared, *(() if last else (times,)))
        assert prepared.end == 40
        assert (prepared.slots >= 0).tolist() == [False, True, True]
        assert (prepared.arrays["id"][1:] > 0).all()


def test_keys_of_others_that_come_during_reads_do_not_hold_them_up() -> None:
    spec, rng = make_spec(), np.random.default_rng(1)
    with new_hot_set(spec) as hot:
        reader = hot.reader()
        prepared = reader.prepare_last_by(("a", "not there"), ("id",))
        run = kernels.last_now

        def publish_and_run(*arguments: Any) -> int:
            rows = random_rows(rng, hot.appended_end, 2, [f"k{hot.appended_end}"], 0, "in order")
            hot.append(batch_of(spec, rows), hot.appended_end, 0)
            hot.publish(hot.appended_end)
            return int(run(*arguments))

        with mock.patch.object(kernels, "last_now", publish_and_run):
            for _ in range(20):
                reader.read(prepared)
        assert prepared.end == 40
        assert reader.retry_count == 0


def test_a_read_after_the_owner_let_go_says_so() -> None:
    hot = filled(1)
    reader = hot.reader()
    prepared = reader.prepare_last_by(KEYS, COLUMNS)
    hot.set_lease_until(0)
    with pytest.raises(Unavailable, match="lease"):
        reader.read(prepared)
    hot.close()
    with pytest.raises(Unavailable, match="closed"):
        reader.read(prepared)


def test_a_column_that_no_array_holds_is_refused_by_name() -> None:
    with filled(1) as hot:
        for name in ("note", "levels", "cost"):
            with pytest.raises(InvalidArgument, match=name):
                hot.reader().prepare_last_by(("a",), (name,))
        with pytest.raises((InvalidArgument, NotFound), match="nosuch"):
            hot.reader().prepare_last_by(("a",), ("nosuch",))
