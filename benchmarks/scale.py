"""S1 flat, S2 at ten million rows, readers side by side: how figures change with size."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.bench import ROW_BYTES, Bench, filled
from benchmarks.engine import far_key, join
from benchmarks.report import at_least, at_most
from benchmarks.rows import COLUMNS, key_names, stream_rows
from benchmarks.timing import Ask, Run, in_turns, median, ratios, turning
from proxist.hot.ops import HotLastBy
from proxist.hot.reader import HotReader
from proxist.hot.writer import HotSet
from proxist.rpc import child

FLAT = 1.25
JOIN_ROWS = 10_000_000
READERS_SHARE = 0.9
READ_S = 1.0
KEYS_ASKED = 64


def measure(bench: Bench) -> None:
    report, size = bench.report, bench.size
    report.section(f"from {size.scale_rows[0]:,} rows to {size.scale_rows[-1]:,}, {size.keys:,} keys")
    with ExitStack() as stack:
        smallest = stack.enter_context(_reading(size.scale_rows[0], size.keys))
        _sized(bench, smallest[1], size.scale_rows[0])
        grown: list[Run] = []
        for rows in size.scale_rows[1:]:
            if not _fits(rows):
                report.absent(f"s1.last_by_one_key_{rows}", f"{rows:,} rows", "there is not enough memory")
                continue
            with _reading(rows, size.keys) as (hot, reader):
                _sized(bench, reader, rows)
                grown = _grown(bench, smallest[1], reader)
                far_key(bench, reader, f"s2.far_key_{rows}", rows, key_names(size.keys)[-1])
                if rows == min(JOIN_ROWS, size.scale_rows[-1]):
                    join(bench, reader, rows, key_names(size.keys))
                if rows == size.scale_rows[1]:
                    _readers(bench, hot)
        what = f"the largest's p50 to the one with {size.scale_rows[0]:,} rows, one key and all keys"
        report.add("s1.flat", what, grown, unit="ratio", budget=at_most(FLAT))
    for keys in size.scale_keys:
        with _reading(size.scale_rows[1], keys) as (_, reader):
            runs = in_turns(_all(reader, keys), runs=size.runs, for_s=size.run_s)
            report.add(f"s1.last_by_all_keys_of_{keys}", f"last_by, all of {keys:,} keys", runs)


@contextmanager
def _reading(rows: int, keys: int) -> Iterator[tuple[HotSet, HotReader]]:
    with filled(stream_rows(rows, keys), rows, keys) as hot:
        reader = hot.reader()
        try:
            yield hot, reader
        finally:
            reader.close()


def _fits(rows: int) -> bool:
    """Half of what is available may be taken: the machine has other work."""
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return rows * ROW_BYTES < int(available.split()[1]) * 1024 // 2


def _sized(bench: Bench, reader: HotReader, rows: int) -> None:
    size = bench.size
    for id, what, ask in (
        ("one_key", "last_by, one key", _one(reader, size.keys)),
        ("all_keys", "last_by, all keys", _all(reader, size.keys)),
    ):
        runs = in_turns(ask, runs=size.runs, for_s=size.run_s)
        detail = {"curve": what, "rows": rows}
        bench.report.add(f"s1.last_by_{id}_{rows}", f"{what}, prepared, {rows:,} rows", runs, detail=detail)


def _grown(bench: Bench, small: HotReader, large: HotReader) -> list[Run]:
    """The worse of both questions, in turns on both sizes."""
    size = bench.size
    both = [
        ratios(in_turns(make(large, size.keys), make(small, size.keys), runs=size.runs, for_s=size.run_s))
        for make in (_one, _all)
    ]
    return max(both, key=lambda runs: median(run.p50 for run in runs))


def _one(reader: HotReader, keys: int) -> Ask:
    names = key_names(keys)[1:-1][:: max(1, keys // KEYS_ASKED)]
    return turning(reader.read, [reader.prepare_last_by((key,), COLUMNS) for key in names])


def _all(reader: HotReader, keys: int) -> Ask:
    return partial(reader.read, reader.prepare_last_by(tuple(key_names(keys)), COLUMNS))


def _readers(bench: Bench, hot: HotSet) -> None:
    """N processes that ask for one key as fast as they can, against one such process."""
    cores = os.cpu_count() or 1
    alone: list[float] = []
    for count in bench.size.readers:
        found = [_read_rate(hot, count) for _ in range(bench.size.runs)]
        if count == 1:
            alone = found
        bench.report.add(
            f"reads.rate_{count}", f"{count} attached readers", [Run(one) for one in found], unit="calls/s"
        )
        if count > 1:
            runs = [Run(many / one) for many, one in zip(found, alone, strict=True)]
            budget = at_least(READERS_SHARE * count) if count <= cores else None
            what = f"{count} attached readers to one, {cores} cores"
            bench.report.add(f"reads.scale_{count}", what, runs, unit="x", budget=budget)


def _read_rate(hot: HotSet, count: int) -> float:
    descriptor = hot.readonly_fd()
    command = child.command([sys.executable, "-m", "benchmarks.scale", str(descriptor)])
    readers = [
        subprocess.Popen(command, pass_fds=[descriptor], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for one in readers:
            assert one.stdout is not None
            one.stdout.readline()  # ready
        for one in readers:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        return sum(float(one.communicate(timeout=60)[0]) for one in readers)
    finally:
        os.close(descriptor)
        for one in readers:
            one.kill()
            one.wait()


def _reader_process(descriptor: int) -> None:
    reader = HotReader.attach(descriptor)
    ask = turning(reader.run, [HotLastBy(keys=(key,), columns=COLUMNS) for key in key_names(100)[1:65]])
    for _ in range(100):
        ask()
    print("ready", flush=True)
    sys.stdin.readline()
    count, began = 0, time.perf_counter()
    while time.perf_counter() < began + READ_S:
        for _ in range(50):
            ask()
        count += 50
    print(count / (time.perf_counter() - began))


if __name__ == "__main__":
    _reader_process(int(sys.argv[1]))
