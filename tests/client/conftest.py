from __future__ import annotations

from client_fakes import one_owner, three_slots

__all__ = ["one_owner", "three_slots"]
