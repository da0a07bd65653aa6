"""`make bench`: every part at a small size; `make bench-full`: everything, and for longer. The report is in build/bench."""

from __future__ import annotations

import proxist.rpc.env  # noqa: F401  # before pyarrow and grpc are loaded

import argparse
import tempfile
import time
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
from proxist.testing.cluster import LocalCluster

SIZES = {"smallest": SMALLEST, "short": SHORT, "full": FULL}
PARTS = (
    "floors", "engine", "windows", "peers", "scale", "memory", "starts", "doors", "ingest", "lag", "soak", "questdb", "split",
    "telemetry",
)  # fmt: skip
ON_A_CLUSTER = {"doors", "ingest", "lag", "soak", "questdb"}
NOT_SHORT = ("questdb", "telemetry")
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
        bench = Bench(report, size, Path(directory), given.out.parent)
        try:
            _measure(bench, given.only or _parts(given.size))
        finally:
            report.write(given.out)
    plot.draw(report.to_json(), given.out / "latency.png")
    print(
        f"\n{len(report.lines)} lines in {time.monotonic() - began:.0f} s: {given.out}/report.md, report.json, latency.png"
    )


def _measure(bench: Bench, parts: Collection[str]) -> None:
    alone: dict[str, Callable[[Bench], None]] = {
        "engine": engine.measure, "windows": windows.measure, "peers": peers.measure, "scale": scale.measure,
        "memory": memory.measure, "starts": starts.measure,
    }  # fmt: skip
    with floors.floors(bench) as floor:
        if "floors" in parts:
            floors.measure(bench, floor)
        for part, measure in alone.items():
            if part in parts:
                measure(bench)
        if ON_A_CLUSTER & set(parts):
            with loaded(bench) as cluster:
                _on_a_cluster(bench, floor, cluster, parts)
    if "split" in parts:
        ingest.split(bench)
    if "telemetry" in parts:
        from benchmarks import telemetry

        telemetry.measure(bench.report, bench.rows)


def _on_a_cluster(bench: Bench, floor: floors.Floors, cluster: LocalCluster, parts: Collection[str]) -> None:
    if "doors" in parts:
        doors.measure(bench, floor, cluster)
    if "questdb" in parts:
        questdb.measure(bench, cluster)
    if "ingest" in parts:
        ingest.measure(bench, floor, cluster)
    if "lag" in parts:
        lag.measure(bench, cluster)
    if "soak" in parts:
        soak.measure(bench, floor, cluster)


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
