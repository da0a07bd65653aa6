"""One watch stream: etcd's changes in order, until the stream breaks. `Mirror` is what resumes."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from proxist.errors import Unavailable
from proxist.etcd._channel import Endpoint, to_error
from proxist.etcd.ops import KeyValue, from_kv, prefix_end
from proxist.pb import etcd_kv_pb2 as kv_pb
from proxist.pb import etcd_rpc_pb2 as pb

LIVENESS_S = 5.0
"""How often a silent stream is asked for progress; no sign for two periods breaks it. A cancelled or forgotten watch
looks exactly like a quiet one otherwise."""
REQUIRE_LEADER = (("hasleader", "true"),)
"""etcd then ends the stream of a member that lost its leader, which would be silent otherwise."""


@dataclass(frozen=True, slots=True)
class Change:
    """`key` was written (`kv` is its new state) or deleted (`kv` is None)."""

    key: str
    kv: KeyValue | None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Changes of whole transactions, in order; none where the server only said that it lives.

    `revision` is that of the last change. The answer's header is not it: the store may be further on already.
    """

    revision: int
    changes: tuple[Change, ...]


class WatchStream:
    """Iterate once. Ends only by `cancel` or by raising Unavailable: the stream broke, or the start was compacted."""

    def __init__(
        self, endpoint: Endpoint, prefix: str, start_revision: int, failed: Callable[[Endpoint], None]
    ) -> None:
        self._endpoint = endpoint
        self._failed = failed
        self._prefix = prefix
        self._stopping: queue.Queue[None] = queue.Queue()
        self._cancelled = False
        self._seen_at_s = time.monotonic()
        create = pb.WatchCreateRequest(
            key=prefix.encode(), range_end=prefix_end(prefix), start_revision=start_revision, progress_notify=True
        )
        try:
            self._call = endpoint.watch.Watch(self._requests(create), metadata=REQUIRE_LEADER)
        except ValueError as exc:  # the channel is closed
            raise self._error(exc) from None

    def cancel(self) -> None:
        """End the stream, from any thread; the iteration then ends without an error."""
        self._cancelled = True
        self._stopping.put(None)
        self._call.cancel()

    def __iter__(self) -> Iterator[WatchBatch]:
        try:
            for response in self._call:
                self._seen_at_s = time.monotonic()
                if response.canceled:
                    raise Unavailable(
                        f"etcd cancelled the watch of {self._prefix} ({response.cancel_reason or 'history compacted'}). "
                        "It is read again."
                    )
                if not response.created:
                    yield _batch(response)
            raise Unavailable(f"etcd ended the watch of {self._prefix}. It is read again.")
        except grpc.RpcError as exc:
            if self._cancelled:
                return
            raise self._error(exc) from None
        finally:
            self._stopping.put(None)
            self._call.cancel()

    def _requests(self, create: pb.WatchCreateRequest) -> Iterator[pb.WatchRequest]:
        """gRPC draws requests in a thread of its own, which so is the watchdog too."""
        yield pb.WatchRequest(create_request=create)
        while True:
            try:
                self._stopping.get(timeout=LIVENESS_S)
                return
            except queue.Empty:
                if time.monotonic() - self._seen_at_s > 2 * LIVENESS_S:
                    self._call.cancel()
                    return
                yield pb.WatchRequest(progress_request=pb.WatchProgressRequest())

    def _error(self, exc: Exception) -> Exception:
        self._failed(self._endpoint)
        return to_error(exc, self._endpoint, doing=f"watch {self._prefix}", write=False)


def _batch(response: pb.WatchResponse) -> WatchBatch:
    revision = response.events[-1].kv.mod_revision if response.events else response.header.revision
    return WatchBatch(revision, tuple(_change(e) for e in response.events))


def _change(event: kv_pb.Event) -> Change:
    kv = from_kv(event.kv)
    return Change(kv.key, None if event.type == kv_pb.Event.DELETE else kv)
