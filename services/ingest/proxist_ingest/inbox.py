"""The bounded queue before a shard's writer: parts count against the bound, commands do not."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from proxist.errors import Overloaded, ProxistError
from proxist_ingest.part import Part

QUEUE_BYTES_MAX = 64 * 2**20
"""Encoded bytes that may wait: what one group commit of a slow disk can take in a fraction of a second."""
QUEUE_PARTS_MAX = 4096
GROUP_BYTES_MAX = 16 * 2**20
"""Encoded bytes of one group commit: bounds how long the first of a group waits for the last."""
GROUP_PARTS_MAX = 1024
PUT_WAIT_S = 5.0
"""How long a sender is held before it is told to come again."""

Command = Callable[[], None]


class Inbox:
    """`_lock` guards every field."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._emptied = threading.Condition(self._lock)
        self._items: deque[Part | Command] = deque()
        self._parts = 0
        self._bytes = 0
        self._closed: ProxistError | None = None
        self._roused = False

    def put(self, part: Part) -> None:
        """Queue a part. Blocks while the queue is full, PUT_WAIT_S at most; then raises Overloaded.

        Raises what `close` was given once it is closed. A part that was refused is not in the queue.
        """
        deadline = time.monotonic() + PUT_WAIT_S
        with self._lock:
            while self._closed is None and self._full_locked(part):
                if not self._emptied.wait(deadline - time.monotonic()):
                    raise Overloaded(
                        f"{self._subject} has {self._parts} batches of {self._bytes} bytes waiting for its log, the "
                        "limit. Send slower, or give the table more shards.",
                        retry_after_s=1.0,
                    )
            if self._closed is not None:
                raise self._closed
            self._items.append(part)
            self._parts += 1
            self._bytes += part.byte_count
            self._filled.notify()

    def command(self, command: Command) -> None:
        """Queue something for the writer to do between two groups, in order with the parts. Never blocks."""
        with self._lock:
            if self._closed is not None:
                raise self._closed
            self._items.append(command)
            self._filled.notify()

    def drain(self, until_ns: int | None) -> list[Part] | Command | None:
        """What is next: a group of parts (as many as are there, up to the group's bounds) or one command.

        Waits until CLOCK_MONOTONIC `until_ns` (None: for ever) or `rouse` and gives an empty group then; None once the
        inbox is closed and empty.
        """
        with self._lock:
            while not self._items:
                if self._closed is not None:
                    return None
                if self._roused:
                    self._roused = False
                    return []
                wait_s = None if until_ns is None else (until_ns - time.monotonic_ns()) / 1e9
                if wait_s is not None and wait_s <= 0:
                    return []
                self._filled.wait(wait_s)
            if not isinstance(self._items[0], Part):
                command = self._items.popleft()
                assert not isinstance(command, Part)
                return command
            group = self._group_locked()
            self._emptied.notify_all()
            return group

    def rouse(self) -> None:
        """End a `drain` that waits, so that its caller may look for how long to wait."""
        with self._lock:
            self._roused = True
            self._filled.notify()

    def idle(self) -> bool:
        """True while nothing waits and parts are taken."""
        with self._lock:
            return not self._items and self._closed is None

    def waiting(self) -> tuple[int, int]:
        """(parts, encoded bytes) that wait now."""
        with self._lock:
            return self._parts, self._bytes

    def close(self, error: ProxistError) -> None:
        """Refuse what comes from now on with `error`; what is queued stays to be drained."""
        with self._lock:
            self._closed = self._closed or error
            self._filled.notify_all()
            self._emptied.notify_all()

    def clear(self) -> list[Part]:
        """Throw the queue away; the parts that were in it, so that their senders can be told."""
        with self._lock:
            parts = [item for item in self._items if isinstance(item, Part)]
            self._items.clear()
            self._parts = self._bytes = 0
            self._emptied.notify_all()
            return parts

    def _full_locked(self, part: Part) -> bool:
        if not self._parts:
            return False  # a part larger than the whole bound passes alone
        return self._parts >= QUEUE_PARTS_MAX or self._bytes + part.byte_count > QUEUE_BYTES_MAX

    def _group_locked(self) -> list[Part]:
        group: list[Part] = []
        size = 0
        while self._items and isinstance(self._items[0], Part) and len(group) < GROUP_PARTS_MAX:
            size += self._items[0].byte_count
            if group and size > GROUP_BYTES_MAX:
                break
            part = self._items.popleft()
            assert isinstance(part, Part)
            group.append(part)
            self._parts -= 1
            self._bytes -= part.byte_count
        return group
