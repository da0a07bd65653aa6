"""What an operator does to ClickHouse behind Proxist's back: `Verify` names it exactly, `Repair` puts right what can be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_faults import check_exact, settings
from stub_owner import StubOwner, make_rows, make_table, put_table
from test_persister_worker import offsets, until

from proxist.clickhouse import ClickHouse, table_name
from proxist.clickhouse import audit as statements
from proxist.errors import NotFound
from proxist.etcd import EtcdClient
from proxist.model.table import Table
from proxist.pb import persister_pb2 as pb
from proxist.pb import persister_pb2_grpc as pb_grpc
from proxist.rpc.grpc_client import connect
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.etcd import LocalEtcd
from proxist_persister import audit, verification
from proxist_persister.config import PersisterConfig
from proxist_persister.service import Persister

SHARD = 61
LOG = (SHARD << 24) + 1
CUTS = [(0, 100, 1), (100, 300, 3), (300, 320, 1)]
Found = tuple[str, int, int, int]


class Desk:
    """A table of 320 rows that are persisted, and an operator at the persister's door and at ClickHouse."""

    def __init__(self, clickhouse: ClickHouse, table: Table, owner: StubOwner, stub: Any) -> None:
        self.clickhouse = clickhouse
        self.table = table
        self.owner = owner
        self.stub = stub

    def verify(self, **bounds: int) -> list[pb.VerifyEvent]:
        return list(self.stub.Verify(pb.VerifyRequest(table=self.table.name, shard=SHARD, **bounds)))

    def findings(self, **bounds: int) -> list[Found]:
        return found(self.verify(**bounds))

    def repair(self, *, execute: bool) -> list[pb.VerifyEvent]:
        return list(self.stub.Repair(pb.RepairRequest(table=self.table.name, shard=SHARD, execute=execute)))

    def run(self, sql: str) -> None:
        self.clickhouse.command(
            sql.format(t=table_name(self.table)), {"mutations_sync": 2, "lightweight_deletes_sync": 2}
        )

    def insert(self, rows: pa.RecordBatch, token: str) -> None:
        self.clickhouse.insert(self.table, pa.Table.from_batches([rows]), token)


def found(events: list[pb.VerifyEvent]) -> list[Found]:
    all_ = [e.finding for e in events if e.HasField("finding")]
    return [(f.kind, f.first, f.last, f.rows) for f in all_]


def steps(events: list[pb.VerifyEvent]) -> list[tuple[str, int, bool]]:
    return [(e.step.action, e.step.rows, e.step.done) for e in events if e.HasField("step")]


@pytest.fixture
def desk(
    etcd: LocalEtcd,
    client: EtcdClient,
    clickhouse: ClickHouse,
    clickhouse_server: LocalClickHouse,
    name: str,
    tmp_path: Path,
) -> Iterator[Desk]:
    table = make_table(name, (SHARD,))
    put_table(client, table)
    config = settings("persister-0", etcd.address, clickhouse_server.url, tmp_path) | {"insert_timeout_s": 30}
    service = Persister(PersisterConfig(**config))
    with StubOwner(client, table, SHARD) as owner:
        channel = connect(service.start()["grpc"])
        for first, end, days in CUTS:
            owner.cut(end - first, days)
        owner.wait_persisted(320)
        try:
            yield Desk(clickhouse, table, owner, pb_grpc.PersisterServiceStub(channel))
        finally:
            channel.close()
            assert service.stop(10.0) == []


def test_what_was_persisted_is_verified(desk: Desk) -> None:
    events = desk.verify()
    assert found(events) == []
    (checked,) = [e.checked for e in events if e.HasField("checked")]
    assert (checked.to, checked.rows, checked.compared, checked.note) == (320, 320, 320, "")
    assert steps(desk.repair(execute=True)) == []


