"""Tables: the spec that a user writes, the schema that it means, the shards that it has."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import InvalidArgument
from proxist.model.ids import ShardId, TableId
from proxist.model.slots import key_slot, slots_of
from proxist.model.types import KEY_TYPE, SEQ_TYPE, TIME_TYPE, is_fixed_width, parse_type
from proxist.model.units import parse_bytes, parse_duration_ns

DEFAULT_TENANT = "default"
DURABILITY_LEVELS = ("mem", "os", "disk", "replica", "cold")
"""From weak to strong; a stream may raise its table's level, never lower it."""
TABLE_LEVELS = ("mem", "os", "disk")
"""The levels at which a table can make its rows visible today."""
SHARDS_MAX = 1024
COLUMNS_MAX = 1024
HIDDEN_COLUMNS = ("_log", "_offset")
"""Stored last in ClickHouse; hidden from schemas and `SELECT *`, may be named."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `nullable` false refuses null values (the flag of an incoming schema is not compared)."""

    name: str
    type: pa.DataType
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Flush:
    """When the owner cuts a batch for the persister: at `rows`, at `bytes`, or, once the batch before it is
    persisted, `age_ns` after its first row."""

    rows: int = 50_000
    bytes: int = 16 * 2**20
    age_ns: int = 20_000_000


@dataclass(frozen=True, slots=True)
class TableSpec:
    """What a user declares; see `Tables` in docs/api.md. Built by `parse_spec`, printed by `to_json`."""

    name: str
    time: str
    key: str
    seq: str | None
    columns: tuple[Column, ...]
    shards: int = 1
    durability: str = "disk"
    hot_window_ns: int = 3600 * 10**9
    hot_bytes: int = 2 * 2**30
    flush: Flush = field(default_factory=Flush)
    dedup: str = "none"

    @property
    def schema(self) -> pa.Schema:
        """The table's Arrow schema, columns in declared order, without the hidden ones."""
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])

    @property
    def order(self) -> tuple[str, ...]:
        """The columns of Order before the offset: (time, seq), or (time,) without a seq column."""
        return (self.time, self.seq) if self.seq else (self.time,)

    def column(self, name: str) -> Column:
        """Raises InvalidArgument where the table has no such column."""
        for column in self.columns:
            if column.name == name:
                return column
        raise InvalidArgument(
            f"Table {self.name!r} has no column {name!r}. Its columns are {', '.join(c.name for c in self.columns)}."
        )

    def to_json(self) -> dict[str, Any]:
        """The spec as `parse_spec` takes it, every default written out; durations in ns, sizes in bytes."""
        return {
            "name": self.name,
            "time": self.time,
            "key": self.key,
            "seq": self.seq,
            "columns": [{"name": c.name, "type": str(c.type), "nullable": c.nullable} for c in self.columns],
            "shards": self.shards,
            "durability": self.durability,
            "hot_window": self.hot_window_ns,
            "hot_bytes": self.hot_bytes,
            "flush": {"rows": self.flush.rows, "bytes": self.flush.bytes, "age": self.flush.age_ns},
            "dedup": self.dedup,
        }


@dataclass(frozen=True, slots=True)
class Table:
    """A spec that the control plane accepted: with its id, its tenant and its shards in slot order."""

    id: TableId
    tenant: str
    spec: TableSpec
    shard_ids: tuple[ShardId, ...]
    schema_version: int = 1

    @property
    def name(self) -> str:
        return self.spec.name

    def slot_of(self, key: str) -> int:
        """Which slot (index into `shard_ids`) holds the rows of `key`."""
        return key_slot(key, len(self.shard_ids))

    def slots_of(self, keys: pa.Array) -> npt.NDArray[np.int64]:
        """`slot_of` each of `keys`."""
        return slots_of(keys, len(self.shard_ids))

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "tenant": self.tenant,
            "spec": self.spec.to_json(),
            "shard_ids": list(self.shard_ids),
            "schema_version": self.schema_version,
        }


def table_from_json(wire: dict[str, Any]) -> Table:
    """The inverse of `Table.to_json`."""
    return Table(
        TableId(wire["id"]),
        wire["tenant"],
        parse_spec(wire["spec"]),
        tuple(ShardId(s) for s in wire["shard_ids"]),
        wire["schema_version"],
    )


_SPEC_KEYS = {
    "name", "time", "key", "seq", "columns", "shards", "durability", "hot_window", "hot_bytes", "flush", "dedup",
}  # fmt: skip


def parse_spec(wire: Any) -> TableSpec:
    """Read a spec from its JSON form (`Tables` in docs/api.md).

    Raises InvalidArgument (UnsupportedType for a type) that names the table, the value, the rule and the remedy.
    """
    if not isinstance(wire, dict):
        raise InvalidArgument(
            f"A table spec is {type(wire).__name__}, but must be a JSON object with name, time, key, columns."
        )
    name = wire.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"Table name {name!r} is not a name. Use letters, digits and _, not beginning with a digit."
        )
    subject = f"table {name!r}"
    _refuse_unknown(wire, _SPEC_KEYS, subject)
    spec = TableSpec(
        name=name,
        time=_name(wire.get("time"), f"`time` of {subject}"),
        key=_name(wire.get("key"), f"`key` of {subject}"),
        seq=_name(wire["seq"], f"`seq` of {subject}") if wire.get("seq") else None,
        columns=_columns(wire.get("columns"), subject),
        shards=_integer(wire.get("shards", 1), 1, SHARDS_MAX, f"`shards` of {subject}"),
        durability=_choice(wire.get("durability", "disk"), TABLE_LEVELS, f"`durability` of {subject}"),
        hot_window_ns=parse_duration_ns(wire.get("hot_window", "1h"), f"`hot_window` of {subject}"),
        hot_bytes=_at_least(
            parse_bytes(wire.get("hot_bytes", "2GiB"), f"`hot_bytes` of {subject}"), 2**20, f"`hot_bytes` of {subject}"
        ),
        flush=_flush(wire.get("flush") or {}, subject),
        dedup=_choice(wire.get("dedup", "none"), ("none", "seq"), f"`dedup` of {subject}"),
    )
    _check_roles(spec, subject)
    return spec


