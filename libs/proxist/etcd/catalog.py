"""The cluster as typed records, read from a mirror: which tables, shards, owners and nodes there are now."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from proxist.errors import NotFound, ProxistError
from proxist.errors import from_json as error_from_json
from proxist.etcd import layout
from proxist.etcd.client import EtcdClient
from proxist.etcd.mirror import Mirror, View
from proxist.etcd.ops import KeyValue
from proxist.etcd.records import (
    NodeRecord,
    OwnerRecord,
    PersisterRecord,
    ShardRecord,
    TableRecord,
    WatermarkRecord,
)
from proxist.model.ids import ShardId
from proxist.model.table import DEFAULT_TENANT

R = TypeVar("R", covariant=True)

PARSED_SLACK = 1024

CATCH_UP_S_MAX = 2.0
"""How long a mirror is waited for that does not show yet what etcd holds: longer than the pause between its attempts."""


class _Parser(Protocol[R]):
    def from_json(self, wire: dict[str, Any]) -> R: ...


class Catalog:
    """Reads never block and cost about a microsecond: each record is parsed once per revision of its key."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._parsed: dict[str, tuple[int, Any]] = {}

    @classmethod
    def start(cls, client: EtcdClient) -> Catalog:
        """A catalog on a mirror of its own, which `close` ends. Reads are empty until `mirror.wait_synced`."""
        return cls(Mirror(client, layout.PREFIX).start())

    def close(self) -> None:
        self.mirror.close()

    # ---- one record ------------------------------------------------------------------------------------------------

    def table(self, tenant: str, name: str) -> TableRecord:
        """Raises NotFound that names the tables there are."""
        found = self._one(layout.table_key(tenant or DEFAULT_TENANT, name), TableRecord)
        if found is None:
            known = ", ".join(sorted(t.table.name for t in self.tables(tenant or DEFAULT_TENANT))) or "none yet"
            raise NotFound(f"There is no table {name!r}. Tables are: {known}. Create it, or correct the name.")
        return found

    def known_table(self, tenant: str, name: str) -> TableRecord:
        """As `table`, for a name that a caller gave: etcd itself is asked before one is called unknown, because the
        mirror is behind by milliseconds, and after a break by seconds. Raises NotFound, and Unavailable where neither
        is known."""
        key = layout.table_key(tenant or DEFAULT_TENANT, name)
        if self.mirror.get(key) is None:
            self.mirror.catch_up(key, CATCH_UP_S_MAX)
        return self.table(tenant, name)

    def table_of(self, shard: ShardId) -> TableRecord:
        """The table that `shard` belongs to; raises NotFound."""
        record = self.shard(shard)
        return self.table(record.tenant, record.table)

    def shard(self, shard: ShardId) -> ShardRecord:
        found = self._one(layout.shard_key(shard), ShardRecord)
        if found is None:
            raise NotFound(
                f"There is no shard {shard}. Its table was dropped, or never was; list them with `pxctl shards`."
            )
        return found

    def owner(self, shard: ShardId) -> OwnerRecord | None:
        """Who accepts the shard's rows now; None where nobody does."""
        return self._one(layout.owner_key(shard), OwnerRecord)

    def refusal(self, shard: ShardId) -> ProxistError | None:
        """Why the node where a shard is placed cannot open it before an operator acts; None where that is not so."""
        record = self._one(layout.shard_key(shard), ShardRecord)
        node = None if record is None else self.node(record.node)
        wire = None if node is None else node.refused.get(str(shard))
        return None if wire is None else error_from_json(wire)

    def watermark(self, shard: ShardId) -> WatermarkRecord | None:
        return self._one(layout.watermark_key(shard), WatermarkRecord)

    def persister(self, shard: ShardId) -> PersisterRecord | None:
        return self._one(layout.persister_key(shard), PersisterRecord)

    def node(self, name: str) -> NodeRecord | None:
        """None where the node is not alive."""
        return self._one(layout.node_key(name), NodeRecord)

    # ---- all of a kind ---------------------------------------------------------------------------------------------

    def tables(self, tenant: str | None = None) -> list[TableRecord]:
        """Of one tenant, or of all; by tenant and name."""
        return self._all(layout.TABLES if tenant is None else f"{layout.TABLES}{tenant}/", TableRecord)

    def shards(self, tenant: str | None = None, table: str | None = None) -> list[ShardRecord]:
        """By shard id; of one tenant and one table where these are given."""
        found = self._all(layout.SHARDS, ShardRecord)
        keep = [s for s in found if (tenant is None or s.tenant == tenant) and (table is None or s.table == table)]
        return sorted(keep, key=lambda s: s.shard)

    def nodes(self, role: str | None = None) -> list[NodeRecord]:
        """The nodes that are alive, by name."""
        return [n for n in self._all(layout.NODES, NodeRecord) if role is None or n.role == role]

    # ---- waiting ---------------------------------------------------------------------------------------------------

    def wait_until(self, predicate: Callable[[Catalog], bool], timeout_s: float) -> bool:
        """Wait until `predicate(self)` holds; False after `timeout_s`. It runs under the mirror's lock: be short."""

        def holds(_: View) -> bool:
            return predicate(self)

        return self.mirror.wait_until(holds, timeout_s)

    # ---- parsing ---------------------------------------------------------------------------------------------------

    def _one(self, key: str, parser: _Parser[R]) -> R | None:
        kv = self.mirror.get(key)
        return None if kv is None else self._parse(kv, parser)

    def _all(self, prefix: str, parser: _Parser[R]) -> list[R]:
        keys = self.mirror.view.keys
        return [self._parse(keys[key], parser) for key in sorted(keys) if key.startswith(prefix)]

    def _parse(self, kv: KeyValue, parser: _Parser[R]) -> R:
        cached = self._parsed.get(kv.key)
        if cached is not None and cached[0] == kv.mod_revision:
            return cached[1]
        record = parser.from_json(json.loads(kv.value))
        if len(self._parsed) > 2 * len(self.mirror.view.keys) + PARSED_SLACK:
            self._parsed.clear()  # mostly keys that are gone: the rest is parsed again when asked for
        self._parsed[kv.key] = (kv.mod_revision, record)
        return record
