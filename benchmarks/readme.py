"""The table of README.md from a report: `python -m benchmarks.readme build/bench/report.json` writes it between its marks."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import amount, verdict

README = Path("README.md")
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
PEERS = {
    "duckdb": "DuckDB",
    "polars": "polars",
    "clickhouse": "ClickHouse, embedded",
    "questdb": "QuestDB, over its wire",
}
LINES = {
    "s1.last_by_one_key": "last row of one key, engine",
    "s1.last_by_all_keys": "last row of every key, engine",
    "s2.asof_one_probe": "as-of, one probe, engine",
    "s2.asof_1000_probes": "as-of, 1,000 probes, engine",
    "s2.asof_join_1m_10m": "as-of join, a million probes, engine",
    "s3.sum_any_range": "sum over any range, engine",
    "s3.vwap_series": "5-minute rolling VWAP of a key, engine",
    "s3.bars_1h": "an hour of 1 s bars of a key, engine",
    "s4.attached_one_key": "last row of one key, SDK in another process, beside ingest",
    "s4.prepared_one_key": "the same through a prepared handle",
    "s4.attached_1000_probes": "as-of, 1,000 probes, SDK in another process, beside ingest",
    "s4.session_unix": "last row of one key, open session, unix socket",
    "s4.session_tcp": "last row of one key, open session, TCP",
    "s4.doget_attached": "last row of one key, fresh DoGet",
    "s5.ack_os": "ack at `os`, server side",
    "s5.ack_disk": "ack at `disk`, server side",
    "s5.ingest_disk_1000": "ingest at `disk`, 1,000 rows per batch",
    "s5.ingest_disk_10000": "ingest at `disk`, 10,000 rows per batch",
    "s6.lag_p50": "from ack to ClickHouse at 100,000 rows/s, p50",
    "s6.lag_p99": "the same, p99",
    "s8.bytes_per_row": "memory per row",
    "replay.rate": "replay after a crash",
}


def table(report: Mapping[str, Any]) -> str:
    """The lines of LINES that the report has, with those other engines that answered any of them."""
    found = {line["id"]: line for line in report["results"] if line["p50"] is not None}
    shown = [(name, found[id]) for id, name in LINES.items() if id in found]
    peers = {key: name for key, name in PEERS.items() if any(key in line["peers"] for _, line in shown)}
    setup = report["setup"]
    said = [
        f"One run of `make bench{'-full' if setup['size'] == 'full' else ''}`: {setup['rows']:,} rows, {setup['keys']:,} keys,",
        f"{setup['runs']} runs per line. {report['machine']}.",
        "Machines are noisy: compare within the run. The floor is what the same machine needs for nothing",
        "([docs/benchmarks.md](docs/benchmarks.md)).",
    ]
    head = ["what", "p50", "floor", "budget", "", *peers.values()]
    rows = [
        head,
        ["---", *["---:"] * 3, "---", *["---:"] * len(peers)],
        *(_row(name, line, peers) for name, line in shown),
    ]
    return "\n".join([*said, "", *(f"| {' | '.join(row)} |" for row in rows)])


def _row(name: str, line: Mapping[str, Any], peers: Mapping[str, str]) -> list[str]:
    unit = line["unit"]
    floor = f"{amount(line['floor'], unit)} ({line['floor_name']})" if line["floor"] is not None else ""
    others = [amount(line["peers"].get(key), "s") for key in peers]
    return [name, amount(line["p50"], unit), floor, amount(line["budget"], unit), verdict(line["hit"]), *others]


def written(readme: str, report: Mapping[str, Any]) -> str:
    """`readme` with the report's table between the marks. Raises ValueError where a mark is missing."""
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not between.search(readme):
        raise ValueError(f"the page has no {BEGIN} … {END}: add both marks where the table belongs")
    return between.sub(lambda _: f"{BEGIN}\n{table(report)}\n{END}", readme)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("report", type=Path)
    report = json.loads(parser.parse_args().report.read_text())
    README.write_text(written(README.read_text(), report))


if __name__ == "__main__":
    main()
