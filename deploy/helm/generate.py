"""Writes what the chart has from elsewhere: its values.schema.json, and copies of dashboards and rules in files/.

    python deploy/helm/generate.py           # writes
    python deploy/helm/generate.py --check   # exit code 1 where a file is not as it would be written

A chart may not reach outside of its folder, so it holds copies of deploy/grafana and deploy/prometheus. The schema's
`<service>.config` sections come from the services' own config classes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from chart_schema import values_schema

HERE = Path(__file__).parent
CHART = HERE / "proxist"
GRAFANA = HERE.parent / "grafana"
PROMETHEUS = HERE.parent / "prometheus"


def wanted() -> dict[Path, str]:
    """Every generated file with its text."""
    files = {CHART / "values.schema.json": _json(values_schema())}
    for source in sorted(GRAFANA.glob("*.json")):
        files[CHART / "files" / "dashboards" / source.name] = source.read_text()
    for source in sorted(PROMETHEUS.glob("*.y*ml")):
        if "test" not in source.stem:
            files[CHART / "files" / "rules" / source.name] = source.read_text()
    return files


def stale() -> list[Path]:
    """Generated files that are missing, old, or no longer wanted."""
    files = wanted()
    old = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    there = [path for folder in ("dashboards", "rules") for path in (CHART / "files" / folder).glob("*.*")]
    return old + [path for path in there if path not in files]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """The command."""
    outdated = stale()
    if "--check" in sys.argv[1:]:
        for path in outdated:
            print(f"{path.relative_to(HERE.parent.parent)} is not as generated. Run python deploy/helm/generate.py.")
        sys.exit(bool(outdated))
    files = wanted()
    for path in outdated:
        if path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path])
        else:
            path.unlink()
        print(path.relative_to(HERE.parent.parent))


if __name__ == "__main__":
    main()
