"""What the machine itself needs: null round trips of Flight, fdatasync, memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import flight

from benchmarks.null_server import ONE
from benchmarks.report import Latency, Report, latency
from proxist.rpc import child

BATCH_ROWS = 1_000
WINDOW = 64


@dataclass(frozen=True)
class Floors:
    """p50 in seconds, rates per second."""

    get_s: float
    exchange_s: float
    exchange_unix_s: float
    put_s: float
    put_rows_per_s: float
    fdatasync_s: float
    scan_bytes_per_s: float
    copy_bytes_per_s: float


def measure(report: Report, batch: pa.RecordBatch, directory: Path) -> Floors:
    report.section("floors: what this machine needs for nothing")
    with _null_server("grpc://127.0.0.1:0") as tcp, _null_server(f"grpc+unix://{directory}/null.sock") as unix:
        get = _timed(report, "null DoGet, TCP", _get(tcp))
        exchange = _timed(report, "null DoExchange round trip, TCP", _exchange(tcp))
        exchange_unix = _timed(report, "null DoExchange round trip, unix socket", _exchange(unix))
        put = _timed(report, f"null DoPut and ack of {BATCH_ROWS:,} rows, TCP", _put(tcp, batch))
        put_rows = _pipelined(tcp, batch)
        report.rate(f"null DoPut, pipelined, {BATCH_ROWS:,} rows per batch", put_rows, "rows/s")
    sync = _timed(report, "fdatasync of 64 KiB in a preallocated file", fdatasync(directory))
    scan, copy = _memory()
    report.rate("memory scan, one core", scan, "B/s")
    report.rate("memory copy, one core", copy, "B/s")
    return Floors(get, exchange, exchange_unix, put, put_rows, sync, scan, copy)


def _timed(report: Report, what: str, found: Latency) -> float:
    report.timed(what, found)
    return found.p50_s


@contextmanager
def _null_server(location: str) -> Iterator[str]:
    command = child.command([sys.executable, "-m", "benchmarks.null_server", location])
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        yield location.removesuffix(":0") + (f":{port}" if location.endswith(":0") else "")
    finally:
        server.kill()
        server.communicate()


def _get(uri: str) -> Latency:
    with flight.connect(uri) as client:
        return latency(lambda: client.do_get(flight.Ticket(b"x")).read_all())


def _exchange(uri: str) -> Latency:
    with flight.connect(uri) as client:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b"x"))
        writer.begin(ONE.schema)

        def ask() -> None:
            writer.write_with_metadata(ONE, b"{}")
            reader.read_chunk()

        found = latency(ask)
        writer.close()
    return found


def _put(uri: str, batch: pa.RecordBatch) -> Latency:
    with flight.connect(uri) as client:
        writer, reader = client.do_put(flight.FlightDescriptor.for_path("x"), batch.schema)

        def put() -> None:
            writer.write_with_metadata(batch, b"{}")
            reader.read()

        found = latency(put)
        writer.close()
    return found


def _pipelined(uri: str, batch: pa.RecordBatch, batches: int = 4_000) -> float:
    with flight.connect(uri) as client:
        writer, reader = client.do_put(flight.FlightDescriptor.for_path("x"), batch.schema)
        window = threading.Semaphore(WINDOW)

        def acks() -> None:
            for _ in range(batches):
                reader.read()
                window.release()

        thread = threading.Thread(target=acks)
        thread.start()
        began = time.perf_counter()
        for _ in range(batches):
            window.acquire()
            writer.write_with_metadata(batch, b"{}")
        thread.join()
        took_s = time.perf_counter() - began
        writer.close()
    return batches * batch.num_rows / took_s


def fdatasync(directory: Path) -> Latency:
    """A shared disk changes from minute to minute: measure it beside what is compared with it."""
    data = os.urandom(1 << 16)
    with (directory / "sync").open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, 64 << 20)

        def write() -> None:
            if file.tell() >= 63 << 20:
                file.seek(0)
            file.write(data)
            os.fdatasync(file.fileno())

        return latency(write, warm=5)


def _memory() -> tuple[float, float]:
    source = np.ones(1 << 25)
    target = np.empty_like(source)
    np.copyto(target, source)
    scan = latency(source.sum, warm=1)
    copy = latency(lambda: np.copyto(target, source), warm=1)
    return source.nbytes / scan.p50_s, source.nbytes / copy.p50_s
