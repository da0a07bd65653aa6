"""Between the gRPC messages and the model: specs, tables, marks."""

from __future__ import annotations

from typing import Any

from proxist.errors import ProxistError
from proxist.etcd import OwnerRecord, ShardRecord, TableRecord
from proxist.model.table import TableSpec, parse_spec
from proxist.pb import controlplane_pb2 as pb
from proxist.pb import ingest_pb2
from proxist.rpc.actions import spec_message


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


def table_to_wire(record: TableRecord) -> pb.Table:
    table = record.table
    return pb.Table(
        id=table.id,
        tenant=table.tenant,
        spec=spec_message(table.spec),
        shard_ids=table.shard_ids,
        schema_version=table.schema_version,
        state=record.state,
        paused=record.paused,
    )


def shard_to_wire(record: ShardRecord, owner: OwnerRecord | None, refusal: ProxistError | None = None) -> pb.Shard:
    """ "owned" iff somebody accepts the shard's rows now; `refusal`: why nobody can."""
    return pb.Shard(
        table=record.table,
        tenant=record.tenant,
        shard=record.shard,
        slot=record.slot,
        node=owner.node if owner else record.node,
        epoch=owner.epoch if owner else record.epoch,
        state="owned" if owner else "refused" if refusal else "unowned",
        error="" if owner or refusal is None else refusal.message,
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
