"""One query's reads of shards: tokens, freshness and completeness, and the cut that each shard got.

A shard is cut once per query: a second read of it (a table joined with itself) sees the same end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from proxist.errors import InvalidArgument, NotFound, Stale, TransientError, Unavailable
from proxist.hot.ops import ColdNeed, HotAsof, HotBars, HotOp, HotPart, HotWindow, Probes
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.query import Freshness, Query
from proxist.model.receipt import Cut
from proxist.model.table import Table
from proxist.model.token import Mark, Token
from proxist.seam.cuts import Chain, ColdCut, cold_cut
from proxist.seam.sources import Catalog, HotSource, Step, no_step
from proxist.seam.warm import PROBE_COLUMN, WarmPart

WARM_TRIES = 8


@dataclass(frozen=True, slots=True)
class ReadRules:
    """What a query asks of every shard that it touches."""

    freshness: Freshness = field(default_factory=Freshness)
    as_of: Token | None = None
    best_effort: bool = False

    @staticmethod
    def of(query: Query) -> ReadRules:
        return ReadRules(query.freshness, query.as_of, query.completeness == "best_effort")


@dataclass(frozen=True, slots=True)
class ShardPart:
    """A hot part with what its cold side needs. `part.cold` is what warm rows, too, left undecided."""

    shard: ShardId
    part: HotPart
    chain: Chain
    cold: ColdCut | None
    """None where nothing of the shard can be in history."""
    warm: pa.RecordBatch | None = None
    """Rows out of the owner's log, where the floor has passed persisted and RAM did not decide without them; of an as-of
    with `_probe`."""

    @property
    def num_rows(self) -> int:
        return self.part.rows.num_rows + (0 if self.warm is None else self.warm.num_rows)


class ShardReader:
    """Reads shards for one query. Not thread-safe: one query, one reader."""

    def __init__(self, catalog: Catalog, hot: HotSource, rules: ReadRules, step: Step = no_step) -> None:
        self._catalog = catalog
        self._hot = hot
        self._rules = rules
        self._step = step
        self._cuts: dict[ShardId, Cut] = {}
        self.missing: list[str] = []
        """What a best-effort answer lacks, in words."""

    @property
    def best_effort(self) -> bool:
        return self._rules.best_effort

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """One per shard that was read so far, by shard."""
        return tuple(cut for _, cut in sorted(self._cuts.items()))

    def read(
        self, table: Table, shard: ShardId, op: Callable[[Offset | None], HotOp], probes: Probes | None = None
    ) -> ShardPart | None:
        """Run `op(end)` on the shard, `end` being the clamp that the query's token asks for.

        None where the shard does not answer and the query takes best effort. Raises InvalidArgument (as_of lacks the
        shard), TokenLost, Stale, and what the source raises.
        """
        self._step()
        try:
            return self._read(table, shard, op, probes)
        except TransientError as error:
            if not self._rules.best_effort:
                raise
            self.missing.append(f"shard {shard} of table {table.name!r}: {error.message}")
            return None

    def _read(
        self, table: Table, shard: ShardId, op: Callable[[Offset | None], HotOp], probes: Probes | None
    ) -> ShardPart:
        for tried in range(WARM_TRIES):
            read, asked = self._read_hot(table, shard, op, probes)
            first, floor = min(read.part.persisted, read.part.end), min(read.part.seam, read.part.end)
            if first >= floor or not read.part.cold or isinstance(asked, HotWindow | HotBars):
                return read
            try:
                return self._with_warm(read, asked, probes, first, floor)
            except Unavailable as error:
                # "persisted": the log gave up rows that history has by now. The same end, read again.
                if error.details.get("reason") != "persisted" or tried == WARM_TRIES - 1:
                    raise
            self._step()
        raise AssertionError("unreachable: the last try returns or raises")

    def _with_warm(self, read: ShardPart, op: HotOp, probes: Probes | None, first: Offset, end: Offset) -> ShardPart:
        """The same with the rows [first, end) of the shard's log, as far as RAM did not decide."""
        need = read.part.cold
        if isinstance(op, HotAsof):
            assert probes is not None
            assert need.probes is not None
            share = Probes(probes.keys.take(pa.array(need.probes)), probes.times_ns[need.probes])
            found = _of_probes(self._hot.warm(read.shard, op, share, first, end), need.probes)
        else:
            asked = op if need.keys is None or isinstance(op, HotWindow | HotBars) else replace(op, keys=need.keys)
            found = self._hot.warm(read.shard, asked, None, first, end)
        return replace(read, part=replace(read.part, cold=found.cold), warm=found.rows)

    def _read_hot(
        self, table: Table, shard: ShardId, op: Callable[[Offset | None], HotOp], probes: Probes | None
    ) -> tuple[ShardPart, HotOp]:
        subject = f"shard {shard} of table {table.name!r}"
        chain = self._catalog.chain(shard, Epoch(0))
        clamp, wanted = self._clamp(table, shard), self._wanted(shard)
        least = max(wanted, key=lambda mark: (mark.end, mark.epoch), default=None)
        for mark in wanted:
            chain.check(mark, subject)
        asked = op(clamp.end if clamp else None)
        part = self._hot.run(shard, asked, probes, least.end if least else None, self._rules.freshness.wait_ns)
        if part.epoch > chain.newest:
            chain = self._catalog.chain(shard, part.epoch)
        for mark in wanted:
            # Again, now that the chain knows the epoch which answered: rows that a fail-over lost have no end to reach.
            chain.check(mark, subject)
        if least is not None:
            self._check_reached(part, least, subject)
        part = part if clamp is None else replace(part, epoch=clamp.epoch, end=Offset(min(part.end, clamp.end)))
        # A later read of this query has the same end; its seam may be another one, which gives the same rows.
        cut = self._cuts[shard] = Cut.of(table.name, shard, part.epoch, part.seam, part.persisted, part.end)
        return ShardPart(shard, part, chain, cold_cut(chain, part.epoch, cut.seam, part.end)), asked

    def _clamp(self, table: Table, shard: ShardId) -> Mark | None:
        """The end that the shard must be read at: an earlier read's of this query, else `as_of`'s."""
        if shard in self._cuts:
            return Mark(self._cuts[shard].epoch, self._cuts[shard].end)
        if self._rules.as_of is None:
            return None
        mark = self._rules.as_of.marks.get(shard)
        if mark is None:
            raise InvalidArgument(
                f"`as_of` has no entry for shard {shard} of table {table.name!r}, but needs one for every shard that "
                "the query touches. Use the token of an answer to the same query, or one merged with it.",
                shard=shard,
            )
        return mark

    def _wanted(self, shard: ShardId) -> list[Mark]:
        """What the shard must have reached: the marks of `as_of` and `min_token`, each of which may name lost rows."""
        tokens = [t for t in (self._rules.as_of, self._rules.freshness.min_token) if t is not None]
        return [token.marks[shard] for token in tokens if shard in token.marks]

    def _check_reached(self, part: HotPart, least: Mark, subject: str) -> None:
        as_of = self._rules.as_of is not None
        if part.end >= least.end:
            return
        if self._rules.freshness.on_stale == "hot" and not as_of:
            self.missing.append(f"{subject}: rows [{part.end}, {least.end}) of `min_token`")
            return
        raise Stale(
            f"{subject.capitalize()} stands at offset {part.end}, below {least.end} of the token, after waiting "
            f'{self._rules.freshness.wait_ns // 1_000_000} ms. Try again, raise `wait_ms`, or set `on_stale` to "hot".',
            retry_after_s=0.1,
            end=part.end,
            wanted=least.end,
        )


