"""The one thread of a node that takes its shards' snapshots, one after the other, when they are due."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from proxist_ingest.shard import Shard

PERIOD_S = 0.5
"""How often it looks: short against the second or more in which a log grows by what makes a snapshot due."""


class SnapshotThread:
    """One at a time, so that a node with many shards writes no more than one snapshot beside its logs."""

    def __init__(self, open_shards: Callable[[], list[Shard]]) -> None:
        self._open_shards = open_shards
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin no other one; joins the thread, which finishes the one that it takes."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(PERIOD_S):
            for shard in self._open_shards():
                if self._stopping.is_set():
                    return
                if shard.snapshots is not None and shard.snapshots.due(time.monotonic_ns()):
                    shard.snapshots.take()
