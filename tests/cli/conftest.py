from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "client"))  # the fake cluster is the SDK tests'

from client_fakes import one_owner, three_slots

__all__ = ["one_owner", "three_slots"]
