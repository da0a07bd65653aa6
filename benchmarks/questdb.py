"""S7: QuestDB on the same rows in the same run, over its PG wire and its ILP client.

The server is the Maven artifact, started on loopback from build/questdb; where java 17 or mvn is missing, or the artifact
cannot be had, the part says so and measures nothing.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.bench import Bench
from benchmarks.cluster import connect
from benchmarks.ingest import written
from benchmarks.peers import ALL, ASOF, LINES, ONE, SERIES, WINDOW_US, AnswersDiffer, Values, check, floats
from benchmarks.report import at_least
from benchmarks.rows import COLUMNS, SPEC, Rows
from benchmarks.timing import Ask, Run, in_turns, median
from benchmarks.windows import VWAP
from proxist.client.connection import Connection
from proxist.client.session import Session
from proxist.rpc import child
from proxist.testing.cluster import LocalCluster

VERSION = "9.3.4"
START_S_MAX = 60.0
LOAD_S_MAX = 900.0
LOAD_ROWS = 100_000
WARM_S = 1.0
ONE_PROBE, LATEST_5M = "asof_one_probe", "vwap_5m"
WHAT = {
    ONE: "last row of one key", ALL: "last row of every key", ONE_PROBE: "as-of, one probe",
    ASOF: "as-of, 1,000 probes", LATEST_5M: "VWAP of the last 5 minutes", SERIES: "5-minute VWAP series",
}  # fmt: skip
TIMES_FASTER = {ONE: 5.0, ALL: 50.0, ASOF: 25.0, SERIES: 10.0}
"""Of an attached client; a remote session has to be ahead (1)."""
INGEST_TIMES = {1_000: 10.0, 10_000: 3.0, 100_000: 2.5}
COMMITS = {"os": "nosync", "disk": "sync"}
"""Our level, and QuestDB's commit mode that survives the same."""


def measure(bench: Bench, cluster: LocalCluster) -> None:
    bench.report.section(
        f"QuestDB {VERSION} on the same {bench.rows.count:,} rows: how many times as long as ours it takes"
    )
    try:
        jar = fetch(bench.keep / "questdb")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        bench.report.absent("s7.questdb", "QuestDB", error)
        return
    root = bench.directory / "questdb"
    try:
        with serving(jar, root / "questions", COMMITS["os"]) as server:
            _load(server, bench.rows)
            _questions(bench, cluster, server)
        for level in COMMITS:
            _ingest(bench, cluster, jar, root / level, level)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.sync()  # else the next part may be timed while it is written back


def fetch(directory: Path) -> Path:
    """The server's jar, from Maven where it is not there yet."""
    jar = directory / f"questdb-{VERSION}.jar"
    if shutil.which("java") is None:
        raise RuntimeError("no `java` here: install a JRE of version 17")
    if not jar.exists():
        if shutil.which("mvn") is None:
            raise RuntimeError("no `mvn` here to fetch the artifact: install Maven")
        copy = [
            "dependency:copy",
            f"-Dartifact=org.questdb:questdb:{VERSION}",
            f"-DoutputDirectory={directory.absolute()}",
        ]
        subprocess.run(["mvn", "-q", "-B", *copy], check=True, timeout=600, stdout=subprocess.DEVNULL)
    return jar


class Server:
    """A running QuestDB: its PG wire on a connection of this process, and where its ILP is."""

    def __init__(self, http: int, pg: int, stack: ExitStack) -> None:
        import psycopg

        self.ilp = f"http::addr=127.0.0.1:{http};auto_flush=off;"
        address = f"host=127.0.0.1 port={pg} user=admin password=quest dbname=qdb"
        self._connection = stack.enter_context(psycopg.connect(address, autocommit=True, connect_timeout=5))
        self._count = itertools.count()

    def run(self, text: str) -> list[tuple[Any, ...]]:
        """Any statement; the rows, where it has some."""
        cursor = self._connection.execute(text)
        return cursor.fetchall() if cursor.description else []

    def asked(self, text: str) -> Ask:
        """As a Python program asks: a prepared statement, its binary answer as rows."""
        cursor = self._connection.cursor(binary=True)
        return lambda: cursor.execute(text, prepare=True).fetchall()

    def undecoded(self, text: str) -> Ask:
        """A prepared statement whose binary answer is read from the wire and left as it is: the least that a client does."""
        name = f"q{next(self._count)}".encode()
        wire = self._connection.pgconn
        wire.prepare(name, text.encode())

        def ask() -> object:
            answer = wire.exec_prepared(name, None, result_format=1)
            if answer.error_message:
                raise RuntimeError(answer.error_message.decode())
            return answer

        return ask

    def wait_rows(self, table: str, count: int) -> None:
        deadline_s = time.monotonic() + LOAD_S_MAX
        while self.run(f"SELECT count() FROM {table}")[0][0] < count:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"QuestDB did not show {count:,} rows of {table} within {LOAD_S_MAX:.0f} s")
            time.sleep(0.1)