def _refuse_unknown(wire: dict[str, Any], known: set[str], subject: str) -> None:
    if unknown := sorted(set(wire) - known):
        raise InvalidArgument(
            f"The spec of {subject} has the unknown key {unknown[0]!r}. Known keys are {', '.join(sorted(known))}."
        )


def _name(value: Any, subject: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidArgument(
            f"{subject} is {value!r}, but must be a column's name: letters, digits and _, no leading digit."
        )
    return value


def _integer(value: Any, low: int, high: int, subject: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidArgument(f"{subject} is {value!r}, but must be an integer from {low} to {high}.")
    return value


def _at_least(value: int, low: int, subject: str) -> int:
    if value < low:
        raise InvalidArgument(f"{subject} is {value}, but must be at least {low}.")
    return value


def _choice(value: Any, choices: tuple[str, ...], subject: str) -> str:
    if value not in choices:
        raise InvalidArgument(f"{subject} is {value!r}, but must be one of {', '.join(choices)}.")
    return str(value)


def _columns(wire: Any, subject: str) -> tuple[Column, ...]:
    if not isinstance(wire, list) or not 2 <= len(wire) <= COLUMNS_MAX:
        raise InvalidArgument(
            f"`columns` of {subject} must be a list of 2 to {COLUMNS_MAX} objects with name and type."
        )
    columns = tuple(_column(entry, subject) for entry in wire)
    names = [c.name for c in columns]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise InvalidArgument(f"Column {twice[0]!r} of {subject} is declared twice. Names are unique; remove one.")
    return columns


def _column(wire: Any, subject: str) -> Column:
    if not isinstance(wire, dict):
        raise InvalidArgument(
            f'A column of {subject} is {wire!r}, but must be an object such as {{"name": "price", "type": "double"}}.'
        )
    _refuse_unknown(wire, {"name", "type", "nullable"}, f"a column of {subject}")
    name = _name(wire.get("name"), f"a column's name in {subject}")
    if name in HIDDEN_COLUMNS:
        raise InvalidArgument(
            f"Column {name!r} of {subject} is reserved: Proxist stores log and offset under it. Choose another name."
        )
    type_ = parse_type(str(wire.get("type")), f"column {name!r} of {subject}")
    nullable = wire.get("nullable", False)
    if not isinstance(nullable, bool):
        raise InvalidArgument(f"`nullable` of column {name!r} of {subject} is {nullable!r}, but must be true or false.")
    if nullable and pa.types.is_list(type_):
        raise InvalidArgument(
            f"Column {name!r} of {subject} is a nullable list, but ClickHouse's Array has no null. "
            "Declare it not nullable and send an empty list."
        )
    return Column(name, type_, nullable)


def _flush(wire: Any, subject: str) -> Flush:
    if not isinstance(wire, dict):
        raise InvalidArgument(f'`flush` of {subject} is {wire!r}, but must be an object such as {{"rows": 50000}}.')
    _refuse_unknown(wire, {"rows", "bytes", "age"}, f"`flush` of {subject}")
    default = Flush()
    return Flush(
        rows=_integer(wire.get("rows", default.rows), 1, 1_000_000, f"`flush.rows` of {subject}"),
        bytes=_at_least(
            parse_bytes(wire.get("bytes", default.bytes), f"`flush.bytes` of {subject}"),
            1,
            f"`flush.bytes` of {subject}",
        ),
        age_ns=parse_duration_ns(wire.get("age", default.age_ns), f"`flush.age` of {subject}"),
    )


def _check_roles(spec: TableSpec, subject: str) -> None:
    for role, name, type_ in (("time", spec.time, TIME_TYPE), ("key", spec.key, KEY_TYPE), ("seq", spec.seq, SEQ_TYPE)):
        if name is None:
            continue
        column = next((c for c in spec.columns if c.name == name), None)
        if column is None:
            raise InvalidArgument(
                f"The {role} column of {subject} is {name!r}, which is not among its columns. Add it."
            )
        if not column.type.equals(type_) or column.nullable:
            raise InvalidArgument(
                f"The {role} column {name!r} of {subject} must be {type_}, not nullable; it is {column.type}."
            )
    if len({spec.time, spec.key, spec.seq or ""}) < 3:
        raise InvalidArgument(f"Time, key and seq of {subject} must be three different columns.")
    if spec.dedup == "seq" and spec.seq is None:
        raise InvalidArgument(
            f'`dedup` of {subject} is "seq", but the table has no seq column. Name one, or use "none".'
        )


def heap_columns(spec: TableSpec) -> tuple[Column, ...]:
    """The columns whose values differ in length and are not dictionary-encoded: binary and lists."""
    return tuple(c for c in spec.columns if not is_fixed_width(c.type) and not pa.types.is_string(c.type))
