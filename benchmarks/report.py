"""The report: every line is printed when it is known; at the end they are JSON, a Markdown table and a plot.

A line answers one line of the performance budget (docs/benchmarks.md) and keeps its id. A budget is hit where the
median of the runs keeps it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.timing import Latency, Run, latency, median

__all__ = ["Budget", "Latency", "Line", "Report", "at_least", "at_most", "latency"]

PACKAGES = ("pyarrow", "grpcio", "numpy", "numba", "duckdb", "polars", "chdb", "questdb")
MORE_IS_BETTER = ("rows/s", "B/s", "calls/s", "x", "share")
"""Units; of all others less is better."""


@dataclass(frozen=True)
class Budget:
    """`limit` + `floors` times the floor of the same run: the most there may be, or the least (`more`) there must be."""

    limit: float
    floors: float = 0.0
    more: bool = False

    def at(self, run: Run) -> float:
        return self.limit + self.floors * (run.floor or 0.0)

    def room(self, run: Run) -> float:
        """How much better than the budget the run is; below zero where it misses."""
        return run.p50 - self.at(run) if self.more else self.at(run) - run.p50


def at_most(limit: float, *, floors: float = 0.0) -> Budget:
    return Budget(limit, floors)


def at_least(limit: float) -> Budget:
    return Budget(limit, more=True)


@dataclass
class Line:
    """Figures in `unit` (seconds are "s"). `ratio` is to the floor, the median of the runs' own; `runs` are their p50s."""

    id: str
    what: str
    p50: float | None
    p99: float | None
    unit: str
    floor: float | None = None
    floor_name: str | None = None
    ratio: float | None = None
    budget: float | None = None
    hit: bool | None = None
    peers: dict[str, float] = field(default_factory=dict)
    runs: list[float] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)
    missing: str | None = None
    """Why there is no figure."""


def make_line(
    id: str, what: str, runs: list[Run], *, unit: str = "s", floor_name: str | None = None, budget: Budget | None = None
) -> Line:
    floored = [run for run in runs if run.floor]
    return Line(
        id,
        what,
        p50=median(run.p50 for run in runs),
        p99=median(run.p99 for run in runs if run.p99 is not None) if any(r.p99 is not None for r in runs) else None,
        unit=unit,
        floor=median(run.floor or 0.0 for run in floored) if floored else None,
        floor_name=floor_name if floored else None,
        ratio=median(run.p50 / (run.floor or 1.0) for run in floored) if floored else None,
        budget=median(budget.at(run) for run in runs) if budget else None,
        hit=median(budget.room(run) for run in runs) >= 0 if budget else None,
        runs=[run.p50 for run in runs],
    )


class Report:
    """Lines in the order in which they came; a run that is stopped has shown what it measured."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.machine_line = machine()
        self.setup: dict[str, Any] = {}
        """What was asked for: rows, keys, runs."""

    def machine(self) -> None:
        print(f"machine: {self.machine_line}", flush=True)

    def section(self, title: str) -> None:
        print(f"\n{title}")
        print(f"  {'what':<58} {'p50':>11} {'p99':>11} {'floor':>11} {'ratio':>7} {'budget':>11}", flush=True)

    def add(
        self,
        id: str,
        what: str,
        runs: list[Run],
        *,
        unit: str = "s",
        floor_name: str | None = None,
        budget: Budget | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> Line:
        """A line of the report from its runs."""
        line = make_line(id, what, runs, unit=unit, floor_name=floor_name, budget=budget)
        line.detail = dict(detail or {})
        return self.keep(line)

    def keep(self, line: Line) -> Line:
        if any(one.id == line.id for one in self.lines):
            raise ValueError(f"the report has a line {line.id!r} already")
        self.lines.append(line)
        _show(line)
        return line

    def absent(self, id: str, what: str, why: object) -> None:
        """A line without a figure, and why."""
        self.keep(Line(id, what, None, None, "s", missing=_first_line(why)))

    def peer(self, id: str, name: str, p50: float) -> None:
        """What another engine took for the question of line `id`, where that was measured."""
        for line in self.lines:
            if line.id == id:
                line.peers[name] = p50

    def to_json(self) -> dict[str, Any]:
        return {"machine": self.machine_line, "setup": self.setup, "results": [asdict(line) for line in self.lines]}

    def write(self, directory: Path) -> None:
        """report.json and report.md in `directory`; the plot is `benchmarks.plot`'s."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.json").write_text(json.dumps(self.to_json(), indent=1) + "\n")
        (directory / "report.md").write_text(markdown(self.to_json()))

    # -- figures beside the budget's lines: printed only --

    def timed(self, what: str, found: Latency, floor_s: float | None = None, note: str = "") -> None:
        """A latency, beside the least that this machine needs for it."""
        runs = [Run(found.p50_s, found.p99_s, floor_s)]
        _show(make_line("", what, runs), note)

    def missing(self, what: str, why: object) -> None:
        print(f"  {what:<58} not measured: {_first_line(why)}", flush=True)


