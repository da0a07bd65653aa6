"""What the writer remembers about batches, and for how long: pure bookkeeping, no clock and no memory of rows."""

from __future__ import annotations

from collections import deque

from proxist.hot.words import INT64_MIN

_GROUPS = 1024


class Arrivals:
    """When rows arrived, in groups of a 1,024th of the hot window."""

    def __init__(self, window_ns: int) -> None:
        self._window_ns = window_ns
        self._groups: deque[list[int]] = deque()
        """[end, arrival of the first batch, arrival of the last], ascending."""

    def note(self, end: int, arrived_ns: int) -> None:
        """The rows below `end` have arrived, the last of them at `arrived_ns`."""
        if self._groups and arrived_ns - self._groups[-1][1] <= self._window_ns // _GROUPS:
            group = self._groups[-1]
            group[0], group[2] = end, max(group[2], arrived_ns)
        else:
            self._groups.append([end, arrived_ns, arrived_ns])

    def due(self, now_ns: int) -> int:
        """End of the last group, from the oldest on, that arrived whole before now - window; 0 if none."""
        end = 0
        for group in self._groups:
            if group[2] >= now_ns - self._window_ns:
                break
            end = group[0]
        return end

    def evicted_to(self, floor: int) -> None:
        """Forget what lies below `floor`."""
        while self._groups and self._groups[0][0] <= floor:
            self._groups.popleft()


class Unpersisted:
    """The smallest time of the rows that are not persisted yet, by batches: exact at their bounds, never too late.

    A sliding minimum: an older batch whose minimum is not smaller than a newer one's can be forgotten.
    """

    def __init__(self) -> None:
        self._minima: deque[tuple[int, int]] = deque()
        """(end, min time), both ascending."""
        self._max_time = INT64_MIN

    def note(self, end: int, min_time: int, max_time: int) -> None:
        """A batch that ends at `end` was accepted."""
        while self._minima and self._minima[-1][1] >= min_time:
            self._minima.pop()
        self._minima.append((end, min_time))
        self._max_time = max(self._max_time, max_time)

    def persisted_to(self, offset: int) -> None:
        """Rows below `offset` are persisted."""
        while self._minima and self._minima[0][0] <= offset:
            self._minima.popleft()

    def time_persisted(self) -> int:
        """T_persisted: the largest t such that every accepted row with time <= t is persisted, as far as is known.

        Where all are persisted: the largest time seen. INT64_MIN before the first row.
        """
        if self._max_time == INT64_MIN:
            return INT64_MIN
        return self._minima[0][1] - 1 if self._minima else self._max_time