def _of_probes(found: WarmPart, probes: npt.NDArray[np.int64]) -> WarmPart:
    """What was answered of some probes, with the numbers that those have among all."""
    at = found.rows.schema.get_field_index(PROBE_COLUMN)
    owner = pa.array(probes[found.rows.column(at).to_numpy()], pa.int64())
    left = np.zeros(0, np.int64) if found.cold.probes is None else found.cold.probes
    return WarmPart(found.rows.set_column(at, PROBE_COLUMN, owner), ColdNeed((), probes[left]))


def shards_of(table: Table, keys: tuple[str, ...] | None) -> dict[ShardId, tuple[str, ...] | None]:
    """The shards that hold `keys`, each with its share of them; None means all keys, of all shards."""
    if not table.shard_ids:
        raise NotFound(f"Table {table.name!r} has no shards. Create it again.")
    if keys is None:
        return dict.fromkeys(table.shard_ids)
    shares: dict[ShardId, list[str]] = {}
    for key in dict.fromkeys(keys):
        shares.setdefault(table.shard_ids[table.slot_of(key)], []).append(key)
    return {shard: tuple(share) for shard, share in sorted(shares.items())}


def shards_of_rows(table: Table, keys: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """The shard of each row by its key."""
    return np.array(table.shard_ids, np.int64)[table.slots_of(keys.combine_chunks())]
