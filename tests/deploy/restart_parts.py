"""`systemctl` for a local cluster: `restart_parts.py RUN_DIR restart UNIT…` ends the units' parts, and returns when the
cluster's supervisor has them ready again.

Units are as on a host of one's own: `proxist@ROLE`, `proxist@*` for every service, `etcd`, `clickhouse-server`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

RESTART_S_MAX = 60.0
OTHER = {"etcd": "etcd", "clickhouse-server": "clickhouse"}


def parts(run_dir: str) -> dict:
    return json.loads((Path(run_dir) / "parts.json").read_text())["parts"]


def named(units: list[str], known: dict) -> list[str]:
    roles = {unit.removeprefix("proxist@") for unit in units if unit.startswith("proxist@")}
    services = {part["role"] for part in known.values()} - set(OTHER.values())
    wanted = (services if "*" in roles else roles) | {OTHER[unit] for unit in units if not unit.startswith("proxist@")}
    return [name for name, part in known.items() if part["role"] in wanted]


def main(run_dir: str, verb: str, *units: str) -> None:
    if verb != "restart":
        sys.exit(f"only `systemctl restart` has a stand-in here, not `systemctl {verb}`")
    before = parts(run_dir)
    waiting = named(list(units), before)
    if not waiting:
        sys.exit(f"no part of the cluster is a unit of {units}")
    for name in waiting:
        os.kill(before[name]["pid"], signal.SIGTERM)
    deadline = time.monotonic() + RESTART_S_MAX
    while waiting:
        now = parts(run_dir)
        waiting = [n for n in waiting if now[n]["pid"] == before[n]["pid"] or now[n]["state"] != "ready"]
        if time.monotonic() > deadline:
            sys.exit(f"not ready again within {RESTART_S_MAX:.0f} s: {waiting}")
        time.sleep(0.05)


main(*sys.argv[1:])
