"""Between the gRPC messages and the model: specs, tables, marks."""

from __future__ import annotations

from typing import Any

from proxist.etcd import OwnerRecord, ShardRecord, TableRecord
from proxist.model.table import TableSpec, parse_spec
from proxist.pb import controlplane_pb2 as pb
from proxist.pb import ingest_pb2

_DURATIONS = (("h", 3600 * 10**9), ("m", 60 * 10**9), ("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1))
_SIZES = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))


def spec_from_wire(wire: pb.TableSpec) -> TableSpec:
    """Read a spec; what is empty takes its default. Raises InvalidArgument."""
    spec: dict[str, Any] = {
        "name": wire.name,
        "time": wire.time,
        "key": wire.key,
        "columns": [{"name": c.name, "type": c.type, "nullable": c.nullable} for c in wire.columns],
    }
    for name in ("seq", "shards", "durability", "hot_window", "hot_bytes", "dedup"):
        if value := getattr(wire, name):
            spec[name] = value
    spec["flush"] = {name: value for name in ("rows", "bytes", "age") if (value := getattr(wire.flush, name))}
    return parse_spec(spec)


def spec_to_wire(spec: TableSpec) -> pb.TableSpec:
    """Every default written out, in the largest unit that says it exactly."""
    return pb.TableSpec(
        name=spec.name,
        time=spec.time,
        key=spec.key,
        seq=spec.seq or "",
        columns=[pb.Column(name=c.name, type=str(c.type), nullable=c.nullable) for c in spec.columns],
        shards=spec.shards,
        durability=spec.durability,
        hot_window=duration_text(spec.hot_window_ns),
        hot_bytes=size_text(spec.hot_bytes),
        flush=pb.Flush(rows=spec.flush.rows, bytes=size_text(spec.flush.bytes), age=duration_text(spec.flush.age_ns)),
        dedup=spec.dedup,
    )


def table_to_wire(record: TableRecord) -> pb.Table:
    table = record.table
    return pb.Table(
        id=table.id,
        tenant=table.tenant,
        spec=spec_to_wire(table.spec),
        shard_ids=table.shard_ids,
        schema_version=table.schema_version,
        state=record.state,
        paused=record.paused,
    )


def shard_to_wire(record: ShardRecord, owner: OwnerRecord | None) -> pb.Shard:
    """ "owned" iff somebody accepts the shard's rows now."""
    return pb.Shard(
        table=record.table,
        tenant=record.tenant,
        shard=record.shard,
        slot=record.slot,
        node=owner.node if owner else record.node,
        epoch=owner.epoch if owner else record.epoch,
        state="owned" if owner else "unowned",
    )


def mark_to_wire(mark: ingest_pb2.Watermark) -> pb.Watermark:
    """The owner's answer, field by field: the two messages are the same but belong to two services."""
    return pb.Watermark(
        table=mark.table,
        tenant=mark.tenant,
        shard=mark.shard,
        epoch=mark.epoch,
        floor=mark.floor,
        persisted=mark.persisted,
        end=mark.end,
        t_persisted=mark.t_persisted if mark.HasField("t_persisted") else None,
    )


def duration_text(duration_ns: int) -> str:
    return _text(duration_ns, _DURATIONS)


def size_text(size_bytes: int) -> str:
    return _text(size_bytes, _SIZES)


def _text(value: int, units: tuple[tuple[str, int], ...]) -> str:
    unit, scale = next((u, s) for u, s in units if value % s == 0 and (value or s == 1))
    return f"{value // scale}{unit}"
