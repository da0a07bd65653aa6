"""The last rows of a few keys without the executor: it takes only what is a query, and keeps no ended owner's memory."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from client_fakes import SPEC

from proxist.client.local import LocalReads
from proxist.client.topology import Topology, parse_topology
from proxist.errors import InvalidArgument
from proxist.hot.host import this_host_id
from proxist.hot.writer import HotSet
from proxist.model.ids import Epoch, Offset, ShardId, TableId
from proxist.model.table import Table, parse_spec
from proxist.rpc.attach import AttachDoor

TABLE = Table(TableId(1), "default", parse_spec({**SPEC, "hot_bytes": 2**21}), (ShardId(7),))
KEYS = ["A", "B", "AB"]


class Owner:
    """One shard with a row for each of KEYS behind an attach door; all of its history is in RAM."""

    def __init__(self, run_dir: Path) -> None:
        self.door = AttachDoor(run_dir / "o.attach", lambda _: (self._descriptor, {}))
        node = {"name": "o", "role": "ingest", "flight": "grpc://h:1", "attach": str(self.door.path)}
        shard = {"slot": 0, "shard": 7, "node": "o", "epoch": 1}
        log = {"epoch": 1, "start": 0, "end": None, "state": "open"}
        tables = [{"table": TABLE.to_json(), "shards": [{**shard, "logs": [log]}]}]
        self.known = parse_topology({"nodes": [{**node, "host_id": this_host_id()}], "tables": tables})
        self._start()

    def _start(self) -> None:
        self._hot = HotSet.create(TABLE.spec, ShardId(7), Epoch(1), Offset(0))
        self._hot.set_lease_until(2**62)
        columns = [KEYS, range(len(KEYS)), range(len(KEYS)), [1.0, 2.0, 3.0]]
        schema = TABLE.spec.schema
        arrays = [pa.array(list(column), field.type) for column, field in zip(columns, schema, strict=True)]
        self._hot.append(pa.RecordBatch.from_arrays(arrays, schema=schema), Offset(0), 0)
        self._hot.publish(self._hot.appended_end)
        self._descriptor = self._hot.readonly_fd()

    def restart(self) -> None:
        """Another one with the same rows, at the same socket."""
        self._end()
        self._start()

    def _end(self) -> None:
        os.close(self._descriptor)
        self._hot.close()
        del self._hot

    def stop(self) -> None:
        assert self.door.stop(10.0) == []
        self._end()

    def topology(self, *, fresh: bool = False) -> Topology:
        return self.known


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    made = Owner(tmp_path / "run")
    yield made
    made.stop()


@pytest.fixture
def local(owner: Owner) -> Iterator[LocalReads]:
    made = LocalReads(owner.topology, None, required=True)
    yield made
    made.close()


def last_by(**body: Any) -> dict[str, Any]:
    return {"last_by": {"table": "trades", **body}}


def test_the_last_rows_of_keys_are_taken_this_way(local: LocalReads) -> None:
    for keys, prices in ((["AB"], [3.0]), (["B", "A", "B"], [1.0, 2.0]), (["none", "A"], [1.0])):
        quick = local._quick.answer(last_by(keys=keys, columns=["price"]), None)
        assert quick is not None
        assert quick["price"].to_pylist() == prices


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (last_by(keys="AB"), "`keys` of last_by"),
        (last_by(keys=("A", "B")), "`keys` of last_by"),
        (last_by(keys={"A": 1}), "`keys` of last_by"),
        (last_by(keys=5), "`keys` of last_by"),
        (last_by(keys=[1]), "`keys` of last_by"),
        (last_by(keys=[None]), "`keys` of last_by"),
        (last_by(keys=[["A"]]), "`keys` of last_by"),
        (last_by(keys=["A"], columns="price"), "`columns` of last_by"),
        (last_by(keys=["A"], columns=5), "`columns` of last_by"),
        (last_by(keys=["A"], columns=[["price"]]), "`columns` of last_by"),
        (last_by(keys=["A"], table=["trades"]), "`table` of last_by"),
        (last_by(keys=["A"], table=""), "`table` of last_by"),
        ({"last_by": {"keys": ["A"]}}, "`table` of last_by"),
        ({"last_by": ["table"]}, "last_by is"),
        ({"last_by": 5}, "last_by is"),
        ({"last_by": None}, "last_by is"),
    ],
)
def test_what_is_no_query_is_refused_by_name_also_after_one_that_is(
    local: LocalReads, query: dict[str, Any], message: str
) -> None:
    assert local.answer(last_by(keys=["A", "B"]), None, 10.0).num_rows == 2
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=message):
            local.answer(query, None, 10.0)


def mapped() -> int:
    """How often hot sets are mapped into this process."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("memfd:proxist")


@pytest.mark.parametrize("noticed_by", ["its own shape", "another verb"])
def test_an_owner_that_has_ended_gives_its_memory_back_whatever_is_asked_next(
    owner: Owner, local: LocalReads, noticed_by: str
) -> None:
    for key in KEYS:
        assert local.answer(last_by(keys=[key]), None, 10.0).num_rows == 1
    before = mapped()
    assert before > 0
    for turn in range(3):
        owner.restart()
        again = last_by(keys=["A"]) if noticed_by == "its own shape" else {"scan": {"table": "trades"}}
        assert local.answer(again, None, 10.0).num_rows > 0
        assert local.answer(last_by(keys=["B", f"once {turn}"]), None, 10.0).num_rows == 1
        assert mapped() == before
