"""Hot sets of owners on this host, mapped read-only into this process: query nodes and clients read them so.

The owner's side, which hands out descriptors, is `proxist.rpc.attach`.
"""

from __future__ import annotations

import array
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from proxist.auth import outgoing
from proxist.errors import InternalError, ProxistError, Unavailable, from_json
from proxist.hot.ops import HotOp, HotPart, Probes
from proxist.hot.reader import HotReader
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.rpc.status import to_proxist

_PACKET_BYTES_MAX = 1 << 16
WAIT_STEP_S_MAX = 0.002
"""How often the end of an attached shard is looked at while a token is waited for: memory has no doorbell."""


class Attached:
    """Attaches on first use, again after a reader has ended. Thread-safe."""

    def __init__(self, token: str | None = None) -> None:
        """`token` says who attaches, where that is not this process' own credential."""
        self._token = token
        self._lock = threading.Lock()  # guards _readers and _closed
        self._readers: dict[ShardId, HotReader] = {}
        self._closed = False
        self._ended_retries = 0

    def run(
        self, path: str, shard: ShardId, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int
    ) -> HotPart:
        """Answer from the owner behind the attach socket at `path`. Raises Unavailable where it cannot be attached or vouched for.

        A reader that has ended (its owner restarted) is dropped and the owner attached anew, once.
        """
        try:
            return self._run(self.reader(path, shard), op, probes, min_end, wait_ns)
        except Unavailable as error:
            if error.details.get("reason") not in ("lease", "epoch", "closed"):
                raise
            self.drop(shard)
            return self._run(self.reader(path, shard), op, probes, min_end, wait_ns)

    def drop(self, shard: ShardId, ended: HotReader | None = None) -> None:
        """Forget a shard's reader, where `ended` is given only if it is that one; running calls end first."""
        with self._lock:
            reader = self._readers.get(shard)
            if ended is not None and reader is not ended:
                return
            self._readers.pop(shard, None)
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

    def epoch(self, shard: ShardId) -> Epoch:
        """Of the owner whose memory is attached; 0 where none is."""
        with self._lock:
            reader = self._readers.get(shard)
        return Epoch(0) if reader is None else reader.epoch

    def attached(self, shard: ShardId) -> HotReader | None:
        """The shard's reader, where it is attached now."""
        return self._readers.get(shard)

    @property
    def retry_count(self) -> int:
        """Reads that began again because rows were evicted under them."""
        with self._lock:
            return self._ended_retries + sum(reader.retry_count for reader in self._readers.values())

    def reader(self, path: str, shard: ShardId) -> HotReader:
        """The shard's reader, attached through the socket at `path` where it is not yet. Raises what the owner raises,
        Unavailable where it cannot be attached."""
        found = self._readers.get(shard)
        if found is not None:
            return found
        descriptor, info = request_fd(path, shard, token=self._token)
        try:
            reader = HotReader.attach(descriptor, info.get("epoch_page"))
        finally:
            os.close(descriptor)
        with self._lock:
            known = None if self._closed else self._readers.setdefault(shard, reader)
        if known is not reader:
            reader.close()
        if known is None:
            raise Unavailable(
                "This process lets go of what it attached. Ask another node.", retry_after_s=1.0, shard=shard
            )
        return known

    @staticmethod
    def _run(reader: HotReader, op: HotOp, probes: Probes | None, min_end: Offset | None, wait_ns: int) -> HotPart:
        if min_end is not None:
            deadline, step_s = time.monotonic_ns() + wait_ns, 0.000_05
            while reader.marks().end < min_end and time.monotonic_ns() < deadline:
                time.sleep(step_s)
                step_s = min(2 * step_s, WAIT_STEP_S_MAX)
        return reader.run(op, probes)


def request_fd(
    path: Path | str, shard: int, *, token: str | None = None, timeout_s: float = 2.0
) -> tuple[int, dict[str, Any]]:
    """Ask the owner that listens on `path`: (descriptor, info). The caller closes the descriptor.

    `token` says who asks; None: what this process presents to other services, if anything.

    Raises what the provider raised; Unavailable where nobody answers within `timeout_s`.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(timeout_s)
            client.connect(str(path))
            token = outgoing.own() if token is None else token
            client.send(json.dumps({"shard": shard} if token is None else {"shard": shard, "token": token}).encode())
            packet, descriptors = _receive(client)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unavailable(
            f"Shard {shard} cannot be attached: its owner's socket does not answer ({reason}). Use Flight, or try again.",
            shard=shard,
        ) from None
    return _read_answer(packet, descriptors, shard)


def _receive(client: socket.socket) -> tuple[bytes, list[int]]:
    received = array.array("i")
    packet, ancillary, _, _ = client.recvmsg(
        _PACKET_BYTES_MAX, socket.CMSG_SPACE(received.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    return packet, list(received)


def _read_answer(packet: bytes, descriptors: list[int], shard: int) -> tuple[int, dict[str, Any]]:
    try:
        if not packet:
            raise Unavailable(
                f"Shard {shard} cannot be attached: its owner is stopping. Use Flight, or try again.", shard=shard
            )
        answer = json.loads(packet)
        if "error" in answer:
            raise from_json(answer["error"])
        if len(descriptors) != 1:
            raise InternalError(f"The owner of shard {shard} sent {len(descriptors)} descriptors instead of one.")
    except (ProxistError, ValueError) as error:
        for descriptor in descriptors:
            os.close(descriptor)
        raise to_proxist(error) from None
    return descriptors[0], answer["info"]
