"""Figures and how they are measured and printed."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("pyarrow", "grpcio", "numpy", "numba", "duckdb", "polars", "chdb")


@dataclass(frozen=True)
class Latency:
    """Seconds."""

    p50_s: float
    p99_s: float
    count: int


def latency(call: Callable[[], object], *, for_s: float = 0.6, calls_max: int = 5_000, warm: int = 20) -> Latency:
    """Call again and again for `for_s` seconds, at least 5 times, after `warm` calls that do not count."""
    for _ in range(warm):
        call()
    took: list[int] = []
    until = time.perf_counter() + for_s
    while (len(took) < calls_max and time.perf_counter() < until) or len(took) < 5:
        began = time.perf_counter_ns()
        call()
        took.append(time.perf_counter_ns() - began)
    took.sort()
    return Latency(took[len(took) // 2] / 1e9, took[min(len(took) - 1, len(took) * 99 // 100)] / 1e9, len(took))


class Report:
    """Prints each line when it is known; a run that is stopped has shown what it measured."""

    def machine(self) -> None:
        cpu = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "?")
        cores = sum("processor" in line for line in _lines("/proc/cpuinfo"))
        memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if "MemTotal" in line), 0)
        versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        print(f"machine: {cpu}, {cores} cores, {memory_kb / 2**20:.0f} GiB, {platform.release()}")
        print(f"python {platform.python_version()}, {versions}", flush=True)

    def section(self, title: str) -> None:
        print(f"\n{title}")
        print(f"  {'what':<52} {'p50':>10} {'p99':>10} {'floor':>10} {'ratio':>7}", flush=True)

    def timed(self, what: str, found: Latency, floor_s: float | None = None, note: str = "") -> None:
        """A latency, beside the least that this machine needs for it."""
        ratio = "" if floor_s is None else f"{found.p50_s / floor_s:,.1f}x"
        floor = "" if floor_s is None else _time(floor_s)
        print(
            f"  {what:<52} {_time(found.p50_s):>10} {_time(found.p99_s):>10} {floor:>10} {ratio:>7}  {note}", flush=True
        )

    def rate(self, what: str, per_s: float, unit: str, floor_per_s: float | None = None, note: str = "") -> None:
        """A throughput; its floor is the most that this machine gives, and the ratio is the share reached."""
        ratio = "" if floor_per_s is None else f"{per_s / floor_per_s:,.2f}"
        floor = "" if floor_per_s is None else _rate(floor_per_s)
        print(f"  {what:<52} {_rate(per_s):>10} {unit:>10} {floor:>10} {ratio:>7}  {note}", flush=True)

    def missing(self, what: str, why: object) -> None:
        print(f"  {what:<52} not measured: {str(why).splitlines()[0] if str(why) else type(why).__name__}", flush=True)


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:,.1f} µs"
    return f"{seconds * 1e3:,.2f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _rate(per_s: float) -> str:
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if per_s >= factor:
            return f"{per_s / factor:,.2f} {suffix}"
    return f"{per_s:,.0f}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        print(f"{path} cannot be read", file=sys.stderr)
        return []
