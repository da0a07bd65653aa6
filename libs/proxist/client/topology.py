"""The cluster as a client sees it: tables, which node owns each slot, which nodes answer queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxist.errors import NotFound, ProxistError, Unavailable
from proxist.errors import from_json as error_from_json
from proxist.model.table import Table, TableSpec, table_from_json


@dataclass(frozen=True, slots=True)
class TableMap:
    """A table and the Flight endpoint of each slot's owner, in slot order; None where no node owns it now."""

    table: Table
    owners: tuple[str | None, ...]
    refused: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """By slot: why nobody can own it before an operator acts, as an error's wire form."""

    def no_owner(self, slot: int) -> ProxistError:
        """What to raise where `owners` of a slot is None."""
        if slot in self.refused:
            return error_from_json(dict(self.refused[slot]))
        shard = self.table.shard_ids[slot]
        return Unavailable(
            f"Shard {shard} of table {self.spec.name!r} has no owner now. Wait for its node, or look at `pxctl shards`.",
            shard=int(shard),
        )

    @property
    def spec(self) -> TableSpec:
        return self.table.spec


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """Where a shard's hot set is to be attached, and its history of owners."""

    host_id: str
    """Of the owner, "" where nobody owns the shard or the caller may not attach."""
    attach: str
    """Path of the owner's attach socket, "" as above."""
    logs: tuple[Mapping[str, Any], ...]
    """{"epoch", "start", "end", "state"}, oldest first."""

    @property
    def newest(self) -> int:
        """The epoch of the last log, 0 where there is none."""
        return int(self.logs[-1]["epoch"]) if self.logs else 0


@dataclass(frozen=True, slots=True)
class Topology:
    tables: Mapping[str, TableMap]
    query: tuple[str, ...]
    ingest: tuple[str, ...]
    role: str | None = None
    """Of the node that was asked, where it says so."""
    places: Mapping[int, ShardPlace] = field(default_factory=dict)
    """By shard id."""
    hosts: frozenset[str] = frozenset()
    """Where owners run that this caller may attach to."""

    def table(self, name: str) -> TableMap:
        """Raises NotFound that names the tables there are."""
        try:
            return self.tables[name]
        except KeyError:
            known = ", ".join(sorted(self.tables)) or "none yet"
            raise NotFound(
                f"Table {name!r} is not there; the tables are: {known}. Create it with create_table."
            ) from None


def parse_topology(wire: Mapping[str, Any]) -> Topology:
    """Read the result of the `topology` action; see docs/sdk.md for its shape."""
    nodes = {node["name"]: node for node in wire.get("nodes", ())}
    flight = {name: node.get("flight") or None for name, node in nodes.items()}
    # A table that is being dropped takes no rows and answers no query: it is not there any more.
    active = [entry for entry in wire.get("tables", ()) if entry.get("state", "active") == "active"]
    tables = [_table_map(entry, flight) for entry in active]
    return Topology(
        tables={entry.table.name: entry for entry in tables},
        query=_endpoints(nodes, "query"),
        ingest=_endpoints(nodes, "ingest"),
        role=(nodes.get(wire.get("node", "")) or {}).get("role"),
        places={shard["shard"]: _place(shard, nodes) for entry in active for shard in entry["shards"]},
        hosts=frozenset(node["host_id"] for node in nodes.values() if node.get("attach") and node.get("host_id")),
    )


def _place(shard: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> ShardPlace:
    owner = nodes.get(shard.get("node") or "") or {}
    return ShardPlace(owner.get("host_id") or "", owner.get("attach") or "", tuple(shard.get("logs") or ()))


def _endpoints(nodes: Mapping[str, Mapping[str, Any]], role: str) -> tuple[str, ...]:
    return tuple(node["flight"] for _, node in sorted(nodes.items()) if node.get("role") == role and node.get("flight"))


def _table_map(entry: Mapping[str, Any], flight: Mapping[str, str | None]) -> TableMap:
    table = table_from_json(entry["table"])
    by_slot = {shard["slot"]: flight.get(shard.get("node") or "") for shard in entry["shards"]}
    refused = {shard["slot"]: shard["refused"] for shard in entry["shards"] if shard.get("refused")}
    return TableMap(table, tuple(by_slot.get(slot) for slot in range(len(table.shard_ids))), refused)
