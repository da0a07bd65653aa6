from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "seam"))  # the plain lists of the seam's tests

from two_tables import catalog, client, etcd, tables  # a module's own fixtures of these names come first

__all__ = ["catalog", "client", "etcd", "tables"]
