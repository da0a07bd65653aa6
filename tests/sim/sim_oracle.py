"""What must hold at every step, told from plain lists of what was sent, acked and read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from naive_tiers import Row
from sim_cluster import Cluster, IngestProcess

from proxist.etcd import ShardRecord, layout
from proxist.etcd.watch import Change
from proxist.model.ids import Epoch, ShardId
from proxist.model.table import Table
from proxist_ingest.part import PartAck

Values = tuple[str, int, int, int | None]
"""(symbol, ts, id, price); the id names the row for ever."""


class Violation(AssertionError):
    """Something that Proxist promises does not hold."""


@dataclass(eq=False)
class Sent:
    """One part: the rows of one numbered batch that belong to one shard."""

    shard: ShardId
    producer: str
    number: int
    rows: tuple[Values, ...]
    first: int | None = None
    """Where its first row lies, once somebody has told or seen it."""
    level: str = ""
    """The strongest level at which it was acked."""
    lost: bool = False
    """A loss of power took it, as its level allowed."""

    def __str__(self) -> str:
        return f"part {self.number} of {self.producer} for shard {self.shard}"


@dataclass
class Oracle:
    """Told by clients and by the store; asked by `check`."""

    cluster: Cluster
    sent: list[Sent] = field(default_factory=list)
    _of_id: dict[int, tuple[Sent, int]] = field(default_factory=dict)
    _places: dict[ShardId, dict[int, int]] = field(default_factory=dict)
    """Per shard, offset to id."""
    _acking: dict[tuple[ShardId, Epoch], IngestProcess] = field(default_factory=dict)
    _marks: dict[tuple[ShardId, Epoch], tuple[int, int, int]] = field(default_factory=dict)
    _stored: dict[ShardId, int] = field(default_factory=dict)
    """Per shard, how many rows from 0 on ClickHouse has without a hole."""
    _seen_rows: int = 0
    _opened: dict[ShardId, Epoch] = field(default_factory=dict)
    power_lost: set[ShardId] = field(default_factory=set)
    """Shards whose disk lost power since they were opened last."""
    _cut: dict[ShardId, list[tuple[Epoch, int]]] = field(default_factory=dict)
    """Per shard, under which epochs it went on after a loss of power that may take rows, and where."""
    checks: int = 0

    # ---- told by clients -------------------------------------------------------------------------------------------

    def sending(self, part: Sent) -> None:
        self.sent.append(part)
        for at, row in enumerate(part.rows):
            self._of_id[row[2]] = part, at

    def acked(self, part: Sent, ack: PartAck, node: IngestProcess) -> None:
        """A part was acked: that stands from now on."""
        if ack.rows != len(part.rows):
            raise Violation(f"{part}: acked with {ack.rows} rows, sent were {len(part.rows)}")
        one = self._acking.setdefault((part.shard, ack.epoch), node) if not ack.duplicate else node
        if one is not node:
            raise Violation(f"two owners ack under epoch {ack.epoch} of shard {part.shard}")
        if ack.level == "os" and any(ack.epoch < new and ack.end > end for new, end in self._cut.get(part.shard, ())):
            part.level, part.lost = part.level or ack.level, True  # the ack was on its way when the power was lost
            return
        self.place(part, ack.end - ack.rows, "its ack says so")
        if "disk" in (ack.level, part.level) or ack.level == "cold":
            part.level = "cold" if ack.level == "cold" else "disk"
        else:
            part.level = part.level or ack.level
        if ack.level == "cold" and self.stored(part.shard) < ack.end:
            raise Violation(f"{part}: acked as cold, but ClickHouse has {self.stored(part.shard)} of {ack.end} rows")

    def place(self, part: Sent, first: int, why: str) -> None:
        """The part's rows lie at [first, …) of its shard; they lie nowhere else, and nothing else lies there."""
        if part.lost:
            raise Violation(f"{part} is back although it was lost ({why})")
        if part.first is not None and part.first != first and part.rows:
            raise Violation(f"{part} lies at {part.first} and at {first} ({why})")
        part.first = first
        places = self._places.setdefault(part.shard, {})
        for at, row in enumerate(part.rows):
            if places.setdefault(first + at, row[2]) != row[2]:
                other = self._of_id[places[first + at]][0]
                raise Violation(f"offset {first + at} of shard {part.shard}: {part} and {other} ({why})")

    # ---- told by etcd ----------------------------------------------------------------------------------------------

    def changed(self, change: Change) -> None:
        """A shard that is opened anew goes on where its last log ends: what was promised lies below."""
        if change.kv is None or not change.key.startswith(layout.SHARDS):
            return
        record = ShardRecord.from_json(json.loads(change.kv.value))
        if not record.logs or self._opened.get(record.shard) == record.epoch:
            return
        self._opened[record.shard] = record.epoch
        log = record.logs[-1]
        self.cluster.sim.say(
            f"shard {record.shard} is opened by {record.node} under epoch {record.epoch} at {log.start}"
        )
        self._goes_on(record.shard, record.epoch, log.start)
        self.power_lost.discard(record.shard)

    def _goes_on(self, shard: ShardId, epoch: Epoch, end: int) -> None:
        on_disk = shard not in self.power_lost or self.cluster.table.spec.durability == "disk"
        if not on_disk:
            self._cut.setdefault(shard, []).append((epoch, end))
        for part in self.sent:
            if part.shard == shard and part.rows and part.first is not None and part.first + len(part.rows) > end:
                if on_disk or part.level in ("disk", "cold"):
                    how = f"acked as {part.level}" if part.level else "seen"
                    raise Violation(f"{part} was {how} at {part.first}, but the shard goes on at {end}")
                part.lost, part.first = part.level != "", None
        places = self._places.get(shard, {})
        for offset in [offset for offset in places if offset >= end]:
            del places[offset]

    def may_lack(self, part: Sent) -> bool:
        """Whether a loss of power took the part, or may have: one without rows leaves no offset that would tell."""
        if part.rows or part.level != "os" or part.first is None:
            return part.lost
        return any(part.first >= end for _, end in self._cut.get(part.shard, ()))

    # ---- told by queries -------------------------------------------------------------------------------------------

    def scanned(self, rows: Sequence[Row], ends: dict[ShardId, int], acked_before: Iterable[Sent], order: bool) -> None:
        """A scan of the whole table, as of `ends`, that began after the parts of `acked_before` were acked."""
        by_shard: dict[ShardId, dict[int, Row]] = {shard: {} for shard in ends}
        for row in rows:
            found = by_shard[ShardId(row.shard)]
            if row.offset in found:
                raise Violation(f"offset {row.offset} of shard {row.shard} comes twice")
            found[row.offset] = row
        for shard, end in ends.items():
            if sorted(by_shard[shard]) != list(range(end)):
                have, wanted = set(by_shard[shard]), set(range(end))
                raise Violation(
                    f"shard {shard} as of {end}: lacks {sorted(wanted - have)[:9]}, has too much {sorted(have - wanted)[:9]}"
                )
            self._check_rows(shard, by_shard[shard], end)
        for part in acked_before:
            if (
                part.rows
                and not part.lost
                and part.first is not None
                and part.first + len(part.rows) > ends[part.shard]
            ):
                raise Violation(f"{part} was acked before the read began, which ends at {ends[part.shard]}")
        if order and list(rows) != sorted(rows, key=lambda r: (r.ts, r.id, r.offset, r.shard)):
            raise Violation("a scan is not in order")

    def _check_rows(self, shard: ShardId, rows: dict[int, Row], end: int) -> None:
        for offset, row in rows.items():
            part, at = self.check_row(row)
            if at == 0:
                if offset + len(part.rows) > end:
                    raise Violation(f"{part} is half there: it begins at {offset}, the shard ends at {end}")
                self.place(part, offset, "a scan found it there")
            elif part.first != offset - at:
                found = rows.get(offset - at)
                if found is None or found.id != part.rows[0][2]:
                    raise Violation(f"{part} is half there: row {at} is at {offset}")

    def check_row(self, row: Row) -> tuple[Sent, int]:
        """A row that was read or stored is one that was sent, unchanged."""
        if row.id not in self._of_id:
            raise Violation(f"nobody sent {row}")
        part, at = self._of_id[row.id]
        if part.rows[at] != (row.symbol, row.ts, row.id, row.price) or part.shard != row.shard:
            raise Violation(f"{row} is not what was sent: {part.rows[at]} to shard {part.shard}")
        return part, at

    # ---- at every step ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The owners' marks against ClickHouse, and what has come into ClickHouse since the last check."""
        self.checks += 1
        store = self.cluster.clickhouse
        for row in store.rows[self._seen_rows :]:
            part, at = self.check_row(row)
            if store.stored[(row.shard << 24) + row.epoch, row.offset] > 1:
                raise Violation(f"ClickHouse has {row} twice")
            self.place(part, row.offset - at, "ClickHouse has it there")
        self._seen_rows = len(store.rows)
        for node, shard in self.cluster.open_shards():
            marks = shard.marks()
            now = marks.floor, marks.persisted, marks.end
            before = self._marks.get((shard.id, shard.epoch), now)
            if any(one < other for one, other in zip(now, before, strict=True)):
                raise Violation(f"marks of shard {shard.id} went back from {before} to {now}")
            self._marks[shard.id, shard.epoch] = now
            if marks.persisted > self.stored(shard.id):
                raise Violation(
                    f"{node.process.name} holds shard {shard.id} for persisted up to {marks.persisted}, "
                    f"but ClickHouse has the rows below {self.stored(shard.id)} only"
                )

    def stored(self, shard: ShardId) -> int:
        """How many rows from 0 on ClickHouse has."""
        end, rows = self._stored.get(shard, 0), self.cluster.clickhouse.by_shard[shard]
        while end in rows:
            end += 1
        self._stored[shard] = end
        return end

    def finished(self, table: Table) -> None:
        """At the end, with nothing under way: every part that is not lost is in ClickHouse, once."""
        self.check()
        for shard in table.shard_ids:
            rows = self.cluster.clickhouse.by_shard[shard]
            ids = {row.id for row in rows.values()}
            for part in (p for p in self.sent if p.shard == shard):
                there = [row for row in part.rows if row[2] in ids]
                if there and len(there) != len(part.rows):
                    raise Violation(f"{part} is half in ClickHouse")
                if part.level and not part.lost and not there and part.rows:
                    raise Violation(f"{part} was acked as {part.level} and is not in ClickHouse")
            if sum(store for (log, _), store in self.cluster.clickhouse.stored.items() if log >> 24 == shard) != len(
                rows
            ):
                raise Violation(f"ClickHouse has rows of shard {shard} more than once")