@contextmanager
def serving(jar: Path, root: Path, commit_mode: str) -> Iterator[Server]:
    """QuestDB on free ports of loopback with its data in `root`, everything else as it comes."""
    root.mkdir(parents=True, exist_ok=True)
    http, pg = _free_port(), _free_port()
    settings = {
        "QDB_HTTP_BIND_TO": f"127.0.0.1:{http}", "QDB_PG_NET_BIND_TO": f"127.0.0.1:{pg}", "QDB_HTTP_MIN_ENABLED": "false",
        "QDB_LINE_TCP_ENABLED": "false", "QDB_TELEMETRY_ENABLED": "false", "QDB_CAIRO_COMMIT_MODE": commit_mode,
    }  # fmt: skip
    java = ["java", "-XX:+UseParallelGC", "-p", str(jar), "-m", "io.questdb/io.questdb.ServerMain", "-d", str(root)]
    with (root / "server.log").open("wb") as log, ExitStack() as stack:
        process = subprocess.Popen(child.command(java), env={**os.environ, **settings}, stdout=log, stderr=log)
        try:
            yield _connected(http, pg, process, root / "server.log", stack)
        finally:
            stack.close()
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _connected(http: int, pg: int, process: subprocess.Popen[bytes], log: Path, stack: ExitStack) -> Server:
    import psycopg

    deadline_s = time.monotonic() + START_S_MAX
    while True:
        try:
            return Server(http, pg, stack)
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"QuestDB did not start: {log.read_text(errors='replace')[-2_000:]}") from None
            time.sleep(0.2)


def create(server: Server, table: str, keys: int) -> None:
    """A WAL table with an indexed symbol whose capacity is known, as the documentation advises."""
    server.run(
        f"CREATE TABLE {table} (symbol SYMBOL CAPACITY {max(256, 2 * keys)} INDEX, ts TIMESTAMP, trade_id LONG, "
        "price DOUBLE, size DOUBLE) TIMESTAMP(ts) PARTITION BY DAY WAL"
    )


def send(ilp: str, table: str, frames: Iterator[Any], stop: Callable[[], bool]) -> int:
    """A flush, which is a commit, per frame until `stop()` or the frames end: the rows sent."""
    from questdb.ingress import Sender

    rows = 0
    with Sender.from_conf(ilp) as sender:
        for frame in frames:
            sender.dataframe(frame, table_name=table, symbols=["symbol"], at="ts")
            sender.flush()
            rows += len(frame)
            if stop():
                break
    return rows


def frames_of(table: pa.Table, batch_rows: int) -> list[Any]:
    """Frames as the ILP client takes them fastest: keys as categories of each frame's own, numbers as int64."""
    shown = table.set_column(2, "trade_id", table["trade_id"].cast(pa.int64()))
    return [_frame(shown.slice(first, batch_rows)) for first in range(0, table.num_rows, batch_rows)]


def _frame(rows: pa.Table) -> Any:
    import pandas as pd

    keys = rows["symbol"].combine_chunks().dictionary_encode()
    names = pd.Index(keys.dictionary.to_pylist(), dtype=object)  # the client takes no categories of pandas' own strings
    symbols = pd.Categorical.from_codes(keys.indices.to_numpy(), categories=names)
    return rows.drop_columns("symbol").to_pandas().assign(symbol=symbols)


