"""S1, S2: last-by and as-of on a hot set of this process: no wire, no log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.bench import APPEND_ROWS, Bench, append, filled
from benchmarks.report import Budget, at_most
from benchmarks.rows import COLUMNS, HOUR_NS, PROBES, T0_NS, Rows, make_probes
from benchmarks.timing import Ask, Run, in_turns, ratios, turning
from proxist.hot.ops import HotAsof, HotLastBy, HotPart, Probes, probes_from_batch
from proxist.hot.reader import HotReader

US = 1e-6
MANY = 64
"""Questions about one key ask for this many keys in turn."""
TIED_ROWS = 10_000
CLIFF = 3.0
KEYS_BUDGETED = 10_000


def measure(bench: Bench) -> None:
    report, rows = bench.report, bench.rows
    report.section(f"engine, in process: {rows.count:,} rows, {len(rows.keys):,} keys")
    with filled(iter(()), rows.count, len(rows.keys)) as hot:
        rate = rows.count / append(hot, rows.table)
        report.add("engine.append", f"append, {APPEND_ROWS:,} rows per batch", [Run(rate)], unit="rows/s")
        reader = hot.reader()
        try:
            questions(bench, reader)
        finally:
            reader.close()
    _cliffs(bench)


def questions(bench: Bench, reader: HotReader) -> None:
    """Prepared handles, and the same questions as Arrow."""
    size, ask = bench.size, Asks(reader, bench.rows)
    lines: list[tuple[str, str, Callable[[], Ask], int, Budget | None]] = [
        ("s1.last_by_one_key", "last_by, one key, prepared", ask.prepared_one, 1, at_most(2 * US)),
        ("s1.last_by_one_key_arrow", "last_by, one key, as Arrow", ask.last_one, 1, None),
        ("s1.last_by_all_keys", "last_by, all keys, prepared", ask.prepared_all, ask.keys, at_most(120 * US)),
        ("s1.last_by_all_keys_arrow", "last_by, all keys, as Arrow", ask.last_all, ask.keys, None),
        ("s2.asof_one_probe", "as-of, one probe, prepared", ask.prepared_probe, 1, at_most(3 * US)),
        ("s2.asof_one_probe_arrow", "as-of, one probe, as Arrow", ask.asof_one, 1, None),
        ("s2.asof_1000_probes", "as-of, 1,000 probes, prepared", ask.prepared_probes, PROBES, at_most(100 * US)),
        ("s2.asof_1000_probes_arrow", "as-of, 1,000 probes, as Arrow", ask.asof_many, PROBES, None),
    ]
    for id, what, make, cells, budget in lines:
        runs = in_turns(make(), gather(bench.rows, cells), runs=size.runs, for_s=size.run_s)
        if budget is not None and "all_keys" in id and ask.keys > KEYS_BUDGETED:
            budget = None
        bench.report.add(id, what, runs, floor_name="gather of the cells", budget=budget)


class Asks:
    """The engine's questions about `rows`, ready to be asked."""

    def __init__(self, reader: HotReader, rows: Rows) -> None:
        self._reader, self._rows = reader, rows
        self.keys = len(rows.keys)
        self.some = rows.keys[1 : -1 : max(1, (self.keys - 2) // MANY)][:MANY]
        self._probes = probes_from_batch(rows.probes)

    def last_one(self) -> Ask:
        run = self._reader.run
        return turning(run, [HotLastBy(keys=(key,), columns=COLUMNS) for key in self.some])

    def last_all(self) -> Ask:
        op = HotLastBy(columns=COLUMNS)
        return lambda: self._reader.run(op)

    def asof_one(self) -> Ask:
        op, found = HotAsof(columns=COLUMNS), self._probes
        probes = [Probes(found.keys.slice(n, 1), found.times_ns[n : n + 1]) for n in range(PROBES)]
        return turning(lambda one: self._reader.run(op, one), probes)

    def asof_many(self) -> Ask:
        op = HotAsof(columns=COLUMNS)
        return lambda: self._reader.run(op, self._probes)

    def prepared_one(self) -> Ask:
        prepare = self._reader.prepare_last_by
        return turning(self._read, [prepare((key,), COLUMNS) for key in self.some])

    def prepared_all(self) -> Ask:
        prepared = self._reader.prepare_last_by(tuple(self._rows.keys), COLUMNS)
        return lambda: self._read(prepared)

    def prepared_probe(self) -> Ask:
        prepare = self._reader.prepare_asof
        keys, times = self._probes.keys.to_pylist(), self._probes.times_ns
        handles = [(prepare((keys[n],), COLUMNS), times[n : n + 1]) for n in range(MANY)]
        return turning(lambda handle: self._read(*handle), handles)

    def prepared_probes(self) -> Ask:
        prepared = self._reader.prepare_asof(tuple(self._probes.keys.to_pylist()), COLUMNS)
        times = self._probes.times_ns
        return lambda: self._read(prepared, times)

    @property
    def _read(self) -> Any:
        return self._reader.read


def join(bench: Bench, reader: HotReader, rows: int, keys: list[str]) -> None:
    """S2: as many probes as a million, over `rows` rows."""
    count = min(1_000_000, rows)
    probes = probes_from_batch(make_probes(keys, count))
    op = HotAsof(columns=COLUMNS)
    size = bench.size
    columns = [np.random.default_rng(3).random(rows) for _ in COLUMNS]
    where = np.random.default_rng(4).integers(0, rows, count)
    runs = in_turns(
        lambda: reader.run(op, probes), lambda: [c[where] for c in columns], runs=size.runs, for_s=2 * size.run_s
    )
    budget = at_most(0.1) if rows >= 10_000_000 else None
    what = f"as-of, {count:,} probes over {rows:,} rows"
    bench.report.add("s2.asof_join_1m_10m", what, runs, floor_name="random gather of the cells", budget=budget)


def gather(rows: Rows, count: int) -> Ask:
    """The floor of an answer of `count` rows: numpy gathers the same number of cells from as many columns."""
    where = np.random.default_rng(2).integers(0, rows.count, count)
    columns = [rows.table[name].to_numpy() for name in COLUMNS]
    return lambda: [column[where] for column in columns]


def _cliffs(bench: Bench) -> None:
    """S2: many rows on one timestamp, and a key that is long gone, against ordinary keys of the same hot set."""
    rows = bench.rows
    with filled(iter([rows.table, _tied(rows)]), rows.count + TIED_ROWS, len(rows.keys)) as hot:
        reader = hot.reader()
        try:
            cliff(bench, reader, "s2.ties", f"as-of among {TIED_ROWS:,} equal timestamps", "TIED")
            far_key(bench, reader, "s2.far_key", rows.count, rows.far)
        finally:
            reader.close()


def far_key(bench: Bench, reader: HotReader, id: str, rows: int, key: str) -> None:
    cliff(bench, reader, id, f"as-of of a key last seen {rows:,} rows ago", key)


def cliff(bench: Bench, reader: HotReader, id: str, what: str, key: str) -> None:
    """The time for `key` to that for an ordinary one, both as of after the last row."""
    runs = in_turns(_probing(reader, key), _probing(reader, bench.one), runs=bench.size.runs, for_s=bench.size.run_s)
    bench.report.add(id, f"{what}, to an ordinary one", ratios(runs), unit="ratio", budget=at_most(CLIFF))


def _probing(reader: HotReader, key: str) -> Callable[[], HotPart]:
    op, probes = HotAsof(columns=COLUMNS), Probes(pa.array([key]), np.array([T0_NS + 2 * HOUR_NS]))
    return lambda: reader.run(op, probes)


def _tied(rows: Rows) -> pa.Table:
    tied = rows.table.slice(0, 1).take(pa.array(np.zeros(TIED_ROWS, np.int64)))
    last = rows.table["ts"][rows.count - 1].value
    return pa.table(
        {
            **{name: tied[name] for name in rows.table.column_names},
            "symbol": pa.array(["TIED"] * TIED_ROWS),
            "ts": pa.array(np.full(TIED_ROWS, last), pa.timestamp("ns", tz="UTC")),
            "trade_id": pa.array(np.arange(TIED_ROWS, dtype=np.uint64)),
        },
        schema=rows.table.schema,
    )
