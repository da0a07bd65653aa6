"""Producers, seqs and bounds come out of a snapshot as they went in."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from ingest_rows import rows, table

from proxist.errors import InvalidArgument, Overloaded, ProducerConflict, ProducerGap
from proxist.hot.snapshots import Cuts
from proxist.model.ids import Epoch, Offset
from proxist_ingest import producers as module
from proxist_ingest.bounds import Bounds
from proxist_ingest.producers import RUNS_SCHEMA, Original, Producers
from proxist_ingest.seqdedup import SEQS_SCHEMA, SeqDedup, export_seqs


def hash_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def fill(known: Producers, producer: str, first: int, last: int) -> None:
    for n in range(first, last + 1):
        original = Original(Epoch(1 + n % 3), Offset(10 * n), Offset(10 * n + 7), 5)
        known.accept(producer, n, hash_of(n), original)


def reload(known: Producers) -> Producers:
    again = Producers("trades")
    for batch in known.export(known.instant()):
        assert batch.schema == RUNS_SCHEMA
        again.load(batch)
    return again


@pytest.mark.parametrize("run", [3, 65_536])
def test_every_number_is_remembered_with_its_answer(monkeypatch: pytest.MonkeyPatch, run: int) -> None:
    monkeypatch.setattr(module, "RUN_NUMBERS", run)
    known = Producers("trades")
    fill(known, "a", 5, 25)
    fill(known, "b", 0, 0)
    fill(known, "é", 2, 3)
    again = reload(known)
    for producer, first, last in (("a", 5, 25), ("b", 0, 0), ("é", 2, 3)):
        assert again.last(producer) == last
        for n in range(first, last + 1):
            original = again.check(producer, n, hash_of(n))
            assert original == Original(Epoch(1 + n % 3), Offset(10 * n), Offset(10 * n + 7), 0)
            with pytest.raises(ProducerConflict, match="with other content"):
                again.check(producer, n, hash_of(n + 1))
        with pytest.raises(ProducerGap):
            again.check(producer, last + 2, hash_of(0))
        assert again.check(producer, last + 1, hash_of(0)) is None
    with pytest.raises(ProducerConflict, match="remembered from 5 only"):
        again.check("a", 4, hash_of(4))
    fill(again, "a", 26, 27)
    assert again.check("a", 26, hash_of(26)) is not None


def test_an_instant_is_what_was_known_then() -> None:
    known = Producers("trades")
    fill(known, "a", 1, 4)
    instant = known.instant()
    fill(known, "a", 5, 6)
    fill(known, "late", 1, 1)
    again = Producers("trades")
    for batch in known.export(instant):
        again.load(batch)
    assert (again.last("a"), again.last("late")) == (4, None)


def test_numbers_are_exported_while_others_are_accepted_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUN_NUMBERS", 50)
    monkeypatch.setattr(module, "NUMBERS_KEPT_MAX", 400)
    known = Producers("trades")
    fill(known, "a", 1, 300)
    done = threading.Event()

    def accept() -> None:
        fill(known, "a", 301, 20_000)
        done.set()

    writer = threading.Thread(target=accept)
    writer.start()
    exports = 0
    while not done.is_set() or not exports:
        instant = known.instant()
        last = instant[0][2]
        again = Producers("trades")
        exports += 1
        try:
            for batch in known.export(instant):
                again.load(batch)
        except Overloaded:
            continue  # all numbers up to `last` are forgotten by now
        assert again.last("a") == last
        original = Original(Epoch(1 + last % 3), Offset(10 * last), Offset(10 * last + 7), 0)
        assert again.check("a", last, hash_of(last)) == original
    writer.join(30)


def test_the_last_seq_of_every_key_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxist_ingest.seqdedup.EXPORT_KEYS", 2)
    spec = table(dedup="seq").spec
    dedup, again = SeqDedup(spec), SeqDedup(spec)
    dedup.accept(rows(10, keys=5))
    dedup.accept(rows(1, keys=1, trade_id=pa.array([2**63 + 5], pa.uint64())))
    instant = dedup.instant()
    dedup.accept(rows(10, first=100, keys=5))
    for batch in export_seqs(instant):
        assert batch.schema == SEQS_SCHEMA
        again.load(batch)
    assert again.instant() == instant == {"S0": 2**63 + 5, "S1": 6, "S2": 7, "S3": 8, "S4": 9}


def test_bounds_are_what_they_were() -> None:
    cuts = Cuts(Offset(3), (Offset(10), Offset(20), Offset(35)), (Epoch(1), Epoch(1), Epoch(4)))
    bounds = Bounds.of(cuts)
    assert bounds.cuts() == cuts
    assert (bounds.last, bounds.exposed) == (35, 3)
    bounds.expose(bounds.last)
    batch = bounds.after(Offset(20), 0.0)
    assert batch is not None
    assert (batch.epoch, batch.first, batch.end) == (4, 20, 35)


@pytest.mark.parametrize(("first", "start"), [(0, 0), (1, 10), (10, 10), (11, 20), (20, 20), (25, 35), (99, 35)])
def test_batches_whose_rows_are_gone_are_not_given_out(first: int, start: int) -> None:
    bounds = Bounds.of(Cuts(Offset(0), (Offset(10), Offset(20), Offset(35)), (Epoch(1),) * 3))
    bounds.expose(Offset(35))
    bounds.forget_gone(Offset(first))
    assert bounds.cuts().start == start
    if start:
        with pytest.raises(InvalidArgument):
            bounds.after(Offset(0), 0.0)
    if start < 35:
        assert bounds.after(Offset(start), 0.0) is not None
