"""The seam between RAM and history: which rows a query takes from which side, and how the two become one timeline.

In come a typed query, a `HotSource` (owners' hot sets, wherever they are) and a `ColdSource` (ClickHouse); out comes
an `Answer`: rows in Order and a receipt. Hot is always read first, per shard, and fixes the cut (S, E); history is
read only where RAM could not decide, and then with exactly that S. No transport, no store, no clock in here.

`cuts` what a cut means for the cold side; `order` the merges; `sources` the two sides as protocols; `reader` freshness,
tokens and completeness per shard; `executor` the operators, with `asof`, `windows` and `fill` for what those add.
"""

from proxist.seam.cuts import Chain, ColdCut, Log
from proxist.seam.executor import Answer, Executor
from proxist.seam.reader import ReadRules, ShardReader
from proxist.seam.sources import Catalog, ColdAsof, ColdFirstBy, ColdLastBy, ColdOp, ColdScan, ColdSource, HotSource

__all__ = [
    "Answer",
    "Catalog",
    "Chain",
    "ColdAsof",
    "ColdCut",
    "ColdFirstBy",
    "ColdLastBy",
    "ColdOp",
    "ColdScan",
    "ColdSource",
    "Executor",
    "HotSource",
    "Log",
    "ReadRules",
    "ShardReader",
]
