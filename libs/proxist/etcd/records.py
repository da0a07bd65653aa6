"""The records that Proxist keeps in etcd, typed, with their one JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.model.table import Table, table_from_json

TABLE_STATES = ("active", "dropping", "dropped")
"""`dropping`: owners refuse writes, seal and release, then a persister drops the ClickHouse table and writes
`dropped`; then the control plane deletes the keys and the name is free."""
LOG_STATES = ("open", "sealed", "abandoned")


NO_EPOCH = Epoch(0)
"""Of a shard that was never opened."""


def encode(wire: dict[str, Any]) -> bytes:
    return json.dumps(wire, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A process of the cluster and its doors. Addresses are as clients use them; empty where there is no such door.

    `flight` "grpc://host:port", `flight_unix` "grpc+unix:///path", `grpc` "host:port", `http` "http://host:port",
    `attach` the path of the attach socket.
    """

    name: str
    role: str
    pid: int
    flight: str = ""
    flight_unix: str = ""
    grpc: str = ""
    http: str = ""
    attach: str = ""
    host_id: str = ""
    state: str = "ready"
    insecure: bool = False
    refused: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Shards that are placed here and cannot be opened before an operator acts: by id, the error in its wire form."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, wire: dict[str, Any]) -> NodeRecord:
        return cls(**{name: wire[name] for name in cls.__dataclass_fields__ if name in wire})


@dataclass(frozen=True, slots=True)
class TableRecord:
    """A table, whether it takes rows (`state` "active"), and whether its persister is paused."""

    table: Table
    state: str = "active"
    paused: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"table": self.table.to_json(), "state": self.state, "paused": self.paused}

    @classmethod
    def from_json(cls, wire: dict[str, Any]) -> TableRecord:
        return cls(table_from_json(wire["table"]), wire["state"], wire["paused"])


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One log of a shard: it begins at `start`; `end` is None while it is open."""

    epoch: Epoch
    start: Offset
    end: Offset | None
    state: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, wire: dict[str, Any]) -> LogRecord:
        return cls(wire["epoch"], wire["start"], wire["end"], wire["state"])


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A shard: where it is placed, its newest epoch (0: never opened), its chain of logs, oldest first."""

    shard: ShardId
    tenant: str
    table: str
    table_id: TableId
    slot: int
    node: str
    epoch: Epoch = NO_EPOCH
    logs: tuple[LogRecord, ...] = ()

    def opened(self, start: Offset) -> ShardRecord:
        """The next epoch: an open predecessor is sealed at `start`, and a new log is open from there."""
        sealed = tuple(log if log.state != "open" else replace(log, end=start, state="sealed") for log in self.logs)
        epoch = Epoch(self.epoch + 1)
        return replace(self, epoch=epoch, logs=(*sealed, LogRecord(epoch, start, None, "open")))

    def sealed(self, end: Offset) -> ShardRecord:
        """The newest log sealed at `end`; no log is open."""
        *older, newest = self.logs
        return replace(self, logs=(*older, replace(newest, end=end, state="sealed")))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"logs": [log.to_json() for log in self.logs]}

    @classmethod
    def from_json(cls, wire: dict[str, Any]) -> ShardRecord:
        logs = tuple(LogRecord.from_json(log) for log in wire["logs"])
        return cls(**{name: wire[name] for name in cls.__dataclass_fields__ if name != "logs"}, logs=logs)


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """Exists (leased) iff the shard accepts rows: on `node`, under `epoch`."""

    node: str
    epoch: Epoch

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, wire: dict[str, Any]) -> OwnerRecord:
        return cls(wire["node"], wire["epoch"])


@dataclass(frozen=True, slots=True)
class WatermarkRecord:
    """A lower bound of the shard's persisted mark, for operators; the owner's own mark is the one that counts."""

    epoch: Epoch
    persisted: Offset

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, wire: dict[str, Any]) -> WatermarkRecord:
        return cls(wire["epoch"], wire["persisted"])


@dataclass(frozen=True, slots=True)
class PersisterRecord:
    """Exists (leased) while `node` persists the shard."""

    node: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, wire: dict[str, Any]) -> PersisterRecord:
        return cls(wire["node"])


Record = NodeRecord | TableRecord | ShardRecord | OwnerRecord | WatermarkRecord | PersisterRecord
