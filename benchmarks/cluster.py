"""The running system, over its public doors: append, acks, DoGet, DoExchange."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import proxist
from benchmarks.floors import BATCH_ROWS, Floors, fdatasync
from benchmarks.report import Report, latency
from benchmarks.rows import SPEC, Rows
from proxist.client.connection import Connection
from proxist.client.session import Session

APPEND_S = 3.0


def measure(report: Report, rows: Rows, floors: Floors, endpoints: dict[str, Any]) -> None:
    """`endpoints` as `proxist up --json` prints them."""
    query = endpoints["query"][0]
    with proxist.connect(query["flight"]) as connection:
        connection.create_table(SPEC)
        _load(report, connection, rows, floors)
        _acks(report, connection, rows, floors)
        for path in ("attach", "flight"):
            _gets(report, connection, rows, floors, path)
        _sessions(report, connection, rows, floors.exchange_s, "TCP")
        with proxist.connect(query["flight_unix"]) as unix:
            _sessions(report, unix, rows, floors.exchange_unix_s, "unix socket")
        _persisted(report, connection, rows)


def _load(report: Report, connection: Connection, rows: Rows, floors: Floors) -> None:
    report.section(
        f"append through the SDK, one shard, client on the same cores ({rows.count:,} rows are kept for the reads)"
    )
    began = time.perf_counter()
    ack = connection.table(SPEC.name).write(rows.table)
    took_s = time.perf_counter() - began
    report.rate("disk, 65,536 rows per batch", ack.rows / took_s, "rows/s", floors.put_rows_per_s)
    scratch = {"flush": {"rows": 1_000_000, "bytes": "64MiB", "age": "1s"}, "hot_bytes": "1GiB"}
    for level, size in (("os", 1_000), ("disk", 1_000), ("disk", 10_000)):
        spec = {**SPEC.to_json(), **scratch, "name": f"append_{level}_{size}", "durability": level}
        table = connection.create_table(spec)
        batches = itertools.cycle(rows.table.combine_chunks().to_batches(max_chunksize=size))
        with table.writer() as writer:
            began = time.perf_counter()
            while time.perf_counter() - began < APPEND_S:
                writer.send(next(batches), batch_rows=size)
            sent = writer.flush().rows
            took_s = time.perf_counter() - began
        report.rate(f"{level}, {size:,} rows per batch", sent / took_s, "rows/s", floors.put_rows_per_s)
        table.drop()


def _acks(report: Report, connection: Connection, rows: Rows, floors: Floors) -> None:
    report.section(f"ack of a lone batch of {BATCH_ROWS:,} rows")
    batch = rows.table.slice(0, BATCH_ROWS).combine_chunks().to_batches()[0]
    with tempfile.TemporaryDirectory(prefix="proxist-bench-") as directory:
        sync = fdatasync(Path(directory))
    report.timed("(fdatasync of 64 KiB, now)", sync)
    for level, floor in (("mem", floors.put_s), ("os", floors.put_s), ("disk", floors.put_s + sync.p50_s)):
        table = connection.create_table({**SPEC.to_json(), "name": f"ack_{level}", "durability": level})
        with table.writer() as writer:
            report.timed(level, latency(lambda: writer.write(batch)), floor)
        table.drop()


def _gets(report: Report, connection: Connection, rows: Rows, floors: Floors, path: str) -> None:
    report.section(f"fresh DoGet, owner reached by {path}")
    table, one = connection.table(SPEC.name), [rows.keys[len(rows.keys) // 2]]
    probes = rows.probes
    for what, ask in (
        ("last_by, one key", lambda: table.last_by(one, ["price", "size"], hot_path=path)),
        ("last_by, all keys", lambda: table.last_by(None, ["price", "size"], hot_path=path)),
        ("scan of one key", lambda: table.scan(one, ["price"], hot_path=path)),
        (f"as-of, {len(probes):,} probes (session)", lambda: table.asof(probes, ["price"], hot_path=path)),
    ):
        try:
            report.timed(what, latency(ask), floors.get_s)
        except proxist.ProxistError as error:
            report.missing(what, error)


def _sessions(report: Report, connection: Connection, rows: Rows, floor_s: float, wire: str) -> None:
    report.section(f"open DoExchange session, {wire}")
    one = [rows.keys[len(rows.keys) // 2]]
    with connection.session() as session:
        for what, ask in _questions(session, one, rows):
            try:
                report.timed(what, latency(ask), floor_s)
            except proxist.ProxistError as error:
                report.missing(what, error)


def _questions(session: Session, one: list[str], rows: Rows) -> list[tuple[str, Any]]:
    name, columns = SPEC.name, ["price", "size"]
    return [
        ("last_by, one key", lambda: session.last_by(name, one, columns)),
        ("last_by, all keys", lambda: session.last_by(name, None, columns)),
        ("as-of, one probe", lambda: session.asof(rows.probes.slice(0, 1), name, columns)),
        (f"as-of, {len(rows.probes):,} probes", lambda: session.asof(rows.probes, name, columns)),
    ]


def _persisted(report: Report, connection: Connection, rows: Rows) -> None:
    report.section("from ack to ClickHouse (flush of one batch; the batch is cut by flush)")
    table = connection.table(SPEC.name)
    batch = rows.table.slice(0, BATCH_ROWS)

    def persist() -> None:
        table.write(batch)
        table.flush()

    report.timed(f"write and flush of {BATCH_ROWS:,} rows", latency(persist, for_s=1.0, warm=2))
