"""Which way a query node goes to an owner, and what it keeps of one that it no longer reads by itself."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from proxist.etcd.catalog import Catalog
from proxist.etcd.records import NodeRecord
from proxist.hot.ops import HotOp, HotPart, HotScan, Probes
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId
from proxist.model.table import parse_spec
from proxist.rpc.attach import AttachDoor
from proxist.rpc.attached import Attached
from proxist_query.hot import Hot
from proxist_query.remote import Remote

SHARD = ShardId(7)
SPEC = parse_spec(
    {
        "name": "trades", "time": "ts", "key": "symbol", "hot_bytes": 2**21,
        "columns": [{"name": "symbol", "type": "string"}, {"name": "ts", "type": "timestamp[ns, tz=UTC]"}],
    }
)  # fmt: skip


@dataclass
class OneOwner:
    """A catalog that knows one node, the shard's owner."""

    placed: NodeRecord

    def owner(self, _shard: ShardId) -> Any:
        return SimpleNamespace(node=self.placed.name)

    def node(self, _name: str) -> NodeRecord:
        return self.placed


class OverFlight:
    """Answers as a hot set on another host."""

    def __init__(self, hot: HotSet) -> None:
        self._reader = hot.reader()
        self.uris: list[str] = []

    def run(
        self, uri: str, _shard: ShardId, op: HotOp, probes: Probes | None, _min_end: Offset | None, _wait_ns: int
    ) -> HotPart:
        self.uris.append(uri)
        return self._reader.run(op, probes)


def mapped() -> int:
    """How often hot sets are mapped into this process."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("memfd:proxist")


@pytest.mark.parametrize("hot_path", ["auto", "flight"])
def test_an_owner_that_moved_to_another_host_gives_its_memory_back(tmp_path: Path, hot_path: str) -> None:
    op = HotScan()
    with HotSet.create(SPEC, SHARD, Epoch(1), Offset(0)) as hot:
        hot.set_lease_until(2**62)
        batch = pa.RecordBatch.from_arrays(
            [pa.array(["A"]), pa.array([1], SPEC.schema.field("ts").type)], schema=SPEC.schema
        )
        hot.append(batch, Offset(0), 0)
        hot.publish(hot.appended_end)
        descriptor = hot.readonly_fd()
        door = AttachDoor(tmp_path / "o.attach", lambda _: (descriptor, {}))
        here = NodeRecord("o", "ingest", 1, "grpc://here:1", attach=str(door.path), host_id="here")
        catalog, remote, attached = OneOwner(here), OverFlight(hot), Attached()
        via = Hot(cast(Catalog, catalog), attached, cast(Remote, remote), "here").via
        before = mapped()
        try:
            assert via("auto").run(SHARD, op, None, None, 0).rows.num_rows == 1
            assert attached.shards() == (SHARD,)
            assert mapped() == before + 1
            catalog.placed = NodeRecord("p", "ingest", 1, "grpc://there:1", attach="/run/p.attach", host_id="there")
            assert via(hot_path).run(SHARD, op, None, None, 0).rows.num_rows == 1
            assert remote.uris == ["grpc://there:1"]
            assert attached.shards() == ()
            assert mapped() == before
        finally:
            attached.close()
            os.close(descriptor)
            assert door.stop(10.0) == []