def machine() -> str:
    """The processor, cores, memory, kernel and versions, in one line."""
    cpu = _field("/proc/cpuinfo", "model name") or platform.processor()
    cores = sum(line.startswith("processor") for line in _lines("/proc/cpuinfo"))
    memory_kb = int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0])
    packages = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return f"{cpu}, {cores} cores, {memory_kb / 2**20:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}, {packages}"


def markdown(report: Mapping[str, Any]) -> str:
    """All lines as one table."""
    head = (
        "| line | what | p50 | p99 | floor | ratio | budget | | others |\n|---|---|---:|---:|---:|---:|---:|---|---|\n"
    )
    return f"{report['machine']}\n\n{head}" + "".join(map(_row, report["results"]))


def _row(line: Mapping[str, Any]) -> str:
    unit = line["unit"]
    if line["missing"]:
        return f"| {line['id']} | {line['what']} | | | | | | not measured | {line['missing']} |\n"
    floor = f"{amount(line['floor'], unit)} ({line['floor_name']})" if line["floor"] is not None else ""
    ratio = f"{line['ratio']:,.2f}" if line["ratio"] is not None else ""
    peers = ", ".join(f"{name} {amount(took, 's')}" for name, took in line["peers"].items())
    cells = (line["id"], line["what"], amount(line["p50"], unit), amount(line["p99"], unit), floor, ratio)
    return f"| {' | '.join(cells)} | {amount(line['budget'], unit)} | {verdict(line['hit'])} | {peers} |\n"


def verdict(hit: bool | None) -> str:
    return "" if hit is None else "hit" if hit else "miss"


def amount(value: float | None, unit: str) -> str:
    """For people: `0.33 ms`, `3.1 M rows/s`, `512x`."""
    if value is None:
        return ""
    if unit == "s":
        for factor, suffix in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= factor:
                return f"{value / factor:,.3g} {suffix}"
        return f"{value * 1e9:,.0f} ns"
    if unit == "x":
        return f"{value:,.3g}x" if value < 1000 else f"{value:,.0f}x"
    for factor, suffix in ((1e9, "G "), (1e6, "M "), (1e3, "k ")):
        if unit.endswith("/s") and abs(value) >= factor:
            return f"{value / factor:,.3g} {suffix}{unit}"
    return f"{value:,.3g} {unit}"


def _show(line: Line, note: str = "") -> None:
    if line.missing:
        print(f"  {line.what:<58} not measured: {line.missing}", flush=True)
        return
    unit, ratio = line.unit, "" if line.ratio is None else f"{line.ratio:,.2f}"
    cells = [amount(value, unit) for value in (line.p50, line.p99, line.floor)]
    end = " ".join(part for part in (verdict(line.hit), note) if part)
    print(
        f"  {line.what:<58} {cells[0]:>11} {cells[1]:>11} {cells[2]:>11} {ratio:>7} {amount(line.budget, unit):>11} {end}",
        flush=True,
    )


def _first_line(why: object) -> str:
    return str(why).splitlines()[0] if str(why).strip() else type(why).__name__


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _field(path: str, name: str) -> str:
    return next((line.partition(":")[2].strip() for line in _lines(path) if line.startswith(name)), "")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
