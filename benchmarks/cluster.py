"""A running cluster with the common rows in it, for the parts that ask over the public doors."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import proxist
from benchmarks.bench import ROW_BYTES, Bench, spec_with
from benchmarks.rows import SPEC
from proxist.client.connection import Connection
from proxist.rpc import child
from proxist.testing.cluster import LocalCluster

GIB = 1 << 30
UNFLUSHED = {"rows": 1_000_000, "bytes": "64MiB", "age": "1s"}
"""Cuts of tables that are written as fast as it goes."""


@contextmanager
def running(ingest: int = 1) -> Iterator[LocalCluster]:
    """`proxist up` on free ports, in a directory that goes with it."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="proxist-bench-"))
        yield stack.enter_context(LocalCluster(Path(directory), ingest=ingest))


@contextmanager
def loaded(bench: Bench) -> Iterator[LocalCluster]:
    """A cluster whose table SPEC has the common rows, all of them persisted and in memory."""
    with running() as cluster:
        with connect(cluster) as connection:
            hot_bytes = 4 * GIB + 2 * ROW_BYTES * bench.rows.count
            table = connection.create_table(spec_with(hot_bytes=f"{hot_bytes >> 20}MiB"))
            table.write(bench.rows.table, timeout_s=600)
            table.flush()
        yield cluster


def connect(cluster: LocalCluster, door: str = "flight", attach: str = "never") -> Connection:
    return proxist.connect(cluster.endpoints["query"][0][door], attach=attach, timeout_s=600)


def scratch(name: str, level: str = "disk", **more: Any) -> Any:
    """A table that is written to and dropped."""
    return spec_with(name, **{"durability": level, "flush": UNFLUSHED, "hot_bytes": "3GiB", **more})


def scrape(cluster: LocalCluster) -> list[str]:
    """The lines of every owner's /metrics."""
    pages = [urllib.request.urlopen(f"{one['http']}/metrics", timeout=10).read() for one in cluster.endpoints["ingest"]]
    return [line for page in pages for line in page.decode().splitlines() if not line.startswith("#")]


@dataclass
class Fed:
    """What a feeder did; its figures are known when it has ended."""

    rows_per_s: float = 0.0
    rows: int = 0


@contextmanager
def feeding(
    cluster: LocalCluster, *, keys: int, rate: float = 0.0, table: str = SPEC.name, batch_rows: int = 1_000
) -> Iterator[Fed]:
    """Another process writes live rows, `rate` per second (0: as fast as it goes), until the block ends."""
    uri = cluster.endpoints["query"][0]["flight"]
    options = ["--table", table, "--keys", str(keys), "--rate", str(rate), "--batch-rows", str(batch_rows)]
    command = child.command([sys.executable, "-m", "benchmarks.feeder", uri, *options])
    feeder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    fed = Fed()
    try:
        assert feeder.stdout is not None
        if feeder.stdout.readline().strip() != "feeding":
            raise RuntimeError("the feeder did not start")
        yield fed
        told, _ = feeder.communicate("", timeout=60)
        fed.rows, fed.rows_per_s = (float(part) for part in told.split())  # type: ignore[assignment]
    finally:
        feeder.kill()
        feeder.communicate()
