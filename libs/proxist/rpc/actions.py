"""The DoActions that every ingest and every query node answers alike: they read the catalog or ask the control plane.

Bodies and results are JSON objects. `create_table` takes a spec (and `tenant`), `drop_table` and `flush` take
`{"table": …}`. `topology` takes nothing, or the name of a table that its answer lacks only if etcd does.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from typing import Any

import grpc

from proxist.auth.identity import Caller
from proxist.errors import InvalidArgument, NotFound, Unavailable
from proxist.etcd.catalog import Catalog
from proxist.model.table import TableSpec, parse_spec
from proxist.model.units import format_bytes, format_duration
from proxist.pb import controlplane_pb2 as pb
from proxist.pb import controlplane_pb2_grpc as pb_grpc
from proxist.rpc.grpc_client import connect

TIMEOUT_S = 60.0
"""Creating and dropping tables waits for owners and for ClickHouse; flushing for the persister."""
DESCRIPTIONS = {
    "create_table": "Creates a table from a spec; returns when every shard accepts rows. An equal spec again succeeds.",
    "drop_table": 'Drops a table and its rows: {"table": …}.',
    "flush": 'Returns when everything acked before the call is persisted: {"table": …}.',
    "topology": "Nodes, tables, and which node owns each shard.",
}


_PRIVATE = ("attach", "flight_unix", "pid", "host_id", "refused")


class ClusterActions:
    """Answers the actions of DESCRIPTIONS; thread-safe. `close` ends the connection to the control plane."""

    def __init__(self, catalog: Catalog, node: str) -> None:
        self._catalog = catalog
        self._node = node
        self._lock = threading.Lock()  # guards the two fields below
        self._address = ""
        self._channel: grpc.Channel | None = None

    def run(self, name: str, body: bytes, caller: Caller) -> dict[str, Any]:
        """The result of action `name`. Raises InvalidArgument for a body that is no JSON object or lacks the table,
        Unavailable where no control plane is there, and whatever it answers."""
        wire = parse_body(name, body)
        if name == "topology":
            return self._topology(str(wire.get("table") or ""), str(wire.get("tenant") or ""), caller)
        asked = str(wire.pop("tenant", None) or "")
        named = str(wire.get("name") or "") if name == "create_table" else table_of(name, wire)
        # The control plane sees this node call, not the caller: what the caller may is decided here.
        tenant = caller.table(named, asked)
        with caller.hiding(named, lambda: [(one.table.tenant, one.table.name) for one in self._catalog.tables()]):
            return self._command(name, wire, tenant)

    def _topology(self, table: str, asked_tenant: str, caller: Caller) -> dict[str, Any]:
        if table:
            with contextlib.suppress(NotFound):
                self._catalog.known_table(caller.tenant(asked_tenant), table)
        return topology(self._catalog, self._node, caller, asked_tenant)

    def _command(self, name: str, wire: dict[str, Any], tenant: str) -> dict[str, Any]:
        control = pb_grpc.ControlPlaneServiceStub(self._control_plane())
        if name == "create_table":
            request = pb.CreateTableRequest(tenant=tenant, spec=spec_message(parse_spec(wire)))
            created = control.CreateTable(request, timeout=TIMEOUT_S).table
            return {
                "id": created.id,
                "tenant": created.tenant,
                "table": created.spec.name,
                "shard_ids": list(created.shard_ids),
            }
        table = table_of(name, wire)
        if name == "drop_table":
            control.DropTable(pb.DropTableRequest(tenant=tenant, table=table), timeout=TIMEOUT_S)
        else:
            timeout_ms = int(wire.get("timeout_ms") or 1000 * (TIMEOUT_S - 5))
            control.Flush(pb.FlushRequest(tenant=tenant, table=table, timeout_ms=timeout_ms), timeout=TIMEOUT_S)
        return {"table": table}

    def close(self) -> None:
        with self._lock:
            if self._channel is not None:
                self._channel.close()
            self._channel = None

    def _control_plane(self) -> grpc.Channel:
        nodes = [node for node in self._catalog.nodes("controlplane") if node.grpc]
        if not nodes:
            raise Unavailable(
                "No control plane is registered, and only it creates, drops and flushes tables. Start `proxist controlplane`.",
                retry_after_s=1.0,
            )
        with self._lock:
            if self._channel is None or self._address not in {node.grpc for node in nodes}:
                if self._channel is not None:
                    self._channel.close()
                self._address = nodes[0].grpc
                self._channel = connect(self._address, timeout_s=TIMEOUT_S)
            return self._channel


def topology(catalog: Catalog, node: str, caller: Caller, asked_tenant: str = "") -> dict[str, Any]:
    """`{"node", "nodes": [{"name", "role", "flight", …}], "tables": [{"table", "state", "shards": [{"slot", "shard",
    "node", "epoch", "logs"}]}]}`; `node` of a shard is null while nobody owns it (`refused` is there, an error in its wire
    form, while it cannot be opened before an operator acts), `node` at the top is who answers."""
    tables = []
    for record in catalog.tables(caller.tenant(asked_tenant)):
        if not caller.sees(record.table.tenant, record.table.name):
            continue
        shards = []
        for slot, shard in enumerate(record.table.shard_ids):
            owner = catalog.owner(shard)
            logs = [log.to_json() for log in catalog.shard(shard).logs]
            place: dict[str, Any] = {
                "node": owner and owner.node,
                "epoch": owner.epoch if owner else None,
                "logs": logs,
            }
            refusal = None if owner is not None else catalog.refusal(shard)
            if refusal is not None:
                place["refused"] = refusal.to_json()
            shards.append({"slot": slot, "shard": shard, **place})
        tables.append({"table": record.table.to_json(), "state": record.state, "shards": shards})
    nodes = [one.to_json() for one in catalog.nodes()]
    if not caller.trusted:  # paths of the server's are for its own services
        nodes = [{name: value for name, value in one.items() if name not in _PRIVATE} for one in nodes]
    return {"node": node, "nodes": nodes, "tables": tables}


def parse_body(name: str, body: bytes) -> dict[str, Any]:
    """The JSON object of an action's body; an empty body is an empty object."""
    try:
        wire = json.loads(body or b"{}")
    except ValueError as error:
        raise InvalidArgument(f"The body of action {name!r} is not JSON ({error}). Send a JSON object.") from None
    if not isinstance(wire, dict):
        raise InvalidArgument(f"The body of action {name!r} must be a JSON object.")
    return wire


def table_of(name: str, wire: Mapping[str, Any]) -> str:
    """The table's name in the body of an action (`table`, or `name`)."""
    table = wire.get("table", wire.get("name"))
    if not isinstance(table, str) or not table:
        raise InvalidArgument(f'Action {name!r} needs the table: {{"table": "trades"}}.')
    return table


def spec_message(spec: TableSpec) -> pb.TableSpec:
    """The control plane's message of a spec: every default written out, in the largest unit that says it exactly."""
    return pb.TableSpec(
        name=spec.name,
        time=spec.time,
        key=spec.key,
        seq=spec.seq or "",
        columns=[pb.Column(name=c.name, type=str(c.type), nullable=c.nullable) for c in spec.columns],
        shards=spec.shards,
        durability=spec.durability,
        hot_window=format_duration(spec.hot_window_ns),
        hot_bytes=format_bytes(spec.hot_bytes),
        flush=pb.Flush(
            rows=spec.flush.rows, bytes=format_bytes(spec.flush.bytes), age=format_duration(spec.flush.age_ns)
        ),
        dedup=spec.dedup,
    )
