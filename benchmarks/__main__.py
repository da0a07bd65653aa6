"""`make bench`: every part at a small size; `make bench-full`: everything, and for longer. The report is in build/bench."""

from __future__ import annotations

import proxist.rpc.env  # noqa: F401  # before pyarrow and grpc are loaded

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from benchmarks import (
    doors,
    engine,
    floors,
    ingest,
    lag,
    memory,
    peers,
    plot,
    questdb,
    scale,
    soak,
    starts,
    windows,
)  # fmt: skip
from benchmarks.bench import FULL, SHORT, SMALLEST, Bench, Size
from benchmarks.cluster import loaded
from benchmarks.report import Report

SIZES = {"smallest": SMALLEST, "short": SHORT, "full": FULL}
EXPECTED_S = {
    "floors": (10, 20), "engine": (10, 90), "windows": (15, 120), "peers": (25, 400), "scale": (25, 400), "memory": (2, 30),
    "starts": (15, 60), "questdb": (60, 300), "doors": (25, 180), "ingest": (40, 200), "lag": (15, 450), "soak": (10, 620),
    "split": (10, 15), "telemetry": (90, 90), "tls": (60, 60),
}  # fmt: skip
"""Parts in their order, and how long each takes about on two quiet cores: in a short run, in a full one."""
PARTS = tuple(EXPECTED_S)
ON_A_CLUSTER = {"doors", "ingest", "lag", "soak", "questdb"}
NOT_SHORT = ("questdb", "telemetry", "tls")
"""Parts that a short run leaves out unless they are asked for."""


def main() -> None:
    given = _arguments()
    size: Size = SIZES[given.size]
    size = replace(size, **{name: value for name in ("rows", "keys", "runs") if (value := getattr(given, name))})
    report = Report()
    report.setup = {"size": given.size, "rows": size.rows, "keys": size.keys, "runs": size.runs}
    report.machine()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="proxist-bench-") as directory:
        bench = Bench(report, size, Path(directory), Path("build"))
        progress = Progress(report, given.only or _parts(given.size), given.size)
        try:
            _measure(bench, progress)
        finally:
            report.write(given.out)
    plot.draw(report.to_json(), given.out / "latency.png")
    took_s = time.monotonic() - began
    print(f"\n{len(report.lines)} lines in {_time(took_s)}: {given.out}/report.md, report.json, latency.png")
    if progress.failed:
        sys.exit(f"these parts failed: {', '.join(progress.failed)}")


def _measure(bench: Bench, progress: Progress) -> None:
    with floors.floors(bench) as floor:
        progress.run("floors", lambda: floors.measure(bench, floor))
        progress.run("engine", lambda: engine.measure(bench))
        progress.run("windows", lambda: windows.measure(bench))
        progress.run("peers", lambda: peers.measure(bench))
        progress.run("scale", lambda: scale.measure(bench))
        progress.run("memory", lambda: memory.measure(bench))
        progress.run("starts", lambda: starts.measure(bench))
        if ON_A_CLUSTER & set(progress.parts):
            with loaded(bench) as cluster:
                progress.run("questdb", lambda: questdb.measure(bench, cluster))  # first: it has the common rows alone
                progress.run("doors", lambda: doors.measure(bench, floor, cluster))
                progress.run("ingest", lambda: ingest.measure(bench, floor, cluster))
                progress.run("lag", lambda: lag.measure(bench, cluster))
                progress.run("soak", lambda: soak.measure(bench, floor, cluster))
    progress.run("split", lambda: ingest.split(bench))
    progress.run("telemetry", lambda: _telemetry(bench))
    progress.run("tls", lambda: _tls(bench))


def _telemetry(bench: Bench) -> None:
    from benchmarks import telemetry

    telemetry.measure(bench.report, bench.rows)


def _tls(bench: Bench) -> None:
    from benchmarks import tls

    tls.measure(bench.report, bench.rows)


class Progress:
    """Which parts are to run, and how long is left. A part that fails does not take the others with it."""

    def __init__(self, report: Report, parts: Collection[str], size: str) -> None:
        self.parts = [part for part in PARTS if part in parts]
        self.failed: list[str] = []
        self._report = report
        self._left = {part: EXPECTED_S[part][size == "full"] for part in self.parts}

    def run(self, part: str, measure: Callable[[], None]) -> None:
        """`measure` where `part` is asked for; says before how long it and the rest take, and after why it failed."""
        if part not in self._left:
            return
        left_s = sum(self._left.values())
        own_s = self._left.pop(part)
        number = len(self.parts) - len(self._left)
        print(f"\n[{number} of {len(self.parts)}] {part}: about {_time(own_s)}, {_time(left_s)} to the end", flush=True)
        try:
            measure()
        except Exception as error:
            self.failed.append(part)
            traceback.print_exc()
            self._report.absent(f"failed.{part}", f"the rest of the part {part!r}", f"{type(error).__name__}: {error}")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _parts(size: str) -> list[str]:
    return [part for part in PARTS if size == "full" or part not in NOT_SHORT]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="short", help="how large and how long (default: short)")
    parser.add_argument("--rows", type=int, help="rows of the common table, instead of the size's")
    parser.add_argument("--keys", type=int, help="different keys among them")
    parser.add_argument("--runs", type=int, help="runs of each line; a budget is judged by their median")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where the report goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
