"""Damaged and missing snapshots: an older one is taken, answers are the same, no log file changes; and recoveries that
are interrupted again and again find what the first one would have found."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from shard_state import state_of
from snapshotted import Home, answers, log_files, make_home

from proxist.errors import LogCorrupt
from proxist.hot.snapshots import MANIFEST, list_snapshots, snapshot_directory
from proxist.hot.writer import HotSet
from proxist_ingest import recover as recover_module
from proxist_ingest.base import Base
from proxist_ingest.bounds import Bounds
from proxist_ingest.producers import Producers
from proxist_ingest.recover import create_log
from proxist_ingest.replay import Replay

INTERRUPTIONS = int(os.environ.get("PROXIST_TEST_INTERRUPTIONS", "100"))
KILLS = int(os.environ.get("PROXIST_TEST_RECOVERY_KILLS", "100"))
HOW = ("flip", "truncate", "empty", "remove")
Damage = tuple[int, str, str]
"""(which snapshot, newest 0; which file, "" for the whole directory; how)."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("home"))


def single_damages() -> list[Damage]:
    of_one = [(name, how) for name in (MANIFEST, "boundary.arrow", "producers.arrow") for how in HOW]
    of_one += [(MANIFEST, "version"), ("", "remove")]
    return [(which, name, how) for which in range(3) for name, how in of_one]


def do_damage(data_dir: Path, home: Home, damage: Damage, random: Random) -> None:
    which, name, how = damage
    directory = snapshot_directory(data_dir, home.record.shard)
    number = [n for n, _ in list_snapshots(snapshot_directory(home.data_dir, home.record.shard))][which]
    path = directory / str(number)
    if not name:
        shutil.rmtree(path)
        return
    path = path / name
    raw = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    elif how == "version":
        body = json.loads(raw)
        body["manifest"]["format"] = 2
        path.write_text(json.dumps(body))
    else:
        if how == "flip":
            raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
        path.write_bytes(raw[: {"flip": len(raw), "empty": 0}.get(how, random.randrange(1, len(raw)))])


def check(home: Home, copy: Path, damages: tuple[Damage, ...], expected: dict[str, Any], floors: list[int]) -> None:
    random = Random(repr(damages))
    shutil.copytree(home.data_dir, copy)
    for damage in damages:
        do_damage(copy, home, damage, random)
    before = log_files(copy)
    hurt = {which for which, _, _ in damages}
    if hurt == {0, 1, 2}:
        with pytest.raises(LogCorrupt, match="no good snapshot"):
            home.recover(copy)
    else:
        found = home.recover(copy)
        assert found.hot.marks().floor == floors[min({0, 1, 2} - hurt)], damages
        assert answers(found, floors[0]) == expected, damages
        found.hot.close()
    assert log_files(copy) == before, damages
    shutil.rmtree(copy)


@pytest.fixture(scope="module")
def floors(home: Home) -> list[int]:
    found = list_snapshots(snapshot_directory(home.data_dir, home.record.shard))
    told = [int(json.loads((path / MANIFEST).read_bytes())["manifest"]["floor"]) for _, path in found]
    assert len(set(told)) == 3, "each snapshot has a floor of its own"
    return told


@pytest.fixture(scope="module")
def expected(home: Home, floors: list[int]) -> dict[str, Any]:
    found = home.recover()
    assert found.hot.marks().floor == floors[0]
    told = answers(found, floors[0])
    found.hot.close()
    return told


def test_each_damage_by_itself_falls_back(
    home: Home, tmp_path: Path, expected: dict[str, Any], floors: list[int]
) -> None:
    damages = single_damages()
    for damage in damages:
        check(home, tmp_path / "copy", (damage,), expected, floors)
    assert len(damages) == 42


