"""S9: a mixed load for ten minutes: does a heartbeat ever stall, does memory grow, is anything compiled after ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.bench import Bench
from benchmarks.cluster import connect, feeding
from benchmarks.floors import Floors
from benchmarks.report import at_most
from benchmarks.rows import COLUMNS, SPEC
from benchmarks.timing import Ask, Run, turning
from benchmarks.windows import VWAP
from proxist.hot.jit import cache_dir
from proxist.testing.cluster import LocalCluster

BEAT_S = 0.005
STALL_S = 0.020
RATE = 100_000
SAMPLES = 60
GROWTH = 1.05
SETTLE_SHARE = 1 / 3
"""Memory is compared from here on: before, threads, caches and buffers come into being."""
PARTS = ("ingest-0", "query-0", "persister-0", "controlplane-0")


@dataclass
class Seen:
    beats_s: list[float] = field(default_factory=list)
    nulls_s: list[float] = field(default_factory=list)
    anonymous_bytes: list[int] = field(default_factory=list)
    answers: int = 0
    failures: list[Exception] = field(default_factory=list)


def measure(bench: Bench, floor: Floors, cluster: LocalCluster) -> None:
    size, seen = bench.size, Seen()
    bench.report.section(f"mixed load for {size.soak_s:.0f} s: {RATE:,} rows/s and every verb, on all doors")
    kernels = _kernels()
    with ExitStack() as stack:
        stack.enter_context(feeding(cluster, keys=size.keys, rate=RATE))
        stack.enter_context(_background(lambda: _query(bench, cluster, seen)))
        stack.enter_context(_background(lambda: _remember(cluster, seen, size.soak_s / SAMPLES)))
        _beat(cluster, floor, seen, size.soak_s)
    if seen.failures:
        raise RuntimeError(f"a query failed during the soak: {seen.failures[0]}")
    _lines(bench, seen, _kernels() - kernels)


def _lines(bench: Bench, seen: Seen, compiled: int) -> None:
    worst = Run(max(seen.beats_s), floor=max(seen.nulls_s))
    told = {"answers": seen.answers, "beats": len(seen.beats_s)}
    budget = at_most(STALL_S, floors=1)
    what = "longest stall of a heartbeat"
    bench.report.add("s9.heartbeat", what, [worst], floor_name="null server's longest", budget=budget, detail=told)
    settled = seen.anonymous_bytes[int(len(seen.anonymous_bytes) * SETTLE_SHARE) :]
    third = max(1, len(settled) // 3)
    grown = (sum(settled[-third:]) / third) / (sum(settled[:third]) / third)
    detail = {"bytes": seen.anonymous_bytes}
    what = "private memory of all services: its end to its middle"
    bench.report.add("s9.rss", what, [Run(grown)], unit="ratio", budget=at_most(GROWTH), detail=detail)
    bench.report.add("s9.compiled", "kernels compiled after ready", [Run(float(compiled))], unit="", budget=at_most(0))


def _beat(cluster: LocalCluster, floor: Floors, seen: Seen, for_s: float) -> None:
    """The owner's health check over gRPC and the null server's call, in turns, one of each every BEAT_S."""
    with grpc.insecure_channel(cluster.endpoints["ingest"][0]["grpc"]) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        request = health_pb2.HealthCheckRequest()
        for ask in (lambda: check(request, timeout=30), floor.exchange):
            ask()
        began = time.perf_counter()
        beat = 0
        while time.perf_counter() < began + for_s:
            beat += 1
            time.sleep(max(0.0, began + beat * BEAT_S - time.perf_counter()))
            seen.beats_s.append(_took(lambda: check(request, timeout=30)))
            seen.nulls_s.append(_took(floor.exchange))


def _took(ask: Ask) -> float:
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def _query(bench: Bench, cluster: LocalCluster, seen: Seen) -> Iterator[None]:
    """Every verb, attached, over a session and by DoGet, again and again, a little at a time."""
    rows, columns, name = bench.rows, list(COLUMNS), SPEC.name
    with ExitStack() as stack:
        remote = stack.enter_context(connect(cluster))
        doors: list[Any] = [stack.enter_context(connect(cluster, attach="require")), remote]
        doors.append(stack.enter_context(remote.session()))
        verbs = [
            lambda door: door.last_by(name, [bench.one], columns),
            lambda door: door.last_by(name, None, columns),
            lambda door: door.asof(rows.probes, name, columns),
            lambda door: door.window(name, rows.busy, VWAP.to_json(), range="5m", stop=int(rows.table["ts"][-1].value)),
            lambda door: door.scan(name, [bench.one], columns, limit=100),
        ]
        ask = turning(lambda pair: pair[0](pair[1]), [(verb, door) for verb in verbs for door in doors])
        while True:
            try:
                ask()
            except Exception as error:  # told by `measure`, which then fails
                seen.failures.append(error)
                return
            seen.answers += 1
            yield


def _remember(cluster: LocalCluster, seen: Seen, every_s: float) -> Iterator[float]:
    while True:
        seen.anonymous_bytes.append(sum(_anonymous(cluster.pid(part)) for part in PARTS))
        yield every_s


@contextmanager
def _background(steps: Any) -> Iterator[None]:
    """Runs the steps of a generator on a thread, with the pause that each asks for (10 ms), until the block ends."""
    ended = threading.Event()

    def run() -> None:
        for pause_s in steps():
            if ended.wait(pause_s or 0.01):
                return

    thread = threading.Thread(target=run, name="soak")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _anonymous(pid: int) -> int:
    """Private memory in bytes; the hot set, which is shared, grows with its rows by design."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _kernels() -> int:
    """Files of compiled kernels; every program keeps its own there, and a new one would be written."""
    return sum(1 for _ in cache_dir().rglob("*.nbc"))
