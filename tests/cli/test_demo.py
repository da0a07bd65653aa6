"""The demo: what it shows, what it counts, and that nothing is left of it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from proxist.cli.demo_check import Count
from proxist.cli.demo_stats import Stats
from proxist.cli.demo_view import line, page


def filled() -> Stats:
    stats = Stats()
    stats.acked("trades", 1_000, 0.002)
    stats.acked("quotes", 3_000, 0.010)
    stats.queried("last_by one", 0.0002)
    mark = {"table": "trades", "shard": 1, "epoch": 2, "floor": 100, "persisted": 800, "end": 1_000}
    stats.set_marks([mark])
    stats.set_prices(
        [{"symbol": "sim:AA", "price": 1.5, "vwap": 1.25, "trades": 7}, {"symbol": "sim:AB", "price": 2.5}]
    )
    stats.set_late_rows(5)
    return stats


def test_the_page_and_the_line_show_rows_latencies_marks_and_prices() -> None:
    stats = filled()
    now = stats.snapshot()
    console = Console(width=110, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 (the console closes nothing)
    with console.file:
        console.print(page(now))
        text = console.export_text()
    for word in (
        "1,000",
        "3,000",
        "last_by one",
        "0.20",
        "trades",
        "800",
        "sim:AA",
        "1.25",
        "sim:AB",
        "5 rows came late",
    ):
        assert word in text
    plain = line(now)
    for word in ("quotes 3,000", "trades/1 100/800/1,000", "last_by one p50 0.2 ms"):
        assert word in plain
    stats.set_problem("ClickHouse is down")
    assert "waiting: ClickHouse is down" in line(stats.snapshot())
    assert line(Stats().snapshot()).endswith("acked nothing yet | ack -")


@pytest.mark.parametrize(
    ("count", "holds"),
    [
        (Count("t", 10, 4, 6, 10, 10), True),
        (Count("t", 10, 4, 6, 10, None), True),
        (Count("t", 10, 4, 5, 10, 10), False),
        (Count("t", 10, 4, 6, 9, 10), False),
        (Count("t", 10, 4, 6, 10, 9), False),
    ],
)
def test_the_check_holds_only_where_all_counts_agree(count: Count, holds: bool) -> None:
    assert count.holds is holds
    assert ("as many as were acknowledged" in str(count)) is holds


def demos() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("proxist-demo-*"))


def processes(directory: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(directory) in words:
            found.append(words.replace("\0", " "))
    return found


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_the_demo_counts_every_row_and_ends_by_itself() -> None:
    before = demos()
    command = [sys.executable, "-m", "proxist.cli.proxist", "demo", "--seconds", "3", "--rows-per-s", "5000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "hot + cold = acknowledged, for each table." in done.stdout
    assert done.stdout.count("as many as were acknowledged") == 2
    assert demos() <= before


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_ctrl_c_ends_the_demo_and_its_cluster() -> None:
    before = demos()
    command = [sys.executable, "-m", "proxist.cli.demo", "--seconds", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "Starting" in process.stdout.readline()
        assert "Up after" in process.stdout.readline()
        (directory,) = demos() - before
        assert processes(directory)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Stopped" in out
    assert not directory.exists()
    assert processes(directory) == []
