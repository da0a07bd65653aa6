"""The simulator's own modules, and the naive rows of the executor's tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "seam"))
