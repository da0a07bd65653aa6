"""What the machine itself needs: null round trips of Flight on each door, fdatasync, memory."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import flight

from benchmarks.bench import Bench
from benchmarks.null_server import ONE
from benchmarks.timing import Ask, by_rounds, in_turns, latency
from proxist.rpc import child

BATCH_ROWS = 1_000
WINDOW = 64
PIPELINED_S = 0.3
SCANNED_BYTES = 1 << 28
TOUCHED_BYTES = 1 << 27


class Floors:
    """Null servers that stay up, and calls to them: every line puts its own floor beside itself."""

    def __init__(self, tcp: str, unix: str, batch: pa.RecordBatch, directory: Path, stack: ExitStack) -> None:
        self._tcp = stack.enter_context(flight.connect(tcp))
        self._batch = batch
        self.get: Ask = lambda: self._tcp.do_get(flight.Ticket(b"x")).read_all()
        self.exchange = _exchange(self._tcp, stack)
        self.exchange_unix = _exchange(stack.enter_context(flight.connect(unix)), stack)
        self.put = _put(self._tcp, batch, stack)
        self.fdatasync = _fdatasync(directory, batch.nbytes, stack)

    def put_rate(self, batch_rows: int) -> float:
        """Rows per second through a null DoPut, acks included, with WINDOW batches under way."""
        return pipelined(self._tcp, self._batch, batch_rows)


@contextmanager
def floors(bench: Bench) -> Iterator[Floors]:
    batch = bench.rows.table.slice(0, 1 << 16).combine_chunks().to_batches()[0]
    with ExitStack() as stack:
        tcp = stack.enter_context(null_server("grpc://127.0.0.1:0"))
        unix = stack.enter_context(null_server(f"grpc+unix://{bench.directory}/null.sock"))
        yield Floors(tcp, unix, batch, bench.directory, stack)


def measure(bench: Bench, floor: Floors) -> None:
    report, size = bench.report, bench.size
    report.section("floors: what this machine needs for nothing")
    for id, what, ask in (
        ("floor.get", "null DoGet, TCP", floor.get),
        ("floor.exchange_tcp", "null DoExchange round trip, TCP", floor.exchange),
        ("floor.exchange_unix", "null DoExchange round trip, unix socket", floor.exchange_unix),
        ("floor.put", f"null DoPut and ack of {BATCH_ROWS:,} rows, TCP", floor.put),
        ("floor.fdatasync", f"write and fdatasync of {BATCH_ROWS:,} rows, preallocated", floor.fdatasync),
    ):
        report.add(id, what, in_turns(ask, runs=size.runs, for_s=size.run_s))
    rate = by_rounds(partial(floor.put_rate, BATCH_ROWS), runs=size.runs)
    report.add("floor.put_rate", f"null DoPut, pipelined, {BATCH_ROWS:,} rows per batch", rate, unit="rows/s")
    scan, copy = memory()
    for id, what, ask in (("floor.scan", "memory scan, one core", scan), ("floor.copy", "memory copy, one core", copy)):
        runs = by_rounds(partial(_bytes_per_s, ask, size.run_s), runs=size.runs)
        report.add(id, what, runs, unit="B/s")
    report.add("floor.first_touch", "first write to a page of shared memory", by_rounds(first_touch, runs=size.runs))


def first_touch() -> float:
    """Seconds per page of memory that the system has to find first; what grows pays it, what is used again does not."""
    descriptor = os.memfd_create("first-touch")
    try:
        os.ftruncate(descriptor, TOUCHED_BYTES)
        with mmap.mmap(descriptor, TOUCHED_BYTES) as memory:
            began = time.perf_counter()
            for page in range(0, TOUCHED_BYTES, mmap.PAGESIZE):
                memory[page] = 1
            return (time.perf_counter() - began) / (TOUCHED_BYTES // mmap.PAGESIZE)
    finally:
        os.close(descriptor)


def _bytes_per_s(ask: Ask, for_s: float) -> float:
    return SCANNED_BYTES / latency(ask, for_s=for_s, warm=1).p50_s


@contextmanager
def null_server(location: str) -> Iterator[str]:
    """A Flight server that does nothing, in a process of its own; its URI."""
    command = child.command([sys.executable, "-m", "benchmarks.null_server", location])
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        yield location.removesuffix(":0") + (f":{port}" if location.endswith(":0") else "")
    finally:
        server.kill()
        server.communicate()


def memory() -> tuple[Ask, Ask]:
    """(scan, copy) of SCANNED_BYTES."""
    source = np.ones(SCANNED_BYTES // 8)
    target = np.empty_like(source)
    return source.sum, lambda: np.copyto(target, source)


def pipelined(client: flight.FlightClient, batch: pa.RecordBatch, batch_rows: int) -> float:
    piece = batch.slice(0, batch_rows)
    writer, reader = client.do_put(flight.FlightDescriptor.for_path("x"), piece.schema)
    window, sent = threading.Semaphore(WINDOW), threading.Semaphore(0)
    ended = threading.Event()

    def acks() -> None:
        while sent.acquire() and not ended.is_set():
            reader.read()
            window.release()

    thread = threading.Thread(target=acks, name="acks")
    thread.start()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < PIPELINED_S:
        window.acquire()
        writer.write_with_metadata(piece, b"{}")
        sent.release()
        count += 1
    for _ in range(WINDOW):
        window.acquire()
    took_s = time.perf_counter() - began
    ended.set()
    sent.release()
    thread.join()
    writer.close()
    return count * piece.num_rows / took_s


def _exchange(client: flight.FlightClient, stack: ExitStack) -> Ask:
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b"x"))
    writer.begin(ONE.schema)
    stack.callback(writer.close)

    def ask() -> None:
        writer.write_with_metadata(ONE, b"{}")
        reader.read_chunk()

    return ask


def _put(client: flight.FlightClient, batch: pa.RecordBatch, stack: ExitStack) -> Ask:
    writer, reader = client.do_put(flight.FlightDescriptor.for_path("x"), batch.schema)
    stack.callback(writer.close)
    piece = batch.slice(0, BATCH_ROWS)

    def put() -> None:
        writer.write_with_metadata(piece, b"{}")
        reader.read()

    return put


def _fdatasync(directory: Path, batch_bytes: int, stack: ExitStack) -> Ask:
    """A shared disk changes from minute to minute: it is asked beside what is compared with it."""
    data = os.urandom(batch_bytes * BATCH_ROWS // (1 << 16))
    file = stack.enter_context((directory / "sync").open("wb", buffering=0))
    os.posix_fallocate(file.fileno(), 0, 64 << 20)

    def write() -> None:
        if file.tell() >= 63 << 20:
            file.seek(0)
        file.write(data)
        os.fdatasync(file.fileno())

    return write
