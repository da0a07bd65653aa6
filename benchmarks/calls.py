"""The calls by which two ways to run a cluster are compared: lone acks and last-by, best of several rounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import proxist
from benchmarks.floors import BATCH_ROWS
from benchmarks.report import Latency, latency
from benchmarks.rows import SPEC, Rows

ROUNDS = 6
ROUND_S = 0.3
"""Each figure is the best p50 of these: on a shared machine the noise between rounds is larger than what is measured."""
Figures = dict[str, Latency]


@contextmanager
def loaded(endpoints: dict[str, Any], rows: Rows) -> Iterator[Any]:
    """A connection to a cluster, with or without TLS, whose table SPEC has rows."""
    with proxist.connect(endpoints["query"][0]["flight"], **_identity(endpoints)) as connection:
        connection.create_table(SPEC)
        connection.table(SPEC.name).write(rows.table.slice(0, 100_000))
        yield connection


def _identity(endpoints: dict[str, Any]) -> dict[str, Any]:
    """What `connect` needs where the cluster has TLS."""
    if "tls" not in endpoints:
        return {}
    files = endpoints["tls"]
    shown = {f"tls_{name}": files[name] for name in ("ca", "cert", "key")}
    return {**shown, "token": Path(files["token_file"]).read_text().strip()}


def figures(connection: Any, rows: Rows, rounds: int = ROUNDS) -> Figures:
    batch = rows.table.slice(0, BATCH_ROWS).combine_chunks().to_batches()[0]
    one = [rows.keys[len(rows.keys) // 2]]
    found: Figures = {}
    for level in ("os", "disk"):
        connection.create_table({**SPEC.to_json(), "name": f"priced_{level}", "durability": level})
    for _ in range(rounds):
        for level in ("os", "disk"):
            with connection.table(f"priced_{level}").writer() as writer:
                merge(found, {f"ack, {level}": latency(lambda: writer.write(batch), for_s=ROUND_S)})
        with connection.session() as session:
            merge(
                found,
                {
                    "last_by, one key, session": latency(
                        lambda: session.last_by(SPEC.name, one, ["price"]), for_s=ROUND_S
                    )
                },
            )
        merge(
            found,
            {"last_by, one key, DoGet": latency(lambda: connection.last_by(SPEC.name, one, ["price"]), for_s=ROUND_S)},
        )
    return found


def merge(best: Figures, new: Figures) -> None:
    for what, one in new.items():
        if what not in best or one.p50_s < best[what].p50_s:
            best[what] = one


def percent(found_s: float, off_s: float) -> str:
    return f"{100 * (found_s / off_s - 1):+.1f} %"
