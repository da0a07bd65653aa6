"""How long a shard with many rows in memory takes until it can answer after a crash, and how much memory that needs.

    python -m benchmarks.ready --rows 50000000 --keys 10000

Writes a log of that many rows, recovers it in a process of its own, and prints what that took: seconds, rows per second, the
process' peak memory, and how much of it is the hot set.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.starts import CrashedOwner

_CHILD = """
import sys
from benchmarks.ready import recover
recover(sys.argv[1], int(sys.argv[2]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--keys", type=int, default=10_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="proxist-ready-") as directory:
        CrashedOwner(Path(directory), asked.rows).write(asked.rows, asked.keys)
        subprocess.run([sys.executable, "-c", _CHILD, directory, str(asked.rows)], check=True)


def recover(directory: str, rows: int) -> None:
    """Recover the one log of `directory` and print what it took; for a process that does nothing else."""
    import proxist.hot.kernels  # noqa: F401 (loaded once per node, before the first shard)

    owner = CrashedOwner(Path(directory), rows)
    owner.was_opened()
    before = _status("VmHWM")
    began, cpu_began = time.perf_counter(), time.process_time()
    found = owner.recover(lambda line: print(f"  {line}", flush=True))
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    used = found.hot.used_bytes
    print(
        f"{int(found.end):,} rows ready in {took_s:.1f} s ({cpu_s:.1f} s of CPU), {found.end / took_s / 1e6:.2f} M rows/s; "
        f"peak memory "
        f"{_status('VmHWM') >> 20} MiB ({before >> 20} MiB before), of which the hot set uses {used >> 20} MiB"
    )
    found.hot.close()


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
