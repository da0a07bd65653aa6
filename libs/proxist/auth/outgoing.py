"""What this process presents when it calls another service: set once, at start, by a service with auth.

Calls pick it up where they are made (FlightPeer, gRPC channels, attach requests), unless they were given their own.
"""

from __future__ import annotations

from collections.abc import Callable

Credential = Callable[[], str | None]
"""The token for the next call, None for none."""

HEADER = "authorization"
_own: Credential = lambda: None  # noqa: E731  # a process without auth presents nothing


def present(credential: Credential | None) -> None:
    """From now on calls of this process carry `credential`; None: nothing again."""
    global _own
    _own = credential or (lambda: None)


def own() -> str | None:
    """The token for a call that was given none."""
    return _own()


def fixed(token: str | None) -> Credential | None:
    """A client's own token as a credential; None where there is none, so that the process' own is taken."""
    return None if token is None else lambda: token


def header(credential: Credential | None) -> tuple[tuple[str, str], ...]:
    """The headers of a call."""
    token = _own() if credential is None else credential()
    return () if token is None else ((HEADER, f"Bearer {token}"),)