def test_damages_in_pairs_fall_back(home: Home, tmp_path: Path, expected: dict[str, Any], floors: list[int]) -> None:
    pairs = Random(6).sample(_pairs(), 24)
    for pair in pairs:
        check(home, tmp_path / "copy", pair, expected, floors)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_damages_in_all_pairs_fall_back(
    home: Home, tmp_path: Path, expected: dict[str, Any], floors: list[int]
) -> None:
    pairs = _pairs()
    for pair in pairs:
        check(home, tmp_path / "copy", pair, expected, floors)
    print(f"{len(pairs)} pairs of damages")


def test_damage_to_all_of_them_stops_the_start(
    home: Home, tmp_path: Path, expected: dict[str, Any], floors: list[int]
) -> None:
    damages = single_damages()
    for n in range(14):
        check(home, tmp_path / "copy", (damages[n], damages[14 + n], damages[28 + n]), expected, floors)
    copy = tmp_path / "deleted"
    shutil.copytree(home.data_dir, copy)
    shutil.rmtree(copy / "snapshots")
    before = log_files(copy)
    with pytest.raises(LogCorrupt, match="no good snapshot"):
        home.recover(copy)
    assert log_files(copy) == before


def _pairs() -> list[tuple[Damage, Damage]]:
    return [pair for pair in itertools.combinations(single_damages(), 2) if pair[0][:2] != pair[1][:2]]


class Interrupted(BaseException):
    """Stands for a process that ended here."""


class Steps:
    """Counts the steps of a recovery and interrupts it at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.stop_at: int | None = None
        for owner, name in (
            (HotSet, "append"),
            (HotSet, "set_persisted"),
            (HotSet, "_restore_rows"),
            (Producers, "load"),
            (Producers, "accept"),
            (Bounds, "cut"),
            (Base, "check"),
            (Replay, "record"),
            (recover_module, "recover_log"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == self.stop_at:
                raise Interrupted
            return function(*args, **more)

        return call


def test_a_recovery_that_is_interrupted_again_and_again_finds_the_same(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(home.data_dir, copy)
    first = home.recover(copy)
    wanted, before = state_of(first), log_files(copy)
    first.hot.close()
    with monkeypatch.context() as patched:
        steps = Steps(patched)
        home.recover(copy).hot.close()
        total, random, interrupted = steps.count, Random(1), 0
        assert total > 40
        for n in range(INTERRUPTIONS):
            steps.count, steps.stop_at = 0, random.randint(1, total)
            with pytest.raises(Interrupted):
                home.recover(copy)
            interrupted += 1
            if n % 20 == 19:  # and the log of an epoch that etcd never heard of
                steps.stop_at = None
                found = home.recover(copy)
                create_log(copy, home.table, home.record.shard, home.record.epoch + 1, found).close()
                found.hot.close()
    again = home.recover(copy)
    assert state_of(again) == wanted
    assert log_files(copy) == before
    again.hot.close()
    print(f"{interrupted} interruptions, {total} steps in a recovery")


@pytest.fixture
def killer(home: Home, tmp_path: Path) -> Callable[[int, int], int]:
    """Kills recoveries of a copy with SIGKILL; returns how many were killed before they had ended."""
    copy = tmp_path / "copy"
    shutil.copytree(home.data_dir, copy)
    first = home.recover(copy)
    wanted, before = state_of(first), log_files(copy)
    first.hot.close()

    def run(kills: int, seed: int) -> int:
        script = Path(__file__).with_name("recovery_killer.py")
        record = json.dumps(home.record.to_json())
        command = [sys.executable, str(script), str(copy), record, str(kills), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300 + 5 * kills)
        assert done.returncode == 0, done.stderr
        again = home.recover(copy)
        assert state_of(again) == wanted
        again.hot.close()
        assert log_files(copy) == before
        return int(done.stdout.split()[-1])

    return run


def test_a_recovery_that_is_killed_finds_the_same(killer: Callable[[int, int], int]) -> None:
    assert killer(8, 1) >= 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_recovery_that_is_killed_a_hundred_times_finds_the_same(killer: Callable[[int, int], int]) -> None:
    killed = killer(KILLS, 2)
    print(f"{killed} of {KILLS} recoveries were killed before their end")
    assert killed >= KILLS // 4
