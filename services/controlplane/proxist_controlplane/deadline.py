"""How much time a command has left: the smaller of its own limit and the caller's deadline."""

from __future__ import annotations

import time
from typing import Any

ANSWER_MARGIN_S = 0.25
"""Kept back, so that our message reaches the caller before gRPC's own "deadline exceeded" does."""


class Deadline:
    """A point on the monotonic clock."""

    def __init__(self, limit_s: float) -> None:
        self._at_s = time.monotonic() + limit_s

    @classmethod
    def of_call(cls, context: Any, limit_s: float) -> Deadline:
        """`limit_s` from now, or a little before the gRPC call's own deadline."""
        left_s = context.time_remaining()
        return cls(limit_s if left_s is None else max(0.05, min(limit_s, left_s - ANSWER_MARGIN_S)))

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at_s - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.left_s == 0.0

    def at_most(self, limit_s: float) -> float:
        """For one step: `limit_s`, or what is left, but never so little that it cannot succeed at all."""
        return max(0.05, min(limit_s, self.left_s))
