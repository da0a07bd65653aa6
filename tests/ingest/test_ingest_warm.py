"""Warm rows on a real log and a real hot set, below the executor, against plain lists: whatever left memory before
history had it is found in the files, by every operator."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest_rows import DAY_NS
from ingest_rows import rows as trades
from ingest_rows import table as trades_table
from ingest_shards import Owner
from naive_tiers import Shard as PlainShard
from naive_tiers import Tiers, make_table

from proxist.errors import InvalidArgument, LogCorrupt, Overloaded, Unavailable
from proxist.hot.ops import HotAsof, HotBars, HotLastBy, HotOp, HotPart, HotScan, Probes
from proxist.hot.snapshots import list_snapshots, snapshot_directory
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId, TimeNs
from proxist.model.query import Agg, parse_query
from proxist.model.table import Table
from proxist.seam import Chain, Executor, Log
from proxist.seam.sources import ColdOp
from proxist.seam.warm import WarmAnswer, WarmPart
from proxist.wal import LogMark, LogReader, OsFiles, Record, list_segments
from proxist_ingest import warm
from proxist_ingest.warm import read_warm

KEYS = ("A", "B", "C", "é")
TIMES = st.integers(-3, 12)
ROW = st.tuples(st.sampled_from(KEYS), TIMES, st.integers(0, 3))
WRITE = st.tuples(st.just("write"), st.lists(ROW, min_size=1, max_size=12))
MOVE = st.tuples(st.sampled_from(("persist", "evict")), st.integers(0, 100))
STEPS = st.lists(WRITE | MOVE | st.tuples(st.just("reopen"), st.just(0)), min_size=2, max_size=10)


ROWS = 40 * 4_096


class Unflushed(OsFiles):
    """Nothing here loses power, and flushes take most of a test's time."""

    def datasync(self, fd: int) -> None: ...

    def sync_directory(self, path: Path) -> None: ...


