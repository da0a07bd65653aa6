"""A hot set that was made again from its carried state and the rows above its floor answers as the first one did."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hot_model import FOREVER_NS, Oracle, batch_of, make_spec, new_hot_set, random_op, random_rows

from proxist.errors import Overloaded
from proxist.hot import boundaries
from proxist.hot.boundaries import HotCarried
from proxist.hot.ops import HotBars, HotLastBy, HotPart, HotWindow
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId, TimeNs
from proxist.model.query import Agg
from proxist.model.table import TableSpec

STYLES = ["in order", "late", "ties", "wild", "far"]


def restored(spec: TableSpec, carried: HotCarried, oracle: Oracle, end: int, **options: Any) -> HotSet:
    """A hot set from `carried` and the oracle's rows above its floor, in pieces."""
    again = HotSet.create(spec, ShardId(7), Epoch(4), Offset(0), restored=carried, **options)
    again.set_lease_until(FOREVER_NS)
    assert again.marks().floor == again.marks().end == carried.floor
    for first in range(carried.floor, end, 173):
        rows = oracle.rows[first : min(first + 173, end)]
        again.append(batch_of(spec, rows), Offset(first), 0)
    again.publish(Offset(end))
    return again


def random_windows(rng: np.random.Generator, keys: list[str], clock: int, *, values: bool) -> list[HotWindow | HotBars]:
    aggs = (Agg("count"), *((Agg("sum", "price"), Agg("max", "price")) if values else ()))
    asked = None if rng.random() < 0.5 else tuple(keys[: int(rng.integers(1, len(keys) + 1))])
    start = TimeNs(int(rng.integers(-50, clock + 10)))
    return [
        HotWindow(aggs, asked, from_ns=start, range_ns=int(rng.integers(1, 60))),
        HotWindow(aggs, asked, from_ns=start, rows=int(rng.integers(1, 40))),
        HotBars(aggs, int(rng.integers(1, 30)), asked, from_ns=start),
    ]


def assert_same(one: HotPart, other: HotPart) -> None:
    assert one.rows.equals(other.rows)
    assert (one.seam, one.end, one.floor) == (other.seam, other.end, other.floor)
    assert one.cold.keys == other.cold.keys
    assert (one.cold.probes is None) == (other.cold.probes is None)
    if one.cold.probes is not None and other.cold.probes is not None:
        assert one.cold.probes.tolist() == other.cold.probes.tolist()


@pytest.mark.parametrize("seed", range(12))
def test_every_question_has_the_same_answer_and_the_same_cold_need(seed: int) -> None:
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"block_rows": int(rng.choice([16, 32])), "hot_bytes": 4 * 2**20}
    spec = make_spec(seq=seed % 2 == 0, values=seed % 3 != 2)
    hot, oracle, clock = new_hot_set(spec, **options), Oracle(spec), 0
    keys = [f"key{i}" for i in range(int(rng.integers(1, 9)))]
    for turn in range(12):
        rows = random_rows(rng, hot.appended_end, int(rng.integers(1, 300)), keys, clock, str(rng.choice(STYLES)))
        if not spec.seq:
            rows = [type(r)(r.offset, r.key, r.time, 0) for r in rows]
        oracle.add(rows)
        hot.append(batch_of(spec, rows), hot.appended_end, 0)
        hot.publish(hot.appended_end)
        clock += len(rows) // 3
        hot.set_persisted(Offset(int(hot.appended_end * rng.uniform(0.5, 1))))
        hot.evict(Offset(int(hot.appended_end * rng.uniform(0, 1))))
        if turn % 3 == 2:
            end = hot.appended_end
            again = restored(spec, hot.carried(), oracle, end, **options)
            again.set_persisted(hot.marks().persisted)
            before, after = hot.marks(), again.marks()
            for name in ("start", "floor", "persisted", "end", "evicted_time_max"):
                assert getattr(before, name) == getattr(after, name), name
            assert after.t_persisted is not None
            assert all(r.offset < after.persisted for r in oracle.rows if r.time <= after.t_persisted)
            one, other = hot.reader(), again.reader()
            for _ in range(40):
                op, probes = random_op(rng, keys, clock, end)
                if op.columns is not None and not set(op.columns) <= {c.name for c in spec.columns}:
                    continue
                assert_same(one.run(op, probes), other.run(op, probes))
                oracle.check(other.run(op, probes), op, probes)
            for window in random_windows(rng, keys, clock, values=seed % 3 != 2):
                assert_same(one.run(window), other.run(window))
            hot.close()
            hot = again  # what was restored is evicted, carried and restored again
    hot.close()


