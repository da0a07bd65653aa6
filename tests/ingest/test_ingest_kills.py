"""kill -9 of an owner under load, again and again: every acked row once and in order, unacked parts whole or absent."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest
from ingest_nodes import create_table
from kills import SPEC, Load, Oracle, OwnerUnderKills, Sender, wait_acked

from proxist.etcd import EtcdClient
from proxist.failpoints import POINTS
from proxist.testing.etcd import LocalEtcd
from proxist.testing.nursery import Nursery

KILLS = int(os.environ.get("PROXIST_TEST_KILLS", "1000"))
LIVES = 8
"""Kills of one table before the next: each life leaves a log of full segment size on the disk."""
POINTS_OF_LOAD = [name for name in POINTS if name.startswith(("wal.", "commit.", "etcd.open."))]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery("proxist_ingest") as running:
        yield running


@pytest.fixture(scope="module")
def etcd() -> Iterator[LocalEtcd]:
    with LocalEtcd() as running:
        yield running


def _chapter(nursery: Nursery, etcd: LocalEtcd, directory: Path, rng: random.Random, kills: int) -> Counter[str]:
    """One table: `kills` lives that are killed, one that is stopped in order, one that shows what is left."""
    counts: Counter[str] = Counter()
    with EtcdClient([etcd.address]) as client:
        client.delete("/proxist/", prefix=True)
        table = create_table(client, {**SPEC, "durability": rng.choice(("disk", "os"))}, ["ingest-0"])
    owner, oracle = OwnerUnderKills(nursery, directory, etcd.address, table), Oracle(rng)
    senders = [Sender(oracle, number > 0, rng.choice(("os", "disk"))) for number in range(4)]
    for _ in range(kills):
        kind = rng.choices(("under load", "at a point", "while it starts"), (60, 30, 10))[0]
        point = f"{rng.choice(POINTS_OF_LOAD)}=kill@{rng.randint(1, 40)}" if kind == "at a point" else ""
        life = owner.start(point)
        if kind == "while it starts":
            threading.Event().wait(rng.uniform(0.0, 0.6))
        elif (ready := life.ready()) is not None:
            owner.check(ready, oracle)
            load = Load(senders, ready["flight"])
            wait_acked(oracle, rng.choice((0, 1, rng.randint(2, 20), rng.randint(2, 80))), life)
            threading.Event().wait(rng.uniform(0.0, 0.005))
            life.kill()
            load.stop()
        life.kill()
        assert life.wait() == -signal.SIGKILL, f"it ended by itself\n{life.tail()}"
        counts[kind] += 1
        for sender in senders:
            if rng.random() < 0.2:
                sender.abandon()
    _end_in_order(owner, oracle, senders)
    return counts + Counter(
        batches=len(oracle.batches), acked=oracle.acked, rows=oracle.batches[-1].end if oracle.batches else 0
    )


def _end_in_order(owner: OwnerUnderKills, oracle: Oracle, senders: list[Sender]) -> None:
    """A life that gets SIGTERM under load, and one more look."""
    life = owner.start()
    ready = life.ready()
    assert ready is not None, life.tail()
    owner.check(ready, oracle)
    load = Load(senders, ready["flight"])
    wait_acked(oracle, 10, life)
    life.send(signal.SIGTERM)
    load.stop()
    assert life.wait() == 0, life.tail()
    life = owner.start()
    ready = life.ready()
    assert ready is not None, life.tail()
    owner.check(ready, oracle)
    life.kill()


def _run(nursery: Nursery, etcd: LocalEtcd, tmp_path: Path, seed: int, kills: int) -> None:
    counts: Counter[str] = Counter()
    done = 0
    while done < kills:
        chapter_seed = seed + done
        lives = min(LIVES, kills - done)
        directory = tmp_path / f"chapter-{done}"
        try:
            counts += _chapter(nursery, etcd, directory, random.Random(chapter_seed), lives)
        except BaseException:
            print(f"failed in the chapter with seed {chapter_seed}, after {done} kills: {dict(counts)}")
            raise
        rmtree(directory)
        done += lives
    print(f"{done} kills of an owner from seed {seed} on: {dict(counts)}")
    assert counts["acked"] > done, "the owners died before they acked anything"


@pytest.mark.timeout(240)
def test_an_owner_killed_under_load_loses_and_doubles_nothing(
    nursery: Nursery, etcd: LocalEtcd, tmp_path: Path, seed: int
) -> None:
    _run(nursery, etcd, tmp_path, seed, 6)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_thousand_kills_of_an_owner_lose_and_double_nothing(
    nursery: Nursery, etcd: LocalEtcd, tmp_path: Path, seed: int
) -> None:
    _run(nursery, etcd, tmp_path, seed + 1_000_000, KILLS)