@dataclass
class OnDisk(Tiers):
    """The lists, with the hot side and the log for real: one shard."""

    owner: Owner = field(kw_only=True)

    def send(self, rows: list[tuple[str, int, int]]) -> None:
        made = [self.write(key, time, id_, number) for number, (key, time, id_) in enumerate(rows)]
        self.owner.write(
            pa.record_batch(
                {
                    "ts": pa.array([row.ts for row in made], pa.timestamp("ns", "UTC")),
                    "symbol": pa.array([row.symbol for row in made], pa.string()),
                    "id": pa.array([row.id for row in made], pa.uint64()),
                    "price": pa.array([row.price for row in made], pa.int64()),
                }
            )
        )

    def persist(self, percent: int) -> None:
        hot = self.owner.shard.hot
        hot.set_persisted(Offset(hot.marks().end * percent // 100))

    def evict(self, percent: int) -> None:
        hot = self.owner.shard.hot
        hot.evict(Offset(hot.marks().end * percent // 100), self.owner.shard.log_writer.synced)

    def reopen(self, _: int) -> None:
        plain = self.shards[1]
        shard = self.owner.reopen(self.owner.shard.marks().persisted)
        plain.logs = [replace(log, end=Offset(plain.end)) if log.end is None else log for log in plain.logs]
        plain.logs.append(Log(shard.epoch, Offset(plain.end), None, "open"))

    def chain(self, shard: ShardId, at_least: Epoch) -> Chain:
        return Chain(shard, tuple(self.shards[shard].logs))

    def run(self, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        self.hot_reads += 1
        return self.owner.shard.run(op, probes)

    def warm(self, shard: ShardId, op: HotOp, probes: Probes | None, first: Offset, end: Offset) -> WarmPart:
        self.warm_reads += 1
        marks = self.owner.shard.marks()
        assert marks.persisted == first < end <= marks.floor
        return read_warm(self.owner.shard, op, probes, first, end)

    def read(self, op: ColdOp) -> pa.Table:
        assert all(cut.below <= self.owner.shard.marks().persisted for cut in op.cuts), "history has no such rows"
        return super().read(op)

    def plain(self) -> Tiers:
        return Tiers(
            self.table_, {1: PlainShard(self.shards[1].rows, [], 0, 0, self.shards[1].end, self.shards[1].logs)}
        )


def on_disk(directory: Path) -> OnDisk:
    table = make_table()
    owner = Owner(table, directory, files=Unflushed())
    owner.open()
    return OnDisk(table, {1: PlainShard()}, owner=owner)


def ask(tiers: Tiers, verb: dict[str, Any], probes: pa.Table | None, **beside: Any) -> Any:
    return Executor(tiers, tiers, tiers).run(parse_query({**verb, **beside}), "default", probes)


def questions(low: int, high: int, keys: Any) -> list[dict[str, Any]]:
    """Every operator, over a range of times."""
    some = {"table": "trades"} | ({} if keys is None else {"keys": keys})
    aggs = [{"fn": "count"}, {"fn": "sum", "value": "price"}, {"fn": "first", "value": "price"}]
    return [
        {"scan": some},
        {"scan": {**some, "from": low, "to": high, "columns": ["_offset", "_log", "price"]}},
        {"scan": {**some, "from": low, "limit": 5}},
        *({by: {**some, "at": at}} for by in ("last_by", "first_by") for at in (low, high)),
        *({"window": {**some, "aggs": aggs, "from": low, **length}} for length in ({"rows": 3}, {"range": 4})),
        {"bars": {**some, "aggs": aggs, "every": 3, "from": low, "to": high}},
        *(asof(direction) for direction in ("backward", "forward", "nearest")),
        asof("nearest", tolerance=2, allow_exact=False),
        asof("backward", tolerance=1),
    ]


def asof(direction: str, **more: Any) -> dict[str, Any]:
    right = {"table": "trades", "columns": ["price", "ts", "_offset", "_log"]}
    return {"asof": {"left": {"probe": True}, "right": right, "direction": direction, **more}}


def probe_rows(probes: list[tuple[str, int]]) -> pa.Table:
    times = pa.array([time for _, time in probes], pa.timestamp("ns", "UTC"))
    return pa.table({"ts": times, "symbol": pa.array([key for key, _ in probes])})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, TIMES, TIMES, st.none() | st.lists(st.sampled_from((*KEYS, "none")), min_size=1, max_size=3))
def test_every_operator_answers_as_the_plain_list_wherever_the_rows_are(
    steps: list[tuple[str, Any]], low: int, high: int, keys: Any
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        made = on_disk(Path(directory))
        try:
            for name, value in [*steps, ("evict", 100)]:
                {"write": made.send, "persist": made.persist, "evict": made.evict, "reopen": made.reopen}[name](value)
            check(made, low, high, keys)
        finally:
            made.owner.close()


def check(made: OnDisk, low: int, high: int, keys: Any) -> None:
    sent = probe_rows([("A", low), ("A", high), ("é", low), ("B", high + 1), ("none", 3)])
    before = []
    for verb in questions(low, high, keys):
        probes = sent if "asof" in verb else None
        answer, wanted = ask(made, verb, probes), ask(made.plain(), verb, probes)
        assert answer.rows.equals(wanted.rows), verb
        if "scan" in verb:
            assert answer.receipt.rows_hot + answer.receipt.rows_cold == wanted.rows.num_rows
        before.append((verb, probes, answer))
    made.send([("A", 5, 9), ("B", 5, 9)])  # later rows, and everything before them in history
    made.persist(100)
    made.evict(100)
    for verb, probes, answer in before:
        again = ask(made, verb, probes, as_of=str(answer.receipt.token))
        assert again.rows.equals(answer.rows), verb


def test_what_the_log_decides_needs_no_history(tmp_path: Path) -> None:
    """Rows later than all of history are found while history does not answer."""
    made = on_disk(tmp_path)
    with_history = [("A", 1, 0), ("B", 2, 0), ("A", 2, 1)]
    made.send(with_history)
    made.persist(100)
    made.send([("A", 5, 2), ("B", 6, 3), ("A", 7, 4), ("B", 9, 5)])
    made.evict(100)
    aggs = [{"fn": "count"}, {"fn": "sum", "value": "price"}]
    asked: list[tuple[dict[str, Any], Any]] = [
        ({"scan": {"table": "trades", "from": 3}}, None),
        ({"scan": {"table": "trades", "from": 3, "to": 9, "keys": ["A"]}}, None),
        ({"last_by": {"table": "trades", "at": 8}}, None),
        ({"last_by": {"table": "trades", "at": 8, "keys": ["A", "B"]}}, None),
        ({"first_by": {"table": "trades", "at": 3}}, None),
        ({"window": {"table": "trades", "aggs": aggs, "from": 6, "range": 4}}, None),
        ({"window": {"table": "trades", "aggs": aggs, "from": 7, "rows": 2}}, None),
        ({"window": {"table": "trades", "aggs": aggs, "from": 7, "rows": 2, "keys": ["B", "A"]}}, None),
        ({"bars": {"table": "trades", "aggs": aggs, "every": 4, "from": 4}}, None),
        *((asof(direction), [("A", 6), ("B", 7)]) for direction in ("backward", "forward", "nearest")),
        (asof("backward", tolerance=1), [("A", 4), ("B", 8)]),
    ]
    try:
        for verb, probes in asked:
            sent = None if probes is None else probe_rows(probes)
            assert ask(made, verb, sent).rows.equals(ask(made.plain(), verb, sent).rows), verb
            assert made.statements == 0, verb
        assert made.warm_reads > 0
        cut = ask(made, {"scan": {"table": "trades", "from": 3}}, None).receipt.to_json()["cut"]
        assert cut == [{"table": "trades", "shard": 1, "epoch": 1, "seam": 3, "end": 7, "floor": 7}]
    finally:
        made.owner.close()


def test_memory_that_is_full_lets_rows_go_to_the_log_and_takes_more(tmp_path: Path) -> None:
    owner = small_owner(tmp_path)
    with owner:
        fill(owner, ROWS)
        marks = owner.shard.marks()
        assert marks.persisted == 0 < marks.floor < marks.end == ROWS
        assert owner.shard.hot.used_bytes <= owner.shard.hot.bound_bytes
        part = read_warm(owner.shard, HotScan(columns=("trade_id",)), None, Offset(0), marks.floor)
        assert sorted(part.rows.column("trade_id").to_pylist()) == list(range(marks.floor))
        assert not part.cold


def test_a_start_finds_rows_in_the_log_that_memory_has_no_room_for(tmp_path: Path) -> None:
    owner = small_owner(tmp_path)
    with owner:
        fill(owner, ROWS)
        shard = owner.reopen()
        marks = shard.marks()
        assert (marks.persisted, marks.end) == (0, ROWS)
        assert marks.floor > 0
        assert shard.hot.used_bytes <= shard.hot.bound_bytes <= owner.table.spec.hot_bytes
        part = read_warm(shard, HotScan(columns=("trade_id",)), None, Offset(0), marks.floor)
        assert sorted(part.rows.column("trade_id").to_pylist()) == list(range(marks.floor))


def test_past_the_disk_budget_batches_are_refused_until_clickhouse_catches_up(tmp_path: Path) -> None:
    owner = small_owner(tmp_path, wal_bytes_max=2**20)
    with owner:
        with pytest.raises(Overloaded, match=r"ClickHouse is behind table 'trades'.*wal_gib_max") as refused:
            fill(owner, 10_000_000)
        accepted = owner.shard.marks().end
        assert refused.value.retry_after_s is not None
        assert accepted > 0
        owner.shard.hot.set_persisted(owner.shard.marks().end)
        owner.write(trades(4_096, first=accepted))
        assert owner.shard.marks().end == accepted + 4_096


def small_owner(directory: Path, **more: int) -> Owner:
    return Owner(trades_table(hot_bytes="2MiB"), directory, files=Unflushed(), **more)


def fill(owner: Owner, rows: int) -> None:
    for first in range(0, rows, 4_096):
        owner.write(trades(4_096, first=first))


def test_a_read_that_persisted_passes_says_so_and_is_never_short(tmp_path: Path) -> None:
    owner = small_owner(tmp_path)
    with owner:
        fill(owner, ROWS)
        floor = owner.shard.marks().floor
        owner.shard.hot.set_persisted(Offset(4_096))
        with pytest.raises(Unavailable) as moved:
            read_warm(owner.shard, HotScan(), None, Offset(0), floor)
        assert moved.value.details["reason"] == "persisted"
        part = read_warm(owner.shard, HotScan(columns=()), None, Offset(4_096), floor)
        assert part.rows.num_rows == floor - 4_096


def test_a_read_that_truncation_overtakes_is_to_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark passes the read's first row, and the segment goes and is used again, while it is read."""
    owner = small_owner(tmp_path)
    with owner:
        fill(owner, ROWS)
        floor = owner.shard.marks().floor
        read = LogReader.read

        def overtaken(reader: LogReader, until: LogMark) -> Iterator[Record]:
            records = read(reader, until)
            yield next(records)
            owner.shard.hot.set_persisted(floor)
            for _, path in list_segments(reader.log_dir):
                gone = path.rename(path.with_suffix(".away"))
                os.truncate(gone, 0)
            yield from records

        monkeypatch.setattr(LogReader, "read", overtaken)
        with pytest.raises(Unavailable) as moved:
            read_warm(owner.shard, HotScan(), None, Offset(0), floor)
        assert moved.value.details["reason"] == "persisted"


def test_files_that_are_gone_are_loss_unless_history_has_the_rows(tmp_path: Path) -> None:
    owner = small_owner(tmp_path)
    with owner:
        fill(owner, ROWS)
        floor = owner.shard.marks().floor
        for _, path in list_segments(owner.shard.log_writer.log_dir):
            path.rename(path.with_suffix(".away"))
        with pytest.raises(LogCorrupt):
            read_warm(owner.shard, HotScan(), None, Offset(0), floor)


def test_windows_are_not_computed_from_the_log(tmp_path: Path) -> None:
    with small_owner(tmp_path) as owner, pytest.raises(InvalidArgument, match="Scan their rows"):
        read_warm(owner.shard, HotBars((Agg("count", name="n"),), 10), None, Offset(0), Offset(0))


def test_an_answer_that_grows_too_large_is_refused() -> None:
    table: Table = trades_table()
    answer = WarmAnswer(table.spec, HotScan(), None, bytes_max=10_000)
    with pytest.raises(InvalidArgument, match=r"more than 10000 bytes.*set `limit`"):
        answer.add(pa.Table.from_batches([trades(1_000)]), 0)
    limited = WarmAnswer(table.spec, HotScan(limit=10), None, bytes_max=10_000)
    limited.add(pa.Table.from_batches([trades(1_000)]), 0)
    assert limited.part(None).rows.num_rows == 10


def test_chunks_that_cannot_matter_are_not_looked_at() -> None:
    spec = trades_table().spec
    ranged = WarmAnswer(spec, HotScan(from_ns=TimeNs(10), to_ns=TimeNs(20)), None)
    assert [ranged.wants(*span) for span in ((0, 9), (0, 10), (19, 30), (20, 30))] == [False, True, True, False]
    assert not WarmAnswer(spec, HotScan(to_ns=TimeNs(-(2**63))), None).wants(-5, 5)
    assert not WarmAnswer(spec, HotLastBy(keys=()), None).wants(0, 1)
    probes = Probes(pa.array(["A"]), np.array([7], np.int64))
    with pytest.raises(InvalidArgument, match="probes"):
        WarmAnswer(spec, HotAsof(), None)
    assert WarmAnswer(spec, HotAsof(), probes).wants(0, 7)
    assert not WarmAnswer(spec, HotAsof(), probes).wants(8, 9)
    near = WarmAnswer(spec, HotAsof(tolerance_ns=2), probes)
    assert [near.wants(*span) for span in ((0, 4), (0, 5), (7, 9), (8, 9))] == [False, True, True, False]


def test_rows_of_long_ago_are_found_without_reading_what_is_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(shard: Any, start: Offset, stop: Offset) -> Any:
        read.append(stop - start)
        return chunks(shard, start, stop)

    chunks = warm._chunks
    monkeypatch.setattr(warm, "_chunks", counted)
    monkeypatch.setattr(warm, "CHUNK_ROWS", 4_096)
    monkeypatch.setattr(warm, "GAP_ROWS", 1)
    batches, ids = 40, ("trade_id",)
    with small_owner(tmp_path) as owner:
        fill(owner, batches * 4_096)
        end = owner.shard.marks().floor

        def ask_for(op: HotOp, probes: Probes | None = None) -> tuple[list[int], int]:
            """The trade ids, and of how many batches rows were read."""
            read.clear()
            found = read_warm(owner.shard, op, probes, Offset(0), end).rows.column("trade_id").to_pylist()
            return sorted(found), sum(read) // 4_096

        at = 20 * 4_096 + 100
        assert ask_for(HotLastBy(None, ids, time_of(at))) == ([at - 2, at - 1, at], 1)
        assert ask_for(HotLastBy(("S1", "S9"), ids, time_of(at))) == ([at - at % 3 + 1 - 3 * (at % 3 < 1)], 1)
        assert ask_for(HotScan(None, ids, time_of(at), time_of(at + 2), before=1)) == (
            [at - 3, at - 2, at - 1, at, at + 1],
            1,
        )
        asked = [at, 7 * 4_096 + 5, 3 * 4_096 + 7]
        probes = Probes(pa.array([f"S{i % 3}" for i in asked]), np.array([time_of(i) for i in asked], np.int64))
        assert ask_for(HotAsof(ids), probes) == (sorted(asked), 3)


def time_of(row: int) -> TimeNs:
    return TimeNs(DAY_NS + row * 1000)


def test_after_a_start_from_a_snapshot_the_log_still_decides_what_is_later_than_history(tmp_path: Path) -> None:
    owner = small_owner(tmp_path)
    with owner:
        fill(owner, 4_096)
        owner.shard.hot.set_persisted(Offset(4_096))
        for first in range(4_096, ROWS, 4_096):
            owner.write(trades(4_096, first=first))
        hot, spec = owner.shard.hot, owner.table.spec
        floor, last_in_history = hot.marks().floor, DAY_NS + 4_095 * 1000
        assert floor > 4_096
        with HotSet.create(spec, owner.shard.id, Epoch(2), Offset(0), restored=hot.carried()) as restored:
            assert hot.spans.below_max(4_096) == restored.spans.below_max(4_096) == last_in_history
            covered = restored.spans.within(4_096, floor)
            assert (covered[0].first, covered[-1].end) == (4_096, floor)
            assert covered[0].min_time <= last_in_history + 1000
            assert covered[-1].max_time == DAY_NS + (floor - 1) * 1000
            restored.set_persisted(floor)
            assert restored.spans.below_max(floor) == DAY_NS + (floor - 1) * 1000


def test_a_start_from_a_snapshot_finds_warm_rows_in_the_older_log(tmp_path: Path) -> None:
    owner = small_owner(tmp_path, snapshot_bytes=2**40)
    with owner:
        fill(owner, ROWS)
        floor = owner.shard.marks().floor
        shard = owner.reopen()  # a clean stop takes a snapshot
        assert len(list_snapshots(snapshot_directory(tmp_path, shard.id))) == 1
        marks = shard.marks()
        assert (marks.persisted, marks.end) == (0, ROWS)
        assert marks.floor == floor
        owner.write(trades(4_096, first=ROWS))
        part = read_warm(shard, HotScan(columns=("trade_id",)), None, Offset(0), floor)
        assert sorted(part.rows.column("trade_id").to_pylist()) == list(range(floor))
        assert not part.cold
        resident = shard.run(HotScan(columns=("trade_id",)))
        assert resident.rows.num_rows == ROWS + 4_096 - resident.seam


def test_a_shard_that_never_saw_its_older_rows_keeps_its_warm_rows_over_a_snapshot(tmp_path: Path) -> None:
    owner = small_owner(tmp_path)
    with owner:
        fill(owner, ROWS)
        spec, shard = owner.table.spec, owner.shard
        first = Offset(4_096)
        with HotSet.create(spec, shard.id, Epoch(2), first, hot_bytes=spec.hot_bytes) as hot:
            shard.hot, told = hot, shard.hot
            for start in range(first, ROWS, 4_096):
                batch = trades(4_096, first=start)
                while not hot.has_room(batch):
                    hot.evict(Offset(hot.marks().floor + 4_096), hot.appended_end)
                hot.publish(hot.append(batch, Offset(start), 0))
            floor = hot.marks().floor
            assert first < floor
            with HotSet.create(spec, shard.id, Epoch(3), Offset(0), restored=hot.carried()) as restored:
                marks = restored.marks()
                assert (marks.persisted, marks.floor) == (first, floor)
                shard.hot = restored
                try:
                    part = read_warm(shard, HotScan(columns=("trade_id",)), None, first, floor)
                finally:
                    shard.hot = told
                assert sorted(part.rows.column("trade_id").to_pylist()) == list(range(first, floor))
                assert part.cold, "what lies below may be later than any of them"
