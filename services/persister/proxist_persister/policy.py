"""When to try again, when to stop, and how the sink is doing. Pure: no clock, no chance."""

from __future__ import annotations

from dataclasses import dataclass

from proxist.errors import CallerError, InternalError, NotFound, OperatorError, ProxistError, TransientError

RETRY_S_MIN = 0.05
RETRY_S_MAX = 2.0
"""So that catching up begins within two seconds of ClickHouse's return."""
REFUSALS_MAX = 5
"""ClickHouse refuses the same rows for the same reason: after this many times an operator has to look."""
DOWN_AFTER_NS = 3 * 10**9
"""Failures for so long without a success in between make the sink DOWN."""


def retry_delay_s(attempt: int, chance: float) -> float:
    """Exponential with full jitter's upper half: `attempt` from 0, `chance` in [0, 1)."""
    return min(RETRY_S_MAX, RETRY_S_MIN * 2.0 ** min(attempt, 16)) * (0.5 + chance / 2)


def is_final(error: ProxistError, attempt: int) -> bool:
    """Whether repeating cannot help: the shard stops and shows the error until an operator acts. `attempt` from 0."""
    if isinstance(error, TransientError):
        return False
    if isinstance(error, OperatorError):
        return True
    # A missing table is created again, or found to be lost, by the next attempt.
    return (
        isinstance(error, CallerError | InternalError) and not isinstance(error, NotFound) and attempt >= REFUSALS_MAX
    )


@dataclass(frozen=True, slots=True)
class SinkHealth:
    """The sink's recent past: failures since the last success, and when the first of them was (monotonic ns)."""

    failures: int = 0
    failing_since_ns: int = 0

    def succeeded(self) -> SinkHealth:
        return SinkHealth()

    def failed(self, error: ProxistError, now_ns: int) -> SinkHealth:
        """Only what is ClickHouse's own state counts; a statement that it refuses says nothing about the next."""
        if not isinstance(error, TransientError):
            return self
        return SinkHealth(self.failures + 1, self.failing_since_ns if self.failures else now_ns)

    def state(self, now_ns: int) -> str:
        """ "OK", "DEGRADED" or "DOWN"."""
        if not self.failures:
            return "OK"
        return "DOWN" if now_ns - self.failing_since_ns >= DOWN_AFTER_NS else "DEGRADED"
