"""Operations and parts as plain values: JSON and back; the writer's ledgers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxist.errors import InvalidArgument, Unavailable
from proxist.hot.epoch_page import EpochPage
from proxist.hot.ledger import Arrivals, Unpersisted
from proxist.hot.ops import (
    ColdNeed,
    HotAsof,
    HotFirstBy,
    HotLastBy,
    HotPart,
    HotScan,
    Probes,
    op_from_json,
    part_from_head,
    probes_from_batch,
)
from proxist.hot.words import INT64_MIN
from proxist.model.ids import Epoch, Offset


@pytest.mark.parametrize(
    "op",
    [
        HotScan(),
        HotScan(("a", "b"), ("x",), 1, 2, 3, "persisted", Offset(9)),
        HotScan(ordered=False),
        HotLastBy((), (), -5, Offset(0)),
        HotFirstBy(("k",)),
        HotAsof(("x",), "nearest", 0, False, Offset(4)),
    ],
)
def test_operations_survive_json(op: Any) -> None:
    assert op_from_json(json.loads(json.dumps(op.to_json()))) == op


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        ({"op": "drop"}, "'drop' is unknown"),
        ({}, "unknown"),
        ({"op": "scan", "nope": 1}, "cannot be read"),
        ({"op": "scan", "seam": "middle"}, "floor, persisted"),
        ({"op": "scan", "ordered": False, "limit": 1}, "absent"),
        ({"op": "scan", "limit": -1}, "at least 0"),
        ({"op": "asof", "direction": "up"}, "backward, forward, nearest"),
        ({"op": "asof", "tolerance_ns": -1}, "at least 0"),
    ],
)
def test_wrong_operations_are_refused(wire: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        op_from_json(wire)


@pytest.mark.parametrize(
    "cold",
    [
        ColdNeed(),
        ColdNeed(None),
        ColdNeed(("a",)),
        ColdNeed((), np.array([1, 5])),
        ColdNeed((), np.array([], np.int64)),
    ],
)
def test_parts_survive_the_hop(cold: ColdNeed) -> None:
    rows = pa.record_batch({"_offset": pa.array([1], pa.uint64())})
    part = HotPart(rows, Epoch(1), Offset(2), Offset(3), Offset(2), Offset(3), cold)
    back = part_from_head(json.loads(json.dumps(part.head_json())), rows)
    assert back.head_json() == part.head_json()
    assert bool(back.cold) == bool(cold)


def test_probes_survive_the_hop() -> None:
    probes = Probes(pa.array(["a", None]), np.array([1, 2**62]))
    back = probes_from_batch(probes.to_batch())
    assert back.keys.equals(probes.keys)
    assert back.times_ns.tolist() == [1, 2**62]
    with pytest.raises(InvalidArgument, match="Probe times"):
        probes_from_batch(pa.record_batch({"key": ["a"], "time": [1]}))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(-50, 50), st.integers(0, 60)), max_size=30))
def test_time_persisted_is_the_smallest_missing_time_less_one(batches: list[tuple[int, int, int]]) -> None:
    ledger, ends, seen, persisted = Unpersisted(), [], [], 0
    for rows, time, advance in batches:
        end = (ends[-1][0] if ends else 0) + rows
        ends.append((end, time))
        seen.append(time)
        ledger.note(end, time, time)
        persisted = max(persisted, min(end, persisted + advance))
        ledger.persisted_to(persisted)
        missing = [t for e, t in ends if e > persisted]
        assert ledger.time_persisted() == (min(missing) - 1 if missing else max(seen))
    if not batches:
        assert ledger.time_persisted() == INT64_MIN


def test_arrivals_are_remembered_in_bounded_space() -> None:
    ledger = Arrivals(window_ns=10**9)
    for i in range(100_000):
        ledger.note(i + 1, i * 20_000)
    assert len(ledger._groups) < 2100
    due = ledger.due(2 * 10**9)
    assert 0 <= 50_000 - due <= 100
    ledger.evicted_to(due)
    assert ledger.due(0) == 0


def test_an_epoch_page_never_goes_back_and_is_seen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "epochs" / "9"
    with pytest.raises(Unavailable, match="Start its owner"):
        EpochPage(path)
    page = EpochPage(path, writable=True)
    reader, again = EpochPage(path), EpochPage(path, writable=True)
    for epoch, expected in ((1, 1), (5, 5), (3, 5)):
        again.publish(Epoch(epoch))
        assert page.epoch == reader.epoch == expected
    for one in (page, reader, again):
        one.close()
    path.write_bytes(b"x" * 4096)
    with pytest.raises(Unavailable, match="another format"):
        EpochPage(path)


def test_two_processes_that_compile_at_once_both_get_ready(tmp_path: Path) -> None:
    """With compilation switched off this is about the lock and the marker only; a filled cache is read as it is."""
    environment = os.environ | {"PROXIST_KERNEL_CACHE": str(tmp_path)}
    code = (
        "import proxist.hot.jit as jit\n"
        "with jit.compiling(): pass\n"
        "assert (jit.cache_dir() / 'complete').exists()\n"
        "(jit.cache_dir()).chmod(0o555)\n"
        "with jit.compiling(): pass\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [run.wait(60) for run in runs] == [0, 0]
