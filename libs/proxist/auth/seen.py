"""The executor's catalog as one caller sees it: asked before any table is looked up, by every kind of query."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from proxist.auth.identity import Caller
from proxist.model.ids import Epoch, ShardId
from proxist.model.table import Table
from proxist.seam import Chain
from proxist.seam.sources import Catalog


class Seen:
    """Wraps a catalog for one call. A table that the caller may not touch is refused before it is looked for, so an
    unknown one and a forbidden one take the same time and get the same answer."""

    def __init__(self, catalog: Catalog, caller: Caller, names: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """`names`: (tenant, table) of all tables, for the message about an unknown one."""
        self._catalog = catalog
        self._caller = caller
        self._names = names

    def table(self, tenant: str, name: str) -> Table:
        """Raises PermissionDenied; NotFound that names the tables which the caller sees."""
        tenant = self._caller.table(name, tenant)
        with self._caller.hiding(name, self._names):
            return self._catalog.table(tenant, name)

    def chain(self, shard: ShardId, at_least: Epoch) -> Chain:
        """Of a shard of a table that was asked for."""
        return self._catalog.chain(shard, at_least)
