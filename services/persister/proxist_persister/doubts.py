"""Batches that an insert still on its way may double: looked at again until none can be. Pure: no clock."""

from __future__ import annotations

from proxist.model.ids import Offset

LOOKS_S = (1.0, 5.0, 20.0, 60.0)
"""How long after a batch was verified it is looked at again. An insert that comes later than the token's window outlasts
is dropped by nobody; ClickHouse itself gives up on a sender that is silent for 30 s."""
DOUBTS_MAX = 64
"""Batches in doubt at once; of more, the oldest are given up."""


class Doubts:
    """Offset ranges with the looks that are still to come. For one thread."""

    def __init__(self) -> None:
        self._looks: dict[tuple[Offset, Offset], list[int]] = {}  # by range, when; in the order in which they came

    def add(self, first: Offset, end: Offset, now_ns: int) -> None:
        """[first, end) is in ClickHouse now, and another insert of it may still come: a predecessor's, or one of our
        own whose outcome was unknown."""
        self._looks.pop((first, end), None)
        self._looks[first, end] = [now_ns + int(after_s * 1e9) for after_s in LOOKS_S]
        if len(self._looks) > DOUBTS_MAX:
            del self._looks[next(iter(self._looks))]

    def due(self, now_ns: int) -> tuple[Offset, Offset] | None:
        """A range to look at now; it is not given again for this look."""
        for range_, looks in self._looks.items():
            if looks[0] <= now_ns:
                looks.pop(0)
                if not looks:
                    del self._looks[range_]
                return range_
        return None
