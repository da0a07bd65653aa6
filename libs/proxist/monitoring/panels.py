"""A dashboard from rows of panels: the part of Grafana's JSON that ours need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 24
HEIGHT = 8
STAT_HEIGHT = 4
SCHEMA_VERSION = 39
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries`: (expression, legend) each. `kind`: "timeseries" or "stat". `unit`: of Grafana, such as s, bytes, short."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    description: str
    kind: str = "timeseries"

    def expressions(self) -> list[str]:
        return [expression for expression, _ in self.queries]


Rows = Sequence[tuple[str, Sequence[Panel]]]
"""(title, panels side by side)."""


def dashboard(uid: str, title: str, rows: Rows, *, variables: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Grafana's JSON. `variables`: (name, metric whose values of that label are offered)."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["proxist"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [_datasource_variable(), *(_variable(name, metric) for name, metric in variables)]},
        "annotations": {"list": []},
        "links": [{"title": "Proxist", "type": "dashboards", "tags": ["proxist"], "asDropdown": True}],
        "panels": _placed(rows),
    }


def _placed(rows: Rows) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    top = 0
    for title, panels in rows:
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": _at(0, top, WIDTH, 1),
            }
        )
        top += 1
        width = WIDTH // len(panels)
        height = STAT_HEIGHT if all(panel.kind == "stat" for panel in panels) else HEIGHT
        for column, panel in enumerate(panels):
            placed.append({"id": len(placed) + 1, **_panel(panel), "gridPos": _at(column * width, top, width, height)})
        top += height
    return placed


def _at(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def _panel(panel: Panel) -> dict[str, Any]:
    options: dict[str, Any] = (
        {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
        if panel.kind == "stat"
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    )
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": _DATASOURCE, "expr": expression, "legendFormat": legend}
            for i, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source", "current": {}}


def _variable(name: str, metric: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "label": name,
        "datasource": _DATASOURCE,
        "query": f"label_values({metric}, {name})",
        "definition": f"label_values({metric}, {name})",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
