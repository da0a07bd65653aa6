"""Replay of a log after a crash, and how long it takes until a cluster answers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.cluster import running, scratch
from benchmarks.report import at_least
from benchmarks.rows import stream_rows
from benchmarks.timing import Run, by_rounds
from proxist.etcd.records import ShardRecord
from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.model.table import DEFAULT_TENANT, Table
from proxist.wal import encode_body, rows_record
from proxist_ingest.recover import RecoveredShard, create_log, recover_shard
from proxist_ingest.replay import Progress

BATCH_ROWS, GROUP_BATCHES = 1_000, 64
BYTES_PER_ROW = 160
KERNELS = "import time; began = time.perf_counter(); import proxist.hot.kernels; print(time.perf_counter() - began)"


def measure(bench: Bench) -> None:
    rows = bench.size.replay_rows
    bench.report.section("starts")
    with tempfile.TemporaryDirectory(prefix="proxist-bench-") as directory:
        owner = CrashedOwner(Path(directory), rows)
        owner.write(rows, bench.size.keys)
        runs = by_rounds(owner.replay, runs=bench.size.runs)
    what = f"replay of {rows:,} rows, {BATCH_ROWS:,} per batch"
    bench.report.add("replay.rate", what, runs, unit="rows/s", budget=at_least(5e6))
    runs = by_rounds(_kernels, runs=bench.size.runs)
    bench.report.add("startup.kernels", "kernels loaded in a new process", runs)
    bench.report.add("startup", "proxist up, empty: until every part is ready", [Run(_up())])


class CrashedOwner:
    """One shard whose log is on disk, opened as after a crash."""

    def __init__(self, directory: Path, rows: int) -> None:
        shard = ShardId(1)
        spec = scratch("replay", hot_bytes=f"{max(256, rows * BYTES_PER_ROW >> 20)}MiB")
        self._directory, self._rows = directory, rows
        self._table = Table(TableId(1), DEFAULT_TENANT, spec, (shard,))
        self._record = ShardRecord(shard, DEFAULT_TENANT, spec.name, TableId(1), 0, "n")

    def write(self, rows: int, keys: int) -> None:
        """Every row on disk in the shard's first log, flushed group by group as an owner does at `disk`: a log of which no
        flush is known is written once more by its recovery."""
        recovered = self.recover()
        log = create_log(self._directory, self._table, self._record.shard, Epoch(1), recovered)
        self._record = self._record.opened(recovered.end)
        recovered.hot.close()
        for piece in stream_rows(rows, keys):
            for number, batch in enumerate(piece.to_batches(max_chunksize=BATCH_ROWS)):
                log.append([rows_record(encode_body(batch), batch.num_rows, time.time_ns())])
                if number % GROUP_BATCHES == 0:
                    log.sync()
        log.close()

    def replay(self) -> float:
        """Rows per second from the log into a hot set."""
        began = time.perf_counter()
        recovered = self.recover()
        took_s = time.perf_counter() - began
        found = int(recovered.end)
        recovered.hot.close()
        if found != self._rows:
            raise RuntimeError(f"{found:,} of {self._rows:,} rows were replayed")
        return found / took_s

    def was_opened(self) -> None:
        """Its first log was opened in an earlier process."""
        self._record = self._record.opened(Offset(0))

    def recover(self, progress: Progress = lambda _: None) -> RecoveredShard:
        """The shard as a start finds it; the caller closes its hot set."""
        epoch = Epoch(self._record.epoch + 1)
        return recover_shard(self._directory, self._table, self._record, epoch, Offset(0), progress)


def _kernels() -> float:
    return float(subprocess.run([sys.executable, "-c", KERNELS], check=True, capture_output=True, text=True).stdout)


def _up() -> float:
    began = time.perf_counter()
    with running():
        return time.perf_counter() - began