def test_carried_state_of_carried_state_is_the_same() -> None:
    spec = make_spec()
    hot, oracle = new_hot_set(spec, hot_bytes=4 * 2**20), Oracle(spec)
    rows = random_rows(np.random.default_rng(1), 0, 900, ["a", "b", "c"], 0, "late")
    oracle.add(rows)
    hot.append(batch_of(spec, rows), Offset(0), 0)
    hot.publish(Offset(900))
    hot.set_persisted(Offset(700))
    hot.evict(Offset(500))
    first = hot.carried()
    second = restored(spec, first, oracle, 500, hot_bytes=4 * 2**20).carried()
    assert [r.sort_by("sym").to_pylist() for r in second.boundary] == [
        r.sort_by("sym").to_pylist() for r in first.boundary
    ]
    assert (second.floor, second.start, second.complete) == (500, 0, True)
    hot.close()


def test_state_is_carried_beside_a_writer_that_appends_and_evicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundaries, "HELD_KEYS", 3)
    monkeypatch.setattr(boundaries, "CHUNK_KEYS", 7)
    spec = make_spec(seq=False)
    hot, oracle, keys = new_hot_set(spec, hot_bytes=8 * 2**20), Oracle(spec), [f"key{i}" for i in range(40)]
    rng = np.random.default_rng(5)
    batches = []
    for first in range(0, 6000, 100):
        rows = [type(r)(r.offset, r.key, r.time, 0) for r in random_rows(rng, first, 100, keys, first, "late")]
        oracle.add(rows)
        batches.append(batch_of(spec, rows))
    done = threading.Event()

    def write() -> None:
        try:
            for at, batch in enumerate(batches):
                hot.append(batch, Offset(100 * at), 0)
                hot.publish(Offset(100 * (at + 1)))
                hot.set_persisted(Offset(100 * (at + 1)))
                hot.evict_step(Offset(100 * at), 37)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    floors = set()
    while True:
        last = done.is_set()
        carried = hot.carried()
        floors.add(carried.floor)
        expected = {}
        for row in oracle.rows[: carried.floor]:
            if row.key not in expected or expected[row.key].order <= row.order:
                expected[row.key] = row
        found = [row for rows in carried.boundary for row in oracle.returned(rows, None)]
        assert sorted(r.offset for r in found if r) == sorted(r.offset for r in expected.values())
        if last:
            break
    writer.join(30)
    assert len(floors) > 1
    hot.close()


def test_payloads_that_fill_the_ring_many_times_over_are_restored() -> None:
    spec = make_spec(hot_bytes=2**20)
    hot, oracle = new_hot_set(spec, hot_bytes=2**20), Oracle(spec)
    keys = [f"key{i}" for i in range(20)]
    offset = 0
    for _ in range(30):
        rows = random_rows(np.random.default_rng(offset), offset, 100, keys, offset, "in order")
        batch = batch_of(spec, rows)
        raw = batch.schema.get_field_index("raw")
        big = [bytes([r.offset % 251]) * 30_000 if r.offset % 10 == 0 else None for r in rows]
        batch = batch.set_column(raw, batch.schema.field(raw), pa.array(big, pa.binary()))
        oracle.add(rows)
        hot.append(batch, Offset(offset), 0)
        offset += 100
        hot.publish(Offset(offset))
        hot.set_persisted(Offset(offset))
        hot.evict(Offset(offset))
    carried = hot.carried()
    again = HotSet.create(spec, ShardId(7), Epoch(4), Offset(0), hot_bytes=2**20, restored=carried)
    again.set_lease_until(FOREVER_NS)
    assert again.used_bytes == 0
    assert again.reader().run(HotLastBy()).rows.equals(hot.reader().run(HotLastBy()).rows)
    hot.close()
    again.close()


def test_keys_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(values=False)
    hot = new_hot_set(spec, hot_bytes=2**20)
    rows = random_rows(np.random.default_rng(3), 0, 200, [f"key{i}" for i in range(50)], 0, "in order")
    hot.append(batch_of(spec, rows), Offset(0), 0)
    hot.publish(Offset(200))
    hot.set_persisted(Offset(200))
    hot.evict(Offset(200))
    monkeypatch.setattr("proxist.hot.dictionary.Dictionary.room_for", lambda *_: False)
    with pytest.raises(Overloaded, match="keys in this shard"):
        HotSet.create(spec, ShardId(7), Epoch(4), Offset(0), hot_bytes=2**20, restored=hot.carried())
    hot.close()
