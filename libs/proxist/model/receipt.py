"""Receipts: what an answer was made of. JSON in `proxist.receipt`; see docs/formats/receipt.md.

{"mode": "hot" | "cold" | "cold+hot", "token": "px1.…", "plan": "operator" | "sql-hot" | "sql-union",
 "cut": [{"table": "trades", "shard": 7, "epoch": 3, "seam": 1000, "end": 1200, "floor": 1100?}, …],
 "rows": {"hot": 200, "cold": 1000}, "schema_version": {"trades": 1},
 "now": "2024-08-09T00:00:00Z"?, "not_repeatable": ["rand()"]?, "missing": ["…"]?}
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.token import PREFIX, Mark, Token, varint

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


def receipt_from_json(wire: Mapping[str, Any]) -> Receipt:
    """The inverse of `Receipt.to_json`."""
    return Receipt(
        cuts=tuple(Cut(**cut) for cut in wire["cut"]),
        rows_hot=wire["rows"]["hot"],
        rows_cold=wire["rows"]["cold"],
        plan=wire["plan"],
        cold_used=wire["mode"] != "hot",
        hot_used=wire["mode"] != "cold",
        schema_version=wire["schema_version"],
        now=wire.get("now"),
        not_repeatable=tuple(wire.get("not_repeatable", ())),
        missing=tuple(wire.get("missing", ())),
    )


class HotReceipts:
    """Receipts of answers from the RAM of one shard, as the bytes of `Receipt.to_json`: one is a microsecond or two."""

    def __init__(self, table: str, shard: ShardId, epoch: Epoch, schema_version: int) -> None:
        self._first = varint(shard) + varint(epoch)
        self._first_crc = zlib.crc32(self._first)
        name = json.dumps(table)
        self._cut = f'", "plan": "operator", "cut": [{{"table": {name}, "shard": {shard}, "epoch": {epoch}, "seam": '
        self._rest = f', "cold": 0}}, "schema_version": {{{name}: {schema_version}}}}}'

    def receipt(self, seam: Offset, persisted: Offset, end: Offset, row_count: int) -> bytes:
        """Of rows in [seam, end) and boundary rows, `row_count` of them in the answer; the cut is that of `Cut.of`."""
        last = varint(end)
        packed = self._first + last + zlib.crc32(last, self._first_crc).to_bytes(4, "little")
        token = PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")
        floor, below = min(seam, end), min(seam, persisted, end)
        warm = "" if floor == below else f', "floor": {floor}'
        cut = f'{self._cut}{below}, "end": {end}{warm}}}], "rows": {{"hot": {row_count}'
        return f'{{"mode": "hot", "token": "{token}{cut}{self._rest}'.encode()