def test_a_batch_that_was_inserted_twice_is_named_and_removed(desk: Desk) -> None:
    desk.insert(make_rows(desk.table, SHARD, 1, 0, 100), "by hand")
    assert desk.findings() == [("copies", 0, 99, 100)]
    plan = desk.repair(execute=False)
    assert steps(plan) == [("remove copies", 100, False)]
    (step,) = [e.step for e in plan if e.HasField("step")]
    assert "DEDUPLICATE BY" in step.what
    assert desk.findings() == [("copies", 0, 99, 100)], "a plan changes nothing"
    events = desk.repair(execute=True)
    assert steps(events) == [("remove copies", 100, False), ("remove copies", 100, True)]
    assert found(events) == [("copies", 0, 99, 100)], "the round after it finds nothing more"
    assert desk.findings() == []
    check_exact(desk.clickhouse, desk.table, SHARD, CUTS)


def test_deleted_rows_are_named_and_inserted_again(desk: Desk) -> None:
    """A whole cut batch too, under whose token ClickHouse drops what is inserted."""
    desk.run("DELETE FROM {t} WHERE _offset >= 300")
    desk.run("ALTER TABLE {t} DELETE WHERE _offset IN (5, 6, 7, 150)")
    assert desk.findings() == [("gap", 5, 7, 3), ("gap", 150, 150, 1), ("gap", 300, 319, 20)]
    assert steps(desk.repair(execute=True))[3:] == [("insert from the log", n, True) for n in (3, 1, 20)]
    assert desk.findings() == []
    check_exact(desk.clickhouse, desk.table, SHARD, CUTS)


def test_rows_that_the_log_does_not_hold_any_more_are_not_promised(desk: Desk) -> None:
    desk.owner.log_begin = 100
    desk.run("DELETE FROM {t} WHERE _offset >= 90 AND _offset < 110")
    events = desk.verify()
    assert found(events) == [("gap", 90, 109, 20)]
    (finding,) = [e.finding for e in events if e.HasField("finding")]
    assert "inserts the 10 that the log still holds" in finding.remedy
    assert "backup" in finding.remedy
    desk.repair(execute=True)
    assert desk.findings() == [("gap", 90, 99, 10)]
    assert steps(desk.repair(execute=True)) == []


def test_an_altered_value_is_named_with_its_column_and_left_to_the_operator(desk: Desk) -> None:
    desk.run("ALTER TABLE {t} UPDATE price = -0.0 WHERE _offset IN (7, 8)")
    events = desk.verify()
    assert found(events) == [("altered", 7, 8, 2)]
    (finding,) = [e.finding for e in events if e.HasField("finding")]
    assert list(finding.columns) == ["price"]
    assert steps(desk.repair(execute=True)) == []
    assert found(desk.verify()) == [("altered", 7, 8, 2)]
    statement = finding.remedy.partition("`")[2].partition("`")[0]
    desk.clickhouse.command(statement, {"lightweight_deletes_sync": 2})
    assert desk.findings() == [("gap", 7, 8, 2)]
    desk.repair(execute=True)
    assert desk.findings() == []
    check_exact(desk.clickhouse, desk.table, SHARD, CUTS)


def test_copies_that_differ_are_never_touched(desk: Desk) -> None:
    rows = make_rows(desk.table, SHARD, 1, 10, 12)
    other = rows.set_column(rows.schema.get_field_index("price"), "price", pa.array([1.25, 1.5]))
    desk.insert(other, "other")
    desk.insert(make_rows(desk.table, SHARD, 1, 20, 21), "equal")
    events = desk.verify()
    assert found(events) == [("conflict", 10, 11, 2), ("copies", 20, 20, 1)]
    assert next(list(e.finding.columns) for e in events if e.HasField("finding")) == ["price"]
    assert steps(desk.repair(execute=True)) == [("remove copies", 1, False), ("remove copies", 1, True)]
    assert desk.findings() == [("conflict", 10, 11, 2)]
    assert offsets(desk.clickhouse, desk.table).count(10) == 2


