"""The batches that the owner has cut, as its followers may see them."""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass

from proxist.errors import InvalidArgument, ProxistError
from proxist.hot.snapshots import Cuts
from proxist.model.ids import Epoch, Offset

PERSISTED_KEPT = 1024
"""Bounds kept below persisted: a persister that restarts may ask a little below the mark that it has just pushed."""
LINKED_MAX = 1024
"""Cut batches whose traces are remembered; a persister that is further behind is no longer linked."""


@dataclass(frozen=True, slots=True)
class CutBatch:
    """Rows [first, end) of the log under `epoch`: what one persister batch holds."""

    epoch: Epoch
    first: Offset
    end: Offset
    links: tuple[str, ...] = ()
    """Traceparents of writes whose rows it holds; not kept over a restart."""


class Bounds:
    """The cut batches of one shard, ascending and without holes, exposed up to what is on disk. `_lock` guards all."""

    def __init__(self, start: Offset) -> None:
        self._lock = threading.Lock()
        self._grown = threading.Condition(self._lock)
        self._ends: list[Offset] = []
        self._epochs: list[Epoch] = []
        self._links: dict[Offset, tuple[str, ...]] = {}  # by end; at most LINKED_MAX batches
        self._start = start
        self._last = start
        self._exposed = start
        self._closed: ProxistError | None = None

    @classmethod
    def of(cls, cuts: Cuts) -> Bounds:
        """Begin with the batches of `cuts`; none is exposed."""
        bounds = cls(cuts.start)
        for epoch, end in zip(cuts.epochs, cuts.ends, strict=True):
            bounds.cut(epoch, end)
        return bounds

    @property
    def exposed(self) -> Offset:
        """Followers see the batches below this offset."""
        return self._exposed

    @property
    def last(self) -> Offset:
        """The end of the last batch that was cut."""
        return self._last

    def cut(self, epoch: Epoch, end: Offset, links: tuple[str, ...] = ()) -> None:
        """The batch from the last cut to `end` is closed; it is not exposed yet. An empty one is none."""
        with self._lock:
            if end > self._last:
                self._ends.append(end)
                self._epochs.append(epoch)
                self._last = end
                if links:
                    self._links[end] = links
                    if len(self._links) > LINKED_MAX:
                        del self._links[next(iter(self._links))]

    def expose(self, end: Offset) -> None:
        """The bounds up to `end`, and the rows below them, are on disk: followers may have them."""
        with self._lock:
            if end > self._exposed:
                self._exposed = end
                self._grown.notify_all()

    def forget_below(self, persisted: Offset) -> None:
        """Drop the bounds that nobody will ask for any more."""
        with self._lock:
            if self._links:
                self._links = {end: links for end, links in self._links.items() if end > persisted}
            count = bisect.bisect_right(self._ends, persisted) - PERSISTED_KEPT
            if count >= PERSISTED_KEPT:
                self._forget_locked(count)

    def forget_gone(self, first: Offset) -> None:
        """The rows below `first`, which are persisted, may be in no log file any more: nobody may ask for them."""
        with self._lock:
            if first > self._start:
                self._forget_locked(min(bisect.bisect_left(self._ends, first) + 1, len(self._ends)))

    def _forget_locked(self, count: int) -> None:
        if count:
            self._start = self._ends[count - 1]
            del self._ends[:count], self._epochs[:count]

    def cuts(self) -> Cuts:
        """Every batch that is known now."""
        with self._lock:
            return Cuts(self._start, tuple(self._ends), tuple(self._epochs))

    def close(self, error: ProxistError) -> None:
        """Followers end with `error`."""
        with self._lock:
            self._closed = self._closed or error
            self._grown.notify_all()

    def is_bound(self, offset: Offset) -> bool:
        """Whether a batch may begin at `offset`."""
        with self._lock:
            return self._is_bound_locked(offset)

    def after(self, offset: Offset, wait_s: float) -> CutBatch | None:
        """The exposed batch that begins at `offset`; None where there is none after `wait_s`.

        Raises InvalidArgument where `offset` is no bound: a batch sent from its middle would have another token.
        """
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if not self._is_bound_locked(offset):
                raise InvalidArgument(
                    f"Offset {offset} is not where a batch begins, or was persisted long ago; batches are known from "
                    f"{self._start} to {self._last}. Follow from the owner's persisted."
                )
            if self._exposed <= offset:
                self._grown.wait_for(lambda: self._closed is not None or self._exposed > offset, wait_s)
            if self._closed is not None:
                raise self._closed
            if self._exposed <= offset:
                return None
            at = bisect.bisect_right(self._ends, offset)
            end = self._ends[at]
            return CutBatch(self._epochs[at], offset, end, self._links.get(end, ()))

    def _is_bound_locked(self, offset: Offset) -> bool:
        if offset == self._start or offset == self._last:
            return True
        at = bisect.bisect_left(self._ends, offset)
        return at < len(self._ends) and self._ends[at] == offset
