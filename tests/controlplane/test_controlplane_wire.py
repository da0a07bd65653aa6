"""A spec survives the way to the wire and back, and what is left empty takes its default."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxist.errors import InvalidArgument, UnsupportedType
from proxist.model.table import parse_spec
from proxist.model.units import format_bytes, format_duration, parse_bytes, parse_duration_ns
from proxist.pb import controlplane_pb2 as pb
from proxist.rpc.actions import spec_message
from proxist_controlplane.wire import spec_from_wire

COLUMNS = [
    {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
    {"name": "symbol", "type": "string"},
    {"name": "trade_id", "type": "uint64"},
    {"name": "price", "type": "double", "nullable": True},
    {"name": "levels", "type": "list<item: double>"},
    {"name": "cost", "type": "decimal128(20, 4)"},
]


@given(st.integers(0, 2**63))
def test_durations_and_sizes_read_back_exactly(value: int) -> None:
    assert parse_duration_ns(format_duration(value), "x") == value
    assert parse_bytes(format_bytes(value), "x") == value


def test_units_are_the_largest_that_are_exact() -> None:
    assert [format_duration(v) for v in (20_000_000, 3_600 * 10**9, 1_500_000_000, 0)] == [
        "20ms",
        "1h",
        "1500ms",
        "0ns",
    ]
    assert [format_bytes(v) for v in (16 << 20, 2 << 30, 1000, 0)] == ["16MiB", "2GiB", "1000B", "0B"]


def test_a_spec_survives_the_wire() -> None:
    spec = parse_spec(
        {"name": "trades", "time": "ts", "key": "symbol", "seq": "trade_id", "columns": COLUMNS, "shards": 3}
        | {"durability": "os", "hot_window": "90m", "hot_bytes": "3MiB", "dedup": "seq"}
        | {"flush": {"rows": 7, "bytes": 1000, "age": "1500us"}}
    )
    assert spec_from_wire(spec_message(spec)) == spec


def test_what_is_empty_takes_its_default() -> None:
    wire = pb.TableSpec(name="t", time="ts", key="symbol", columns=[pb.Column(**c) for c in COLUMNS])  # type: ignore[arg-type]
    assert spec_from_wire(wire) == parse_spec({"name": "t", "time": "ts", "key": "symbol", "columns": COLUMNS})


def test_a_wrong_spec_is_refused_by_its_field() -> None:
    with pytest.raises(InvalidArgument, match="Table name ''"):
        spec_from_wire(pb.TableSpec())
    columns = [pb.Column(name="ts", type="timestamp[ns, tz=UTC]"), pb.Column(name="symbol", type="struct<a: int8>")]
    with pytest.raises(UnsupportedType, match="symbol"):
        spec_from_wire(pb.TableSpec(name="t", time="ts", key="symbol", columns=columns))
