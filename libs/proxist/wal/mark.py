"""Points in a log."""

from __future__ import annotations

from typing import NamedTuple

from proxist.model.ids import Offset


class LogMark(NamedTuple):
    """A point between two records of a log, as its writer or its recovery vouches for it."""

    end: Offset
    """Every row below it lies before the point."""
    records: int
    """How many records lie before the point."""
    segment: int
    position: int
    """Byte in that segment where the point is."""


class LogBegin(NamedTuple):
    """What is needed of a log: its rows at or above `offset` and its records numbered `record` or higher. Segments that
    hold neither may be gone, or damaged."""

    offset: Offset
    record: int | None = 0
    """None: its rows alone are needed."""
