"""A small snapshot for tests, and ways to damage one."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pyarrow as pa

from proxist.hot.snapshots import MANIFEST, Cuts, Manifest, Part, Position
from proxist.model.ids import Epoch, Offset, ShardId, TableId, TimeNs

SCHEMA = pa.schema([("producer", pa.string()), ("n", pa.int64())])
DAMAGES = ("flip", "truncate", "empty", "remove", "version")
"""What may happen to a file; `version` only to a manifest."""


def manifest(floor: int = 10, records: int = 3, **more: object) -> Manifest:
    values: dict[str, object] = {
        "table_id": TableId(1),
        "shard": ShardId(7),
        "schema_version": 1,
        "start": Offset(0),
        "complete": True,
        "floor": Offset(floor),
        "persisted": Offset(floor + 1),
        "t_persisted": TimeNs(5),
        "persisted_time_max": TimeNs(6),
        "evicted_time_max": None,
        "position": Position(Epoch(2), records, 0, Offset(floor + 5)),
        "cuts": Cuts(Offset(0), (Offset(4), Offset(9)), (Epoch(1), Epoch(2))),
        "created_ns": 1,
    }
    return Manifest(**{**values, **more})  # type: ignore[arg-type]


def parts(count: int = 3) -> dict[str, Part]:
    batches = [
        pa.record_batch({"producer": [f"p{i}"] * 100, "n": list(range(100 * i, 100 * i + 100))}, SCHEMA)
        for i in range(count)
    ]
    return {"producers.arrow": (SCHEMA, batches), "boundary.arrow": (SCHEMA, batches[:1])}


def damage(path: Path, how: str, random: Random) -> None:
    """Damage one file of a snapshot."""
    if how == "remove":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncate":
        path.write_bytes(path.read_bytes()[: random.randrange(1, path.stat().st_size)])
    elif how == "flip":
        raw = bytearray(path.read_bytes())
        raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
        path.write_bytes(raw)
    else:
        assert how == "version"
        assert path.name == MANIFEST
        body = json.loads(path.read_bytes())
        body["manifest"]["format"] += 1
        path.write_text(json.dumps(body))
