"""The demo's threads: one that trades (or plays files), one that asks, one that reads the marks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxist.cli.control import control_plane, watermark_row
from proxist.cli.demo_stats import Stats
from proxist.cli.feeds.exchange import SimulatedExchange
from proxist.cli.feeds.player import Player
from proxist.cli.feeds.tables import QUOTES, TRADES
from proxist.client.connection import Connection
from proxist.client.session import Session
from proxist.errors import ProxistError, TransientError
from proxist.pb import controlplane_pb2 as pb

STEP_NS = 10_000_000
FILE_SPEED = 10.0
PRICES_SHOWN = 10
_MARKS_S, _ASK_S, _VWAP_S = 0.5, 0.01, 1.0


class Load:
    """Runs each loop on a thread until `stop`; the first error of a loop that cannot go on is in `error`.

    `feeding` is cleared when there is nothing more to send: all files are played.
    """

    def __init__(self, endpoints: dict[str, Any], stats: Stats, files: list[Path], rows_per_s: int) -> None:
        self._endpoints = endpoints
        self._stats = stats
        self._files = files
        self._rows_per_s = rows_per_s
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._feeds_left = max(len(files), 1)
        self._lock = threading.Lock()  # guards _feeds_left and error
        self.error: BaseException | None = None
        self.fed = threading.Event()
        """Set when every feed has ended."""

    def start(self, connection: Connection) -> None:
        for path in self._files:
            self._run(f"feed-{path.name}", lambda path=path: self._feed(lambda: self._play(connection, path)))  # type: ignore[misc]
        if not self._files:
            self._run("feed", lambda: self._feed(lambda: self._trade(connection)))
        self._run("ask", lambda: self._ask(connection))
        self._run("marks", self._read_marks)

    def stop(self) -> None:
        """Ends the feeds with everything that they sent acked, then the rest. Raises nothing; see `error`."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, loop: Callable[[], None]) -> None:
        def run() -> None:
            try:
                loop()
            except BaseException as error:
                with self._lock:
                    self.error = self.error or error
                self._stopping.set()
                self.fed.set()

        thread = threading.Thread(target=run, name=f"demo-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    # -- rows in --

    def _feed(self, feed: Callable[[], None]) -> None:
        feed()
        with self._lock:
            self._feeds_left -= 1
            if not self._feeds_left:
                self.fed.set()

    def _play(self, connection: Connection, path: Path) -> None:
        Player(connection, speed=FILE_SPEED, on_ack=self._stats.acked, stopping=self._stopping).play(path)

    def _trade(self, connection: Connection) -> None:
        exchange = SimulatedExchange(rows_per_s=self._rows_per_s)
        writers = {
            spec.name: connection.table(spec.name).writer(
                on_ack=lambda rows, took_s, name=spec.name: self._stats.acked(name, rows, took_s)
            )
            for spec in (TRADES, QUOTES)
        }
        next_ns = time.time_ns()
        try:
            while not self._stopping.wait(max(0.0, (next_ns - time.time_ns()) / 1e9)):
                for table, rows in exchange.step(next_ns, STEP_NS).items():
                    writers[table].send(rows)
                self._stats.set_late_rows(exchange.late_rows)
                next_ns = max(next_ns + STEP_NS, time.time_ns() - 10 * STEP_NS)
        finally:
            for writer in writers.values():
                writer.close()

    # -- questions --

    def _ask(self, connection: Connection) -> None:
        vwaps: dict[str, dict[str, Any]] = {}
        next_vwap_s = 0.0
        with connection.session() as session:
            while not self._stopping.wait(_ASK_S):
                try:
                    last = self._timed("last_by all", lambda: session.last_by(TRADES.name, columns=["price", "ts"]))
                    rows = last.to_pylist()
                    if not rows:
                        continue
                    one = str(rows[0]["symbol"])
                    self._timed("last_by one", lambda: session.last_by(TRADES.name, [one], ["price"]))  # noqa: B023
                    self._asof(session, last)
                    if time.monotonic() > next_vwap_s:
                        next_vwap_s = time.monotonic() + _VWAP_S
                        vwaps = self._vwaps(connection)
                    self._stats.set_prices(_prices(rows, vwaps))
                    self._stats.set_problem(None)
                except TransientError as error:
                    self._stats.set_problem(error.message)

    def _asof(self, session: Session, last: Any) -> None:
        probes = last.to_arrow().select([TRADES.key, TRADES.time])
        self._timed("asof quotes", lambda: session.asof(probes, QUOTES.name, ["bid", "ask"]))

    def _vwaps(self, connection: Connection) -> dict[str, dict[str, Any]]:
        text = f"SELECT symbol, sum(price * size) / sum(size) AS vwap, count() AS trades FROM {TRADES.name} GROUP BY symbol"
        answer = self._timed("sql VWAP", lambda: connection.sql(text))
        return {row["symbol"]: row for row in answer.to_pylist()}

    def _timed(self, name: str, ask: Callable[[], Any]) -> Any:
        started_s = time.perf_counter()
        answer = ask()
        self._stats.queried(name, time.perf_counter() - started_s)
        return answer

    def _read_marks(self) -> None:
        address = self._endpoints["controlplane"]["grpc"]
        while not self._stopping.wait(_MARKS_S):
            try:
                with control_plane(address, 5.0) as control:
                    while not self._stopping.wait(_MARKS_S):
                        marks = control_marks(control)
                        self._stats.set_marks(marks)
            except ProxistError as error:
                self._stats.set_problem(error.message)


def control_marks(control: Any) -> list[dict[str, Any]]:
    return [watermark_row(mark) for mark in control.call("Watermarks", pb.WatermarksRequest()).watermarks]


def _prices(rows: list[dict[str, Any]], vwaps: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The busiest symbols with their last price and VWAP."""
    merged = [{**vwaps.get(str(row["symbol"]), {}), **row} for row in rows]
    return sorted(merged, key=lambda row: (-(row.get("trades") or 0), row["symbol"]))[:PRICES_SHOWN]
