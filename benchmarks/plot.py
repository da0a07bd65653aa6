"""The report's plot: latency against the size of the hot set, one curve per question that was measured at several sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of all lines that name their rows (`detail.rows`); grouped by `detail.curve`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=120)
    for curve, points in sorted(_curves(report).items()):
        rows, seconds = zip(*sorted(points), strict=True)
        axes.plot(rows, [1e6 * one for one in seconds], marker="o", label=curve)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rows in memory")
    axes.set_ylabel("p50 in µs")
    axes.grid(True, which="both", alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small")
    axes.set_title("Latency against size", fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def _curves(report: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in report["results"]:
        detail = line["detail"]
        if "curve" in detail and line["p50"] is not None:
            curves.setdefault(detail["curve"], []).append((detail["rows"], line["p50"]))
    return curves