def _load(server: Server, rows: Rows) -> None:
    create(server, "bench", len(rows.keys))
    pieces = (rows.table.slice(first, 1 << 20) for first in range(0, rows.count, 1 << 20))
    frames = (frame for piece in pieces for frame in frames_of(piece, LOAD_ROWS))
    send(server.ilp, "bench", frames, lambda: False)
    server.wait_rows("bench", rows.count)
    probes = pa.Table.from_batches([rows.probes])
    last = {
        "trade_id": np.zeros(len(rows.probes), np.uint64),
        "price": np.zeros(len(rows.probes)),
        "size": np.zeros(len(rows.probes)),
    }
    for name, count in (("probe", len(rows.probes)), ("probe_one", 1)):
        create(server, name, len(rows.keys))
        full = pa.table({**{n: probes[n] for n in probes.column_names}, **{n: pa.array(v) for n, v in last.items()}})
        send(server.ilp, name, iter(frames_of(full.slice(probes.num_rows - count), count)), lambda: False)
        server.wait_rows(name, count)


def _questions(bench: Bench, cluster: LocalCluster, server: Server) -> None:
    for id, what, ask in (
        ("s7.questdb_null", "QuestDB: a null statement", server.asked("SELECT 1")),
        ("s7.questdb_null_undecoded", "QuestDB: a null statement, undecoded", server.undecoded("SELECT 1")),
    ):
        _warm(bench, ask)
        bench.report.add(id, what, in_turns(ask, runs=bench.size.runs, for_s=bench.size.run_s))
    theirs = _statements(bench)
    with ExitStack() as stack:
        attached = stack.enter_context(connect(cluster, attach="require"))
        session = stack.enter_context(stack.enter_context(connect(cluster, "flight_unix")).session())
        for door, reader in (("attached", attached), ("session", session)):
            for question, (ours, values) in _ours(bench, reader).items():
                text, order = theirs[question]
                answer = server.run(text)
                check("questdb", question, values(ours()), order(answer))
                if (count := server.undecoded(text)().ntuples) != len(answer):  # type: ignore[attr-defined]
                    raise AnswersDiffer(f"questdb answers {question} with {count} rows where it is prepared")
                _compare(bench, question, door, (server.asked(text), server.undecoded(text)), ours)


def _warm(bench: Bench, ask: Ask) -> None:
    """Until the server has compiled what the statement needs."""
    until = time.perf_counter() + min(WARM_S, 10 * bench.size.run_s)
    while time.perf_counter() < until:
        ask()


def _compare(bench: Bench, question: str, door: str, theirs: tuple[Ask, Ask], ours: Ask) -> None:
    """Whole calls of both clients; the detail has what QuestDB's takes where nobody reads the answer."""
    for ask in theirs:
        _warm(bench, ask)
    asked, undecoded = theirs
    runs = in_turns(asked, ours, runs=bench.size.runs, for_s=bench.size.run_s)
    least = in_turns(undecoded, ours, runs=1, for_s=bench.size.run_s)[0]
    took = median(run.p50 for run in runs)
    budget = at_least(TIMES_FASTER.get(question, 1.0) if door == "attached" else 1.0)
    times = [Run(run.p50 / (run.floor or 1.0)) for run in runs]
    line = bench.report.add(
        f"s7.questdb_{question}_{door}",
        f"{WHAT[question]}: QuestDB's time to ours, {door}",
        times,
        unit="x",
        budget=budget,
    )
    line.peers["questdb"] = took
    line.detail["ours"] = median(run.floor or 0.0 for run in runs)
    line.detail |= {"undecoded": least.p50, "times_undecoded": least.p50 / (least.floor or 1.0)}
    for id in LINES.get(question, ()):
        bench.report.peer(id, "questdb", took)


