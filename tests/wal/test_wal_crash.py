"""Real processes: killed writers, a second owner of the directory."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from wal_support import rows_of

from proxist.errors import DirectoryLocked
from proxist.model.ids import Offset
from proxist.wal import DirectoryLock, RecordKind, list_logs, recover_log

HERE = Path(__file__).parent


def test_acked_rows_survive_kill(tmp_path: Path) -> None:
    """kill -9 at an arbitrary moment, five lives in a row: every row that was acknowledged is there, once, in order."""
    start = 0
    for epoch in range(1, 6):
        command = [sys.executable, str(HERE / "wal_crash_writer.py"), str(tmp_path), str(start), str(epoch)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(150 + 137 * epoch)]
            writer.kill()
            # The last line may be cut; what was said before it counts.
            lines += writer.stdout.read().splitlines(keepends=True)
        acked = max(int(line.split()[1]) for line in lines if line.endswith("\n"))
        recovered = recover_log(tmp_path / "7" / str(epoch))
        assert recovered.start == start
        assert recovered.end >= acked > start
        records = list(recovered.records())
        assert rows_of(records) == list(range(start, recovered.end))
        numbers = [r.batch_number for r in records if r.kind is RecordKind.ROWS]
        assert numbers == list(range(len(numbers)))
        start = recovered.seal_at
    chain = [recover_log(log.path) for log in list_logs(tmp_path / "7")]
    assert [log.epoch for log in chain] == [1, 2, 3, 4, 5]
    for log, successor in itertools.pairwise(chain):
        assert recover_log(log.log_dir, sealed_end=Offset(successor.start)).end == successor.start


HOLDER = """
import sys
from proxist.wal import DirectoryLock
with DirectoryLock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_another_process_cannot_lock_the_directory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = [sys.executable, "-c", HOLDER, str(data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(DirectoryLocked, match=f"process {holder.pid}") as caught:
            DirectoryLock(data)
        assert caught.value.details == {"path": str(data), "pid": str(holder.pid)}
        holder.kill()
    with DirectoryLock(data):
        pass


def test_a_lock_is_exclusive_in_one_process_too(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path) as lock:
        lock.acquire()
        with pytest.raises(DirectoryLocked):
            DirectoryLock(tmp_path)
    lock.release()
    with lock, pytest.raises(DirectoryLocked):
        DirectoryLock(tmp_path)
