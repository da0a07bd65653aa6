"""gRPC to the other services: one channel per address, kept; and asking many nodes at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

from proxist.errors import Unavailable
from proxist.etcd import NodeRecord
from proxist.pb import ingest_pb2_grpc, persister_pb2_grpc
from proxist.rpc.grpc_client import connect

ASKERS = 32
CHANNELS_MAX = 256
"""Restarted nodes may come back under other addresses: beyond this many, all channels are made anew."""

K = TypeVar("K")
T = TypeVar("T")


class Peers:
    """Stubs of live nodes. Thread-safe; `close` ends calls in flight."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _channels
        self._channels: dict[str, grpc.Channel] = {}
        self._pool = ThreadPoolExecutor(ASKERS, thread_name_prefix="ask")

    def ingest(self, node: NodeRecord) -> Any:
        """An IngestService stub; its calls raise our errors. Raises Unavailable where the node has no gRPC door."""
        return ingest_pb2_grpc.IngestServiceStub(self._channel(node))

    def persister(self, node: NodeRecord) -> Any:
        """A PersisterService stub, as `ingest`."""
        return persister_pb2_grpc.PersisterServiceStub(self._channel(node))

    def each(self, items: Mapping[K, Any], ask: Callable[[Any], T]) -> dict[K, T | Exception]:
        """`ask(item)` for all items at once; per key its answer or the exception that it raised.

        For callers outside: an `ask` that itself asked would wait for a thread of the pool that it holds.
        """
        futures: dict[K, Future[T]] = {key: self._pool.submit(ask, item) for key, item in items.items()}
        return {key: future.exception() or future.result() for key, future in futures.items()}  # type: ignore[misc]

    def close(self) -> None:
        with self._lock:
            channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            channel.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _channel(self, node: NodeRecord) -> grpc.Channel:
        if not node.grpc:
            raise Unavailable(f"Node {node.name!r} says no gRPC address yet. Try again.", retry_after_s=0.5)
        with self._lock:
            if node.grpc not in self._channels and len(self._channels) >= CHANNELS_MAX:
                for channel in self._channels.values():
                    channel.close()
                self._channels.clear()
            if node.grpc not in self._channels:
                self._channels[node.grpc] = connect(node.grpc)
            return self._channels[node.grpc]
