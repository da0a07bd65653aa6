"""`make bench`: a short run of every figure; `ARGS="--rows 10000000"` for a larger one."""

from __future__ import annotations

import proxist.rpc.env  # noqa: F401  # before pyarrow and grpc are loaded

import argparse
import tempfile
from pathlib import Path

from benchmarks import cluster, engine, floors, others, windows
from benchmarks.report import Report
from benchmarks.rows import make_rows

PARTS = ("engine", "others", "cluster", "telemetry", "tls")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the common table")
    parser.add_argument("--keys", type=int, default=10_000, help="different keys among them")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    given = parser.parse_args()
    wanted = given.only or PARTS
    report = Report()
    report.machine()
    rows = make_rows(given.rows, given.keys)
    batch = rows.table.slice(0, floors.BATCH_ROWS).combine_chunks().to_batches()[0]
    with tempfile.TemporaryDirectory(prefix="proxist-bench-") as directory:
        found = floors.measure(report, batch, Path(directory))
        ours = engine.measure(report, rows, found) if {"engine", "others"} & set(wanted) else {}
        if "engine" in wanted:
            windows.measure(report)
        if "others" in wanted:
            others.measure(report, rows, ours)
        if "cluster" in wanted:
            from proxist.cli.demo_cluster import demo_cluster

            with demo_cluster() as endpoints:
                cluster.measure(report, rows, found, endpoints)
        if "telemetry" in wanted:
            from benchmarks import telemetry

            telemetry.measure(report, rows)
        if "tls" in wanted:
            from benchmarks import tls

            tls.measure(report, rows)


if __name__ == "__main__":
    main()
