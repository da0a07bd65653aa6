"""Receipts: what an answer was made of. JSON in `proxist.receipt`; see docs/formats/receipt.md.

{"mode": "hot" | "cold" | "cold+hot", "token": "px1.…", "plan": "operator" | "sql-hot" | "sql-union",
 "cut": [{"table": "trades", "shard": 7, "epoch": 3, "seam": 1000, "end": 1200, "floor": 1100?}, …],
 "rows": {"hot": 200, "cold": 1000}, "schema_version": {"trades": 1},
 "now": "2024-08-09T00:00:00Z"?, "not_repeatable": ["rand()"]?, "missing": ["…"]?}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.token import Mark, Token

RECEIPT_METADATA_KEY = b"proxist.receipt"


@dataclass(frozen=True, slots=True)
class Cut:
    """One shard's part of an answer: rows below `seam` were read cold, rows in [seam, end) hot. `floor`, where it is
    given: the owner had rows in [seam, floor) in its log alone."""

    table: str
    shard: ShardId
    epoch: Epoch
    seam: Offset
    end: Offset
    floor: Offset | None = None

    @staticmethod
    def of(table: str, shard: ShardId, epoch: Epoch, seam: Offset, persisted: Offset, end: Offset) -> Cut:
        """Of a read of memory from `seam` on: what lies below is history's up to `persisted`, the log's from there."""
        floor, below = min(seam, end), min(seam, persisted, end)
        return Cut(table, shard, epoch, below, end, None if floor == below else floor)

    def to_json(self) -> dict[str, Any]:
        cut = {"table": self.table, "shard": self.shard, "epoch": self.epoch, "seam": self.seam, "end": self.end}
        return cut if self.floor is None else {**cut, "floor": self.floor}


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an answer was made of. `rows_hot` and `rows_cold` count the rows that were taken from each tier; what the owner
    read in its log counts as hot."""

    cuts: tuple[Cut, ...]
    rows_hot: int = 0
    rows_cold: int = 0
    plan: str = "operator"
    cold_used: bool = False
    hot_used: bool = True
    schema_version: Mapping[str, int] = field(default_factory=dict)
    now: str | None = None
    not_repeatable: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def token(self) -> Token:
        return Token({cut.shard: Mark(cut.epoch, cut.end) for cut in self.cuts})

    @property
    def mode(self) -> str:
        return "cold+hot" if self.cold_used and self.hot_used else "cold" if self.cold_used else "hot"

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "mode": self.mode,
            "token": str(self.token),
            "plan": self.plan,
            "cut": [cut.to_json() for cut in self.cuts],
            "rows": {"hot": self.rows_hot, "cold": self.rows_cold},
            "schema_version": dict(self.schema_version),
        }
        if self.now is not None:
            out["now"] = self.now
        if self.not_repeatable:
            out["not_repeatable"] = list(self.not_repeatable)
        if self.missing:
            out["missing"] = list(self.missing)
        return out
