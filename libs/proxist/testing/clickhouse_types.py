"""The part of the ClickHouse conformance suite that is about types: nothing may change on its way there and back."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from proxist.clickhouse import cold_to_schema, partition_of, structure, table_name
from proxist.clickhouse.content import same_values
from proxist.model.ids import TIME_MAX, TIME_MIN
from proxist.testing.clickhouse_store import Store, rows_of

_I64 = (-(2**63), -1, 0, 1, 2**63 - 1)
_INTEGERS = {f"{sign}int{bits}": bits for sign in ("", "u") for bits in (8, 16, 32, 64)}


def extremes() -> dict[str, pa.Array]:
    """Per Arrow type its extremes and its odd values."""
    out: dict[str, pa.Array] = {}
    for name, bits in _INTEGERS.items():
        low, high = (0, 2**bits - 1) if name[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        out[name] = pa.array([low, 0, 1, high], pa.type_for_alias(name))
    out["bool"] = pa.array([True, False])
    floats: dict[str, Any] = {"halffloat": np.float16, "float": np.float32, "double": np.float64}
    for name, kind in floats.items():
        info = np.finfo(kind)
        odd = [info.max, info.min, info.smallest_subnormal, -0.0, np.inf, -np.inf, np.nan, 0.1]
        out[name] = pa.array(np.array(odd, dtype=kind))
    days = [datetime.date(1900, 1, 1), datetime.date(1970, 1, 1), datetime.date(2299, 12, 31)]
    out["date32[day]"] = pa.array(days, pa.date32())
    out["date64[ms]"] = pa.array(days, pa.date64())
    for unit in ("s", "ms", "us", "ns"):
        out[f"timestamp[{unit}]"] = pa.array(_I64).view(pa.timestamp(unit))
        out[f"duration[{unit}]"] = pa.array(_I64).view(pa.duration(unit))
    for zone in ("UTC", "America/New_York", "+05:30"):
        out[f"timestamp[ns, tz={zone}]"] = pa.array(_I64).view(pa.timestamp("ns", tz=zone))
    for unit, wide, per_second in (("s", 32, 1), ("ms", 32, 10**3), ("us", 64, 10**6), ("ns", 64, 10**9)):
        kind = (pa.time32 if wide == 32 else pa.time64)(unit)
        out[str(kind)] = pa.array([0, 1, 86_400 * per_second - 1], pa.int32() if wide == 32 else pa.int64()).cast(kind)
    for text, kind in (
        ("decimal128(1, 0)", pa.decimal128(1, 0)),
        ("decimal128(9, 4)", pa.decimal128(9, 4)),
        ("decimal128(38, 10)", pa.decimal128(38, 10)),
        ("decimal256(18, 18)", pa.decimal256(18, 18)),
        ("decimal256(76, 38)", pa.decimal256(76, 38)),
    ):
        largest = "9" * (kind.precision - kind.scale) + ("." + "9" * kind.scale if kind.scale else "")
        out[text] = pa.array([Decimal(largest or "0"), Decimal("-" + largest), Decimal(0)], kind)
    out["string"] = pa.array(["", "é\U0001f600", "a\0b", "tab\tnewline\n'quote\\", "x" * 100_000])
    out["binary"] = pa.array([b"", b"\x00\xff\xfe", bytes(range(256))], pa.binary())
    return out


def lists_of(scalars: dict[str, pa.Array]) -> dict[str, pa.Array]:
    lists = {}
    for name, values in scalars.items():
        if name not in ("string", "binary"):
            offsets = pa.array([0, 0, len(values) - 1, len(values)], pa.int32())
            lists[f"list<item: {name}>"] = pa.ListArray.from_arrays(offsets, values)
    return lists


def every_type_round_trips(store: Store) -> None:
    """Extremes, odd values and nulls of every type come back bit by bit."""
    scalars = extremes()
    columns = [*scalars.items(), *lists_of(scalars).items()]
    specs: list[dict[str, Any]] = []
    arrays: dict[str, pa.Array] = {}
    count = 1 + max(len(values) for _, values in columns)
    for index, (type_, values) in enumerate(columns):
        nullable = not type_.startswith("list")
        filled = [values.slice(0, 1)] * (count - len(values))
        arrays[f"c{index}"] = pa.concat_arrays([values, *filled])
        specs.append({"name": f"c{index}", "type": type_})
        if nullable:
            arrays[f"c{index}_null"] = pa.concat_arrays([values, pa.nulls(count - len(values), values.type)])
            specs.append({"name": f"c{index}_null", "type": type_, "nullable": True})
    table = store.table(*specs)
    sent = rows_of(table, count, **arrays)
    store.clickhouse.insert(table, sent, "types")
    answer = store.clickhouse.query(f"SELECT * FROM {table_name(table)} ORDER BY _offset")
    back = cold_to_schema(answer, table.spec.schema)
    back.validate(full=True)
    for field in table.spec.schema:
        want, got = sent[field.name].combine_chunks(), back[field.name].combine_chunks()
        assert got.type == field.type
        assert same_values(want, got).all(), f"{field.name} {field.type}: {want} came back as {got}"
    store.clickhouse.drop_table(table)


def external_data_has_every_type(store: Store) -> None:
    """The hot tail as external data is what the table's own rows are, so that a union of both has one type."""
    scalars = extremes()
    columns = [*scalars.items(), *lists_of(scalars).items()]
    specs = [{"name": f"c{i}", "type": type_, "nullable": type_ in scalars} for i, (type_, _) in enumerate(columns)]
    table = store.table(*specs)
    cold = rows_of(table, 1, **{f"c{i}": values.slice(0, 1) for i, (_, values) in enumerate(columns)})
    hot = rows_of(table, 1, first=1, **{f"c{i}": values.slice(1, 1) for i, (_, values) in enumerate(columns)})
    store.clickhouse.insert(table, cold, "cold")
    answer = store.clickhouse.query(
        f"SELECT * FROM (SELECT * FROM {table_name(table)} UNION ALL SELECT * FROM tail) ORDER BY _offset",
        {"tail": hot},
        structures={"tail": structure(table.spec)},
    )
    back = cold_to_schema(answer, table.spec.schema)
    for field in table.spec.schema:
        want = pa.concat_arrays([cold[field.name].combine_chunks(), hot[field.name].combine_chunks()])
        assert same_values(want, back[field.name].combine_chunks()).all(), field
    store.clickhouse.drop_table(table)


def partitions_are_utc_days(store: Store) -> None:
    table = store.table()
    times = [TIME_MIN, -1, 0, 86_400 * 10**9 - 1, 86_400 * 10**9, 951_782_400 * 10**9, 1_709_164_800 * 10**9, TIME_MAX]
    for offset, time_ns in enumerate(times):
        ts = pa.array([time_ns]).view(pa.timestamp("ns", tz="UTC"))
        store.clickhouse.insert(table, rows_of(table, 1, first=offset, ts=ts), f"p{offset}")
    got = store.clickhouse.query(f"SELECT _partition_id AS p FROM {table_name(table)} ORDER BY _offset")
    assert got["p"].cast(pa.string()).to_pylist() == [partition_of(time_ns) for time_ns in times]
    store.clickhouse.drop_table(table)