def test_rows_of_unknown_logs_and_outside_of_their_log_are_named(desk: Desk) -> None:
    desk.insert(make_rows(desk.table, SHARD, 9, 50, 52), "unknown")
    desk.insert(make_rows(desk.table, SHARD, 1, 5000, 5001), "outside")
    assert desk.findings() == [("unknown log", 50, 51, 2), ("outside", 5000, 5000, 1)]
    assert steps(desk.repair(execute=True)) == []


def test_only_the_offsets_that_are_asked_for_are_looked_at(desk: Desk) -> None:
    desk.run("DELETE FROM {t} WHERE _offset IN (5, 200)")
    assert desk.findings(**{"from": 6}) == [("gap", 200, 200, 1)]
    assert desk.findings(to=200) == [("gap", 5, 5, 1)]
    assert desk.findings(**{"from": 6, "to": 200}) == []


def test_small_chunks_find_the_same(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings do not depend on how rows are cut for looking at them."""
    desk.insert(make_rows(desk.table, SHARD, 1, 0, 100), "again")
    desk.run("DELETE FROM {t} WHERE _offset BETWEEN 120 AND 180")
    want = desk.findings()
    assert want == [("copies", 0, 99, 100), ("gap", 120, 180, 61)]
    for module in (statements, audit):
        monkeypatch.setattr(module, "CHUNK_BITS", 4)
        monkeypatch.setattr(module, "CHUNK_ROWS", 16)
    monkeypatch.setattr(verification, "COMPARE_ROWS", 7)
    assert desk.findings() == want


def test_readers_see_two_copies_or_one_never_none(desk: Desk) -> None:
    """Asked again and again while the copies go."""
    import threading

    desk.insert(make_rows(desk.table, SHARD, 1, 0, 100), "by hand")
    counts: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            answer = desk.clickhouse.query(f"SELECT count() AS n FROM {table_name(desk.table)} WHERE _offset < 100")
            counts.append(answer["n"][0].as_py())

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: len(counts) > 0)
    desk.repair(execute=True)
    seen = len(counts)
    until(lambda: len(counts) > seen)
    done.set()
    reader.join()
    assert set(counts) == {200, 100}
    assert counts == sorted(counts, reverse=True)


def test_a_stopped_shard_goes_on_after_its_repair(desk: Desk) -> None:
    """Copies above persisted stop it; the operator repairs and resumes."""
    rows = make_rows(desk.table, SHARD, 1, 320, 330)
    desk.insert(rows, "one")
    desk.insert(rows, "two")
    desk.owner.cut(10)
    until(lambda: desk.stub.Status(pb.StatusRequest()).shards[0].state == "STOPPED")
    assert desk.findings() == [("copies", 320, 329, 20)], "the persister sent its own before it looked"
    desk.repair(execute=True)
    desk.stub.Resume(pb.ResumeRequest(table=desk.table.name))
    desk.owner.wait_persisted(330)
    check_exact(desk.clickhouse, desk.table, SHARD, [*CUTS, (320, 330, 1)])


def test_a_shard_without_an_owner_is_verified_as_far_as_it_can_be(desk: Desk) -> None:
    until(lambda: desk.verify() is not None)
    desk.owner.leave()
    desk.run("DELETE FROM {t} WHERE _offset = 5")

    def known() -> bool:
        return any(e.checked.note.startswith("The shard has no owner") for e in desk.verify() if e.HasField("checked"))

    until(known)
    assert ("gap", 5, 5, 1) in desk.findings()


def test_an_unknown_table_or_shard_is_named(desk: Desk) -> None:
    with pytest.raises(NotFound, match="no_such_table"):
        list(desk.stub.Verify(pb.VerifyRequest(table="no_such_table", shard=SHARD)))
    with pytest.raises(NotFound, match="no shard 99"):
        list(desk.stub.Verify(pb.VerifyRequest(table=desk.table.name, shard=99)))
