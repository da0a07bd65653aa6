"""The suite runs, and its report has the shape that others read. No test asserts a time."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import readme
from benchmarks.ingest import p50_of
from benchmarks.report import Report, at_least, at_most, make_line, markdown
from benchmarks.timing import Run

ROOT = Path(__file__).resolve().parent.parent.parent
RUN_S_MAX = 240.0
IN_PROCESS = {
    "s1.last_by_one_key", "s1.last_by_all_keys", "s2.asof_one_probe", "s2.asof_1000_probes", "s2.ties", "s2.far_key",
    "s3.sum_any_range", "s3.minmax_any_range", "s3.vwap_series", "s3.bars_1h", "s8.bytes_per_row",
    "s8.returned_after_eviction",
} | {
    f"s7.{question}_{peer}"
    for question in ("last_by_one_key", "last_by_all_keys", "asof_1000_probes", "vwap_series")
    for peer in ("duckdb", "polars", "clickhouse")
}  # fmt: skip
ON_A_CLUSTER = {
    "s4.attached_one_key", "s4.attached_one_key_p99", "s4.prepared_one_key", "s4.attached_all_keys",
    "s4.attached_1000_probes", "s4.session_tcp", "s4.session_unix", "s4.doget_attached", "s4.doget_remote",
    "s4.read_under_ingest_attached", "s4.read_under_ingest_remote", "s5.ingest_os_1000", "s5.ingest_disk_1000",
    "s5.ack_os", "s5.ack_disk", "s6.lag_p50", "s6.lag_p99", "s6.parts", "s6.max_rate", "s9.heartbeat", "s9.rss",
    "s9.compiled",
}  # fmt: skip


def run_suite(out: Path, *parts: str) -> dict[str, Any]:
    only = [word for part in parts for word in ("--only", part)]
    command = [sys.executable, "-m", "benchmarks", "--size", "smallest", "--rows", "20000", *only, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S_MAX, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads((out / "report.json").read_text()))


def check_shape(report: dict[str, Any], ids: set[str]) -> None:
    assert report["machine"]
    assert report["setup"]["rows"] == 20_000
    lines = {line["id"]: line for line in report["results"]}
    assert ids <= set(lines)
    assert len(lines) == len(report["results"]), "an id stands for one line"
    for line in lines.values():
        assert {"id", "what", "p50", "p99", "unit", "floor", "ratio", "budget", "hit", "peers"} <= set(line)
        assert line["missing"] is None, line
        assert math.isfinite(line["p50"]), line
        assert (line["hit"] is None) == (line["budget"] is None), line
        assert all(took > 0 for took in line["peers"].values()), line


def test_every_figure_of_one_process_is_in_the_report(tmp_path: Path) -> None:
    report = run_suite(tmp_path, "engine", "windows", "peers", "memory")
    check_shape(report, IN_PROCESS)
    of_one_key = next(line for line in report["results"] if line["id"] == "s1.last_by_one_key")
    assert set(of_one_key["peers"]) == {"duckdb", "polars", "clickhouse"}
    assert of_one_key["what"] in (tmp_path / "report.md").read_text()
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert "last row of one key, engine" in readme.table(report)


@pytest.mark.cluster
def test_every_figure_of_a_cluster_is_in_the_report(tmp_path: Path) -> None:
    check_shape(run_suite(tmp_path, "doors", "ingest", "lag", "soak"), ON_A_CLUSTER)


def test_a_budget_is_judged_by_the_median_run() -> None:
    runs = [Run(3.0), Run(1.0), Run(2.0)]
    assert make_line("a", "a", runs, budget=at_most(2.0)).hit
    assert not make_line("a", "a", runs, budget=at_most(1.9)).hit
    assert make_line("a", "a", runs, unit="rows/s", budget=at_least(2.0)).hit
    assert not make_line("a", "a", runs, unit="rows/s", budget=at_least(2.1)).hit


def test_a_budget_above_the_floor_follows_each_runs_own_floor() -> None:
    runs = [Run(15.0, floor=10.0), Run(25.0, floor=20.0), Run(9.0, floor=1.0)]
    line = make_line("a", "a", runs, budget=at_most(6.0, floors=1.0))
    assert line.hit
    assert line.budget == 16.0
    assert line.ratio == 1.5


def test_a_line_without_a_figure_says_why() -> None:
    report = Report()
    report.absent("a", "what it would be", "there is no java\nat all")
    assert report.to_json()["results"][0]["missing"] == "there is no java"
    assert "there is no java" in markdown(report.to_json())


def test_the_median_of_a_histogram_is_interpolated_in_its_bucket() -> None:
    before = {0.1: 5.0, 0.2: 5.0, math.inf: 5.0}
    assert p50_of(before, {0.1: 5.0, 0.2: 15.0, math.inf: 15.0}) == pytest.approx(0.15)


def test_the_readmes_table_is_replaced_between_its_marks() -> None:
    report = Report()
    report.setup = {"size": "short", "rows": 1_000, "keys": 10, "runs": 1}
    report.add("s1.last_by_one_key", "…", [Run(1.5e-6)], budget=at_most(2e-6))
    report.peer("s1.last_by_one_key", "duckdb", 2e-3)
    page = readme.written(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter", report.to_json())
    assert page.startswith("before\n")
    assert page.endswith("\nafter")
    assert "old" not in page
    assert "| last row of one key, engine | 1.5 µs |  | 2 µs | hit | 2 ms |" in page
