"""Probes and keys of history: each by a read of the primary key where the table is large for them, else all in one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from real_tiers import RealTiers
from test_query_windows import SECOND, SYMBOLS, T0, TICKS, bits, ticks

from proxist.hot.ops import Probes
from proxist.model.ids import LogId, Offset, ShardId
from proxist.model.table import Table
from proxist.seam import ColdAsof, ColdCut, ColdOp
from proxist_query import cold


def asked_of(table: Table, rows: int, probes: int) -> str:
    cuts = (
        ColdCut(ShardId(1), LogId(1), LogId(9), Offset(rows)),
        ColdCut(ShardId(1), LogId(11), LogId(11), Offset(rows)),
    )
    made = Probes(pa.array(["A"] * probes), np.arange(probes))
    return cold.statement_of(ColdAsof(table, cuts, ("id",), made, "backward", None, True)).text


def test_a_large_history_is_not_joined_for_few_probes(tiers: RealTiers) -> None:
    table = tiers.create(TICKS)
    assert "JOIN" not in asked_of(table, 1_000, 8)
    assert "JOIN" in asked_of(table, 1_000, 9)
    assert "JOIN" not in asked_of(table, 20_000_000, 20)
    assert "JOIN" in asked_of(table, 20_000_000, 21)
    assert "JOIN" in asked_of(table, 10**12, 51), "each probe's part names both cuts"
    assert len(asked_of(table, 10**12, 50)) < 2**17


@pytest.mark.parametrize("direction", ["backward", "forward", "nearest"])
@pytest.mark.parametrize("beside", [{}, {"allow_exact": False}, {"tolerance": "2s"}], ids=["any", "not exact", "near"])
def test_both_ways_find_the_same_rows(
    tiers: RealTiers, monkeypatch: pytest.MonkeyPatch, direction: str, beside: dict[str, object]
) -> None:
    tiers.create({**TICKS, "shards": 3})
    tiers.write("ticks", ticks(1))
    tiers.persist("ticks", 1.0)
    tiers.evict("ticks", 1.0)
    rng = np.random.default_rng(3)
    probes = pa.table(
        {
            "symbol": pa.array([(*SYMBOLS, "nobody")[i] for i in rng.integers(0, 6, 60)]),
            "ts": pa.array(T0 + rng.integers(-110, 240, 60) * SECOND, pa.timestamp("ns", "UTC")),
        }
    )
    query = {"asof": {"left": {"probe": True}, "right": {"table": "ticks"}, "direction": direction, **beside}}
    joined = bits(tiers.ask(query, probes).rows)
    monkeypatch.setattr(cold, "ROWS_PER_EACH", 1)
    assert bits(tiers.ask(query, probes).rows).equals(joined)
    assert joined.column("id").null_count < 60


@pytest.mark.parametrize("verb", ["last_by", "first_by"])
@pytest.mark.parametrize("at", [None, T0 + 60 * SECOND, T0 - 200 * SECOND], ids=["any time", "at", "before all"])
def test_both_ways_find_the_same_row_of_a_key(
    tiers: RealTiers, monkeypatch: pytest.MonkeyPatch, verb: str, at: int | None
) -> None:
    tiers.create({**TICKS, "shards": 3})
    tiers.write("ticks", ticks(1))
    tiers.persist("ticks", 1.0)
    tiers.evict("ticks", 1.0)
    keys = ["A", "rare", "nobody", "é", "A", "B'\\"]
    query = {verb: {"table": "ticks", "keys": keys, **({} if at is None else {"at": at})}}
    together = bits(tiers.ask(query).rows)
    statements: list[str] = []
    text_of = cold.statement_of

    def noted(op: ColdOp) -> cold.Statement:
        made = text_of(op)
        statements.append(made.text)
        return made

    monkeypatch.setattr(cold, "ROWS_PER_EACH", 1)
    monkeypatch.setattr(cold, "statement_of", noted)
    assert bits(tiers.ask(query).rows).equals(together)
    assert not any("LIMIT 1 BY" in text for text in statements)
    assert together.num_rows == (0 if (verb, at) == ("last_by", T0 - 200 * SECOND) else 4)