def _statements(bench: Bench) -> dict[str, tuple[str, Callable[[list[Any]], Values]]]:
    """question -> (statement, its rows' values in the order of ours)."""
    rows = bench.rows
    latest = "SELECT symbol, price, size, ts FROM bench {} LATEST ON ts PARTITION BY symbol"
    asof = "SELECT /*+ asof_index(p b) */ p.ts, p.symbol, b.price, b.size FROM {} p ASOF JOIN bench b ON (symbol)"
    over = f"OVER (PARTITION BY symbol ORDER BY ts RANGE BETWEEN {WINDOW_US} MICROSECOND PRECEDING AND CURRENT ROW)"
    until = _last_us(rows)
    return {
        ONE: (latest.format(f"WHERE symbol = '{bench.one}'"), _sorted(0, 1)),
        ALL: (latest.format(""), _sorted(0, 1)),
        ONE_PROBE: (asof.format("probe_one"), _sorted(0, 2)),
        ASOF: (asof.format("probe"), _sorted(0, 2)),
        LATEST_5M: (
            f"SELECT sum(price * size) / sum(size) FROM bench WHERE symbol = '{rows.busy}' "
            f"AND ts BETWEEN {until - WINDOW_US} AND {until}",
            _sorted(0, 0),
        ),
        SERIES: (
            f"SELECT ts, sum(price * size) {over} / sum(size) {over} FROM bench WHERE symbol = '{rows.busy}'",
            _sorted(0, 1),
        ),
    }


def _ours(bench: Bench, reader: Connection | Session) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Values]]]:
    rows, columns, last = bench.rows, list(COLUMNS), _last_us(bench.rows) * 1_000
    first = rows.probes.slice(len(rows.probes) - 1, 1)
    vwap, busy = VWAP.to_json(), rows.busy

    def price(answer: Any) -> Values:
        return floats(answer["price"])

    def of_vwap(answer: Any) -> Values:
        return floats(answer["vwap"])

    return {
        ONE: (lambda: reader.last_by(SPEC.name, [bench.one], columns), price),
        ALL: (lambda: reader.last_by(SPEC.name, None, columns), price),
        ONE_PROBE: (lambda: reader.asof(first, SPEC.name, columns), price),
        ASOF: (lambda: reader.asof(rows.probes, SPEC.name, columns), price),
        LATEST_5M: (lambda: reader.window(SPEC.name, busy, vwap, range="5m", start=last, stop=last + 1), of_vwap),
        SERIES: (lambda: reader.window(SPEC.name, busy, vwap, range="5m", stop=last + 1), of_vwap),
    }


def _ingest(bench: Bench, cluster: LocalCluster, jar: Path, root: Path, level: str) -> None:
    """Rows per second as the client sees them acknowledged, ours first, then theirs, in turns."""
    bench.report.section(f"ingest: ours at `{level}`, QuestDB with cairo.commit.mode={COMMITS[level]}")
    source = bench.rows.table.slice(0, 1_000_000)
    with serving(jar, root, COMMITS[level]) as server, connect(cluster) as connection:
        for batch_rows, times in INGEST_TIMES.items():
            frames = frames_of(source, batch_rows)
            ours, theirs = [], []
            for run in range(bench.size.runs):
                ours.append(written(bench, connection, level, batch_rows)[0])
                theirs.append(_sent(bench, server, f"ingest_{batch_rows}_{run}", frames))
            runs = [Run(us / them) for us, them in zip(ours, theirs, strict=True)]
            what = f"{level}, {batch_rows:,} rows per flush: our rows/s to theirs"
            line = bench.report.add(
                f"s7.questdb_ingest_{level}_{batch_rows}", what, runs, unit="x", budget=at_least(times)
            )
            line.detail = {"ours_rows_per_s": median(ours), "questdb_rows_per_s": median(theirs)}


def _sent(bench: Bench, server: Server, table: str, frames: list[Any]) -> float:
    create(server, table, len(bench.rows.keys))
    began = time.perf_counter()
    rows = send(server.ilp, table, iter(frames), lambda: time.perf_counter() > began + bench.size.ingest_s)
    took_s = time.perf_counter() - began
    server.run(f"DROP TABLE {table}")
    return rows / took_s


def _sorted(by: int, value: int) -> Callable[[list[Any]], Values]:
    def values(rows: list[Any]) -> Values:
        ordered = sorted(rows, key=lambda row: row[by])
        return np.array([np.nan if row[value] is None else row[value] for row in ordered], np.float64)

    return values


def _last_us(rows: Rows) -> int:
    """When the busy key's last row is."""
    import pyarrow.compute as pc

    last = pc.max(rows.table["ts"].filter(pc.equal(rows.table["symbol"], rows.busy)))
    return int(last.value) // 1_000


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
