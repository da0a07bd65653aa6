"""What the writer remembers about batches, and for how long: pure bookkeeping, no clock and no memory of rows."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from proxist.hot.words import INT64_MAX, INT64_MIN

_GROUPS = 1024
_SPANS_MAX = 4096


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

    def restore(self, floor: int, max_time: int, time_persisted: int | None) -> None:
        """Rows below `floor` exist, the latest at `max_time`; `time_persisted`: T_persisted where not all of them are
        persisted."""
        self._max_time = max_time
        if time_persisted is not None:
            self._minima.append((floor, time_persisted + 1))

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


class Span(NamedTuple):
    """The rows [first, end), none of whose times is below `min_time` or above `max_time`."""

    first: int
    end: int
    min_time: int
    max_time: int


class TimeSpans:
    """Between which times the rows lie that are not persisted yet, by batches; and the largest time of the others.

    At most 4,096 spans are kept: of more, two neighbours become one. For any thread.
    """

    def __init__(self, start: int) -> None:
        """Of the rows below `start` nothing is known."""
        self._lock = threading.Lock()
        self._spans: deque[Span] = deque()
        self._end = start
        self._below_max = INT64_MIN if start == 0 else INT64_MAX

    def note(self, end: int, min_time: int, max_time: int) -> None:
        """The rows from the last end to `end` were accepted."""
        with self._lock:
            self._spans.append(Span(self._end, end, min_time, max_time))
            self._end = end
            if len(self._spans) > _SPANS_MAX:
                spans = list(self._spans)
                odd = [spans.pop()] if len(spans) % 2 else []
                pairs = zip(spans[::2], spans[1::2], strict=True)
                self._spans = deque([*(_joined(one, other) for one, other in pairs), *odd])

    def restore(self, persisted: int, min_time: int, max_time: int, below_max: int | None) -> None:
        """Rows below the start exist, none later than `max_time`; those from `persisted` on not before `min_time`, those
        below it not after `below_max` (None: there are none)."""
        with self._lock:
            self._below_max = INT64_MIN if below_max is None else below_max
            if persisted < self._end:
                self._spans.append(Span(persisted, self._end, min_time, max_time))

    def persisted_to(self, offset: int) -> None:
        """Rows below `offset` are persisted."""
        with self._lock:
            while self._spans and self._spans[0].end <= offset:
                self._below_max = max(self._below_max, self._spans.popleft().max_time)

    def below_max(self, offset: int) -> int | None:
        """No row below `offset` has a larger time; None where there is no row. INT64_MAX where nothing is known."""
        with self._lock:
            known = [span.max_time for span in self._spans if span.first < offset]
            found = max(known, default=INT64_MIN)
            found = max(found, self._below_max)
        return None if found == INT64_MIN else found

    def within(self, first: int, end: int) -> list[Span]:
        """The spans that have rows in [first, end), ascending; of persisted rows there are none."""
        with self._lock:
            return [span for span in self._spans if span.first < end and span.end > first]


def _joined(one: Span, other: Span) -> Span:
    return Span(one.first, other.end, min(one.min_time, other.min_time), max(one.max_time, other.max_time))
