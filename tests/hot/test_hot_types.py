"""Every type that a table may have goes in and comes out unchanged: from blocks, and from boundary rows."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hot_model import FOREVER_NS

from proxist.errors import BatchTooLarge, InvalidArgument, InvalidBatch, Overloaded, SchemaMismatch
from proxist.hot.ops import HotAsof, HotLastBy, HotScan, Probes
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import TableSpec, parse_spec
from proxist.model.types import parse_type

UTC = dt.UTC
VALUES: dict[str, list[Any]] = {
    "bool": [True, False],
    "int8": [-128, 127], "int16": [-(2**15), 2**15 - 1], "int32": [-(2**31), 2**31 - 1], "int64": [-(2**63), 2**63 - 1],
    "uint8": [0, 255], "uint16": [0, 2**16 - 1], "uint32": [0, 2**32 - 1], "uint64": [0, 2**64 - 1],
    "float16": [np.float16(0.5), np.float16(-65504)], "float": [1.5, float("inf")], "double": [0.1, -5e-324],
    "date32[day]": [dt.date(1900, 1, 1), dt.date(2262, 4, 11)], "date64[ms]": [dt.date(1970, 1, 1), dt.date(2200, 1, 1)],
    "time32[s]": [dt.time(0, 0), dt.time(23, 59, 59)], "time32[ms]": [dt.time(0, 0, 0, 1000), dt.time(1, 2)],
    "time64[us]": [dt.time(0, 0, 0, 1), dt.time(23, 59, 59, 999999)], "time64[ns]": [dt.time(1), dt.time(2)],
    "timestamp[s]": [dt.datetime(1999, 1, 1), dt.datetime(2050, 1, 1)],
    "timestamp[ms, tz=UTC]": [dt.datetime(1999, 1, 1, tzinfo=UTC), dt.datetime(2050, 1, 1, tzinfo=UTC)],
    "timestamp[us, tz=Europe/Berlin]": [dt.datetime(1999, 1, 1, tzinfo=UTC), dt.datetime(2050, 1, 1, tzinfo=UTC)],
    "timestamp[ns, tz=UTC]": [1, 2**62],
    "duration[s]": [dt.timedelta(seconds=5), dt.timedelta(days=-3)], "duration[ns]": [-1, 2**40],
    "decimal128(38, 10)": [Decimal("1234567890123456789012345678.0123456789"), Decimal("-0.0000000001")],
    "decimal256(76, 0)": [Decimal(10) ** 75, -(Decimal(10) ** 75)],
    "string": ["", "grüße €" * 3], "binary": [b"", bytes(range(256))],
    "list<item: double>": [[], [0.1, float("-inf")]], "list<item: bool>": [[True, False, True], []],
    "list<item: decimal128(20, 2)>": [[Decimal("1.25")], [Decimal("-1.00"), Decimal("2.00")]],
    "list<item: uint16>": [[1, 2, 3], [65535]], "list<item: timestamp[ns, tz=UTC]>": [[1, 2], []],
    "list<item: decimal256(50, 1)>": [[Decimal("3.5")], []], "list<item: int8>": [[-1], [5, 6, 7]],
}  # fmt: skip


def spec_of(columns: dict[str, tuple[str, bool]], **more: Any) -> TableSpec:
    wire: list[dict[str, Any]] = [{"name": "ts", "type": "timestamp[ns, tz=UTC]"}, {"name": "sym", "type": "string"}]
    wire += [{"name": name, "type": type_, "nullable": nullable} for name, (type_, nullable) in columns.items()]
    return parse_spec({"name": "t", "time": "ts", "key": "sym", "columns": wire, **more})


def batch_of(spec: TableSpec, times: list[int], keys: list[str], **columns: Any) -> pa.RecordBatch:
    arrays = [pa.array(times, pa.int64()).cast(pa.timestamp("ns", tz="UTC")), pa.array(keys, pa.string())]
    arrays += [c if isinstance(c, pa.Array) else pa.array(c, spec.column(n).type) for n, c in columns.items()]
    return pa.RecordBatch.from_arrays(arrays, names=["ts", "sym", *columns])


def open_set(spec: TableSpec, **options: Any) -> HotSet:
    hot = HotSet.create(spec, ShardId(1), Epoch(1), Offset(0), **options)
    hot.set_lease_until(FOREVER_NS)
    return hot


@pytest.mark.parametrize(
    ("type_", "nullable"),
    [(t, False) for t in VALUES] + [(t, True) for t in VALUES if not t.startswith("list")],
)
def test_every_type_round_trips(type_: str, nullable: bool) -> None:
    parsed = parse_type(type_, "v")
    spec = spec_of({"v": (type_, nullable)})
    values = VALUES[type_] * 3
    if nullable:
        values = [values[0], None, *values[1:4], None]
    sent = pa.array(values, parsed)
    # a slice with an offset into its parent: neither bitmaps nor offsets begin at 0
    parent = pa.concat_arrays([sent.slice(0, 3), sent, sent.slice(0, 2)])
    with open_set(spec) as hot:
        hot.append(batch_of(spec, list(range(6)), ["a"] * 6, v=parent.slice(3, 6)), Offset(0), 0)
        hot.publish(Offset(6))
        reader = hot.reader()
        got = reader.run(HotScan()).rows
        got.validate(full=True)
        assert got.column("v").equals(sent)
        assert got.schema.field("v").type == parsed
        for at in range(6):
            row = reader.run(HotLastBy(at_ns=at)).rows
            assert row.column("v").equals(sent.slice(at, 1))
        probes = Probes(pa.array(["a", "z", "a"]), np.array([2, 2, -1]))
        rows = reader.run(HotAsof(("v",)), probes).rows
        rows.validate(full=True)
        assert rows.column("v").equals(pa.concat_arrays([sent.slice(2, 1), pa.nulls(2, parsed)]))
        hot.set_persisted(Offset(6))
        for floor in range(1, 7):
            hot.evict(Offset(floor))
            row = reader.run(HotLastBy(at_ns=floor - 1)).rows
            assert row.column("v").equals(sent.slice(floor - 1, 1))


def test_all_types_together_survive_eviction_as_boundary_rows() -> None:
    spec = spec_of({f"v{i}": (t, False) for i, t in enumerate(VALUES)})
    with open_set(spec, block_rows=16) as hot:
        columns = {f"v{i}": v * 20 for i, v in enumerate(VALUES.values())}
        batch = batch_of(spec, list(range(40)), ["a", "b", "a", "c"] * 10, **columns)
        hot.append(batch, Offset(0), 0)
        hot.publish(Offset(40))
        reader = hot.reader()
        before = reader.run(HotLastBy()).rows
        hot.set_persisted(Offset(40))
        for floor in (3, 20, 39, 40):
            hot.evict(Offset(floor))
            after = reader.run(HotLastBy()).rows
            after.validate(full=True)
            assert after.equals(before)


def test_strings_come_in_any_encoding() -> None:
    spec = spec_of({"v": ("string", True)})
    values = ["x", None, "y" * 40, "x"]
    encodings = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
    with open_set(spec) as hot:
        for i, type_ in enumerate(encodings):
            plain = pa.array(values, pa.string())
            array = plain.dictionary_encode().cast(type_) if pa.types.is_dictionary(type_) else plain.cast(type_)
            hot.append(batch_of(spec, [i] * 4, ["k"] * 4, v=array), Offset(4 * i), 0)
        hot.publish(Offset(16))
        assert hot.reader().run(HotScan()).rows.column("v").to_pylist() == values * 4


def test_long_strings_and_many_of_them_need_no_dictionary() -> None:
    spec = spec_of({"v": ("string", False)})
    values = [f"{i}" * 200 for i in range(500)]
    with open_set(spec, block_rows=16) as hot:
        hot.append(batch_of(spec, list(range(500)), [f"k{i % 7}" for i in range(500)], v=values), Offset(0), 0)
        hot.publish(Offset(500))
        hot.set_persisted(Offset(500))
        hot.evict(Offset(250))
        assert hot.reader().run(HotScan()).rows.column("v").to_pylist() == values[250:]
        hot.evict(Offset(500))
        assert sorted(hot.reader().run(HotLastBy()).rows.column("v").to_pylist()) == sorted(values[-7:])


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ({"v": pa.array([1.0, None])}, InvalidBatch, "nulls"),
        ({"v": pa.array(["a", "b"])}, SchemaMismatch, "came as string"),
        ({"w": pa.array([1.0, 2.0])}, SchemaMismatch, "lacks"),
    ],
)
def test_a_refused_batch_changes_nothing(columns: dict[str, Any], error: type[Exception], words: str) -> None:
    spec = spec_of({"v": ("double", False)})
    with open_set(spec) as hot:
        with pytest.raises(error, match=words):
            hot.append(batch_of(spec, [1, 2], ["new", "keys"], **columns), Offset(0), 0)
        assert hot.appended_end == 0
        assert hot.marks().key_count == 0
        assert hot.used_bytes == 0


def test_a_null_inside_a_list_is_refused() -> None:
    spec = spec_of({"v": ("list<item: double>", False)})
    with open_set(spec) as hot, pytest.raises(InvalidBatch, match="null inside a list"):
        hot.append(batch_of(spec, [1], ["a"], v=pa.array([[1.0, None]])), Offset(0), 0)


@pytest.mark.parametrize("payload", [0, 3000], ids=["blocks", "payloads"])
def test_a_full_hot_set_refuses_and_has_room_again_after_eviction(payload: int) -> None:
    spec = spec_of({"v": ("binary", False)})
    with open_set(spec, hot_bytes=2**20) as hot:

        def batch(rows: int) -> pa.RecordBatch:
            return batch_of(spec, list(range(rows)), [f"k{i % 50}" for i in range(rows)], v=[bytes(payload)] * rows)

        while hot.has_room(batch(100)):
            hot.append(batch(100), hot.appended_end, 0)
        end, used = hot.appended_end, hot.used_bytes
        with pytest.raises(Overloaded, match="no room"):
            hot.append(batch(100), end, 0)
        assert (hot.appended_end, hot.used_bytes) == (end, used)
        assert used <= 2**20
        hot.publish(end)
        hot.set_persisted(end)
        for _ in range(3):
            hot.evict(Offset(hot.appended_end))
            assert hot.used_bytes == 0
            hot.append(batch(100), hot.appended_end, 0)
            hot.publish(hot.appended_end)
            hot.set_persisted(hot.appended_end)
        hot.evict(hot.appended_end)
        with pytest.raises(BatchTooLarge):
            hot.append(batch(100_000), hot.appended_end, 0)


def test_room_that_was_promised_is_there() -> None:
    spec = spec_of({"v": ("string", False)})
    rng = np.random.default_rng(3)
    with open_set(spec, hot_bytes=2**20) as hot:
        for _ in range(300):
            batches = []
            for _ in range(3):
                rows = int(rng.integers(1, 200))
                keys = [f"k{int(k)}" for k in rng.integers(0, 300, rows)]
                batches.append(batch_of(spec, [0] * rows, keys, v=["w" * int(n) for n in rng.integers(0, 300, rows)]))
            if not hot.has_room(*batches):
                hot.publish(hot.appended_end)
                hot.set_persisted(hot.appended_end)
                hot.evict(Offset(int(rng.integers(hot.marks().floor, hot.appended_end + 1))))
                continue
            for batch in batches:
                hot.append(batch, hot.appended_end, 0)


def test_marks_go_forward_only() -> None:
    spec = spec_of({"v": ("double", False)})
    with open_set(spec) as hot:
        batch = batch_of(spec, [1, 2], ["a", "b"], v=[1.0, 2.0])
        hot.append(batch, Offset(0), 0)
        for wrong in (-1, 3):
            with pytest.raises(ValueError, match="end"):
                hot.publish(Offset(wrong))
        with pytest.raises(ValueError, match="offset"):
            hot.append(batch, Offset(1), 0)
        with pytest.raises(ValueError, match="persisted"):
            hot.set_persisted(Offset(1))
        hot.publish(Offset(2))
        hot.set_persisted(Offset(1))
        hot.set_persisted(Offset(0))
        assert hot.evict(Offset(2)) == 1
        assert hot.evict(Offset(0)) == 1
        assert hot.marks().persisted == 1


def test_rows_go_when_the_hot_window_has_passed() -> None:
    spec = spec_of({"v": ("double", False)}, hot_window=1000)
    with open_set(spec) as hot:
        for arrived in (0, 500, 1500):
            hot.append(batch_of(spec, [1, 2], ["a", "b"], v=[1.0, 2.0]), hot.appended_end, arrived)
        hot.publish(Offset(6))
        assert hot.floor_due(10_000) == 0
        hot.set_persisted(Offset(6))
        assert [hot.floor_due(now) for now in (1000, 1001, 1501, 2501)] == [0, 2, 4, 6]
        hot.evict(Offset(4))
        assert hot.floor_due(0) == 4


def test_history_before_the_start_leaves_everything_to_cold() -> None:
    spec = spec_of({"v": ("double", False)})
    hot = HotSet.create(spec, ShardId(1), Epoch(2), Offset(100))
    hot.set_lease_until(FOREVER_NS)
    with hot:
        hot.append(batch_of(spec, [1], ["a"], v=[1.0]), Offset(100), 0)
        hot.publish(Offset(101))
        reader = hot.reader()
        for op in (HotLastBy(), HotLastBy(("a", "new")), HotScan()):
            assert reader.run(op).cold.keys is None
        part = reader.run(HotAsof(), Probes(pa.array(["a", "new", None]), np.array([1, 1, 1])))
        assert part.cold.probes is not None
        assert part.cold.probes.tolist() == [0, 1]
        assert part.rows.column("_offset").to_pylist() == [100, None, None]


def test_unknown_columns_are_refused_by_name() -> None:
    with open_set(spec_of({"v": ("double", False)})) as hot, pytest.raises(InvalidArgument, match="'nope'"):
        hot.reader().run(HotLastBy(columns=("nope",)))


def test_as_of_without_probes_is_refused() -> None:
    with open_set(spec_of({"v": ("double", False)})) as hot, pytest.raises(InvalidArgument, match="probes"):
        hot.reader().run(HotAsof())
