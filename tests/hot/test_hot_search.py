"""No cliffs, counted in blocks visited; and torn references, which may be wrong but never fatal."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hot_model import Row, batch_of, make_spec, new_hot_set, random_rows

from proxist.errors import Unavailable
from proxist.hot import halves, operators
from proxist.hot import words as w
from proxist.hot.arena import map_readonly
from proxist.hot.kernels import asof as searching
from proxist.hot.kernels import read as kernels
from proxist.hot.kernels_descend import PLACES
from proxist.hot.operators import Operators
from proxist.hot.ops import HotAsof, HotFirstBy, HotLastBy, HotScan, Probes
from proxist.hot.writer import HotSet
from proxist.model.ids import Offset

BLOCK = 16
BLOCKS = 4000
ROWS = BLOCK * BLOCKS
LOGARITHMIC = 3 * BLOCKS.bit_length()


def filled(times: np.ndarray, seqs: np.ndarray | None = None) -> HotSet:
    """One key with these times, in this order of arrival."""
    spec = make_spec(seq=seqs is not None, values=False)
    hot = new_hot_set(spec, block_rows=BLOCK, hot_bytes=2**26)
    columns = [pa.array(["k"] * len(times)), pa.array(times.astype(np.int64)).cast(pa.timestamp("ns", tz="UTC"))]
    if seqs is not None:
        columns.append(pa.array(seqs.astype(np.uint64)))
    hot.append(pa.RecordBatch.from_arrays(columns, schema=spec.schema), Offset(0), 0)
    hot.publish(Offset(len(times)))
    return hot


def visited(hot: HotSet, time: int, direction: int = searching.BACKWARD, end: int | None = None) -> int:
    """Blocks that one probe looks at."""
    operators = hot.reader()._operators
    assert operators is not None
    codes, times = np.zeros(1, np.int64), np.array([time])
    codes.flags.writeable = times.flags.writeable = False
    slots, versions, cold, stats = (np.zeros(3, np.int64) for _ in range(4))
    marks = hot.marks()
    searching.asof(
        operators.mem, operators._L, codes, times, direction, 1, -1, marks.floor,
        marks.end if end is None else end, 1, slots, versions, cold, stats, np.zeros(PLACES, np.int64),
    )  # fmt: skip
    return int(stats[1])


def worst(hot: HotSet, direction: int, times: np.ndarray) -> int:
    return max(visited(hot, int(t), direction) for t in times)


SAMPLE = np.linspace(0, ROWS, 97).astype(np.int64)


@pytest.mark.parametrize("direction", [searching.BACKWARD, searching.FORWARD], ids=["backward", "forward"])
def test_a_key_last_seen_long_ago_is_found_in_few_steps(direction: int) -> None:
    with filled(np.arange(ROWS)) as hot:
        passes = 1 if direction == searching.BACKWARD else 3
        assert worst(hot, direction, SAMPLE) <= passes * LOGARITHMIC


def test_an_older_end_is_reached_in_few_steps() -> None:
    with filled(np.arange(ROWS)) as hot:
        for end in SAMPLE[1:]:
            assert visited(hot, 2**60, end=int(end)) <= LOGARITHMIC


@pytest.mark.parametrize("direction", [searching.BACKWARD, searching.FORWARD], ids=["backward", "forward"])
@pytest.mark.parametrize("seq", [False, True], ids=["without seq", "with seq"])
def test_ten_thousand_rows_on_one_timestamp_make_no_difference(direction: int, seq: bool) -> None:
    times = np.arange(ROWS)
    times[20_000:30_000] = 20_000
    with filled(times, np.arange(ROWS) if seq else None) as hot:
        passes = 1 if direction == searching.BACKWARD else 3
        assert worst(hot, direction, np.array([19_999, 20_000, 20_001, 29_999, 30_000])) <= passes * LOGARITHMIC


@pytest.mark.parametrize("direction", [searching.BACKWARD, searching.FORWARD], ids=["backward", "forward"])
@pytest.mark.parametrize("wild", [2**60, -(2**60)], ids=["future", "past"])
def test_a_few_wild_timestamps_cost_a_few_blocks(direction: int, wild: int) -> None:
    times = np.arange(ROWS)
    times[[100, 30_000, ROWS - 100]] = wild
    with filled(times) as hot:
        assert worst(hot, direction, SAMPLE) <= 8 * LOGARITHMIC


def test_rows_shuffled_within_windows_cost_the_window() -> None:
    times, rng = np.arange(ROWS), np.random.default_rng(1)
    for start in range(0, ROWS, 160):
        rng.shuffle(times[start : start + 160])
    with filled(times) as hot:
        assert worst(hot, searching.BACKWARD, SAMPLE) <= 10 + LOGARITHMIC
        assert worst(hot, searching.FORWARD, SAMPLE) <= 30 + 3 * LOGARITHMIC


def test_a_window_that_slides_keeps_its_jumps() -> None:
    spec = make_spec(seq=False, values=False)
    with new_hot_set(spec, block_rows=BLOCK, hot_bytes=2**26) as hot:
        for turn in range(60):
            first = hot.appended_end
            rows = 5000
            times = pa.array(np.arange(first, first + rows)).cast(pa.timestamp("ns", tz="UTC"))
            hot.append(pa.RecordBatch.from_arrays([pa.array(["k"] * rows), times], schema=spec.schema), first, 0)
            hot.publish(hot.appended_end)
            hot.set_persisted(hot.appended_end)
            hot.evict(Offset(max(0, hot.appended_end - 30_000)))
            if turn > 6:
                sample = np.linspace(hot.marks().floor, hot.marks().end, 31).astype(np.int64)
                assert worst(hot, searching.BACKWARD, sample) <= LOGARITHMIC


def test_scans_visit_the_blocks_of_their_range_only() -> None:
    with filled(np.arange(ROWS)) as hot:
        operators = hot.reader()._operators
        assert operators is not None
        codes, room, stats = np.zeros(1, np.int64), np.empty(ROWS, np.int64), np.zeros(2, np.int64)
        codes.flags.writeable = False
        found = kernels.scan(operators.mem, operators._L, codes, 1000, 1999, 0, ROWS, room, stats)
        assert found == 1000
        assert stats[1] <= 1000 // BLOCK + 2 + LOGARITHMIC


def test_garbage_in_shared_memory_is_never_fatal() -> None:
    """Random words wherever a reader follows references: any answer or Unavailable, but no crash and no other error."""
    rng = np.random.default_rng(7)
    spec = make_spec()
    with new_hot_set(spec, block_rows=16, hot_bytes=2**20) as hot:
        rows = [Row(i, f"k{i % 5}", i, i) for i in range(800)]
        hot.append(batch_of(spec, rows), Offset(0), 0)
        hot.publish(Offset(800))
        hot.set_persisted(Offset(400))
        hot.evict(Offset(300))
        reader, mem = hot.reader(), hot._arena.views.mem
        layout = hot._layout
        names = ["headers", "tail", "last", "boundary", "time", "offset", "payload:raw", "length:raw", "codes:venue",
                 "table:", "positions:", "hashes:", "head:", "positions:venue"]  # fmt: skip
        probes = Probes(pa.array([f"k{i % 6}" for i in range(40)]), rng.integers(0, 900, 40))
        for turn in range(300):
            reader = hot.reader() if turn % 20 == 0 else reader
            region = layout.regions[names[turn % len(names)]]
            cells = min(region.bytes // 8, 4096)
            at = region.start // 8 + rng.integers(0, cells, 30)
            kept = mem[at].copy()
            big = rng.integers(-(2**63), 2**63 - 1, 30)
            mem[at] = np.where(rng.random(30) < 0.5, big, rng.integers(-3, 5000, 30))
            for op in (
                HotLastBy(),
                HotFirstBy(at_ns=400),
                HotScan(from_ns=200),
                HotAsof(direction="nearest"),
                HotLastBy(("k1", "x")),
            ):
                with contextlib.suppress(Unavailable):
                    reader.run(op, probes if isinstance(op, HotAsof) else None)
            mem[at[::-1]] = kept[::-1]
        assert hot.reader().run(HotLastBy()).rows.num_rows == 5


def test_an_attached_reader_sees_the_same_layout() -> None:
    with filled(np.arange(100)) as hot:
        fd = hot.readonly_fd()
        layout, views = map_readonly(fd)
        os.close(fd)
        assert layout.regions == hot._layout.regions
        assert layout.spec == hot._layout.spec
        assert not views.mem.flags.writeable
        assert Operators(layout, views).attempt(HotLastBy(), None) is not None
        assert views.mem[w.H_MAGIC] == int.from_bytes(b"PRXHOT1\0", "little")


@pytest.mark.parametrize(
    "switch",
    [
        pytest.param({"NUMBA_DISABLE_JIT": "1"}, id="interpreted"),
        pytest.param({"NUMBA_BOUNDSCHECK": "1"}, id="bounds checked", marks=pytest.mark.slow),  # compiles everything
    ],
)
def test_kernels_stay_in_bounds_and_mean_the_same_interpreted(switch: dict[str, str], tmp_path: Path) -> None:
    environment = os.environ | switch | {"PROXIST_KERNEL_CACHE": str(tmp_path)}
    script = Path(__file__).parent / "hot_small_workload.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "same", done.stderr


@pytest.mark.parametrize("seed", range(3))
def test_equal_times_are_decided_by_seq_then_offset_at_every_end(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, seqs = rng.integers(0, 3, 500), rng.integers(0, [2, 9, 2**40][seed], 500)
    with filled(times, seqs) as hot:
        reader = hot.reader()
        order = np.lexsort((np.arange(500), seqs, times))
        for end in range(1, 501):
            seen = order[order < end]
            assert reader.run(HotLastBy(end=Offset(end))).rows.column("_offset").to_pylist() == [seen[-1]]
            assert reader.run(HotFirstBy(end=Offset(end))).rows.column("_offset").to_pylist() == [seen[0]]
            middle = seen[times[seen] == 1]
            got = reader.run(HotLastBy(at_ns=1, end=Offset(end))).rows.column("_offset").to_pylist()
            assert got == list(seen[times[seen] <= 1][-1:])
            got = reader.run(HotFirstBy(at_ns=1, end=Offset(end))).rows.column("_offset").to_pylist()
            assert got == list(middle[:1] if len(middle) else seen[times[seen] >= 1][:1])


@pytest.mark.parametrize("direction", ["backward", "forward", "nearest"])
def test_probes_searched_key_by_key_are_answered_in_their_own_order(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, keys = np.random.default_rng(8), ["a", "b", "c", "d"]
    spec = make_spec()
    with new_hot_set(spec, block_rows=16, hot_bytes=2**22) as hot:
        for turn, style in enumerate(["in order", "late", "ties", "in order"]):
            hot.append(
                batch_of(spec, random_rows(rng, hot.appended_end, 150, keys, turn * 40, style)), hot.appended_end, 0
            )
            hot.publish(hot.appended_end)
        hot.set_persisted(hot.appended_end)
        hot.evict(Offset(200))
        names = rng.choice([*keys, "not there", ""], 3_000).tolist()
        probes = Probes(pa.array([name or None for name in names]), rng.integers(-20, 400, 3_000))
        op, reader = HotAsof(direction=direction, tolerance_ns=60), hot.reader()
        one_by_one = reader.run(op, probes)
        monkeypatch.setattr(operators, "_GROUPED_FROM", 1)
        grouped = reader.run(op, probes)
        monkeypatch.setattr(halves, "HALVED_FROM", 1)
        halved = reader.run(op, probes)
    assert grouped.rows.equals(one_by_one.rows)
    assert halved.rows.equals(one_by_one.rows)
    assert one_by_one.cold.probes is not None
    assert len(one_by_one.cold.probes) > 0
    assert np.array_equal(grouped.cold.probes, one_by_one.cold.probes)
    assert np.array_equal(halved.cold.probes, one_by_one.cold.probes)
