"""The demo's own cluster: `proxist up` on free ports in a directory that goes with it."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proxist.errors import Unavailable
from proxist.rpc import child

START_S_MAX = 120.0
STOP_S_MAX = 30.0
_LOG_TAIL_LINES = 12


@contextmanager
def demo_cluster(*, tls: bool = False) -> Iterator[dict[str, Any]]:
    """The endpoints, as `proxist up --json` prints them, once every part is ready; on exit nothing is left. `tls`: with
    `--tls`.

    The cluster has a session of its own: Ctrl-C is the demo's to handle, which first stops what uses the cluster. It is
    killed with the demo, however that ends. Raises Unavailable with the end of its log where it does not start.
    """
    data_dir = Path(tempfile.mkdtemp(prefix="proxist-demo-"))
    try:
        with (data_dir / "up.log").open("wb") as log:
            process = _start(data_dir, log, ["--tls"] if tls else [])
        try:
            yield _endpoints(process, data_dir / "up.log")
        finally:
            _stop(process)
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


def _start(data_dir: Path, log: Any, more: list[str]) -> subprocess.Popen[bytes]:
    up = [sys.executable, "-m", "proxist.cli.proxist", "up", "--json", "--port-base", "0", "--data-dir", str(data_dir)]
    # Threads follow: PR_SET_PDEATHSIG is tied to the thread that spawned, and this is the main one.
    return subprocess.Popen(child.command([*up, *more]), stdout=subprocess.PIPE, stderr=log, start_new_session=True)


def _endpoints(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    deadline_s = time.monotonic() + START_S_MAX
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        # Short waits, so that Ctrl-C is heard while the cluster starts.
        while not selector.select(0.2) and time.monotonic() < deadline_s:
            pass
        if selector.select(0):
            line = process.stdout.readline()
    if not line:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
        raise Unavailable(f"The demo's cluster did not start. The end of its log:\n{tail}")
    return dict(json.loads(line))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, 9)
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
