"""Reads in the client's own process, from the hot sets of owners on this host: the query node's executor, without the
node. What RAM cannot decide, or cannot be attached, is the query node's to answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from proxist.client.answer import Answer
from proxist.client.attach import Elsewhere
from proxist.client.quick import Quick
from proxist.client.topology import ShardPlace, Topology
from proxist.errors import (
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    ProxistError,
    Unauthenticated,
    Unavailable,
)
from proxist.hot.host import this_host_id
from proxist.hot.ops import HotOp, HotPart, Probes
from proxist.hot.reader import HotReader
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.query import Query, Sql, parse_query
from proxist.model.table import Table
from proxist.rpc.attached import Attached
from proxist.seam import Chain, ColdOp, Executor, Log
from proxist.seam.warm import WarmPart

AWAY_S = 0.5
"""A shard that could not be attached is asked for over Flight this long before it is tried again."""


class LocalReads:
    """Thread-safe."""

    def __init__(self, topology: Callable[..., Topology], token: str | None, *, required: bool) -> None:
        self._required = required
        self.host = Host(topology, token)
        self._quick = Quick(topology, self.host)

    def answer(self, query: Mapping[str, Any], probes: pa.RecordBatch | None, timeout_s: float) -> Answer:
        """The answer from RAM. Raises Elsewhere where a query node must be asked.

        Raises what the query's rules ask for (NotFound, Stale, TokenLost, InvalidArgument, DeadlineExceeded), and where
        attaching is required the reason why a shard cannot be.
        """
        quick = self._quick.answer(query, probes)
        if quick is not None:
            return quick
        parsed = parse_query(query)
        if isinstance(parsed.verb, Sql) or parsed.hot_path == "flight":
            raise Elsewhere(None)
        deadline_s = time.monotonic() + timeout_s

        def step() -> None:
            if time.monotonic() > deadline_s:
                raise DeadlineExceeded(f"The query ran longer than {timeout_s:g} s. Raise timeout_s, or ask for less.")

        sent = None if probes is None else pa.Table.from_batches([probes])
        try:
            self.host.know(parsed)
            found = Executor(self.host, self.host, _History(), step=step).run(parsed, "", sent)
        except Elsewhere as elsewhere:
            self.check(elsewhere)
            raise
        return Answer(found.rows, found.receipt.to_json())

    def check(self, elsewhere: Elsewhere) -> None:
        """Where attaching is required, why it failed is raised; history is the query node's in any case."""
        if self._required and elsewhere.error is not None:
            raise elsewhere.error

    def close(self) -> None:
        self.host.close()


class _History:
    """A ColdSource without history."""

    def read(self, op: ColdOp) -> pa.Table:
        raise Elsewhere(None)


class Host:
    """The executor's Catalog and HotSource, from a connection's topology. Thread-safe."""

    def __init__(self, topology: Callable[..., Topology], token: str | None) -> None:
        self._topology = topology
        self._host_id = this_host_id()
        self._attached = Attached(token)
        self._chains: dict[ShardId, tuple[ShardPlace, Chain]] = {}
        self._away: dict[ShardId, tuple[float, ProxistError]] = {}
        """Until when a shard is not tried again, and why."""

    def know(self, query: Query) -> None:
        """The tokens of `query` may name epochs that came after the topology was read."""
        for token in (query.as_of, query.freshness.min_token):
            for shard, mark in token.marks.items() if token is not None else ():
                place = self._topology().places.get(shard)
                if place is not None and mark.epoch > place.newest:
                    self._refresh()
                    return

    def table(self, tenant: str, name: str) -> Table:
        """A connection sees one tenant's tables."""
        known = self._topology()
        return (known if name in known.tables else self._refresh()).table(name).table

    def chain(self, shard: ShardId, at_least: Epoch) -> Chain:
        place = self._place(shard)
        if place.newest < at_least:
            place = self._refresh().places.get(shard, place)
            if place.newest < at_least:
                raise Elsewhere(Unavailable(f"Epoch {at_least} of shard {shard} is not known here yet.", shard=shard))
        known = self._chains.get(shard)
        if known is None or known[0] is not place:
            logs = tuple(Log(one["epoch"], one["start"], one["end"], one["state"]) for one in place.logs)
            known = self._chains[shard] = place, Chain(shard, logs)
        return known[1]

    def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        """Raises Elsewhere where the shard's owner cannot be attached."""
        return self.try_attached(shard, lambda path: self._attached.run(path, shard, op, probes, min_end, wait_ns))

    def warm(self, shard: ShardId, op: HotOp, probes: Probes | None, first: Offset, end: Offset) -> WarmPart:
        """What left RAM is the query node's to ask for, whether history has it or the owner's log."""
        raise Elsewhere(None)

    def attach(self, path: str, shard: ShardId) -> HotReader:
        """The shard's reader through the attach socket at `path`, alive; for use inside `try_attached`."""
        reader = self._attached.reader(path, shard)
        try:
            reader.check_alive()
        except Unavailable:
            self._attached.drop(shard, reader)
            reader = self._attached.reader(path, shard)
        return reader

    def reader(self, shard: ShardId) -> HotReader:
        """The shard's reader, alive. Raises Elsewhere where the owner cannot be attached."""
        return self.try_attached(shard, lambda path: self.attach(path, shard))

    def epoch(self, shard: ShardId) -> int:
        """Of the owner that is attached now; 0 where none is."""
        return self._attached.epoch(shard)

    def try_attached(self, shard: ShardId, read: Callable[[str], Any]) -> Any:
        """`read` with the owner's attach socket; once more where the owner has moved. Raises Elsewhere."""
        until_s, why = self._away.get(shard, (0.0, None))
        if time.monotonic() < until_s:
            raise Elsewhere(why)
        path = self._path(shard)
        try:
            return read(path)
        except (Unavailable, PermissionDenied, Unauthenticated, NotFound) as refused:
            error: ProxistError = refused
            if error.details.get("reason") == "evicting":  # the owner itself can still answer
                raise Elsewhere(error) from None
            self._attached.drop(shard)
            try:
                moved = self._refreshed_path(shard)
                if moved != path:
                    return read(moved)
            except ProxistError as second:
                error = second
            except Elsewhere as gone:
                error = gone.error or error
            self._away[shard] = time.monotonic() + AWAY_S, error
            raise Elsewhere(error) from None

    def close(self) -> None:
        self._attached.close()

    def _refresh(self) -> Topology:
        return self._topology(fresh=True)

    def _refreshed_path(self, shard: ShardId) -> str:
        self._refresh()
        return self._path(shard)

    def _place(self, shard: ShardId) -> ShardPlace:
        place = self._topology().places.get(shard)
        if place is None:
            raise Elsewhere(Unavailable(f"Shard {shard} is not known here: its table was dropped.", shard=shard))
        return place

    def _path(self, shard: ShardId) -> str:
        place = self._place(shard)
        if place.attach and place.host_id == self._host_id:
            return place.attach
        raise Elsewhere(
            Unavailable(
                f"Shard {shard} cannot be attached: its owner is not on this host now. Connect with "
                'attach="auto" to read it over Flight.',
                shard=shard,
            )
        )
