"""Hot sets of owners on this host, mapped read-only into this process."""

from __future__ import annotations

import os
import threading
import time

from proxist.errors import Unavailable
from proxist.hot.ops import HotOp, HotPart, Probes
from proxist.hot.reader import HotReader
from proxist.model.ids import Offset, ShardId
from proxist.rpc.attach import request_fd

WAIT_STEP_S_MAX = 0.002
"""How often the end of an attached shard is looked at while a token is waited for: memory has no doorbell."""


class Attached:
    """Attaches on first use, again after a reader has ended. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _readers and _closed
        self._readers: dict[ShardId, HotReader] = {}
        self._closed = False
        self._ended_retries = 0

    def run(
        self, socket: str, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int
    ) -> HotPart:
        """Answer from the owner behind the attach socket. Raises Unavailable where it cannot be attached or vouched for.

        A reader that has ended (its owner restarted) is dropped and the owner attached anew, once.
        """
        try:
            return self._run(self._reader(socket, shard), op, probes, min_end, wait_ns)
        except Unavailable as error:
            if error.details.get("reason") not in ("lease", "epoch", "closed"):
                raise
            self.drop(shard)
            return self._run(self._reader(socket, shard), op, probes, min_end, wait_ns)

    def drop(self, shard: ShardId) -> None:
        """Forget a reader; running calls end first."""
        with self._lock:
            reader = self._readers.pop(shard, None)
            self._ended_retries += 0 if reader is None else reader.retry_count
        if reader is not None:
            reader.close()

    def close(self) -> None:
        """Unmap everything; later calls raise Unavailable."""
        with self._lock:
            self._closed = True
            readers, self._readers = list(self._readers.values()), {}
        for reader in readers:
            reader.close()

    def shards(self) -> tuple[ShardId, ...]:
        """What is attached now."""
        with self._lock:
            return tuple(sorted(self._readers))

    @property
    def retry_count(self) -> int:
        """Reads that began again because rows were evicted under them."""
        with self._lock:
            return self._ended_retries + sum(reader.retry_count for reader in self._readers.values())

    def _reader(self, socket: str, shard: ShardId) -> HotReader:
        found = self._readers.get(shard)
        if found is not None:
            return found
        descriptor, info = request_fd(socket, shard)
        try:
            reader = HotReader.attach(descriptor, info.get("epoch_page"))
        finally:
            os.close(descriptor)
        with self._lock:
            known = None if self._closed else self._readers.setdefault(shard, reader)
        if known is not reader:
            reader.close()
        if known is None:
            raise Unavailable("This node is stopping. Ask another one.", retry_after_s=1.0, shard=shard)
        return known

    @staticmethod
    def _run(reader: HotReader, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        if min_end is not None:
            deadline, step_s = time.monotonic_ns() + wait_ns, 0.000_05
            while reader.marks().end < min_end and time.monotonic_ns() < deadline:
                time.sleep(step_s)
                step_s = min(2 * step_s, WAIT_STEP_S_MAX)
        return reader.run(op, probes)
