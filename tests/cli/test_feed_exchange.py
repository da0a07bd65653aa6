"""The simulated exchange: the same rows for the same seed, ids without holes, and the troubles that it promises."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from proxist.cli.feeds.exchange import SYMBOLS, SimulatedExchange
from proxist.cli.feeds.tables import QUOTES, TRADES

STEP_NS = 20_000_000
SEQ = {TRADES.name: "trade_id", QUOTES.name: "update_id"}


def run(seed: int, steps: int = 100) -> tuple[SimulatedExchange, dict[str, pa.Table]]:
    exchange = SimulatedExchange(seed)
    made = [exchange.step(10**18 + n * STEP_NS, STEP_NS) for n in range(steps)]
    return exchange, {name: pa.Table.from_batches([step[name] for step in made]) for name in SEQ}


@pytest.fixture(scope="module")
def made() -> tuple[SimulatedExchange, dict[str, pa.Table]]:
    return run(7)


def test_the_same_seed_gives_the_same_rows(made: tuple[SimulatedExchange, dict[str, pa.Table]]) -> None:
    assert run(7)[1] == made[1]
    assert run(8)[1] != made[1]


@pytest.mark.parametrize("name", SEQ)
def test_ids_count_up_per_symbol_without_a_hole(made: tuple[SimulatedExchange, dict[str, pa.Table]], name: str) -> None:
    exchange, tables = made
    table = tables[name]
    assert table.schema.names == (TRADES if name == "trades" else QUOTES).schema.names
    assert set(pc.unique(table["symbol"]).to_pylist()) <= set(exchange.symbols)
    assert len(exchange.symbols) == len(set(exchange.symbols)) == SYMBOLS
    for symbol in exchange.symbols:
        ids = table.filter(pc.equal(table["symbol"], symbol))[SEQ[name]].to_pylist()
        assert ids == list(range(1, len(ids) + 1))


def test_there_are_bursts_ties_and_late_rows(made: tuple[SimulatedExchange, dict[str, pa.Table]]) -> None:
    exchange, tables = made
    times = tables["quotes"]["ts"].cast(pa.int64()).to_numpy()
    late = sum(int((np.diff(t["ts"].cast(pa.int64()).to_numpy()) < 0).sum()) for t in tables.values())
    assert late > 0
    assert 0 < exchange.late_rows < 0.01 * sum(t.num_rows for t in tables.values())
    assert (np.diff(times) == 0).mean() > 0.01
    per_step = np.bincount((np.clip(times - 10**18, 0, None) // STEP_NS).astype(int))
    assert per_step.max() > 3 * np.median(per_step)


def test_quotes_are_never_crossed(made: tuple[SimulatedExchange, dict[str, pa.Table]]) -> None:
    quotes = made[1]["quotes"]
    assert pc.all(pc.less(quotes["bid"], quotes["ask"])).as_py()
    assert pc.min(quotes["bid"]).as_py() > 0
