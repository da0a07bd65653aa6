"""S4: the same questions through every door of a running cluster, alone and while another process writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from benchmarks.bench import Bench
from benchmarks.cluster import connect, feeding
from benchmarks.engine import KEYS_BUDGETED, MANY
from benchmarks.floors import Floors
from benchmarks.report import Budget, at_most
from benchmarks.rows import COLUMNS, SPEC
from benchmarks.timing import Ask, Run, in_turns, of_p99, turning
from proxist.client.connection import Connection
from proxist.client.session import Session
from proxist.client.table import Table
from proxist.testing.cluster import LocalCluster

US = 1e-6
MAX_S = 2.0
"""How long the highest rate of ingest is looked for."""
READ_S = 0.6
"""A run of reads beside ingest: their p99 needs samples, and what is written meanwhile must fit into memory."""


def measure(bench: Bench, floor: Floors, cluster: LocalCluster) -> None:
    with ExitStack() as stack:
        tcp = stack.enter_context(connect(cluster))
        unix = stack.enter_context(connect(cluster, "flight_unix"))
        attached = stack.enter_context(connect(cluster, attach="require"))
        _sessions(bench, floor, tcp, unix)
        _gets(bench, floor, tcp)
        _attached(bench, cluster, attached, tcp)


def _sessions(bench: Bench, floor: Floors, tcp: Connection, unix: Connection) -> None:
    bench.report.section("open DoExchange session (floor: a null round trip on the same door)")
    for wire, connection, null in (("tcp", tcp, floor.exchange), ("unix", unix, floor.exchange_unix)):
        with connection.session() as session:
            for id, what, ask, budget in session_asks(bench, session):
                _line(bench, f"s4.session_{wire}{id}", f"{what}, session, {wire}", ask, null, budget)


def session_asks(bench: Bench, session: Session) -> list[tuple[str, str, Ask, Budget | None]]:
    columns, probes = list(COLUMNS), bench.rows.probes
    first = probes.slice(0, 1)
    one = turning(lambda key: session.last_by(SPEC.name, [key], columns), _keys(bench))
    return [
        ("", "last_by, one key", one, at_most(50 * US, floors=1)),
        ("_all_keys", "last_by, all keys", lambda: session.last_by(SPEC.name, None, columns), None),
        ("_one_probe", "as-of, one probe", lambda: session.asof(first, SPEC.name, columns), None),
        ("_1000_probes", "as-of, 1,000 probes", lambda: session.asof(probes, SPEC.name, columns), None),
    ]


def _gets(bench: Bench, floor: Floors, connection: Connection) -> None:
    bench.report.section("fresh DoGet (floor: a null DoGet)")
    table, columns = connection.table(SPEC.name), list(COLUMNS)
    for id, path, budget in (
        ("s4.doget_attached", "attach", at_most(150 * US, floors=1)),
        ("s4.doget_remote", "flight", at_most(300 * US, floors=2)),
    ):
        ask = turning(partial(_get, table, columns, path), _keys(bench))
        _line(bench, id, f"last_by, one key, query node reads by {path}", ask, floor.get, budget)


def _get(table: Table, columns: list[str], path: str, key: str) -> object:
    return table.last_by([key], columns, hot_path=path)


def _attached(bench: Bench, cluster: LocalCluster, attached: Connection, remote: Connection) -> None:
    """First without writes, for the comparison; then beside a writer at half of the highest rate."""
    bench.report.section("SDK attached from this process")
    with remote.session() as session:
        away = turning(lambda key: session.last_by(SPEC.name, [key], list(COLUMNS)), _keys(bench))
        asks = _attached_asks(bench, attached)
        near = asks["s4.attached_one_key"][1]
        idle = _runs(bench, near)
        idle_away = _runs(bench, away)
        bench.report.add("s4.attached_one_key_idle", "last_by, one key, nobody writes", idle)
        with ingesting(bench, cluster) as rate:
            bench.report.section(f"SDK attached from this process, while another one writes {rate:,.0f} rows/s")
            for id, (what, ask, budget) in asks.items():
                runs = _runs(bench, ask)
                bench.report.add(id, what, runs, budget=budget)
                if id == "s4.attached_one_key":
                    bench.report.add(f"{id}_p99", f"{what}: p99", of_p99(runs), budget=at_most(100 * US))
                    _raised(bench, "s4.read_under_ingest_attached", "attached", idle, runs, 2.0)
            _raised(bench, "s4.read_under_ingest_remote", "session", idle_away, _runs(bench, away), 3.0)


def _attached_asks(bench: Bench, attached: Connection) -> dict[str, tuple[str, Ask, Budget | None]]:
    table, columns, rows = attached.table(SPEC.name), list(COLUMNS), bench.rows
    handles = [table.prepare_last_by([key], columns) for key in _keys(bench)]
    every = table.prepare_last_by(None, columns)
    asof = table.prepare_asof(rows.probes["symbol"].to_pylist(), columns)
    times = rows.probes["ts"].to_numpy()
    large = at_most(200 * US)
    return {
        "s4.attached_one_key": (
            "last_by, one key", turning(lambda key: table.last_by([key], columns), _keys(bench)), at_most(25 * US),
        ),
        "s4.prepared_one_key": ("last_by, one key, prepared", turning(lambda one: one.read(), handles), at_most(8 * US)),
        "s4.attached_all_keys": (
            "last_by, all keys", lambda: table.last_by(None, columns).to_arrow(), large if len(rows.keys) == KEYS_BUDGETED else None,
        ),
        "s4.prepared_all_keys": ("last_by, all keys, prepared", every.read, None),
        "s4.attached_1000_probes": ("as-of, 1,000 probes", lambda: table.asof(rows.probes, columns).to_arrow(), large),
        "s4.prepared_1000_probes": ("as-of, 1,000 probes, prepared", lambda: asof.read(times), None),
    }  # fmt: skip


@contextmanager
def ingesting(bench: Bench, cluster: LocalCluster) -> Iterator[float]:
    """Writes to the common table at half of what it takes at most, at `disk`, 1,000 rows per batch; the rate."""
    keys = len(bench.rows.keys)
    with feeding(cluster, keys=keys) as fastest:
        time.sleep(min(MAX_S, bench.size.ingest_s))
    half = fastest.rows_per_s / 2
    with feeding(cluster, keys=keys, rate=half) as fed:
        yield half
    told = f"ingest beside reads: {half:,.0f} rows/s wanted"
    bench.report.add("s4.ingest_beside_reads", told, [Run(fed.rows_per_s)], unit="rows/s")


def _raised(bench: Bench, id: str, door: str, idle: list[Run], busy: list[Run], limit: float) -> None:
    runs = [Run((b.p99 or 0.0) / (i.p99 or 1.0)) for i, b in zip(idle, busy, strict=True)]
    bench.report.add(id, f"p99 of last_by, {door}: beside ingest to alone", runs, unit="ratio", budget=at_most(limit))


def _runs(bench: Bench, ask: Ask) -> list[Run]:
    return in_turns(ask, runs=bench.size.runs, for_s=min(READ_S, 4 * bench.size.run_s))


def _line(bench: Bench, id: str, what: str, ask: Callable[[], Any], floor: Ask, budget: Budget | None = None) -> None:
    runs = in_turns(ask, floor, runs=bench.size.runs, for_s=bench.size.run_s)
    bench.report.add(id, what, runs, floor_name="null round trip", budget=budget)


def _keys(bench: Bench) -> list[str]:
    return bench.rows.keys[1:-1][:: max(1, (len(bench.rows.keys) - 2) // MANY)][:MANY]
